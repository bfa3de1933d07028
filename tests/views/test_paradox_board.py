"""The recording's numbers and the live model's, words for both, bad input."""

import plotly.graph_objects as go
import pytest
import torch

from nl_course.memories.ablations.switches import Ablation, ablated
from nl_course.record.sceptic_table import quality, recorded_rows
from nl_course.record.seeds import difference, verdict
from nl_course.views import paradox_board as board
from nl_course.views.paradox_board import ANSWERS, MODELS, ParadoxBoard, compute, key_of, live, told_apart


def row_of(task, model, trained_with, asked_with):
    found = [r for r in board.recording()["rows"] if (r["task"], r["model"]) == (task, model)]
    return next(r for r in found if (r["trained_with"], r["asked_with"]) == (trained_with, asked_with))


@pytest.mark.parametrize("name", MODELS)
def test_the_recording_has_each_model_on_both_tasks_and_its_first_seed_is_the_live_one(name):
    for task, what, near in (("text", "loss", 0.35), ("recall", "recall", 0.2)):
        row, now = row_of(task, MODELS[name], "as trained", "as trained"), live(task, MODELS[name], Ablation())
        assert now["quality"] == pytest.approx(row[what]["by_seed"][0], abs=near), task


def test_rows_are_those_of_the_recording():
    arrays = compute("LMM (Titans)", sign="climb", trained_so=True)
    assert arrays["recall"]["as trained"] == row_of("recall", "titans", "as trained", "as trained")["recall"]
    assert arrays["recall"]["switched"] == row_of("recall", "titans", "as trained", "sign flipped")["recall"]
    assert arrays["recall"]["trained so"] == row_of("recall", "titans", "sign flipped", "sign flipped")["recall"]
    inner = row_of("text", "titans", "as trained", "sign flipped")["inner"]["after_k"]
    assert arrays["inner, text"]["switched"] == inner
    assert compute("LMM (Titans)", sign="climb")["recall"]["trained so"] is None


def test_live_is_the_trained_model_with_the_switches_turned():
    board.live.cache_clear()
    usual, turned = live("text", "ttt-linear", Ablation()), live("text", "ttt-linear", Ablation(sign=-1))
    assert usual != turned
    model, about = board.trained("text", "ttt-linear"), board.recording()["about"]["config"]["tasks"]["text"]
    with torch.no_grad(), ablated(model, sign=-1):
        found, _ = board.text_of(model, {**about, "windows": board.ROWS}, 2)
    assert found["loss"] == pytest.approx(turned["quality"], abs=2e-4)
    assert live("text", "ttt-linear", Ablation(inner_steps=4))["rows"] == 2


def test_switches_have_the_recordings_names():
    assert key_of(Ablation()) == "as trained" and key_of(Ablation(inner_steps=4)) == "4 steps"
    assert key_of(Ablation(sign=-1)) == "sign flipped" and key_of(Ablation(sign=-1, inner_steps=4)) is None


def test_a_change_is_told_apart_by_its_interval_as_in_the_sceptics_table():
    def of(*values):
        return {"by_seed": list(values)}

    assert told_apart(of(2, 3.1, 4), of(1, 2, 3)) == "rises" and told_apart(of(0, 1.1, 2), of(1, 2, 3)) == "falls"
    assert told_apart(of(0, 1, 2), of(1, 1.1, 2.1)) == "is not told apart", "all fall, and the interval holds 0"
    assert told_apart(of(2), of(1)) == "one seed"
    words = {"rises": "higher", "falls": "lower", "is not told apart": "not told apart"}
    for (task, model, trained_with, asked_with), row in recorded_rows().items():
        after, before = row["recall" if task == "recall" else "loss"], quality(task, model)
        if after["mean"] is not None and len(after["by_seed"]) > 1:
            change = difference(after["by_seed"], before["by_seed"])
            assert words[told_apart(after, before)] == verdict(change), (task, model, trained_with, asked_with)


def test_draw_shows_the_arrays():
    arrays, figure = compute("TTT-MLP", read_with="key", trained_so=True), go.Figure()
    board.draw(arrays, figure)
    means = [t for t in figure.data if t.name == "recall, recorded"]
    places = ("as trained", "switched", "trained so")
    assert list(means[0].y) == [arrays["recall"][p]["mean"] for p in places if arrays["recall"][p]]
    crosses = [t for t in figure.data if t.name == "asked just now, on a few texts"]
    assert list(crosses[0].y) == list(arrays["text"]["live"].values())
    assert len(figure.data) == 12


def test_an_inner_loop_that_ran_away_is_said_and_not_drawn():
    arrays = compute("TTT-Linear", inner_steps=2)
    arrays["recall"]["switched"] = {"by_seed": [None], "mean": None, "low": None, "high": None}
    assert "ran away" in board.read_out(arrays)
    figure = go.Figure()
    board.draw(arrays, figure)
    assert next(len(t.x) for t in figure.data if t.name == "recall, recorded") == 1


def test_the_view_answers_judges_and_refuses_in_words():
    view = ParadoxBoard(strict=True)
    assert view.arrays["key"] == "2 steps" and "Switched at test time only" in view.readout
    for place in ("text", "recall", "inner, text", "inner, recall"):  # it opens with a switch turned
        assert view.arrays[place]["switched"] is not None
    assert view.predict(ANSWERS[0]).endswith("no other switch.")
    view.set(inner_steps=1)
    assert "as trained" in view.readout and "Turn a switch" in view.readout
    view.set(inner_steps=8)
    assert "it came out" in view.verdict and "Switched at test time only" in view.readout
    view.set(sign="climb")
    assert "not recorded together" in view.readout
    view.set(inner_steps=1, sign="descend", last_layer_only=True)
    view.controls_by_name["model"].value = "TTT-Linear"
    assert "one layer" in view.error


def test_what_came_out_of_eight_steps():
    def arrays(inner, recall, key="8 steps"):
        usual = {"mean": 0.5}
        return {"key": key, "inner, recall": {"as trained": usual, "switched": {"mean": inner}},
                "recall": {"as trained": usual, "switched": {"mean": recall}}}  # fmt: skip

    assert board.outcome(arrays(0.4, 0.5)) == ANSWERS[0] and board.outcome(arrays(0.4, 0.3)) == ANSWERS[1]
    assert board.outcome(arrays(0.6, 0.9)) == ANSWERS[2] and board.outcome(arrays(None, None)) == ANSWERS[2]
    assert board.outcome(arrays(0.4, 0.5, key="2 steps")) is None
