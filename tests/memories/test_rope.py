"""Rotary positions: exact far out, for every shape, and without memory that grows with the text."""

import gc
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, LatentAttention, LatentAttentionConfig, build_memory
from nl_course.memories.attention import rope
from nl_course.memories.attention.rope import BLOCK, KEPT_BLOCKS, Rotary

FAR = 200 * BLOCK  # a multiple of every chunk, segment and mini-batch


def exact(x, positions, theta=10_000.0):
    """The definition in float64, without tables: pair i of the token at position t turns by t theta^(-2 i / dim)."""
    dim = x.shape[-1]
    rates = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = positions.to(torch.float64)[:, None] * rates
    a, b = x.to(torch.float64).unflatten(-1, (-1, 2)).unbind(-1)
    turned = [a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()]
    return torch.stack(turned, dim=-1).flatten(-2)


@pytest.mark.parametrize(
    ("start", "tokens", "period"),
    [
        *[(0, 5, None), (200_000, 3, None), (BLOCK - 1, 2, None), (BLOCK, 1, None), (5, 3 * BLOCK, None)],
        *[(3, 40, 16), (15, 3, 16), (30, 2, 16), (16, 16, 16), (7, 1, 1), (10**6 + 3, 700, 512), (5, 4, 10**12)],
        *[(0, 0, None), (BLOCK, 0, None)],
    ],
)
def test_every_token_turns_by_its_own_position(start, tokens, period):
    x = torch.randn(2, 3, tokens, 8)
    positions = torch.arange(start, start + tokens)
    if period is not None:
        positions = positions % period
    turned = Rotary(8)(x, start, period)
    assert turned.dtype == torch.float32 and turned.shape == x.shape
    torch.testing.assert_close(turned, exact(x, positions).float(), rtol=0, atol=1e-6)
    in_double = Rotary(8)(x.double(), start, period)
    torch.testing.assert_close(in_double, exact(x, positions), rtol=0, atol=1e-9)


