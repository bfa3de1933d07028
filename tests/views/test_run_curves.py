"""Runs side by side in one picture, and the frontier with a learner's point on it."""

import json
from dataclasses import replace
from math import log

import pytest

from nl_course.errors import CourseError
from nl_course.files import asset
from nl_course.views import frontier
from nl_course.views.capstone_point import beside_the_frontier
from nl_course.views.run_curves import run_curves
from nl_course.views.training_board import recorded

RUNS = [run for run, _ in recorded() if run.task == "text"]


def test_the_same_losses_over_steps_seconds_and_operations():
    pictures = {over: run_curves(RUNS, over) for over in ("steps", "seconds", "operations")}
    for i, run in enumerate(RUNS):
        steps, seconds, operations = (picture.figure.data[i] for picture in pictures.values())
        assert list(steps.y) == list(seconds.y) == list(operations.y)
        assert steps.x[-1] == run.steps and seconds.x[-1] == run.seconds
        assert operations.x[-1] == pytest.approx(6 * run.parameters * run.tokens)
    lowest = min(RUNS, key=lambda run: run.loss)
    assert lowest.name in pictures["steps"].says and f"{lowest.loss:.2f}" in pictures["steps"].says
    with pytest.raises(CourseError, match="over"):
        run_curves(RUNS, "miles")


def test_runs_of_different_tokens_are_drawn_in_bits_per_byte():
    other = replace(RUNS[0], name="subwords", tokenizer="300 subwords", bytes_per_token=4.0)
    picture = run_curves([*RUNS, other])
    nats = run_curves([RUNS[0]]).figure.data[0].y
    for i, of_token in ((0, 1.0), (len(RUNS), 4.0)):
        assert list(picture.figure.data[i].y) == pytest.approx([loss / log(2) / of_token for loss in nats])
    assert "bits per byte" in picture.figure.layout.yaxis.title.text and f"is that of {other.name}" in picture.says


def test_losses_that_cannot_be_compared_are_not_drawn_together():
    unknown = replace(RUNS[0], name="unknown", tokenizer="?", bytes_per_token=None)
    assert run_curves([unknown])
    with pytest.raises(CourseError, match="the loss of unknown cannot be compared"):
        run_curves([*RUNS, unknown])
    with pytest.raises(CourseError, match="there is no run to draw"):
        run_curves([replace(RUNS[0], metrics=[])])


def test_a_learners_point_stands_beside_the_recorded_ones(monkeypatch):
    found = json.loads(asset("runs/frontier.json").read_text("utf-8"))
    count = len(found["points"])
    monkeypatch.setattr(frontier, "recorded", lambda: found)
    monkeypatch.setattr(frontier, "LABELS", dict(frontier.LABELS))
    monkeypatch.setattr(frontier, "GROUPS", dict(frontier.GROUPS))
    monkeypatch.setattr(frontier, "STYLES", dict(frontier.STYLES))
    middle = next(p for p in found["points"] if p["size"] == "middle" and p["memory"] == "linear")
    mine = {**middle, "memory": "my_memory"}
    for _ in range(2):  # a point made again takes the place of the first
        view = beside_the_frontier(mine, strict=True)
        assert len(found["points"]) == count + 1
    assert view.error == "" and view.settings["point"] == "my_memory (yours), middle"
    assert any(t.name == "my_memory (yours)" for t in view.figure.data)
    tips = {}
    for trace in view.figure.data:
        tips |= dict(zip(trace.customdata if trace.customdata is not None else (), trace.text or ()))
    assert "commit" not in tips["my_memory (yours), middle"]  # the learner's file is in none
    assert "commit" in tips["linear (Hebb), middle"]
