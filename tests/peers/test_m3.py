"""M3 as printed beside that of the package nested-learning 0.2.0: the same algorithm, and where it is not.

Theirs takes 3 cubic Newton-Schulz steps after dividing by the Frobenius norm, and keeps the sum over a chunk in a
buffer of its own; weight decay is added to the gradient, ours is decoupled (so it is 0 here)."""

import pytest
import torch

from nl_course.optimizers import M3, Muon, newton_schulz
from tests.optimizers import state_elements
from tests.peers import from_file, random

theirs = from_file("nested-learning", "nested_learning/optim/m3.py")

EXACT = dict(rtol=1e-9, atol=1e-10)
SHAPES = [(6, 9), (9, 6), (8, 8), (4, 3, 2), (7,), ()]
GRADIENTS = [
    [random(*s, seed=20 * t + i) if s else random(1, seed=t)[0] for i, s in enumerate(SHAPES)] for t in range(13)
]


def parameters():
    return [torch.nn.Parameter(random(*s, seed=i) if s else random(1)[0]) for i, s in enumerate(SHAPES)]


def run(optimizer, params, gradients=GRADIENTS):
    for step in gradients:
        for p, g in zip(params, step):
            p.grad = g.clone()
        optimizer.step()
    return params


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_as_printed_both_are_the_same_over_three_slow_periods(alpha, foreach):
    p, q = parameters(), parameters()
    ours = M3(
        p,
        lr=0.01,
        betas=(0.9, 0.99, 0.8),
        alpha=alpha,
        slow_every=4,
        mode="printed",
        ns_steps=3,
        ns_kind="cubic",
        foreach=foreach,
    )
    options = dict(lr=0.01, beta1=0.9, beta2=0.99, beta3=0.8, alpha=alpha, slow_chunk=4)
    run(ours, p)
    run(theirs.M3(q, eps=1e-8, **options), q)
    for a, b in zip(p, q):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # they add eps to the norm, we bound it from below


def test_with_their_newton_schulz_exactly_too(monkeypatch):
    """The norm's eps is the only difference: without it the two agree to rounding."""
    whole = theirs._newton_schulz
    monkeypatch.setattr(theirs, "_newton_schulz", lambda matrix, steps, eps: whole(matrix, steps, 0.0))
    p, q = parameters(), parameters()
    ours = M3(p, lr=0.01, betas=(0.9, 0.99, 0.8), slow_every=4, mode="printed", ns_steps=3, ns_kind="cubic")
    other = theirs.M3(q, lr=0.01, beta1=0.9, beta2=0.99, beta3=0.8, slow_chunk=4)
    run(ours, p, GRADIENTS[:12])
    run(other, q, GRADIENTS[:12])
    for a, b in zip(p, q):
        torch.testing.assert_close(a, b, **EXACT)
        for name, named in (("fast", "m1"), ("slow", "m2"), ("square", "v"), ("slow_step", "o2")):
            torch.testing.assert_close(ours.state[a][name], other.state[b][named], **EXACT)


def test_ours_keeps_a_buffer_less():
    p, q = parameters(), parameters()
    ours, other = M3(p, mode="printed"), theirs.M3(q)
    run(ours, p, GRADIENTS[:1])
    run(other, q, GRADIENTS[:1])
    their_elements = sum(v.numel() for s in other.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    weights = sum(x.numel() for x in p)
    assert state_elements(ours) == 4 * weights and their_elements == 5 * weights


def test_their_three_cubic_steps_do_not_orthogonalize():
    X = random(256, 256, dtype=torch.float32)
    singular = torch.linalg.svdvals(theirs._newton_schulz(X, 3))
    torch.testing.assert_close(singular, torch.linalg.svdvals(newton_schulz(X, 3, "cubic")), rtol=1e-3, atol=1e-4)
    assert singular.max() < 0.43 and singular.median() < 0.2
    ours = torch.linalg.svdvals(newton_schulz(X))
    assert ours.min() > 0.5 and ours.max() < 1.25


def test_without_the_slow_memory_neither_is_muon():
    """One step of either equals NS(g) / sqrt(beta2 g^2), not NS(g)."""
    g = [[GRADIENTS[0][0]]]
    options = dict(lr=0.1, alpha=0.0)
    start, p, q, m = (parameters()[:1] for _ in range(4))
    run(M3(p, betas=(0.9, 0.99, 0.9), mode="printed", ns_steps=3, ns_kind="cubic", **options), p, g)
    run(theirs.M3(q, beta2=0.99, **options), q, g)
    run(Muon(m, lr=0.1, momentum=0.0, nesterov=False, scale="none", ns_steps=3, ns_kind="cubic"), m, g)
    torch.testing.assert_close(p[0], q[0], rtol=1e-5, atol=1e-6)
    moved = (m[0] - start[0]) / ((0.99 * g[0][0] ** 2).sqrt() + 1e-8)
    torch.testing.assert_close(p[0], start[0] + moved, **EXACT)
    assert (p[0] - m[0]).abs().max() > 0.05


def test_as_printed_both_take_huge_steps_when_gradients_are_small_and_ours_for_training_does_not():
    small = [[1e-6 * GRADIENTS[0][0]]]
    lengths = {}
    for name, build in {
        "theirs": lambda p: theirs.M3(p, lr=1e-3),
        "printed": lambda p: M3(p, lr=1e-3, mode="printed"),
        "ema": lambda p: M3(p, lr=1e-3),
    }.items():
        start, p = parameters()[:1], parameters()[:1]
        run(build(p), p, small)
        lengths[name] = (p[0] - start[0]).square().mean().sqrt().item()
    assert lengths["theirs"] > 10 and lengths["printed"] > 10
    assert lengths["ema"] == pytest.approx(1e-3)
