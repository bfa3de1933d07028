"""Momentum and Adam: what torch has, and what the course adds: how far back they remember."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.optimizers import Adam, Momentum, held, span
from tests.optimizers import EXACT, parameter, random, run

GRADIENTS = [[random(3, 5, seed=i), random(7, seed=i), random(seed=i)] for i in range(6)]


def parameters():
    return [parameter(3, 5), parameter(7), parameter()]


def agree(ours, theirs, make_ours, make_theirs):
    run(make_ours(ours), ours, GRADIENTS)
    run(make_theirs(theirs), theirs, GRADIENTS)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, **EXACT)


def test_momentum_is_torchs_at_a_constant_rate():
    options = dict(lr=0.1, momentum=0.8)
    agree(parameters(), parameters(), lambda p: Momentum(p, **options), lambda p: torch.optim.SGD(p, **options))


def test_momentum_is_a_gradient_step_on_the_dot_product():
    m, g = random(3, 5).requires_grad_(), random(3, 5, seed=1)
    (inner,) = torch.autograd.grad((m @ g.T).trace(), m)
    torch.testing.assert_close(inner, g, **EXACT)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_torchs(weight_decay):
    options = dict(lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=weight_decay)
    agree(parameters(), parameters(), lambda p: Adam(p, **options), lambda p: torch.optim.AdamW(p, **options))


def test_printed_adam_never_forgets():
    p = parameter(3, 5)
    before, gradients = p.detach().clone(), [g[:1] for g in GRADIENTS[:2]]
    run(Adam([p], lr=0.1, betas=(0.8, 0.9), mode="printed"), [p], gradients)
    (a,), (b,) = gradients
    one = 0.8 * a / ((0.9 * a**2).sqrt() + 1e-8)
    two = 0.8 * (a + b) / ((0.9 * (a**2 + b**2)).sqrt() + 1e-8)
    torch.testing.assert_close(p.detach(), before - 0.1 * (one + two), **EXACT)


def test_adams_inner_problem_has_the_solution_that_its_derivation_says():
    g, P = random(20, 4), random(4, seed=1)
    penalty, m = 0.3, random(4, seed=2).requires_grad_()
    solution = (g.sum(0) * P / (g.square().sum(0) + penalty)).requires_grad_()
    loss = (solution * g - P).square().sum() + penalty * solution.square().sum()
    assert torch.autograd.grad(loss, solution)[0].abs().max() < 1e-10
    assert (m * g - P).square().sum() + penalty * m.square().sum() > loss


@pytest.mark.parametrize(("beta", "share", "last"), [(0.9, 0.5, 7), (0.9, 0.99, 44), (0.99, 0.5, 69), (0.5, 0.5, 1)])
def test_the_span_is_the_first_count_that_holds_the_share(beta, share, last):
    assert span(beta, share) == last
    assert held(beta, last) >= share > held(beta, last - 1)


def test_the_spans_of_the_paper_corrected():
    shown = {n: round(100 * held(0.9, n), 2) for n in (6, 7, 43, 44)}
    assert shown == {6: 46.86, 7: 52.17, 43: 98.92, 44: 99.03}


def test_the_span_is_that_of_the_optimizer_itself():
    beta, last = 0.9, 7
    p = parameter(400)
    optimizer = Momentum([p], lr=1.0, momentum=beta)
    run(optimizer, [p], [[torch.eye(400, dtype=torch.float64)[t]] for t in range(400)])  # every gradient its own axis
    weights = optimizer.state[p]["momentum"].flip(0)
    assert (weights[:last].sum() / weights.sum()).item() == pytest.approx(held(beta, last))


def test_bad_spans_are_refused():
    for beta, share in ((1.0, 0.5), (-0.1, 0.5), (0.9, 1.0), (0.9, 0.0)):
        with pytest.raises(CourseError):
            span(beta, share)
    assert span(0.0, 0.99) == 1
