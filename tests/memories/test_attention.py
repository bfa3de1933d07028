"""What attention alone must do, beyond the suite of all memories."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.memories import Attention, AttentionConfig, LatentAttention, LatentAttentionConfig, Trace
from nl_course.memories.attention.attention import visible
from nl_course.memories.attention.rope import Rotary

CLOSE = dict(rtol=1e-10, atol=1e-10)


def twins(memory, config):
    """The same weights on the reference path and on the fast one."""
    torch.manual_seed(0)
    reference, fast = memory(config, path="reference").double(), memory(config, path="sdpa").double()
    fast.load_state_dict(reference.state_dict())
    return reference, fast


CONFIGS = [
    (Attention, AttentionConfig(16, 4)),
    (Attention, AttentionConfig(16, 4, kv_heads=2)),
    (Attention, AttentionConfig(16, 4, kv_heads=1, window=5)),
    (Attention, AttentionConfig(16, 4, window=3, rope_theta=None)),
    (Attention, AttentionConfig(16, 4, window=5, qk_norm=True)),
    (LatentAttention, LatentAttentionConfig(16, 4, kv_rank=8, rope_dim=4, head_dim=6, value_dim=5)),
]


@pytest.mark.parametrize(("memory", "config"), CONFIGS)
def test_paths_agree_in_values_and_gradients(memory, config):
    reference, fast = twins(memory, config)
    x = torch.randn(2, 17, 16, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 17, 16, dtype=torch.float64)
    results = []
    for path in (reference, fast):
        y, _ = path(x)
        results.append((y, torch.autograd.grad((y * direction).sum(), [x, *path.parameters()])))
    torch.testing.assert_close(results[0][0], results[1][0], **CLOSE)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_a_single_latent_query_is_read_absorbed_and_agrees():
    reference, fast = twins(*CONFIGS[-1])
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        _, state = fast(x[:, :8])
        last, _ = fast(x[:, 8:], state)
    torch.testing.assert_close(last, reference(x)[0][:, 8:], **CLOSE)


@pytest.mark.parametrize("window", [None, 7, 700])
def test_long_pieces_are_read_a_block_of_queries_at_a_time(window):
    reference, fast = twins(Attention, AttentionConfig(8, 2, window=window))
    x = torch.randn(1, 1500, 8, dtype=torch.float64)
    with torch.no_grad():
        _, state = fast(x[:, :200])
        later, _ = fast(x[:, 200:], state)
        torch.testing.assert_close(later, reference(x)[0][:, 200:], **CLOSE)


def test_one_head_by_hand():
    """Two tokens, one head, no positions: the second token's weights worked out on paper."""
    layer = Attention(AttentionConfig(2, 1, rope_theta=None)).double()
    with torch.no_grad():
        for linear in (layer.query, layer.key, layer.value, layer.output):
            linear.weight.copy_(torch.eye(2))
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    y, _ = layer(x)
    share = 1 / (1 + torch.exp(torch.tensor(-(2**-0.5), dtype=torch.float64)))
    torch.testing.assert_close(y[0, 0], x[0, 0])
    torch.testing.assert_close(y[0, 1], torch.stack([1 - share, share]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 9), st.one_of(st.none(), st.integers(1, 6)))
def test_who_may_read_whom(queries, before, window):
    allowed = visible(queries, before + queries, window)
    for i in range(queries):
        for key in range(before + queries):
            age = before + i - key
            assert allowed[i, key] == (0 <= age and (window is None or age < window))


def test_queries_and_keys_in_the_trace_give_the_scores():
    config = AttentionConfig(8, 4, kv_heads=2)
    layer, x = Attention(config).double(), torch.randn(1, 10, 8, dtype=torch.float64)
    trace, state = Trace(), None
    with torch.no_grad():
        for piece in x.split([1, 6, 3], dim=1):
            _, state = layer(piece, state, trace)
    assert torch.equal(trace["key"].transpose(1, 2), state.key.columns)
    keys = trace["key"].repeat_interleave(2, dim=2)
    scores = torch.einsum("bthd,bshd->bths", trace["query"], keys) * config.head_dim**-0.5
    allowed = visible(10, 10, None)[:, None]
    torch.testing.assert_close(scores.where(allowed, 0), trace["scores"].where(allowed, 0), **CLOSE)


def test_weights_in_the_trace_are_those_that_mix_the_values():
    layer = Attention(AttentionConfig(8, 2, window=4)).double()
    x, trace, state = torch.randn(1, 10, 8, dtype=torch.float64), Trace(only=["weights"]), None
    with torch.no_grad():
        whole, _ = layer(x)
        for piece in x.split(3, dim=1):
            _, state = layer(piece, state, trace)
        values = layer.value(x).unflatten(-1, (2, 4))
        mixed = torch.einsum("bths,bshd->bthd", trace["weights"], values)
        torch.testing.assert_close(layer.output(mixed.flatten(2)), whole, **CLOSE)
    assert trace.names() == ["weights"]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 50))
def test_rotated_products_depend_on_the_distance_alone(start, distance):
    rotary = Rotary(8)
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)
    here = rotary(q, distance) @ rotary(k, 0).T
    there = rotary(q, start + distance) @ rotary(k, start).T
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


def test_rotation_is_by_interleaved_pairs():
    turned = Rotary(4, theta=100.0)(torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64), start=3)
    angles = torch.tensor([3.0, 3.0 / 10], dtype=torch.float64)
    expected = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten()[None]
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(width=10, heads=4), "multiple of heads"),
        (dict(width=8, heads=4, kv_heads=3), "kv_heads must divide"),
        (dict(width=8, heads=4, window=0), "window"),
        (dict(width=8, heads=0), "heads"),
        (dict(width=12, heads=4), "even"),
    ],
)
def test_impossible_sizes_are_named(options, named):
    with pytest.raises(CourseError, match=named):
        Attention(AttentionConfig(**options))


def test_second_derivatives_need_the_reference_path():
    """PyTorch's fused kernels are once differentiable; the explicit softmax is any number of times."""
    reference, _ = twins(*CONFIGS[0])
    x = torch.randn(1, 4, 16, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(reference(x)[0].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.abs().max() > 0
