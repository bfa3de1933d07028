"""The stub that a notebook shows is the exercise's own, so that task, stub and check cannot drift apart."""

import json
import re
from pathlib import Path

import pytest

from nl_course.exercises.framework.engine import chapters, discussion, exercises_of
from nl_course.export.teacher.book import bare, questions_at_the_end
from nl_course.notebooks import all_notebooks, is_core, number_of

# A chapter's exercises stand in its core notebook and in the further ones beside it.
NOTEBOOKS: dict[int, list[Path]] = {}
for path in all_notebooks():
    if number_of(path.stem):
        NOTEBOOKS.setdefault(int(number_of(path.stem)), []).append(path)


def cells_of(path):
    return json.loads(path.read_text("utf-8"))["cells"]


def drift(chapter, cells):
    """What is wrong with a chapter's exercises: each asked, each with its own stub."""
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    checked = set(re.findall(r"""\bcheck\(\s*["'](\d+\.\d+)["']""", "\n".join(code)))
    for asked in exercises_of(chapter):
        if asked.id not in checked:
            yield f"{asked.id} is never checked"
        elif not any(asked.stub.strip() in source for source in code):
            yield f"{asked.id} stands there with another stub than the exercise's own"


def asked_at_the_end(cells):
    """The numbered questions of a notebook's closing cell."""
    return questions_at_the_end("".join(cells[-1]["source"]))


@pytest.mark.parametrize("chapter", [c for c in chapters() if c in NOTEBOOKS])
def test_questions_to_discuss_carry_answers(chapter):
    answered = {bare(question) for question, _ in discussion(chapter)}
    for path in NOTEBOOKS[chapter]:
        questions = asked_at_the_end(cells_of(path))
        assert len(questions) >= 3 or not is_core(path.stem)
        assert [q for q in questions if q not in answered] == [], "no answer in DISCUSSION of its exNN.py"


def test_questions_are_found_in_the_closing_cell():
    text = "## End\n\n**Three questions to discuss.**\n\n1. *One* thing\n   or two?\n2. `Why`?\n\n**Further.** 1. No."
    assert asked_at_the_end([{"source": [text]}]) == ["One thing or two?", "Why?"]


@pytest.mark.parametrize("chapter", [c for c in chapters() if c in NOTEBOOKS])
def test_notebooks_show_the_stubs_of_their_exercises(chapter):
    cells = [cell for path in NOTEBOOKS[chapter] for cell in cells_of(path)]
    assert list(drift(chapter, cells)) == []


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
