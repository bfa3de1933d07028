"""Muon beside PyTorch's own."""

import pytest
import torch

from nl_course.optimizers import Muon, newton_schulz
from tests.optimizers import EXACT, parameter, random, run

SHAPES = [(16, 16), (8, 24), (24, 8)]
FLOAT32 = torch.float32


@pytest.mark.parametrize(("ours", "theirs"), [("rows", "original"), ("adam", "match_rms_adamw")])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs(ours, theirs, nesterov):
    a, b = ([parameter(*s, dtype=FLOAT32) for s in SHAPES] for _ in range(2))
    gradients = [[random(*s, seed=i, dtype=FLOAT32) for s in SHAPES] for i in range(5)]
    options = dict(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.1, ns_steps=5)
    start = [p.detach().clone() for p in a]
    run(Muon(a, scale=ours, precision="bf16", **options), a, gradients)
    run(torch.optim.Muon(b, adjust_lr_fn=theirs, **options), b, gradients)
    for p, q, s in zip(a, b, start):
        moved = (q - s).square().mean().sqrt()
        assert (p - q).square().mean().sqrt() < 0.02 * moved, "more than bfloat16's rounding apart"


def test_full_precision_is_near_torchs_too():
    a, b = [parameter(16, 24, dtype=FLOAT32)], [parameter(16, 24, dtype=FLOAT32)]
    gradients = [[random(16, 24, seed=i, dtype=FLOAT32)] for i in range(3)]
    run(Muon(a, lr=0.1, ns_steps=5, precision="full"), a, gradients)
    run(torch.optim.Muon(b, lr=0.1, ns_steps=5, weight_decay=0.0), b, gradients)
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=3e-3)


def test_convolutions_are_flattened_and_vectors_step_by_the_momentum():
    params = [parameter(4, 3, 2, 2), parameter(5), parameter()]
    before = [p.detach().clone() for p in params]
    g = [random(4, 3, 2, 2, seed=1), random(5, seed=1), random(seed=1)]
    run(Muon(params, lr=0.1, momentum=0.9, nesterov=False, scale="none"), params, [g])
    wanted = newton_schulz(g[0].reshape(4, 12)).reshape(4, 3, 2, 2)
    torch.testing.assert_close(params[0], before[0] - 0.1 * wanted, **EXACT)
    for p, b, gradient in zip(params[1:], before[1:], g[1:]):
        torch.testing.assert_close(p, b - 0.1 * 0.1 * gradient, **EXACT)


def test_a_group_of_adams_is_adamw():
    options = dict(betas=(0.8, 0.9), eps=1e-7, weight_decay=0.1, lr=0.05)
    a, b = [parameter(4, 3), parameter(5)], [parameter(4, 3), parameter(5)]
    gradients = [[random(4, 3, seed=i), random(5, seed=i)] for i in range(4)]
    run(Muon([{"params": a, "adam": True}], **options), a, gradients)
    run(torch.optim.AdamW(b, **options), b, gradients)
    for p, q in zip(a, b):
        torch.testing.assert_close(p, q, **EXACT)
