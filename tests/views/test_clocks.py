"""Clocks: the levels are the course's own model's, ticks by the rule, probes beside the definition, controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.nested import updates_after
from nl_course.views.clocks import (
    ANSWERS,
    SYMBOLS,
    TOKENS,
    Clocks,
    Learner,
    compute,
    draw,
    model,
    outcome,
    rules,
    stream,
)

START = dict(fast=8, slow=64, fast_rate=1.0, slow_rate=8.0, switch=128, back=184, variant="sequential")


@pytest.fixture(scope="module")
def arrays():
    return compute(**START)


@pytest.mark.parametrize("variant", ["sequential", "nested", "independent"])
def test_the_levels_end_where_the_courses_model_ends(variant):
    """The model reads the same symbols by itself; its last boundary is made when one more symbol has arrived."""
    found = compute(**{**START, "slow": 32, "variant": variant})
    symbols = stream(128, 184)
    _, state = model((8, 32), (1.0, 8.0), variant)(symbols[None])
    assert len(symbols) == TOKENS + 1
    for name, pair in found["end"].items():
        for ours, expected in zip(pair, state.fast[name]):
            torch.testing.assert_close(ours.expand_as(expected), expected, atol=1e-5, rtol=1e-4)


def test_what_was_paid_is_what_the_model_pays(arrays):
    symbols = stream(128, 184)
    losses = model((8, 64), (1.0, 8.0), "sequential").token_losses(symbols[None])[0]
    assert np.allclose(arrays["paid"], losses.detach().numpy(), atol=1e-4)


def test_each_level_moves_at_its_own_boundaries_and_as_often_as_the_rule_says(arrays):
    assert arrays["changed"][0] == list(range(8, TOKENS + 1, 8))
    assert arrays["changed"][1] == [64, 128, 192, 256]
    assert [len(c) for c in arrays["changed"]] == [updates_after(TOKENS + 1, c) for c in (8, 64)]


def test_the_rules_are_rings_without_a_common_step():
    both = rules()
    assert not (both["old"] == both["new"]).any()
    for follows in both.values():
        at, seen = 0, set()
        for _ in range(SYMBOLS):
            seen.add(at)
            at = int(follows[at])
        assert len(seen) == SYMBOLS and at == 0


def test_probes_ask_every_symbol_under_both_rules(arrays):
    learner = Learner(model((8, 64), (1.0, 8.0), "sequential"))
    logits, _ = learner.model(torch.arange(SYMBOLS)[:, None])  # each symbol by itself, with the start
    expected = torch.nn.functional.cross_entropy(logits[:, 0], rules()["old"])
    assert learner.losses(learner.start)["old"] == pytest.approx(expected.item(), abs=1e-5)
    assert arrays["old"][0] == pytest.approx(expected.item(), abs=1e-5)
    learner.fast = arrays["end"]
    slow_alone = learner.losses({**learner.fast, "layers.0.levels.0": learner.start["layers.0.levels.0"]})
    assert arrays["without"]["old"][0, -1] == pytest.approx(slow_alone["old"], abs=1e-6)


def test_the_slow_level_keeps_what_the_fast_one_overwrote(arrays):
    then = list(arrays["places"]).index(184)
    assert arrays["old"][list(arrays["places"]).index(128)] < 0.6
    assert arrays["new"][then] < 1 and arrays["old"][then] > 1.7
    slow_alone, fast_alone = arrays["without"]["old"][:, then]
    assert slow_alone < 1.5 < fast_alone


def test_nested_levels_go_back_and_the_old_task_returns_from_the_slow_one():
    arrays = compute(**{**START, "variant": "nested"})
    places = list(arrays["places"])
    assert arrays["moved"][0][places.index(192)] == 0  # the fast level's context has ended
    assert arrays["old"][places.index(184)] > 2 and arrays["old"][places.index(192)] < 1.5


def test_a_rate_of_0_is_a_model_that_never_learns():
    arrays = compute(**{**START, "fast_rate": 0.0, "slow_rate": 0.0})
    assert arrays["changed"] == [[], []] and np.ptp(arrays["old"]) == 0


def test_draw_shows_those_arrays(arrays):
    figure = go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert list(shown["slow level moves"].x) == arrays["changed"][1]
    assert np.allclose(shown["old task"].y, arrays["old"])
    assert np.allclose(shown["old task, slow level alone"].y, arrays["without"]["old"][0])
    assert np.allclose(shown["old task, fast level alone"].y, arrays["without"]["old"][1])
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1) == (128, 184)


def test_controls_drive_picture_and_sentence():
    view = Clocks(strict=True)
    assert all(control.description for control in view.controls_by_name.values())
    assert "the fast level moved 32 times and the slow level 4 times" in view.readout
    view.set(slow=16)
    assert "the slow level 16 times" in view.readout
    view.set(slow=64, slow_rate=0.0)
    assert "the slow level 0 times" in view.readout and view.error == ""
    view.set(slow=16, fast=32, slow_rate=1.0)
    assert view.error == "" and "the fast level moved 8 times and the slow level 16 times" in view.readout


def test_the_prediction_waits_for_a_slow_clock():
    view = Clocks(strict=True)
    view.set(slow=16)
    assert "Let the slow period be four times" in view.predict(ANSWERS[0])
    view.set(slow=64)
    assert f'it came out "{ANSWERS[1]}"' in view.verdict
    assert outcome(compute(**{**START, "fast_rate": 0.25, "back": 168})) is None


def test_rates_that_blow_up_and_bad_input_are_told_in_words():
    with pytest.raises(CourseError, match="not 24 of 16"):
        compute(**{**START, "fast": 16, "slow": 24})
    with pytest.raises(CourseError, match="must come back after the switch"):
        stream(128, 100)
    with pytest.raises(CourseError, match="variant 'both' is not known"):
        compute(**{**START, "variant": "both"})
