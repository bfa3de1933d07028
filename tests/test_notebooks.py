"""The order of the notebooks, their names, and the README's list of them."""

import nbformat
import pytest

from nl_course.app import lab
from nl_course.errors import CourseError
from nl_course.export import cells, chosen
from nl_course.notebooks import all_notebooks, is_core, label, named, number_of
from nl_course.record.claims import link
from tools.index import contents, glossary, places

ORDER = ["tour", "00_start", "05_titans", "05b_inside_titans", "05c_more", "06_levels", "10_train"]
NO_NOTEBOOKS = ["mine", "5_titans", "05bc_x", "05a_x", "tour_2", "05_titans-Copy1", "05_titans_2026-01-01 x"]


@pytest.fixture
def course(tmp_path):
    """A folder with small notebooks of each kind, and with files that are none of the course's."""
    (tmp_path / "notebooks").mkdir()
    for stem in [*ORDER[::-1], *NO_NOTEBOOKS]:
        cell = nbformat.v4.new_markdown_cell("## A section\n" + "word " * 2398, id="a")  # twelve minutes
        notebook = nbformat.v4.new_notebook(cells=[cell])
        nbformat.write(notebook, tmp_path / "notebooks" / f"{stem}.ipynb")
    return tmp_path


def test_the_tour_comes_first_and_a_further_notebook_after_its_core(course):
    assert [path.stem for path in all_notebooks(course)] == ORDER


def test_names_say_what_a_notebook_is():
    assert [number_of(stem) for stem in ORDER] == ["", "00", "05", "05", "05", "06", "10"]
    assert [label(stem) for stem in ORDER] == ["tour", "00", "05", "05b", "05c", "06", "10"]
    assert [stem for stem in ORDER if is_core(stem)] == ["00_start", "05_titans", "06_levels", "10_train"]
    assert not any(map(is_core, NO_NOTEBOOKS))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("5", "05_titans"), ("05", "05_titans"), ("5b", "05b_inside_titans"), ("05c", "05c_more"), ("tour", "tour"),
        ("06_levels", "06_levels"), ("10", "10_train"), ("05d", None), ("7", None), ("", None), ("titans", None),
    ],
)  # fmt: skip
def test_a_notebook_is_meant_by_its_name_or_its_label(said, meant):
    assert named(said, ORDER) == meant


def test_export_and_copies_take_all_kinds_and_nothing_else(course, tmp_path, monkeypatch):
    assert [path.stem for path in chosen(course, None)] == ORDER
    assert [path.stem for path in chosen(course, ["5b", "tour"])] == ["tour", "05b_inside_titans"]
    monkeypatch.setattr(lab, "course_root", lambda: course)
    copied = lab.copy_course(tmp_path / "copy")
    assert copied.added == [f"{stem}.ipynb" for stem in ORDER]
    assert lab.copy_course(tmp_path / "copy", reset="5b").updated == ["05b_inside_titans.ipynb"]
    with pytest.raises(CourseError, match="notebook"):
        lab.copy_course(tmp_path / "copy", reset="mine")


def test_tables_and_links_call_a_further_notebook_by_its_label():
    assert link("05b_inside_titans#a") == "[05b](05b_inside_titans.ipynb#cell-id=a)"
    assert places.Cell("05b_inside_titans", "a", "05b · Inside", "").link.startswith(
        "[05b: Inside](05b_inside_titans.ipynb#"
    )
    assert cells.page_of("05b_inside_titans.ipynb") == "05b_inside_titans.html"


def test_the_readme_lists_the_tour_and_the_core_before_the_further_notebooks(course, monkeypatch):
    told = [{"notebook": stem, "sentence": f"I know {stem}.", "cells": []} for stem in ORDER]
    told[2]["title"] = "Titans"
    monkeypatch.setattr(contents, "all_notebooks", lambda: all_notebooks(course))
    monkeypatch.setattr(contents, "data", lambda name: told)
    lines = contents.tables()
    rows = [line for line in lines if "12 min" in line]
    assert rows[0] == "| [tour](notebooks/tour.ipynb) | I know tour. | 12 min |"
    assert rows[2] == "| [05 Titans](notebooks/05_titans.ipynb) | I know 05_titans. | 12 min |"
    assert [row.split("]")[0] for row in rows[-2:]] == ["| [05b inside titans", "| [05c more"]
    assert lines.index(contents.FURTHER) == lines.index(rows[-3]) + 2
    told.pop()
    with pytest.raises(places.Lost, match="no sentence for '10_train'"):
        contents.tables()


@pytest.mark.parametrize(
    "text", ["# A readme", "<!-- notebooks -->\nold", 2 * "<!-- notebooks -->\nold\n<!-- /notebooks -->\n"]
)
def test_a_readme_that_lost_the_marks_of_its_list_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "README", tmp_path / "README.md")
    monkeypatch.setattr(contents, "tables", lambda: ["new"])
    contents.README.write_text("before\n<!-- notebooks -->\nold\n<!-- /notebooks -->\nafter\n", encoding="utf-8")
    assert contents.readme() == "before\n<!-- notebooks -->\nnew\n<!-- /notebooks -->\nafter\n"
    contents.README.write_text(text, encoding="utf-8")
    with pytest.raises(places.Lost, match="lists between"):
        contents.readme()


def test_a_term_is_linked_in_the_tour_and_in_the_core_before_a_further_notebook(course, monkeypatch):
    monkeypatch.setattr(glossary, "all_notebooks", lambda: all_notebooks(course))
    monkeypatch.setattr(glossary, "data", lambda name: [{"term": "write", "meaning": "m"}])
    names = [f"{stem}#a" for stem in ORDER]
    texts = [(name, "A write.") for name in (*names[1:3], *names[5:], *names[3:5], names[0])]
    assert list(glossary.linked(texts)) == ["00_start#a", "tour#a"]
    texts = [(name, "A write." if name > "05b" else "Nothing.") for name, _ in texts]
    assert list(glossary.linked(texts)) == ["06_levels#a", "tour#a"]
    assert [name for name, _ in glossary.prose()] == [name for name, _ in texts]
