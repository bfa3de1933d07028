"""The stub that a notebook shows is the exercise's own, so that task, stub and check cannot drift apart."""

import json
import re

import pytest

from nl_course.exercises.engine import chapters, exercises_of
from nl_course.files import course_root

NOTEBOOKS = {int(path.name[:2]): path for path in sorted((course_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))}


def drift(chapter, cells):
    """What is wrong with a notebook's exercises: each asked, each with its own stub."""
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    checked = set(re.findall(r"""\bcheck\(\s*["'](\d+\.\d+)["']""", "\n".join(code)))
    for asked in exercises_of(chapter):
        if asked.id not in checked:
            yield f"{asked.id} is never checked"
        elif not any(asked.stub.strip() in source for source in code):
            yield f"{asked.id} stands there with another stub than the exercise's own"


@pytest.mark.parametrize("chapter", [c for c in chapters() if c in NOTEBOOKS])
def test_notebooks_show_the_stubs_of_their_exercises(chapter):
    assert list(drift(chapter, json.loads(NOTEBOOKS[chapter].read_text("utf-8"))["cells"])) == []


def test_drift_is_seen():
    cells = [
        {"cell_type": "code", "source": [e.stub, f'check("{e.id}", {e.definition.name})']} for e in exercises_of(1)
    ]
    assert list(drift(1, cells)) == []
    cells[0]["source"][0] = cells[0]["source"][0].replace("queries", "q")
    assert list(drift(1, cells[:-1])) == [
        "1.1 stands there with another stub than the exercise's own",
        f"{exercises_of(1)[-1].id} is never checked",
    ]
