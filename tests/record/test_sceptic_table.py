"""The sceptic's lab read as tables: the recorded numbers, and the words for their differences."""

import json

import pytest

from nl_course.files import asset
from nl_course.record import sceptic_table
from nl_course.record.sceptic_table import change, quality
from nl_course.record.seeds import verdict


def test_the_numbers_are_those_of_the_recording():
    rows = json.loads(asset("runs/sceptic.json").read_text("utf-8"))["rows"]
    assert len(sceptic_table.recorded_rows()) == len(rows)
    for row in rows:
        found = quality(row["task"], row["model"], row["asked_with"], row["trained_with"])
        assert found == row["recall" if row["task"] == "recall" else "loss"]
    assert quality("recall", "titans", "never asked") is None


@pytest.mark.parametrize(
    ("difference", "word"),
    [((-0.2, -0.1), "lower"), ((0.1, 0.2), "higher"), ((-0.1, 0.1), "not told apart"), ((0.0, 0.1), "not told apart")],
)
def test_an_interval_that_holds_zero_tells_nothing(difference, word):
    assert verdict(dict(zip(("low", "high"), difference, strict=True))) == word


def row(task, asked_with, *values):
    mean = None if None in values else sum(values) / len(values)
    kind = "recall" if task == "recall" else "loss"
    return (task, "m", "as trained", asked_with), {kind: {"mean": mean, "by_seed": list(values)}}


def test_worse_is_lower_on_recall_and_higher_on_text(monkeypatch):
    rows = dict(
        [
            row("recall", "as trained", 0.9, 0.8, 0.9), row("recall", "low", 0.5, 0.4, 0.51),
            row("recall", "mixed", 0.9, 0.2, 1.0), row("recall", "away", None, None, None),
            row("text", "as trained", 2.0, 2.1, 2.0), row("text", "high", 3.0, 3.1, 3.01),
            row("text", "low", 1.0, 1.1, 1.01), row("text", "once", 2.5),
        ]
    )  # fmt: skip
    monkeypatch.setattr(sceptic_table, "recorded_rows", lambda: rows)
    assert change("recall", "m", "low").endswith("] WORSE") and change("recall", "m", "low").startswith("-0.40 [")
    assert change("text", "m", "high").endswith("] WORSE") and change("text", "m", "low").endswith("] BETTER")
    assert change("recall", "m", "mixed").endswith("no change that the seeds tell")
    assert change("recall", "m", "away") == "an inner loop ran away"
    assert change("recall", "m", "nothing") == "not there"
    rows.update([row("text", "as trained", 2.0)])
    assert change("text", "m", "once") == "+0.50 (one seed)"
