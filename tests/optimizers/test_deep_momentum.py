"""Deep momentum: a linear memory is momentum, one with Newton-Schulz is Muon, and a deep one is written by its loss."""

from itertools import pairwise

import pytest
import torch

from nl_course.optimizers import DeepMomentum, Momentum, Muon
from nl_course.optimizers.deep_momentum import inner_gradient, read
from tests.optimizers import EXACT, parameter, random, run, state_elements

SHAPES = [(6, 4), (4, 6), (5, 5), (4, 3, 2), (7,), ()]
GRADIENTS = [[random(*s, seed=i) for s in SHAPES] for i in range(4)]


def parameters():
    return [parameter(*s) for s in SHAPES]


def test_muon_is_deep_momentum_with_a_linear_memory_and_newton_schulz():
    ours, theirs = parameters()[:4], parameters()[:4]
    options = dict(lr=0.1, momentum=0.8)
    gradients = [g[:4] for g in GRADIENTS]
    run(DeepMomentum(ours, depth=1, output="newton-schulz", **options), ours, gradients)
    run(Muon(theirs, nesterov=False, scale="none", **options), theirs, gradients)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, **EXACT)


def test_a_linear_memory_is_heavy_ball():
    ours, theirs = parameters(), parameters()
    run(DeepMomentum(ours, lr=0.1, momentum=0.8, depth=1), ours, GRADIENTS)
    run(Momentum(theirs, lr=0.1, momentum=0.8), theirs, GRADIENTS)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, **EXACT)


def test_small_gradients_see_heavy_ball_and_large_ones_saturate():
    for size, near in ((1e-4, True), (10.0, False)):
        ours, theirs = [parameter(6, 4)], [parameter(6, 4)]
        start, gradients = ours[0].detach().clone(), [[size * g[0]] for g in GRADIENTS]
        run(DeepMomentum(ours, lr=0.1 / size, momentum=0.8, width=400), ours, gradients)  # wide: small activities
        run(Momentum(theirs, lr=0.1 / size, momentum=0.8), theirs, gradients)
        deep, ball = ours[0] - start, theirs[0] - start
        assert ((deep - ball).norm() < 0.05 * ball.norm()).item() is near


def test_a_larger_gain_saturates_earlier_and_the_write_stays_the_gradient_of_its_loss():
    lengths = []
    for gain in (0.01, 1.0, 100.0):
        params = [parameter(6, 4)]
        start, optimizer = params[0].detach().clone(), DeepMomentum(params, lr=0.1, gain=gain, width=8)
        run(optimizer, params, [[GRADIENTS[0][0]]])
        state = optimizer.state[params[0]]
        keys = gain * GRADIENTS[0][0]
        wanted = -0.1 * torch.tanh(keys @ state["start_0"].T) / gain  # trace(m(gain g^T)) / gain, from A_2 = 0
        torch.testing.assert_close(state["weight_1"], wanted, **EXACT)
        lengths.append((params[0] - start).norm().item())
    assert lengths[0] > lengths[1] > 10 * lengths[2]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_write_is_the_autograd_gradient_of_the_inner_loss(depth):
    sizes = [4, *[5] * (depth - 1), 6]
    weights = [random(b, a, seed=i).requires_grad_() for i, (a, b) in enumerate(pairwise(sizes))]
    g = random(6, 4, seed=9)

    def memory(x):
        for A in weights[:-1]:
            x = torch.tanh(A @ x)
        return weights[-1] @ x

    wanted = torch.autograd.grad(memory(g.T).trace(), weights)
    with torch.no_grad():
        for gradient, expected in zip(inner_gradient(weights, g), wanted):
            torch.testing.assert_close(gradient, expected, **EXACT)
        torch.testing.assert_close(read(weights), memory(torch.eye(4, dtype=torch.float64)), **EXACT)


def test_momentum_pulls_back_to_the_start_and_not_to_zero():
    params = [parameter(6, 4)]
    optimizer = DeepMomentum(params, lr=0.1, momentum=0.5, depth=3, width=5)
    run(optimizer, params, [[g[0]] for g in GRADIENTS])
    state = optimizer.state[params[0]]
    assert (state["weight_0"] - state["start_0"]).norm() > 1e-3
    run(optimizer, params, [[torch.zeros(6, 4, dtype=torch.float64)]] * 60)
    for name in ("0", "1"):
        torch.testing.assert_close(state[f"weight_{name}"], state[f"start_{name}"], **EXACT)
        assert state[f"start_{name}"].norm() > 1
    assert state["weight_2"].abs().max() < 1e-10


def test_its_state_is_as_many_elements_as_its_page_says():
    o, d, h = 6, 4, 5
    for depth, elements in ((1, o * d), (2, o * h + 2 * h * d), (4, o * h + 2 * (h * d + 2 * h * h))):
        params = [parameter(o, d)]
        optimizer = DeepMomentum(params, depth=depth, width=h)
        run(optimizer, params, [[GRADIENTS[0][0]]])
        assert state_elements(optimizer) == elements