def test_angles_of_far_positions_are_those_of_float64():
    """Position times rate in float32 would be off by 200,000 x 6e-8."""
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    for position in (199_999, 1_000_003):
        turned = Rotary(4)(x, position)
        torch.testing.assert_close(turned, exact(x, torch.tensor([position])).float(), rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("sizes", [(1, 1, 3, 2), (1, 1, 5, 4), (1, 2, 3, 2), (2, 1, 3, 2), (1, 1, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_slice_may_begin_at_an_odd_place(sizes, dtype):
    """Such as a shared rotary key behind a latent of odd width: one token of it counts as contiguous."""
    batch, tokens, before, dim = sizes
    whole = torch.randn(batch, tokens, before + dim).to(dtype)
    part = whole[..., before:]
    assert torch.equal(Rotary(dim)(part, 3), Rotary(dim)(part.clone(), 3))


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_latent_attention_takes_small_odd_shapes(path):
    for kv_rank in (1, 3, 4, 5):
        for heads, head_dim, value_dim in ((1, 1, 1), (1, 3, 2), (2, 3, 1), (3, 1, 3)):
            sizes = dict(width=6, heads=heads, kv_rank=kv_rank, rope_dim=2, head_dim=head_dim, value_dim=value_dim)
            memory = LatentAttention(LatentAttentionConfig(**sizes), path)
            for rows, tokens in ((1, 1), (1, 2), (3, 1)):
                x = torch.randn(rows, tokens, 6)
                y, state = memory(x)
                again, _ = memory(x, state)
                assert y.shape == again.shape == x.shape and again.isfinite().all()


@pytest.mark.parametrize("theta", [0, -1, 1e-9, float("nan"), float("inf"), "10", True])
def test_a_base_below_1_is_refused(theta):
    with pytest.raises(CourseError, match=r"rope_theta must be a (finite )?number of at least 1"):
        Rotary(8, theta)
    for name in ("attention", "latent-attention", "retnet", "ttt-linear", "mac", "mag", "mal"):
        with pytest.raises(CourseError, match=r"rope_theta must be a (finite )?number of at least 1"):
            build_memory(name, 8, 2, rope_theta=theta)


@pytest.mark.parametrize(("dim", "says"), [(3, "even, not 3"), (1, "even"), (0, "at least 1, not 0"), (2.0, "not 2.0")])
def test_a_width_that_has_no_pairs_is_refused(dim, says):
    with pytest.raises(CourseError, match=says):
        Rotary(dim)


def test_what_was_made_without_autograd_serves_training():
    rope._kept_block.cache_clear()
    rotary = Rotary(6, theta=123.0)
    with torch.inference_mode():
        rotary(torch.randn(4, 6), 0)
    x = torch.randn(4, 6, requires_grad=True)
    rotary(x, 0).sum().backward()
    assert x.grad.isfinite().all()


def test_compiled_and_transformed_code_leaves_nothing_behind():
    rope._kept_block.cache_clear()
    rotary, x = Rotary(6, theta=321.0), torch.randn(4, 6, dtype=torch.float64)
    gradient = torch.func.grad(lambda x: rotary(x, 9).square().sum())(x)
    torch.testing.assert_close(gradient, 2 * x)  # a turn keeps lengths
    compiled = torch.compile(rotary, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(x, 9), rotary(x, 9))
    torch._dynamo.reset()
    assert rope._kept_block.cache_info().currsize == 1  # of the call that was neither


# -- memory ------------------------------------------------------------------------------------------------------------
def moved(state, by: int):
    """The state as if it had been reached `by` tokens later."""
    if isinstance(state, tuple):
        return tuple(moved(part, by) for part in state)
    if not is_dataclass(state):
        return state
    parts = {field.name: moved(getattr(state, field.name), by) for field in fields(state)}
    if "position" in parts:
        parts["position"] += by
    return replace(state, **parts)


def live_bytes() -> int:
    """Bytes of every tensor in this process: of modules, of states, in caches, wherever they hang."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@torch.no_grad()
def test_after_200_000_tokens_no_more_is_held_than_states_say():
    """Windows, retention, segments and mini-batches count positions without end; what they hold must not."""
    options = {"attention": dict(window=8), "mag": dict(window=8), "mal": dict(window=8)}
    memories = {name: build_memory(name, 64, 2, **options.get(name, {})) for name in MEMORIES}
    x = torch.randn(1, 11, 64)
    rope._kept_block.cache_clear()
    near = {name: memory(x)[1] for name, memory in memories.items()}
    gc.collect()
    before = live_bytes()
    states = {}
    for name, memory in memories.items():
        for times in range(1, 21):  # further and further out
            states[name] = memory(x, moved(near[name], times * FAR))[1]
    held = live_bytes() - before
    said = sum(state.capacity_bytes for state in states.values())
    assert rope._kept_block.cache_info().currsize == KEPT_BLOCKS
    assert held <= said + KEPT_BLOCKS * BLOCK * 32 * 4  # 16 pairs of float32 per position at head width 32
    for name, memory in memories.items():
        assert sum(t.nbytes for t in vars(memory).values() if isinstance(t, Tensor)) == 0, name


@pytest.mark.parametrize("name", ["attention", "mag", "mal"])
@pytest.mark.parametrize("grad", [True, False])
def test_a_window_that_was_read_at_once_keeps_no_whole_text(name, grad):
    memory = build_memory(name, 16, 2, window=8)
    state = None
    for tokens in (3000, 1, 1, 1):  # also right after the text: the next token makes a storage of its own
        with torch.set_grad_enabled(grad):
            _, state = memory(torch.randn(1, tokens, 16), state)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.tensors().values()}
        assert sum(storages.values()) <= state.capacity_bytes <= 4 * memory.state_bytes(3003)
