"""Explosion with momentum and depth: norms beside autograd, radius and bound beside formulas, the controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.views import explosion
from nl_course.views.explosion import BLOWN, stream
from nl_course.views.explosion_titans import (
    ANSWERS,
    CURES,
    KEPT,
    STEPS,
    TOKENS,
    TitansExplosion,
    bound,
    compute,
    norms,
    radius,
    start_of,
    steepest,
)

START = {
    "step": 0.4, "momentum": 0.5, "depth": 1, "cure": "none", "length": 2.0, "similarity": 0.9, "mini_batch": 1
}  # fmt: skip


@pytest.fixture
def view():
    return TitansExplosion(strict=True)


@pytest.mark.parametrize(("depth", "chunk", "cure"), [(1, 1, 0), (2, 4, 0), (3, 1, 3), (1, 4, 2)])
def test_norms_are_those_of_a_plain_loop_with_autograd(depth, chunk, cure):
    text, step, eta, writes = stream(0.5), 0.2, 0.6, 16
    W = [w[0, 0] for w in start_of(depth).values()]
    S, kept = [torch.zeros_like(w) for w in W], KEPT if cure == 3 else 1.0
    expected = [torch.cat([w.flatten() for w in W]).norm().item()]
    for t in range(writes):
        if t % chunk == 0:
            anchor = [w.clone().requires_grad_() for w in W]
        x = text.keys[t]
        for w in anchor[:-1]:
            x = torch.nn.functional.silu(x @ w)
        u = torch.autograd.grad((x @ anchor[-1] - text.values[t]).square().sum() / 2, anchor)
        S = [eta * s - step / (chunk if cure == 2 else 1) * g for s, g in zip(S, u)]
        W = [kept * w + s for w, s in zip(W, S)]
        if (t + 1) % chunk == 0:
            expected.append(torch.cat([w.flatten() for w in W]).norm().item())
    found = norms((step,), 0.5, 1.0, eta, depth, chunk, CURES[cure])[0]
    assert np.allclose(found[: len(expected)], expected, atol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("cure", [0, 3])
def test_radius_and_bound_of_a_single_key_are_the_heavy_balls(momentum, cure):
    key, kept = torch.full((1, 1), 2.0, dtype=torch.float64), KEPT if cure == 3 else 1.0
    roots = np.roots([1, 4 * 0.3 - kept - momentum, kept * momentum])
    assert radius(key, [0.3], momentum, CURES[cure])[0] == pytest.approx(abs(roots).max())
    assert bound(key, momentum, CURES[cure]) == pytest.approx((1 + kept) * (1 + momentum) / 4, abs=1e-6)


def test_a_chunk_read_again_grows_by_its_radius():
    keys = steepest(stream(0.9).keys * 1.5, 4)
    eta, step = 0.5, 0.3
    M, S = (
        torch.randn(keys.shape[1], 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1)
    )
    sizes = []
    for _ in range(40):
        anchor = M
        for k in keys:
            S = eta * S - step * torch.outer(k, k @ anchor)
            M = M + S
        sizes.append(float(M.square().sum().sqrt()))
    assert sizes[-1] / sizes[-2] == pytest.approx(radius(keys, [step], eta, "none")[0], rel=1e-6)


def test_one_key_bears_more_with_momentum_and_a_stream_less():
    def edge(momentum, similarity):
        return compute({**START, "momentum": momentum, "similarity": similarity})["edge"]

    assert edge(0.9, 1.0) > 1.5 * edge(0.0, 1.0)
    assert edge(0.9, 0.0) < 0.5 * edge(0.0, 0.0)
    assert compute({**START, "similarity": 1.0})["edge"] == pytest.approx(0.8)  # the first step beyond 0.75


def test_each_cure_saves_what_blew_up():
    bad = {**START, "step": 1.2}
    assert compute(bad)["norm"][-1] > BLOWN
    assert compute({**bad, "cure": CURES[1]})["norm"][-1] < 100
    assert compute({**bad, "cure": CURES[4]})["norm"][-1] < 100
    chunks = {**bad, "mini_batch": 16, "length": 1.0}
    assert compute(chunks)["norm"][-1] > BLOWN > 100 > compute({**chunks, "cure": CURES[2]})["norm"][-1]
    assert compute({**bad, "cure": CURES[3]})["norm"][-1] > BLOWN  # forgetting is none for the same key at every token


def test_draw_shows_those_arrays():
    arrays, figure = compute(START), go.Figure()
    explosion.draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert np.allclose(shown["norm by token"].y, arrays["norm"])
    assert tuple(shown["norm at the end"].x) == STEPS
    assert {shape.x0 for shape in figure.layout.shapes} >= {arrays["bound"], arrays["rare"]}
    assert arrays["tokens"][-1] == figure.layout.xaxis.range[1] == TOKENS


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert "this passes 1 at a step of 0.75." in view.readout and "has run out the bound is 0.25" in view.readout
    view.set(momentum=0.0)
    assert "this passes 1 at a step of 0.5." in view.readout and "run out" not in view.readout
    view.set(depth=2)
    assert "No bound is known beforehand" in view.readout
    view.set(depth=1, cure=CURES[4])
    assert "no step up to 3 blows it up" in view.readout


def test_the_prediction_waits_for_its_settings(view):
    assert "Set momentum to 0.9" in view.predict(ANSWERS[0])
    view.set(momentum=0.9, similarity=0.0)
    assert f'it came out "{ANSWERS[2]}"' in view.verdict


def test_bad_input_is_refused_in_words(view):
    with pytest.raises(CourseError, match="cure cannot be 'hope'"):
        view.set(cure="hope")
    with pytest.raises(CourseError, match=r"step must be one of 0.02, .*not 0.41"):
        compute({**START, "step": 0.41})
    with pytest.raises(CourseError, match="momentum must be at least 0 and less than 1, not 1"):
        compute({**START, "momentum": 1})
