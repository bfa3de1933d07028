"""Kimi Delta Attention and grouped heads: what the suite of all memories, and the tests of all linear ones, do not
ask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories import KDAConfig, build_memory
from nl_course.memories.common.inner_model import unit
from nl_course.memories.linear.delta import gated_delta_reference
from nl_course.memories.linear.kda import kda_reference
from nl_course.memories.linear.kda_chunk import hebb_by_channel, kda_chunked, kda_writes

CLOSE = dict(rtol=1e-10, atol=1e-10)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(tokens: int = 13, heads: int = 2, rows: int = 2, keys: int = 3, values: int = 4, seed: int = 0):
    """q, k, v, beta, log_a (b, h, t, d_k), S as a layer would make them."""
    q, k = unit(random(rows, heads, tokens, keys, seed=seed)), unit(random(rows, heads, tokens, keys, seed=seed + 1))
    v, S = random(rows, heads, tokens, values, seed=seed + 2), random(rows, heads, keys, values, seed=seed + 3)
    beta = 2 * random(rows, heads, tokens, seed=seed + 4).sigmoid()
    log_a = -random(rows, heads, tokens, keys, seed=seed + 5).square()
    return [z.detach().requires_grad_() for z in (q, k, v, beta, log_a, S)]


def by_token(q, k, v, beta, log_a, S):
    return kda_reference(q, k, v, beta, log_a.exp(), S)


# -- both paths ----------------------------------------------------------------------------------------------------
@settings(max_examples=8, deadline=None, derandomize=True)
@given(tokens=st.integers(1, 40), chunk=st.integers(1, 48), seed=st.integers(0, 99))
def test_by_chunks_it_is_the_reference_in_values_and_gradients(tokens, chunk, seed):
    given_ = problem(tokens, rows=1, seed=seed)
    expected = by_token(*given_)
    found = kda_chunked(*given_, chunk)
    losses = []
    for outputs in (expected, found):
        losses.append(sum((z * random(*z.shape, seed=7)).sum() for z in outputs))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    of_reference, of_chunks = (torch.autograd.grad(loss, given_) for loss in losses)
    for ours, theirs in zip(of_chunks, of_reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_by_chunks_of_several_blocks_it_is_the_reference():
    """80 tokens are five blocks: between the first and the last stand three whole ones."""
    given_ = problem(80)
    for ours, theirs in zip(kda_chunked(*given_, 80), by_token(*given_), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_by_chunks_it_can_be_differentiated_twice():
    given_ = problem(tokens=3, heads=1, rows=1, keys=2, values=2)
    assert torch.autograd.gradgradcheck(lambda *z: kda_chunked(*z, 2)[0], given_)


@pytest.mark.parametrize("largest", [5.0, 100.0, 1e4])
def test_nothing_overflows_in_float32(largest):
    """64 tokens that each keep exp(-5) are exp(-320), whose inverse is no number in float32."""
    exact = problem(130)
    with torch.no_grad():
        exact[4].copy_(-largest * random(*exact[4].shape, seed=8).sigmoid().round())
    low = [z.detach().float().requires_grad_() for z in exact]
    o, S = kda_chunked(*low, 64)
    expected, _ = by_token(*exact)
    torch.testing.assert_close(o.double(), expected, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(o.sum() + S.sum(), low)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_writes_make_it_a_hebbian_memory():
    q, k, v, beta, log_a, S = problem(37)
    w = kda_writes(k, v, beta, log_a, S, 32)
    o = hebb_by_channel(q, k, w, log_a, S, 32)
    torch.testing.assert_close(o, by_token(q, k, v, beta, log_a, S)[0], **CLOSE)


# -- what it is ----------------------------------------------------------------------------------------------------
def test_with_one_gate_for_all_channels_it_is_gated_deltanet():
    q, k, v, beta, log_a, S = problem(40)
    shared = log_a[..., :1]
    expected = gated_delta_reference(q, k, v, beta, shared[..., 0].exp(), S)
    for found in (
        kda_reference(q, k, v, beta, shared.exp().expand_as(k), S),
        kda_chunked(q, k, v, beta, shared.expand_as(k), S, 32),
    ):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_a_channel_that_forgets_takes_its_own_row_alone():
    S, zeros = random(1, 1, 3, 4), torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    alpha = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64).view(1, 1, 1, 3)
    _, last = kda_reference(zeros, zeros, torch.zeros(1, 1, 1, 4).double(), zeros[..., 0], alpha, S)
    torch.testing.assert_close(last, torch.stack([S[..., 0, :], S[..., 1, :] / 2, 0 * S[..., 2, :]], dim=-2), **CLOSE)


# -- the layer -----------------------------------------------------------------------------------------------------
def layer(name: str, **options):
    torch.manual_seed(0)
    return build_memory(name, **{"width": 8, "heads": 2} | options).double()


def test_the_bounded_gate_keeps_its_bound_and_the_other_has_none():
    x = 1000 * random(1, 200, 8)
    _, bounded = layer("kda", lower_bound=-5.0).gates(x)
    _, free = layer("kda").gates(x)
    assert bounded.shape == (1, 2, 200, 4)
    assert -5 <= bounded.min() < -4.9
    assert -0.1 < bounded.max() <= 0
    assert free.min() < -100
    assert free.max() <= 0


def test_it_starts_as_gated_deltanet_starts():
    memory = layer("kda", width=64, heads=4)
    interval = torch.nn.functional.softplus(memory.interval_bias)
    assert interval.shape == (64,)
    assert 0.001 <= interval.min() < 0.005
    assert 0.02 < interval.max() <= 0.1
    assert 1 <= memory.log_rate.exp().min() <= memory.log_rate.exp().max() <= 16
    assert layer("kda", lower_bound=-5).log_rate.abs().max() == 0


def test_a_key_head_serves_neighboring_matrices():
    """Four matrices, two key heads: the first serves matrices 0 and 1."""
    grouped = layer("gated-delta", heads=4, key_heads=2, head_dim=3, conv=0)
    whole = layer("gated-delta", heads=4, head_dim=3, conv=0)
    weights = grouped.state_dict()
    for part in ("query.weight", "key.weight"):
        first, second = weights[part].split(3)
        weights[part] = torch.cat([first, first, second, second])
    whole.load_state_dict(weights)
    x = random(2, 9, 8)
    for ours, theirs in zip(grouped(x), whole(x), strict=True):
        ours, theirs = (getattr(z, "matrix", z) for z in (ours, theirs))
        torch.testing.assert_close(ours, theirs, **CLOSE)
    assert grouped.state_bytes(9) == whole.state_bytes(9)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(lower_bound=5.0), "lower_bound must be None or a number below 0, such as -5, not 5.0"),
        (dict(lower_bound=float("-inf")), "lower_bound must be"),
        (dict(lower_bound="-5"), "not '-5'"),
        (dict(key_heads=0), "key_heads must be"),
        (dict(heads=6, key_heads=4), r"key_heads must divide heads \(6\): 4 does not"),
    ],
)
def test_mistakes_are_named(options, says):
    with pytest.raises(CourseError, match=says):
        KDAConfig(**{"width": 12, "heads": 2} | options)
