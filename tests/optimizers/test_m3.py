"""M3: the printed algorithm step by step, what it is not, and when its slow memory speaks."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.optimizers import M3, Adam, Muon, newton_schulz
from tests.optimizers import EXACT, parameter, random, run, state_elements

SHAPE = (6, 9)
GRADIENTS = [[random(*SHAPE, seed=i)] for i in range(12)]


def path(optimizer, p, gradients):
    """The steps (count, *shape) that `p` takes, one a gradient."""
    seen = [p.detach().clone()]
    for g in gradients:
        run(optimizer, [p], [g])
        seen.append(p.detach().clone())
    return torch.stack(seen).diff(dim=0)


def steps(gradients=GRADIENTS, **options):
    p = parameter(*gradients[0][0].shape)
    return path(M3([p], **options), p, gradients)


def test_the_printed_algorithm_word_for_word():
    b1, b2, b3, alpha, eps, lr, f = 0.9, 0.7, 0.8, 0.5, 1e-6, 0.1, 4
    M1 = M2 = V = O2 = torch.zeros(SHAPE, dtype=torch.float64)
    wanted = []
    for k in range(3):
        if k:
            M2 = M2 + b3 * sum(g for (g,) in GRADIENTS[(k - 1) * f : k * f])
            O2 = newton_schulz(M2, steps=7)
        for (g,) in GRADIENTS[k * f : (k + 1) * f]:
            M1, V = M1 + b1 * g, V + b2 * g**2
            wanted.append(-lr * (newton_schulz(M1, steps=7) + alpha * O2) / (V.sqrt() + eps))
    options = dict(lr=lr, betas=(b1, b2, b3), alpha=alpha, eps=eps, slow_every=f, ns_steps=7)
    torch.testing.assert_close(steps(mode="printed", **options), torch.stack(wanted), **EXACT)


def test_m3_without_its_slow_memory_is_not_muon_until_the_squares_are_off_too():
    muon = parameter(*SHAPE)
    muons = path(Muon([muon], lr=0.1, momentum=0.0, nesterov=False, scale="none"), muon, GRADIENTS[:1])
    m3 = steps(GRADIENTS[:1], mode="printed", lr=0.1, alpha=0.0, betas=(0.9, 0.7, 0.9))
    assert (m3 - muons).abs().max() > 0.01
    g = GRADIENTS[0][0]
    torch.testing.assert_close(m3[0], -0.1 * newton_schulz(g) / ((0.7 * g**2).sqrt() + 1e-8), **EXACT)

    # V off, and sqrt(V) + eps = 1: Muon whose momentum never decays.
    off = steps(mode="printed", lr=0.1, alpha=0.0, betas=(0.9, 0.0, 0.9), eps=1.0)
    total = torch.stack([g for (g,) in GRADIENTS]).cumsum(0)
    torch.testing.assert_close(off, -0.1 * newton_schulz(total), **EXACT)


def test_with_the_identity_for_newton_schulz_it_is_adagrad_with_undamped_momentum():
    gradients = [[random(8, seed=i)] for i in range(6)]  # a vector is not made orthogonal
    taken = steps(gradients, mode="printed", lr=0.1, alpha=0.0, betas=(1.0, 1.0, 1.0), eps=1e-7)
    g = torch.stack([g for (g,) in gradients])
    torch.testing.assert_close(taken, -0.1 * g.cumsum(0) / (g.square().cumsum(0).sqrt() + 1e-7), **EXACT)

    p = parameter(8)  # at the first step, where there is no momentum yet, torch's own
    first = path(torch.optim.Adagrad([p], lr=0.1, eps=1e-7), p, gradients[:1])
    torch.testing.assert_close(taken[:1], first, **EXACT)


@pytest.mark.parametrize("mode", ["printed", "ema"])
def test_the_slow_memory_first_acts_after_a_period_and_then_changes_once_a_period(mode):
    options = dict(mode=mode, lr=0.1, slow_every=4)
    with_slow, without = steps(**options), steps(alpha=0.0, **options)
    differs = [not torch.equal(a, b) for a, b in zip(with_slow, without)]
    assert differs == [False] * 4 + [True] * 8

    p = parameter(*SHAPE)
    optimizer = M3([p], **options)
    seen = []
    for g in GRADIENTS:
        run(optimizer, [p], [g])
        seen.append(optimizer.state[p]["slow_step"].clone())
    changes = [t for t in range(2, 13) if not torch.equal(seen[t - 1], seen[t - 2])]
    assert changes == [4, 8, 12] and seen[2].abs().max() == 0  # after step 4, so it first acts on step 5


@pytest.mark.parametrize("mode", ["printed", "ema"])
def test_the_slow_step_does_not_depend_on_the_gradients_scale(mode):
    slow = []
    for scale in (1.0, 1e-3, 1e3):
        p = parameter(*SHAPE)
        optimizer = M3([p], mode=mode, slow_every=4)
        run(optimizer, [p], [[scale * g] for (g,) in GRADIENTS[:8]])
        slow.append(optimizer.state[p]["slow_step"])
    for other in slow[1:]:
        torch.testing.assert_close(other, slow[0], **EXACT)


def test_the_slow_mean_forgets_once_a_chunk():
    p, f, beta = parameter(*SHAPE), 3, 0.8
    optimizer = M3([p], betas=(0.9, 0.99, beta), slow_every=f)
    run(optimizer, [p], GRADIENTS[: 3 * f])
    mean = torch.stack([g for (g,) in GRADIENTS[: 3 * f]]).view(3, f, *SHAPE).mean(1)
    wanted = sum((1 - beta) * beta ** (2 - k) * mean[k] for k in range(3))
    torch.testing.assert_close(optimizer.state[p]["slow"], wanted, **EXACT)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_a_matrix_steps_by_its_rate_whatever_the_gradients(size):
    moved = steps([[size * g] for (g,) in GRADIENTS], lr=0.1, rms=0.2, slow_every=3)
    torch.testing.assert_close(
        moved.square().mean((1, 2)).sqrt(), torch.full((12,), 0.02, dtype=torch.float64), **EXACT
    )


def test_printed_steps_grow_as_gradients_shrink():
    small = steps([[1e-3 * g] for (g,) in GRADIENTS[:3]], mode="printed", lr=0.1)
    torch.testing.assert_close(small, 1e3 * steps(GRADIENTS[:3], mode="printed", lr=0.1), rtol=1e-2, atol=0)


def test_vectors_without_the_slow_memory_are_adams():
    gradients = [[random(8, seed=i)] for i in range(6)]
    p = parameter(8)
    adam = path(Adam([p], lr=0.1, betas=(0.9, 0.99)), p, gradients)
    torch.testing.assert_close(steps(gradients, lr=0.1, alpha=0.0, betas=(0.9, 0.99, 0.9)), adam, **EXACT)
    same = [gradients[0]] * 8  # one gradient for ever: both memories hold exactly that, and the slow one doubles it
    doubled = steps(same, lr=0.1, slow_every=2, eps=0.0)
    torch.testing.assert_close(doubled[2:], 2 * steps(same, lr=0.1, alpha=0.0, eps=0.0)[2:], **EXACT)


def test_its_state_is_four_elements_a_weight():
    p = parameter(*SHAPE)
    for mode in ("printed", "ema"):
        optimizer = M3([p], mode=mode)
        run(optimizer, [p], GRADIENTS[:1])
        assert state_elements(optimizer) == 4 * p.numel()


def test_bad_settings_are_named():
    bad = ({"betas": (0.9, 0.99)}, "three"), ({"mode": "emma"}, "'ema'"), ({"slow_every": 0}, "slow_every")
    for options, word in (*bad, ({"betas": (0.9, 1.0, 0.9)}, "betas"), ({"ns_kind": "x"}, "cubic")):
        with pytest.raises(CourseError, match=word):
            M3([parameter(2, 2)], **options)
