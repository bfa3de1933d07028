"""The explosion view: the memory beside a plain loop, the bound beside what is measured, every cure, the controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.views.explosion import BLOWN, CURES, STEPS, Explosion, compute, draw, largest_curvature, norms, stream

START = {"step": 0.4, "cure": "none", "length": 2.0, "mini_batch": 1, "similarity": 0.9}


@pytest.fixture
def view():
    return Explosion(strict=True)


@pytest.mark.parametrize("cure", [CURES[0], CURES[2]])
@pytest.mark.parametrize("mini_batch", [1, 4])
def test_norms_are_those_of_a_plain_loop(cure, mini_batch):
    text, step = stream(0.5), 0.3
    k, v, w = text.keys.numpy(), text.values.numpy(), text.start[0].numpy()
    expected = [np.linalg.norm(w)]
    for first in range(0, 32, mini_batch):
        rows = slice(first, first + mini_batch)
        gradient = k[rows].T @ (k[rows] @ w - v[rows])
        w = w - step * (1 / mini_batch if cure == CURES[2] else 1) * gradient
        expected.append(np.linalg.norm(w))
    found = norms(text.keys[:32], text.values[:32], text.start, [step], mini_batch, cure)
    assert np.allclose(found[0], expected, atol=1e-10)


def test_the_bound_is_two_over_the_squared_length_for_single_tokens():
    for length in (0.5, 1.0, 2.0):
        assert np.isclose(compute({**START, "length": length})["bound"], 2 / length**2)
    same = stream(1.0).keys * 2
    assert np.isclose(largest_curvature(same, 16, mean=False), 16 * 4)
    assert np.isclose(largest_curvature(same, 16, mean=True), 4)


@pytest.mark.parametrize("similarity", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("mini_batch", [1, 16])
def test_nothing_blows_up_below_the_bound_and_all_does_well_above(similarity, mini_batch):
    arrays = compute({**START, "similarity": similarity, "mini_batch": mini_batch, "length": 1.5})
    assert (arrays["final"][STEPS < 0.98 * arrays["bound"]] < 100).all()
    assert (arrays["final"][STEPS > 4 * arrays["bound"]] > BLOWN).all()
    assert not arrays["edge"] < arrays["bound"]


def test_each_cure_saves_what_blew_up():
    bad = {**START, "step": 1.2, "mini_batch": 4}
    assert compute(bad)["norm"][-1] > BLOWN
    assert compute({**bad, "cure": CURES[1], "mini_batch": 1})["norm"][-1] < 10
    assert compute({**bad, "cure": CURES[2], "length": 1.0})["norm"][-1] < 10
    inside = compute({**bad, "cure": CURES[3]})
    assert inside["norm"][-1] < BLOWN and np.isnan(inside["bound"]) and np.isnan(inside["edge"])


def test_draw_shows_those_arrays():
    arrays, figure = compute(START), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert np.allclose(shown["norm by token"].y, arrays["norm"])
    assert np.array_equal(shown["norm at the end"].x, STEPS)
    assert np.allclose(shown["this step"].y, arrays["norm"][-1])
    assert any(shape.x0 == arrays["bound"] for shape in figure.layout.shapes)


def test_controls_drive_picture_and_sentence(view):
    assert (
        "The bound is a step of 0.5;" in view.readout
        and "multiplies what stands along its key by -0.60" in view.readout
    )
    view.controls_by_name["step"].value = 1.0
    assert view.figure.data[2].y[0] > BLOWN and "by -3.00" in view.readout
    view.controls_by_name["cure"].value = CURES[1]
    assert view.figure.data[2].y[0] < 10 and "The bound is a step of 2;" in view.readout
    view.controls_by_name["cure"].value = CURES[3]
    assert "no step up to 3 blows it up" in view.readout
    assert all(control.description for control in view.controls_by_name.values())


def test_the_prediction_waits_until_it_happened(view):
    assert "try steps until it happens" in view.predict("at the same step")
    view.set(step=0.9)
    assert "try steps until it happens" in view.verdict
    view.set(mini_batch=16)
    assert 'it came out "at a fifth of it or less"' in view.verdict
    view.set(similarity=0.0)
    assert 'it came out "at the same step"' in view.verdict  # keys at right angles hardly meet


def test_bad_input_is_refused_in_words(view):
    with pytest.raises(CourseError, match="cure cannot be 'hope'"):
        view.set(cure="hope")
    text = stream(0.5)
    with pytest.raises(CourseError, match="cure 'nothing' is not known"):
        norms(text.keys, text.values, text.start, [0.1], 1, "nothing")
    with pytest.raises(CourseError, match="mini_batch"):
        norms(text.keys, text.values, text.start, torch.tensor([0.1]).numpy(), 0, "none")
