"""The two-loops view: its numbers beside the course's own TTT reference under autograd, picture, words, controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories.common.inner_model import InnerModel
from nl_course.memories.common.weights import Weights
from nl_course.memories.ttt import reference
from nl_course.views.two_loops import (
    GRADIENTS,
    NAMES,
    OUTER_STEPS,
    PLACES,
    SLOPES,
    TwoLoops,
    compute,
    draw,
    finite_difference,
    outer_loss,
    slope,
    unroll,
)

START = {"outer": 0, "gradient": "exact", "number": "start", "inner_steps": 3, "step": 0.5}
STOPS = {"exact": "none", "first-order": "first-order", "stopped": "write"}
LEARNED = {"start": -0.4, "key": 0.9, "value": 0.7, "query": 1.1, "step": 0.6}


@pytest.fixture
def view():
    return TwoLoops(strict=True)


def by_the_memory(learned: dict, inner_steps: int, name: str, stop: str) -> tuple[float, float]:
    """The outer loss and its slope by the TTT reference, one token a mini-batch, differentiated by autograd."""
    numbers = {n: torch.tensor(v, dtype=torch.float64, requires_grad=n == name) for n, v in learned.items()}
    inner = InnerModel(bias=False, norm=False, residual=False)
    slopes, one = torch.tensor(SLOPES), torch.ones(1, dtype=torch.float64)
    anchor = Weights(W1=numbers["start"].expand(len(SLOPES), 1, 1, 1))
    nothing = anchor.map(torch.zeros_like)
    query = numbers["query"].expand(len(SLOPES), 1, 1, 1)
    for x in PLACES[:inner_steps]:
        k = (numbers["key"] * x).expand(len(SLOPES), 1, 1, 1)
        v = (numbers["value"] * slopes * x)[:, None, None, None]
        rate = numbers["step"].expand(len(SLOPES), 1, 1)
        if stop == "write":
            k, v, rate = k.detach(), v.detach(), rate.detach()
        first_order = stop != "none"
        z, anchor, _ = reference.learn(inner, None, anchor, nothing, query, k, v, rate, one, first_order=first_order)
    loss = ((z[:, 0, 0, 0] - slopes) ** 2 / 2).mean()
    (found,) = torch.autograd.grad(loss, numbers[name], allow_unused=True) if loss.requires_grad else (None,)
    return loss.item(), 0.0 if found is None else found.item()


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_slope_are_those_of_the_courses_memory(name, gradient):
    for inner_steps in (1, 4):
        loss, tilt = by_the_memory(LEARNED, inner_steps, name, STOPS[gradient])
        assert np.isclose(outer_loss(LEARNED, inner_steps), loss, atol=1e-12)
        assert np.isclose(slope(LEARNED, inner_steps, name, gradient), tilt, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_exact_slope_is_the_finite_difference(name):
    real = finite_difference(LEARNED, 3, name)
    assert np.isclose(slope(LEARNED, 3, name, "exact"), real, atol=1e-8)
    if name != "query":
        assert abs(slope(LEARNED, 3, name, "stopped") - real) > 1e-3


def test_what_each_path_teaches():
    for name in ("key", "value"):
        assert slope(LEARNED, 3, name, "first-order") == slope(LEARNED, 3, name, "stopped") == 0
    assert slope(LEARNED, 3, "step", "stopped") == 0 != slope(LEARNED, 3, "step", "first-order")
    assert slope(LEARNED, 3, "query", "stopped") == slope(LEARNED, 3, "query", "exact")


def test_an_overshooting_write_turns_the_stopped_gradient_around():
    learned = {**LEARNED, "key": 1.0, "step": 1.6}  # one write multiplies what was there by 1 - 1.6
    assert slope(learned, 1, "start", "exact") * slope(learned, 1, "start", "stopped") < 0


def test_a_grid_of_numbers_gives_each_numbers_loss():
    grid = np.array([-0.5, 0.3, 1.1])
    at_once = outer_loss({**LEARNED, "key": grid}, 3)
    assert np.allclose(at_once, [outer_loss({**LEARNED, "key": key}, 3) for key in grid])
    assert unroll({**LEARNED, "key": grid}, 3)[0].shape == (len(SLOPES), 4, 3)


def test_outer_training_lowers_the_loss_along_the_exact_gradient():
    for name in NAMES:
        losses = compute({**START, "number": name})["losses"]
        assert losses["exact"][-1] < losses["exact"][0] and (np.diff(losses["exact"]) < 1e-9).all()
    assert np.ptp(compute({**START, "number": "key"})["losses"]["stopped"]) == 0


def test_draw_shows_those_arrays():
    arrays, figure = compute({**START, "outer": 4}), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert np.array_equal(shown["outer loss"].y, arrays["curve"])
    assert np.array_equal(shown["slope 1.8"].y, arrays["inner"][2])
    for gradient, tilt in arrays["slopes"].items():
        (x0, x1), (y0, y1) = shown[gradient].x, shown[gradient].y
        assert np.isclose((y1 - y0) / (x1 - x0), tilt)
        assert np.array_equal(shown[f"training along {gradient}"].y, arrays["losses"][gradient])
    assert len({shown[g].line.dash for g in GRADIENTS}) == 3


def test_controls_drive_picture_and_sentence(view):
    _, step, _ = view.stepper[0].children
    before = view.arrays["loss"]
    step.click()
    assert view.settings["outer"] == 1 and view.arrays["loss"] < before and "After 1 outer steps" in view.readout
    view.controls_by_name["number"].value = "value"
    assert "exactly zero" in view.readout and view.figure.layout.xaxis.title.text == "the value projection"
    view.set(number="start", step=1.6, inner_steps=1, outer=0)
    assert "points uphill" in view.readout
    assert all(control.description for control in view.controls_by_name.values())


def test_the_prediction_waits_for_the_stopped_key(view):
    assert "Under More controls" in view.predict("nothing at all")
    view.set(number="key", gradient="stopped", outer=OUTER_STEPS)
    assert view.verdict.endswith("as you said.")


def test_bad_input_is_refused_in_words(view):
    with pytest.raises(CourseError, match="gradient cannot be 'exakt'"):
        view.set(gradient="exakt")
    with pytest.raises(CourseError, match=r"gradient 'stoped' is not known.*mean 'stopped'"):
        slope(LEARNED, 3, "start", "stoped")
