"""The map of notebook 00: sizes that were measured equal the formulas, and one more token is told truly."""

import numpy as np
import pytest

from nl_course.errors import CourseError
from nl_course.views.state_map import LENGTHS, ON_THE_MAP, StateMap, measure, measured_bytes, one_more_token

pytestmark = pytest.mark.slow  # reading 100,000 tokens with every memory takes some seconds
SHORT = LENGTHS[:4]


@pytest.fixture(scope="module")
def view():
    return StateMap(strict=True)


@pytest.mark.parametrize("place", ON_THE_MAP, ids=lambda place: place.label)
def test_measured_sizes_are_what_the_formulas_say(place):
    for tokens in SHORT:
        assert measured_bytes(place.label, tokens) == place.build().state_bytes(tokens)
    assert measure(SHORT)[place.label] == [measured_bytes(place.label, tokens) for tokens in SHORT]


def totals(label):
    changes = {c.name: c for c in one_more_token(label, 200)}
    weights = changes.pop("trained weights")
    assert weights.rewritten == weights.added == weights.dropped == 0 < weights.kept
    return [sum(getattr(c, kind) for c in changes.values()) for kind in ("kept", "rewritten", "added", "dropped")]


def test_a_cache_adds_a_window_also_drops_and_a_matrix_rewrites():
    assert totals("attention") == [200 * 64, 0, 64, 0]
    assert totals("linear (Hebb)") == [0, 32 * 32, 0, 0]
    _, rewritten, added, dropped = totals("TTT-Linear")
    assert rewritten >= 32 * 32 and added == dropped  # the convolutions' tails move up


def test_controls_drive_the_bars_and_the_sentence(view):
    view.set(tokens=100, memory="attention")
    assert [bar.x[0] for bar in view.figure.data[: len(ON_THE_MAP)]] == [
        measured_bytes(place.label, 100) for place in ON_THE_MAP
    ]
    assert "attention 25.6 kB" in view.readout and "Token 101 in attention adds 64 numbers" in view.readout
    view.set(tokens=10)
    assert "Token 11 in" in view.readout and "token 11 " in view.figure.layout.annotations[0].text
    view.controls_by_name["memory"].value = "linear (Hebb)"
    assert "rewrites 1024" in view.readout
    shares = np.array([trace.x for trace in view.figure.data[len(ON_THE_MAP) :]])
    np.testing.assert_allclose(shares.sum(0), 1)


def test_every_control_is_labelled_and_the_prediction_waits_for_its_moment(view):
    assert all(control.description for control in view.controls_by_name.values())
    view.set(tokens=1_000)
    assert "Move to 100,000 tokens" in view.predict("10")


def test_a_memory_that_is_not_on_the_map_is_refused(view):
    with pytest.raises(CourseError, match="memory cannot be"):
        view.set(memory="the brain")
