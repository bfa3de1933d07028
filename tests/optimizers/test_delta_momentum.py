"""Delta momentum: the inner step, what orthogonal gradients and the dot loss make of it, and what keeps it stable."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.optimizers import DeltaMomentum, Momentum
from tests.optimizers import EXACT, parameter, random, run


def memory_after(gradients, params=None, **options):
    params = params or [parameter(*gradients[0][0].shape)]
    optimizer = DeltaMomentum(params, **{"clip": None, **options})
    run(optimizer, params, gradients)
    return optimizer.state[params[0]]["momentum"]


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("given", [False, True])
def test_the_write_is_the_autograd_step_of_the_inner_loss(shape, given):
    g1, g2, P = random(*shape), random(*shape, seed=1), random(shape[0], shape[0], seed=2)
    values = P if given else torch.eye(shape[0], dtype=torch.float64)
    options = {"preconditioner": lambda g: P @ g} if given else {}
    alpha, eta = 0.9, 0.05
    m1 = memory_after([[g1]], lr=eta, momentum=alpha, **options).clone().requires_grad_()
    inner = 0.5 * (m1 @ g2.T + values).square().sum()  # the target is -P, since W <- W + m
    wanted = alpha * m1 - eta * torch.autograd.grad(inner, m1)[0]
    torch.testing.assert_close(memory_after([[g1], [g2]], lr=eta, momentum=alpha, **options), wanted.detach(), **EXACT)


def test_orthogonal_gradients_make_it_preconditioned_momentum():
    basis = torch.linalg.qr(random(6, 6))[0]
    gradients = [[random(3, 2, seed=i) @ basis[2 * i : 2 * i + 2]] for i in range(3)]  # each in rows of its own
    P = random(3, 3, seed=9)
    memory = memory_after(gradients, lr=0.1, momentum=0.8, preconditioner=lambda g: P @ g)
    m = 0
    for (g,) in gradients:
        m = 0.8 * m - 0.1 * P @ g
    torch.testing.assert_close(memory, m, **EXACT)
    again = memory_after([*gradients, gradients[0]], lr=0.1, momentum=0.8, preconditioner=lambda g: P @ g)
    assert (again - (0.8 * m - 0.1 * P @ gradients[0][0])).abs().max() > 1e-3, "a direction that comes again"


def test_with_the_identity_and_the_dot_loss_it_is_heavy_ball():
    ours, theirs = [parameter(3, 5), parameter(7)], [parameter(3, 5), parameter(7)]
    gradients = [[random(3, 5, seed=i), random(7, seed=i)] for i in range(4)]
    run(DeltaMomentum(ours, lr=0.1, momentum=0.7, erase=False, clip=None), ours, gradients)
    run(Momentum(theirs, lr=0.1, momentum=0.7), theirs, gradients)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, **EXACT)


def test_a_direction_shown_for_ever_is_held_once():
    g = random(1, 6)
    g /= g.norm()
    held = memory_after([[g]] * 300, lr=0.2, momentum=1.0)
    torch.testing.assert_close(held @ g.T, torch.full((1, 1), -1.0, dtype=torch.float64), **EXACT)
    piled = memory_after([[g]] * 300, lr=0.2, momentum=1.0, erase=False)
    assert (piled @ g.T).item() == pytest.approx(-60)


def test_large_gradients_blow_it_up_unless_they_are_clipped():
    gradients = [[30 * random(3, 5, seed=i)] for i in range(30)]
    assert memory_after(gradients, lr=0.1).abs().max() > 1e6
    assert memory_after(gradients, lr=0.1, clip=1.0).abs().max() < 10


def test_small_gradients_are_not_clipped():
    gradients = [[0.1 * random(3, 5, seed=i)] for i in range(3)]
    assert torch.equal(memory_after(gradients, lr=0.1, clip=1.0), memory_after(gradients, lr=0.1))


def test_bad_settings_are_named():
    for options, word in (({"clip": 0}, "clip"), ({"momentum": 1.2}, "momentum"), ({"preconditioner": 3}, "function")):
        with pytest.raises(CourseError, match=word):
            DeltaMomentum([parameter(2, 2)], **options)
