"""Muon, M3 and Newton-Schulz against numbers that other people's code made: Muon's author's `SingleDeviceMuon` and his
Newton-Schulz in float64, `torch.optim.Muon`, and M3 of the package nested-learning 0.2.0."""

import pytest
import torch

from nl_course.optimizers import M3, Muon, newton_schulz
from tests import golden
from tests.optimizers import parameter, random, run

pytestmark = golden.needs_golden
SHAPES = [(6, 9), (9, 6), (8, 8), (16, 3, 3, 3)]
MUON = dict(lr=0.02, weight_decay=0.1, ns_steps=5)


def after_nine_steps(optimizer, dtype: torch.dtype, count: int = 4, **options) -> tuple[list, list]:
    """Where `count` matrices start and where they are in the end, with the gradients that theirs were given."""
    params = [parameter(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES[:count])]
    start = [p.detach().clone() for p in params]
    gradients = []
    for t in range(9):
        gradients.append([random(*p.shape, seed=100 * t + i + 7, dtype=dtype) for i, p in enumerate(params)])
    run(optimizer(params, **options), params, gradients)
    return start, params


@pytest.mark.parametrize(
    ("name", "count", "scale"),
    [("kellerjordan_muon", 4, "rows"), ("torch_muon_original", 3, "rows"), ("torch_muon_match_rms", 3, "adam")],
)
@pytest.mark.parametrize("precision", ["bf16", "full"])
def test_muon_is_its_authors_and_torchs(name, count, scale, precision):
    arrays = golden.load("optimisers")
    options = MUON | dict(scale=scale, precision=precision)
    start, params = after_nine_steps(Muon, torch.float32, count, **options)
    for i, (before, after) in enumerate(zip(start, params)):
        theirs = arrays[f"{name}|{i}"]
        # Theirs multiplies in bfloat16, in an order of its own: 1 to 2 hundredths of the way that a matrix goes.
        assert (after - theirs).norm() < 0.04 * (theirs - before).norm(), f"{name} {i}"


def test_newton_schulz_in_float64_is_muons_authors():
    arrays = golden.load("optimisers")
    ours = newton_schulz(arrays["kj_ns5_float64|in"], steps=5)
    # They add 1e-7 to the norm, we bound it from below.
    torch.testing.assert_close(ours, arrays["kj_ns5_float64|out"], rtol=0, atol=3e-8)


@pytest.mark.parametrize("foreach", [True, False])
def test_m3_as_printed_is_nested_learnings(foreach):
    arrays = golden.load("optimisers")
    options = dict(lr=0.01, slow_every=4, mode="printed", ns_steps=3, ns_kind="cubic", foreach=foreach)
    _, params = after_nine_steps(M3, torch.float64, **options)
    for i, p in enumerate(params):
        torch.testing.assert_close(p.detach(), arrays[f"nested_learning_m3|{i}"], rtol=0, atol=3e-9)
