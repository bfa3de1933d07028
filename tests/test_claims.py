"""Every claim is marked, and every place it names exists."""

import json
from pathlib import Path

import pytest

from nl_course.errors import CourseError
from nl_course.record.claims import VERDICTS, Claim, by_verdict, claims, link, table

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("cell", sorted({cell for claim in claims() for cell in claim.cells}))
def test_the_cell_that_is_named_exists(cell):
    stem, name = cell.split("#")
    notebook = f"{stem}.ipynb"
    cells = json.loads((NOTEBOOKS / notebook).read_text("utf-8"))["cells"]
    assert name in [found["id"] for found in cells], f"{notebook} has no cell {name}"


def test_each_has_a_place_or_says_why_not():
    for claim in claims():
        assert claim.cells or claim.papers or "no evidence" in claim.shown.lower(), claim.said
        assert claim.said.endswith(".") and claim.shown.endswith(".") and len(claim.shown.split()) >= 7
    assert len({claim.said for claim in claims()}) == len(claims())
    assert all(by_verdict(verdict) for verdict in VERDICTS)


def test_the_table_has_a_row_each_and_its_links_lead_to_cells():
    rows = table().splitlines()
    assert len(rows) == 2 + len(claims()) and all(row.count(" | ") == 3 for row in rows[2:])
    assert link("09_memory_tradeoffs#the-loads") == "[09](09_memory_tradeoffs.ipynb#cell-id=the-loads)"


def test_bad_marks_are_refused():
    with pytest.raises(CourseError, match="verdict"):
        Claim("It is so.", "true", "It is.")
    with pytest.raises(CourseError, match="verdict"):
        by_verdict("maybe")
