"""Every memory of the course, through one suite (see memory_suite.py)."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.memories import State, Trace
from tests.memory_suite import (
    CASES,
    TOKENS,
    WIDTH,
    assert_same_state,
    build,
    describe,
    inputs,
    read_in_pieces,
)

pytestmark = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
CLOSE = dict(rtol=1e-10, atol=1e-10)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(pieces=st.lists(st.integers(0, 5), min_size=1, max_size=14), grad=st.booleans())
def test_any_split_gives_the_same_output_and_state(case, pieces, grad):
    memory = build(case)
    total = sum(pieces)
    x = inputs(total)
    with torch.set_grad_enabled(grad):
        whole, whole_state = memory(x)
        split, split_state = read_in_pieces(memory, x, pieces)
    torch.testing.assert_close(split, whole, **CLOSE)
    assert_same_state(split_state, whole_state)
    assert describe(split_state) == describe(whole_state)


def test_token_by_token_gives_the_same_gradients(case):
    memory = build(case)
    x = inputs().requires_grad_()
    wanted = [x, *memory.parameters()]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    whole = torch.autograd.grad((memory(x)[0] * direction).sum(), wanted)
    split = torch.autograd.grad((read_in_pieces(memory, x, [1] * TOKENS)[0] * direction).sum(), wanted)
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_causality_is_exact(case):
    memory = build(case)
    x = inputs(rows=1).requires_grad_()
    y, _ = memory(x)
    for t in range(TOKENS - 1):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        assert gradient[0, t + 1 :].abs().max() == 0
        assert gradient[0, t].abs().max() > 0  # the test would see a memory that reads nothing


def test_batch_rows_are_independent(case):
    memory = build(case)
    x = inputs(rows=3)
    together, state = memory(x)
    for row in range(3):
        alone, own = memory(x[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)
        assert_same_state(state.rows([row]), own)


def test_no_tokens_change_nothing(case):
    memory = build(case)
    before = memory(inputs())[1]
    y, after = memory(inputs(0), before)
    assert y.shape == (2, 0, WIDTH)
    assert_same_state(after, before, 0)
    assert describe(after) == describe(before)


def test_one_token_is_read_and_written(case):
    memory = build(case)
    y, state = memory(inputs(1))
    assert y.shape == (2, 1, WIDTH)
    assert y.abs().max() > 0
    assert describe(state) != describe(memory.init_state(2)) or any(
        not torch.equal(a, b) for a, b in zip(state.tensors().values(), memory.init_state(2).tensors().values())
    )


@pytest.mark.parametrize(("dtype", "band"), [(torch.float32, 1e-4), (torch.bfloat16, None)], ids=["fp32", "bf16"])
def test_lower_precision_stays_in_its_band(case, dtype, band):
    exact, _ = build(case)(inputs())
    memory = build(case, dtype)
    y, state = memory(inputs(dtype=dtype))
    assert y.dtype == dtype
    assert all(t.isfinite().all() for t in state.tensors().values() if t.is_floating_point())
    error = (y.double() - exact).abs().max() / exact.abs().max()
    assert error < (band or case.bf16_band)


@pytest.mark.parametrize("tokens", [0, 1, TOKENS, 3 * TOKENS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_state_size_is_what_the_formula_says(case, tokens, dtype):
    memory = build(case, dtype)
    with torch.no_grad():
        _, state = memory(inputs(tokens, rows=3, dtype=dtype))
    assert state.nbytes == memory.state_bytes(tokens, batch_size=3)
    assert state.capacity_bytes >= state.nbytes
    if not case.grows and tokens > TOKENS:
        assert state.nbytes == memory.state_bytes(tokens + 10**6 * case.period, batch_size=3)


def test_trace_on_or_off_gives_the_same_output(case):
    memory, trace = build(case), Trace()
    x = inputs()
    plain, plain_state = memory(x)
    traced, traced_state = memory(x, None, trace)
    assert torch.equal(plain, traced)
    assert_same_state(plain_state, traced_state, 0)
    assert trace.names(), "a memory that shows nothing cannot be taught"
    split = Trace()
    state = None
    for piece in x.split([4, 1, 6], dim=1):
        _, state = memory(piece, state, split)
    for name in trace.names():
        assert trace[name].shape[:2] == (2, TOKENS)
        assert not trace[name].requires_grad
        ours, theirs = split[name], trace[name]
        seen = ours.isfinite() & theirs.isfinite()  # a masked score is -inf, or padding where it was not yet there
        torch.testing.assert_close(ours[seen], theirs[seen], **CLOSE)


def test_a_branched_state_never_changes_its_twin(case):
    memory = build(case)
    with torch.no_grad():
        _, state = memory(inputs(5))
        before = {name: t.clone() for name, t in state.tensors().items()}
        left, left_state = memory(inputs(), state)
        kept = {name: t.clone() for name, t in left_state.tensors().items()}
        right, _ = memory(-inputs(), state)
        again, _ = memory(inputs(), state)
    assert not torch.equal(left, right)
    torch.testing.assert_close(left, again, **CLOSE)
    assert all(torch.equal(t, before[name]) for name, t in state.tensors().items())
    assert all(torch.equal(t, kept[name]) for name, t in left_state.tensors().items())


def test_saved_in_mid_stream_it_goes_on_exactly(case, tmp_path):
    memory = build(case)
    x = inputs()
    with torch.no_grad():
        _, state = memory(x[:, :5])
        expected, expected_state = memory(x[:, 5:], state)
        state.save(tmp_path / "state.safetensors")
        for copy in (
            State.load(tmp_path / "state.safetensors"),
            pickle.loads(pickle.dumps(state)),
            state.detach(),
        ):
            assert describe(copy) == describe(state)
            assert_same_state(copy, state, 0)
            y, after = memory(x[:, 5:], copy)
            torch.testing.assert_close(y, expected, **CLOSE)
            assert_same_state(after, expected_state)


def test_rows_can_be_picked_and_repeated(case):
    memory = build(case)
    _, state = memory(inputs(5))
    twice = state.rows([1, 1])
    y, _ = memory(inputs(3)[:1].expand(2, -1, -1), twice)
    torch.testing.assert_close(y[0], y[1], **CLOSE)
    assert twice.batch_size in (2, None)


@pytest.mark.slow
def test_compiled_it_gives_the_same(case):
    if not case.compiles:
        pytest.skip("not among the cases that are compiled")
    memory = build(case)
    x = inputs()
    compiled = torch.compile(memory, backend="aot_eager", dynamic=False)
    try:
        y, state = compiled(x)
        y2, _ = compiled(x, state)
    finally:
        torch._dynamo.reset()
    expected, expected_state = memory(x)
    torch.testing.assert_close(y, expected, **CLOSE)
    assert_same_state(state, expected_state)
    torch.testing.assert_close(y2, memory(x, expected_state)[0], **CLOSE)


def test_mistakes_are_named(case):
    memory = build(case)
    with pytest.raises(CourseError, match=f"batch, time, {WIDTH}"):
        memory(torch.zeros(2, 3, WIDTH + 1, dtype=torch.float64))
    with pytest.raises(CourseError, match="batch, time"):
        memory(torch.zeros(3, WIDTH, dtype=torch.float64))
    _, state = memory(inputs(2))
    if state.batch_size is not None:
        with pytest.raises(CourseError, match="3 rows"):
            memory(inputs(2, rows=3), state)


@pytest.mark.gpu
def test_on_a_gpu_it_gives_the_same(case):
    exact, _ = build(case)(inputs())
    y, _ = build(case, device="cuda")(inputs(device="cuda"))
    torch.testing.assert_close(y.cpu(), exact, rtol=1e-8, atol=1e-8)
    low, _ = build(case, torch.bfloat16, "cuda")(inputs(dtype=torch.bfloat16, device="cuda"))
    assert (low.double().cpu() - exact).abs().max() / exact.abs().max() < case.bf16_band
