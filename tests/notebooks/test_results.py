"""The page of results: every number of ours is found in a recording or in what a cell printed, and every sentence
follows from its numbers by its rules."""

import re
import string
from copy import deepcopy

import pytest

from nl_course.export import documents
from tools.index import __main__ as tool
from tools.index import places, results
from tools.index.places import Lost
from tools.index.results import Number
from tools.run_notebooks import ROOT

ROWS = places.data("results")
RECORDINGS = {
    "05-live-training", "books", "chunks", "continual", "corpora", "decode", "frontier", "hope", "inner-loop",
    "long-text", "mechanisms", "needle", "optimizers", "reading", "sceptic", "state-tracking",
}  # fmt: skip
TREE = {
    "bins": [0, 32, 64],
    "points": [
        {"memory": "mag", "asked": [{"pairs": 8, "mean": 0.5, "low": 0.4, "high": 0.6, "by_seed": [0.4, 0.6]}]},
        {"memory": "mac", "asked": [{"pairs": 8, "right": 3, "asked": 4}, {"pairs": 8, "filler": "any", "mean": 0.1}]},
    ],
    "seeds": [{"loss": 1.0}, {"loss": 2.0}, {"loss": 3.0}],
    "by_place": [0.1, 0.2],
}


# -- the data ----------------------------------------------------------------------------------------------------------
def test_every_sentence_follows_from_its_numbers():
    parted = []
    for row in ROWS:
        try:
            results.outcome(row)
        except Lost as error:
            parted.append(str(error))
    assert not parted, "\n".join(parted)


def test_every_verdict_is_one_of_the_four_and_all_occur():
    for row in ROWS:
        assert {outcome["verdict"] for outcome in row["outcomes"]} <= set(results.VERDICTS), row["claim"]
        assert all(outcome["when"] for outcome in row["outcomes"]), row["claim"]
    assert all(results.counts(ROWS).values())
    assert sum(results.counts(ROWS).values()) == len(ROWS)


def test_every_row_has_the_papers_number_or_says_that_there_is_none():
    for row in ROWS:
        told, source = row["paper"]["number"], row["paper"]["source"]
        assert re.search(r"\d", told) or results.NONE in told or "not read" in told, row["claim"]
        assert re.search(r"arXiv \d{4}\.\d{5}", source), row["claim"]


def test_every_outcome_can_be_said_and_uses_the_numbers_of_its_row():
    for row in ROWS:
        used = set()
        for outcome in row["outcomes"]:
            fields = {name for _, name, _, _ in string.Formatter().parse(outcome["found"]) if name}
            ruled = set(re.findall(r"[a-z_]\w*", " ".join(outcome["when"]))) - {"low", "high"}
            assert fields | ruled <= set(row["numbers"]), row["claim"]
            assert outcome["found"].endswith(".") and outcome.get("note", ".").endswith("."), row["claim"]
            used |= fields | ruled
        assert used == set(row["numbers"]), row["claim"]
        assert row["claim"].endswith(".") and len(row["claim"].split()) <= 25, row["claim"]


def test_every_recording_and_every_notebook_from_03_to_09_has_rows():
    assert {row["recording"] for row in ROWS if row["recording"]} == RECORDINGS
    notebooks = {cell[:2] for row in ROWS for cell in row["cells"]}
    assert notebooks == {"03", "04", "05", "06", "07", "08", "09"}
    told = [(row["claim"], row["recording"], row["cells"][0]) for row in ROWS]
    assert len(set(told)) == len(told)


# -- where a number stands ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["points", {"memory": "mag"}, "asked", {"pairs": 8}], 0.5),
        (["points", {"memory": "mac"}, "asked", {"pairs": 8, "filler": None}], 0.75),
        (["points", {"memory": "mac"}, "asked", {"pairs": 8, "filler": "any"}, "mean"], 0.1),
        (["by_place", {"at": 32, "of": "bins"}], 0.2),
        (["seeds", "*", "loss"], 2.0),
    ],
)
def test_a_path_finds_its_number(path, value):
    assert results.number(results.select(TREE, path)).value == value


@pytest.mark.parametrize(
    "path",
    [
        ["nothing"],
        ["points", {"memory": "mal"}],
        ["points", {"memory": "mac"}, "asked", {"pairs": 8}],
        ["by_place", {"at": 33, "of": "bins"}],
        ["bins", "*", "loss"],
        ["points", "memory"],
        ["seeds", {"loss": 1.0}, {"loss": 1.0}],
    ],
)
def test_a_path_that_finds_none_or_two_is_named(path):
    with pytest.raises(Lost, match="there is no"):
        results.select(TREE, path)


@pytest.mark.parametrize("found", [["text"], [None], [{"name": "x"}], [[1.0]]])
def test_what_is_no_number_is_refused(found):
    with pytest.raises(Lost, match="there is no number"):
        results.number(found)


def test_several_values_are_seeds_and_differences_are_taken_seed_by_seed():
    told = results.number([1.0, 2.0, 3.0])
    assert (told.value, told.low, told.high) == (2.0, -0.4841, 4.4841)  # Student's with two degrees: 4.303 / sqrt(3)
    difference = results.less(told, results.number([0.9, 1.9, 2.9]))
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert results.less(told, Number(0.5)) == Number(1.5)
    longer = results.number([0.9, 1.9, 2.9, 7.0])
    assert results.less(told, longer) == difference == results.less(told, results.number([0.9, 1.9, 2.9]))
    turned = Number(1.0, 0.5, 2.0, (1.0,)).negated()
    assert turned == Number(-1.0, -2.0, -0.5, (-1.0,))


def test_a_share_without_an_interval_gets_wilsons():
    told = results.number([{"right": 3, "asked": 4}])
    assert told.value == 0.75
    assert (told.low, told.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)


