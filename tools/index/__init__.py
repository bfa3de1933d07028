"""`python -m tools.index`: the course's glossary, its table of evidence, its page of results and the README's list of
notebooks, made from data, from the notebooks and from the recordings.

    python -m tools.index            writes these pages; in the notebooks it links first uses and counts minutes
    python -m tools.index --check    changes nothing; says what would change, and fails if anything would

glossary.json holds terms and meanings; equations.json what is proved where; questions.json what users asked and which
cell settles it; assets/sentences.json what each notebook lets one say and which cells earn it; results.json what papers
claim, where our number for it stands, and by which rule a verdict follows (see results.py). The tables of the family of
memories, in 03 to 08 and in the glossary, come from the package (see family.py). A cell is named
"03_memory_that_learns#its-id"; every name is looked up, so that a table never points at what is gone.
"""
