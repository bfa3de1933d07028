"""`python -m tools.index`: the course's glossary and its table of evidence, made from data and from the notebooks.

    python -m tools.index            writes notebooks/glossary.md and notebooks/evidence.md, links the first uses
    python -m tools.index --check    changes nothing; says what would change, and fails if anything would

glossary.json holds terms and meanings; equations.json what is proved where; questions.json what users asked and which
cell settles it; sentences.json what each notebook lets one say and which cells earn it. A cell is named
"03_memory_that_learns#its-id"; every name is looked up, so that a table never points at what is gone.
"""
