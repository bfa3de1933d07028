"""Minutes follow one rule, and every notebook says what the rule gives."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nl_course.notebooks import all_notebooks
from tools.index import minutes

WORDS = "word " * 400


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_every_notebook_says_the_minutes_of_the_rule(path):
    notebook = nbformat.read(path, as_version=4)
    assert "read and try, exercises apart" not in notebook.cells[0].source
    assert f"About {minutes.total(notebook)}" in notebook.cells[0].source, "run: python -m tools.index"
    assert not minutes.refresh(notebook), "run: python -m tools.index"


def counted(*cells):
    notebook = new_notebook()
    notebook.cells = [new_markdown_cell("# Title"), new_markdown_cell("## A"), *cells]
    return minutes.by_section(notebook)


@pytest.mark.parametrize(
    ("cell", "cost"),
    [
        (new_markdown_cell(WORDS), 2),
        (new_markdown_cell(f"<!-- family 05 -->\n{WORDS}\n<!-- /family -->"), 1),
        (new_markdown_cell(f"<details>{WORDS}</details>"), 1),
        (new_code_cell("\n".join(["x = 1", "y = 2"])), 1),
        (new_code_cell("from nl_course.views.wiring import Wiring\n\nWiring()"), 3),
        (new_code_cell("from nl_course.views.kit.charts import chart\n\nchart()"), 1),
        (new_code_cell("def f(): ...", metadata={"tags": ["exercise"]}), 8),
        (new_code_cell("%timeit 1 +"), 1),
    ],
)
def test_what_a_cell_costs(cell, cost):
    assert counted(cell) == {"A": cost}
    if cell.cell_type == "code":
        assert counted(*[cell] * 3) == {"A": 3 * cost}


def test_imports_cost_nothing_and_a_view_may_be_imported_before():
    imports = new_code_cell("import torch\nfrom nl_course.views.wiring import Wiring")
    assert counted(*[imports] * 9) == {"A": 1}
    assert counted(imports, new_code_cell("Wiring()"), new_code_cell("Wiring()")) == {"A": 6}


def test_sections_are_counted_apart_and_the_sum_is_said():
    opening = new_markdown_cell("# Title\n\n**Minutes.** About 7 to read and try. " + WORDS)
    second = new_markdown_cell("## B\n" + WORDS * 2)
    notebook = new_notebook(cells=[opening, new_markdown_cell("## A\n" + WORDS), new_code_cell("1"), second])
    assert minutes.refresh(notebook) and notebook.metadata.nl_course.minutes == {"A": 3, "B": 4}
    assert notebook.cells[0].source.startswith("# Title\n\n**Minutes.** About 7 to") and minutes.total(notebook) == 7
    notebook.cells.append(new_code_cell("2"))
    assert minutes.refresh(notebook) and "About 8 to read" in notebook.cells[0].source
    assert "Minutes per section</summary>\n\n* 3 min: A\n* 5 min: B\n\n</details>" in notebook.cells[0].source
    assert not minutes.refresh(notebook)
