"""The glossary, the evidence and the results are as their data and the notebooks make them, and lead where they say."""

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from nl_course.family import ROWS
from tools.index import evidence, family, glossary, marked, places
from tools.index.__main__ import PAGES
from tools.run_notebooks import ROOT

TERM = {"term": "delta rule", "meaning": "m"}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_tool_makes(name):
    assert (ROOT / name).read_text("utf-8") == PAGES[name](), "run: python -m tools.index"


def test_every_term_is_linked_where_it_is_first_used_and_nowhere_else():
    assert list(glossary.linked(glossary.prose())) == [], "run: python -m tools.index"
    assert set(glossary.used_first()) == {entry["term"] for entry in places.data("glossary")}


def test_the_tables_of_the_family_are_what_the_rows_make():
    assert family.filled(glossary.prose()) == {}, "run: python -m tools.index"
    shown = "".join(text for _, text in glossary.prose())
    assert sorted(marked.pattern("family").findall(shown)) == ["03", "04", "05", "06", "07", "08"]
    assert all(f"| {family.name(row)} |" in shown for row in ROWS if "" < row.notebook < "09")


def test_a_table_of_the_family_is_filled_from_the_rows_and_holds_no_link_to_the_glossary(monkeypatch):
    stale = "The delta rule.\n\n<!-- family 05 -->\nold\n<!-- /family -->"
    (now,) = family.filled([("a", stale)]).values()
    assert now.startswith("The delta rule.") and "| MAC, MAG, MAL, [`MAC`](" in now and "old" not in now
    assert family.filled([("a", now)]) == {}
    monkeypatch.setattr(glossary, "data", lambda name: [TERM])
    assert glossary.first_use("<!-- family 03 -->\ndelta rule\n<!-- /family -->", TERM) is None


def test_a_row_that_leads_nowhere_is_named(monkeypatch):
    lost = replace(ROWS[0], function="nl_course.nothing:at_all")
    monkeypatch.setattr(family, "rows_of", lambda notebook: (lost,))
    with pytest.raises(places.Lost, match="there is no"):
        family.table("05")


def test_terms_are_told_once_in_a_sentence():
    entries = places.data("glossary")
    assert len({entry["term"].lower() for entry in entries}) == len(entries)
    assert all(entry["meaning"].endswith(".") and len(entry["meaning"]) < 330 for entry in entries)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(name):
    page = (ROOT / name).read_text("utf-8")
    own = (re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.+)$", page))
    headings = {"": set(own)}  # of the page itself, as GitHub names them
    for cell in places.cells().values():
        headings.setdefault(f"{cell.notebook}.ipynb", set()).add(places.anchor(cell.heading))
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert len(links) > 10
    for link in links:
        target, _, fragment = link.partition("#")
        assert ((ROOT / name).parent / (target or Path(name).name)).resolve().is_file(), link
        assert not fragment or fragment in headings[target], link


def test_every_question_and_every_notebook_is_answered_for():
    assert len(places.data("questions")) == 24 + 11  # as many as were asked, and those that the field of 2026 asks
    for asked in places.data("questions"):
        assert asked["cells"] or asked.get("tests"), asked["asked"]
    notebooks, sentences = {cell.notebook for cell in places.cells().values()}, places.data("sentences")
    assert {s["notebook"] for s in sentences} == notebooks and all(s["cells"] for s in sentences)
    assert all(e["functions"] and e["tests"] and e["cells"] for e in places.data("equations"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Delta rule writes.", "The [Delta rule](glossary.md#delta-rule) writes."),
        ("`delta rule`, then the delta rule", "`delta rule`, then the [delta rule](glossary.md#delta-rule)"),
        ("## The delta rule\nA delta rule.", "## The delta rule\nA [delta rule](glossary.md#delta-rule)."),
        (
            "[the delta rule](x.ipynb) or delta rule",
            "[the delta rule](x.ipynb) or [delta rule](glossary.md#delta-rule)",
        ),
        ("$delta rule$ delta ruler", None),
        ("<details>delta rule</details>", None),
    ],
)
def test_the_first_use_outside_code_links_and_headings_is_linked(text, wanted, monkeypatch):
    monkeypatch.setattr(glossary, "data", lambda name: [TERM])
    found = glossary.linked([("a", text), ("b", "the delta rule")])
    assert found == ({"a": wanted} if wanted else {"b": "the [delta rule](glossary.md#delta-rule)"})
    assert glossary.linked([("a", found.get("a", text)), ("b", found.get("b", "the delta rule"))]) == {}


def test_a_link_that_is_no_longer_first_goes(monkeypatch):
    monkeypatch.setattr(glossary, "data", lambda name: [TERM])
    old = "the [delta rule](glossary.md#delta-rule)"
    assert glossary.linked([("a", "delta rule"), ("b", old)]) == {
        "a": "[delta rule](glossary.md#delta-rule)",
        "b": "the delta rule",
    }


@pytest.mark.parametrize(
    ("look", "name"),
    [
        (places.cell, "03_memory_that_learns#nowhere"),
        (places.function, "nl_course.memories.linear.delta:nothing"),
        (places.function, "nl_course.nothing:at_all"),
        (places.test, "tests/test_model.py::test_nothing"),
        (places.test, "tests/nothing.py::test_it"),
    ],
)
def test_what_is_gone_is_named(look, name):
    with pytest.raises(places.Lost, match="there is no"):
        look(name)


def test_functions_and_tests_lead_to_their_files():
    for markdown in (
        places.function("nl_course.memories.linear.delta:DeltaNet.forward"),
        places.function("nl_course.nested:NestedLanguageModel"),
        places.test("tests/notebooks/test_index.py::test_what_is_gone_is_named"),
    ):
        target = re.search(r"\]\(\.\./(.+)\)", markdown)[1]
        assert (Path(ROOT) / unquote(target)).is_file()
    assert evidence.row("a|b", "c") == "| a\\|b | c |"


def test_data_is_as_its_editors_left_it():
    """One entry a line or indented, never reformatted by hand into something that JSON cannot read."""
    for path in places.DATA.glob("*.json"):
        assert isinstance(json.loads(path.read_text("utf-8")), list), path.name
