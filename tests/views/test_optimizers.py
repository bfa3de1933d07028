"""Optimizers: runs beside plain loops, measured weights beside the exact ones, DGD's fixed point, controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.views.optimizers import (
    AGES,
    ANSWERS,
    LOOK,
    LOWEST,
    NAMES,
    START,
    STEPS,
    Optimizers,
    compute,
    draw,
    inputs,
    loss_of,
    outcome,
)

BEGIN = {
    "one": "momentum", "other": "Adam", "curvature": 8.0, "tilt": 30, "ripple": 0.3, "rate": 0.05, "momentum": 0.8
}  # fmt: skip


@pytest.fixture(scope="module")
def view():
    return Optimizers(strict=True)


def gradient(W, X, ripple):
    W = W.clone().requires_grad_()
    return torch.autograd.grad(loss_of(X @ W[:, None], X, ripple), W)[0]


def test_momentum_and_descent_are_plain_loops():
    arrays, X = compute(**BEGIN), inputs(8.0, 30)
    for said, kept in (("gradient descent", 0.0), ("momentum", 0.8)):
        W, m = torch.tensor(START, dtype=torch.float64), 0
        for step in range(STEPS):
            assert np.allclose(arrays["runs"][said]["path"][step], W, atol=1e-10)
            g = gradient(W, X, 0.3)
            m = kept * m - 0.05 * g
            W = W + m


def test_the_landscape_has_its_lowest_point_where_the_cross_stands_and_the_curvature_that_was_set():
    X = inputs(8.0, 30)
    at = torch.tensor(LOWEST, dtype=torch.float64)
    assert loss_of(X @ at[:, None], X, 0.5).item() == pytest.approx(0)
    curvatures = torch.linalg.eigvalsh(X.T @ X)
    assert curvatures.tolist() == pytest.approx([1, 8])
    surface = compute(**BEGIN)["surface"]
    assert surface.min() < 0.1 < surface.max()


def test_weights_of_descent_and_momentum_are_the_known_ones():
    runs = compute(**BEGIN)["runs"]
    assert np.allclose(runs["gradient descent"]["weights"], [1] + [0] * (AGES - 1), atol=1e-6)
    assert np.allclose(runs["momentum"]["weights"], 0.8 ** np.arange(AGES), atol=1e-6)


def test_weights_of_adam_are_its_derivatives():
    """Autograd through Adam's formula, with the gradients of the same run."""
    found = compute(**{**BEGIN, "tilt": 0})["runs"]["Adam"]
    X = inputs(8.0, 0)
    given = torch.stack([gradient(torch.tensor(W), X, 0.3) for W in found["path"][:LOOK]]).requires_grad_()
    powers = torch.arange(LOOK - 1, -1, -1, dtype=torch.float64)[:, None]
    m = ((1 - 0.8) * 0.8**powers * given).sum(0) / (1 - 0.8**LOOK)
    v = ((1 - 0.99) * 0.99**powers * given**2).sum(0) / (1 - 0.99**LOOK)
    step = m / (v.sqrt() + 1e-8)
    ways = given.detach() / given.detach().norm(dim=1, keepdim=True)
    expected = [
        (torch.autograd.grad((step * way).sum(), given, retain_graph=True)[0][i] @ way).item()
        for i, way in enumerate(ways)
    ]
    assert np.allclose(found["weights"], expected[::-1][:AGES], atol=1e-3)


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_dgd_rests_where_it_should(strength):
    arrays = compute(**{**BEGIN, "one": "DGD", "ripple": 0.0, "rate": 0.2}, strength=strength)
    assert np.allclose(arrays["runs"]["DGD"]["path"][-1], np.array(LOWEST) / (1 + strength), atol=1e-3)
    assert np.allclose(arrays["erased"], np.array(LOWEST) / (1 + strength))
    if strength == 0:
        assert np.allclose(*(arrays["runs"][n]["path"] for n in ("DGD", "gradient descent")), atol=1e-9)


def test_dgd_takes_back_what_older_gradients_wrote():
    weights = compute(**{**BEGIN, "one": "DGD", "ripple": 0.0})["runs"]["DGD"]["weights"]
    assert weights[0] > 0 and (weights[1:4] < -0.01).all()


def test_another_step_and_another_start():
    early = compute(**BEGIN, step=3)["runs"]["momentum"]
    assert np.allclose(early["weights"], 0.8 ** np.arange(3), atol=1e-6)
    assert np.array_equal(early["path"], compute(**BEGIN)["runs"]["momentum"]["path"])
    moved = compute(**BEGIN, start_x=0.5, start_y=2.0)["runs"]
    assert all(run["path"][0].tolist() == [0.5, 2.0] for run in moved.values())
    for step in (0, STEPS + 1):
        with pytest.raises(CourseError, match="step must be 1 to 48"):
            compute(**BEGIN, step=step)


def test_every_optimizer_runs_and_is_said():
    for said in NAMES:
        arrays = compute(**{**BEGIN, "one": said})
        assert np.isfinite(arrays["runs"][said]["path"]).all() and arrays["runs"][said]["loss"][-1] < 6


def test_draw_shows_those_arrays():
    arrays, figure = compute(**{**BEGIN, "other": "DGD"}), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert np.array_equal(shown["DGD"].x, arrays["runs"]["DGD"]["path"][:, 0])
    weights = arrays["runs"]["momentum"]["weights"]
    assert np.allclose(shown["momentum: weights"].y, weights / np.abs(weights).sum())
    assert np.allclose(shown["DGD: loss"].y, arrays["runs"]["DGD"]["loss"])
    assert shown["where DGD balances (ripple 0)"].x[0] == 0.5
    assert np.array_equal(shown["DGD: the step"].x, arrays["runs"]["DGD"]["path"][LOOK - 1 : LOOK + 1, 0])


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert "79% are on gradients before the newest" in view.readout
    view.set(momentum=0.0)
    assert "Of the weights in momentum's step 14, 0% are" in view.readout
    view.set(other="DGD")
    assert "it settles at 0.5 times the lowest point's weights, (0.50, 0.75)" in view.readout
    view.set(rate=0.3, curvature=20, one="momentum")
    assert "gradient descent is blown up" in view.readout and view.error == ""


def test_the_prediction_waits_for_dgd_on_the_plain_bowl():
    view = Optimizers(strict=True)
    assert "Choose DGD" in view.predict(ANSWERS[0])
    view.set(other="DGD", rate=0.2)
    assert f'it came out "{ANSWERS[1]}"' in view.verdict
    assert outcome(compute(**{**BEGIN, "one": "DGD"})) is None


def test_bad_input_is_told_in_words():
    with pytest.raises(CourseError, match="momentum must be at least 0 and below 1, not 1"):
        compute(**{**BEGIN, "momentum": 1})
    with pytest.raises(CourseError, match="Did you mean 'Adam'"):
        compute(**{**BEGIN, "one": "adam"})
    with pytest.raises(CourseError, match="curvature must be at most 100"):
        compute(**{**BEGIN, "curvature": 1000})