def with_printed(monkeypatch, text):
    monkeypatch.setattr(results, "printed", lambda name: text)
    return {"claim": "c", "cells": ["03#x"], "recording": None, "numbers": {}}


def test_a_number_is_read_from_what_a_cell_printed(monkeypatch):
    row = with_printed(monkeypatch, "delta 26%\nat least 1,024 bits\nok: True\nok: True\n")
    assert results.read(row, {"printed": r"delta (\d+)%", "percent": True}) == Number(0.26)
    assert results.read(row, {"printed": r"least ([\d,]+) bits"}) == Number(1024)
    assert results.read(row, {"printed": "ok: True", "counted": True}) == Number(2)
    with pytest.raises(Lost, match="there is no single"):
        results.read(row, {"printed": r"(ok): True"})
    with pytest.raises(Lost, match="there is no single"):
        results.read(row, {"printed": r"hebb (\d+)%"})


def test_a_setting_that_a_recording_leaves_out_has_the_value_that_the_row_names(monkeypatch):
    monkeypatch.setattr(results, "recording", lambda name: TREE)
    row = {"recording": "x"}
    assert results.read(row, {"at": ["about", "conv"], "else": 0}) == Number(0)
    with pytest.raises(Lost):
        results.read(row, {"at": ["about", "conv"]})


# -- rules and what is said --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rule", "true"),
    [
        ("a.low > 0.5", True),
        ("a.high < b", False),
        ("b >= 2", True),
        ("b <= 2", True),
        ("b == 2", True),
        ("b > -1", True),
    ],
)
def test_rules_compare_values_and_ends_of_intervals(rule, true):
    assert results.holds(rule, {"a": Number(1.0, 0.6, 3.0), "b": Number(2.0)}) is true


@pytest.mark.parametrize("rule", ["b.low > 0", "c > 0", "b", "b > 0 and b < 3", "b.middle > 0"])
def test_a_rule_that_cannot_be_asked_is_named(rule):
    with pytest.raises(Lost, match="there is no"):
        results.holds(rule, {"b": Number(2.0)})


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (Number(0.923, 0.8, 1.007), "share", "92 % (80 to 100)"),
        (Number(-0.0004, -0.01, 0.012), "nats", "0.00 nats per byte (-0.01 to 0.01)"),
        (Number(36864), "bytes", "36,864 bytes"),
        (Number(-0.2, -0.25, -0.15), "points", "-20 points (-25 to -15)"),
    ],
)
def test_numbers_are_said_with_their_unit_and_interval(value, unit, text):
    assert results.said(value, unit) == text


def recorded_anew(monkeypatch, name, change):
    """The recording `name` as if it had been made again, with `change` done to it."""
    tree = deepcopy(results.recording(name))
    change(tree)
    real = results.recording
    monkeypatch.setattr(results, "recording", lambda asked: tree if asked == name else real(asked))


def recalls(memory, low):
    def change(tree):
        for point in tree["points"]:
            if point["memory"] == memory:
                for row in point["asked"]:
                    row.update(mean=0.9, low=low, high=1.0)

    return change


def test_a_verdict_turns_with_its_recording(monkeypatch):
    (row,) = [row for row in ROWS if row.get("short") == "MAG on pairs"]
    recorded_anew(monkeypatch, "frontier", recalls("mag", low=0.8))
    assert results.outcome(row)["verdict"] == "reproduced in direction"
    assert "90 % (80 to 100)" in results.sentence(row)


def test_a_sentence_without_its_numbers_is_told_with_them(monkeypatch):
    (row,) = [row for row in ROWS if row["claim"] == "Attention recalls all pairs of its context."]
    recorded_anew(monkeypatch, "frontier", recalls("attention", low=0.3))
    with pytest.raises(Lost, match=r"Attention recalls all pairs.*near.low > 0.98.*near = 0.9 \(0.3 to 1\)"):
        results.outcome(row)


def test_the_tool_says_which_page_it_left(monkeypatch, capsys):
    def gone():
        raise Lost("there is no outcome")

    monkeypatch.setattr(tool, "PAGES", {"notebooks/results.md": gone})
    monkeypatch.setattr("sys.argv", ["tools.index", "--check"])
    assert tool.main() == 1
    assert "notebooks/results.md is left as it was: there is no outcome" in capsys.readouterr().out


# -- the page ----------------------------------------------------------------------------------------------------------
def test_the_page_opens_with_three_sentences_that_count():
    lines = results.page().splitlines()[2:5]
    counted = [int(n) for line in lines for n in re.findall(r"(?<![\w-])\d+", line)]
    assert counted[0] == len(ROWS)
    assert sum(counted[1:]) == len(ROWS)
    assert all(line.endswith(".") and line.count(". ") == 0 for line in lines)


def test_a_recipe_has_its_command_and_the_time_of_all_its_trainings(monkeypatch):
    tree = {
        "about": {"command": "nl-course record x", "wall_seconds": 1.3, "threads": 2},
        "runs": [{"training_seconds": 90}] * 4,
    }
    monkeypatch.setattr(results, "recording", lambda name: tree)
    assert results.cost("x") == "`nl-course record x`: 6 min on 2 cores"
    monkeypatch.setitem(tree["about"], "wall_seconds", 600)
    assert results.cost("x") == "`nl-course record x`: 10 min on 2 cores"
    assert results.cost(None) == "the cell itself: seconds"


def test_readers_find_the_page():
    assert ROOT / "notebooks" / "results.md" in documents.texts(ROOT)
    for name in ("README.md", "CONTRIBUTING.md"):
        assert "(notebooks/results.md)" in (ROOT / name).read_text("utf-8"), name
