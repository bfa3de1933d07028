"""What every memory must do, one function a property: it takes a `Case` and raises where the property does not hold.

The tests run all of them on every memory of the course, `nl-course check-memory FILE` on a learner's. `PROPERTIES`
lists them in the order in which they are tried: what a failure of the first would only repeat comes later.
"""

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from nl_course.errors import CourseError
from nl_course.memories import State, Trace
from nl_course.suite.case import (
    CLOSE,
    TOKENS,
    WIDTH,
    Case,
    assert_same_state,
    build,
    describe,
    inputs,
    read_in_pieces,
    require,
)

SPLITS = ([1] * TOKENS, [4, 1, 6], [5, 0, 5, 1], [2, 3, 2, 3, 1], [3, 7], [0], [12, 1, 9])


def any_split(case: Case, pieces: list[int], grad: bool = True) -> None:
    """Read in these pieces, a text gives the outputs and the state that it gives read at once."""
    memory, x = build(case), inputs(sum(pieces))
    with torch.set_grad_enabled(grad):
        whole, whole_state = memory(x)
        split, split_state = read_in_pieces(memory, x, pieces)
    torch.testing.assert_close(split, whole, **CLOSE, msg=lambda m: f"in pieces of {pieces} tokens: {m}")
    assert_same_state(split_state, whole_state)
    require(describe(split_state) == describe(whole_state), f"in pieces of {pieces} tokens the state counts otherwise")


def several_splits(case: Case) -> None:
    for number, pieces in enumerate(SPLITS):
        any_split(case, pieces, grad=number % 2 == 0)


def same_gradients(case: Case) -> None:
    memory, x = build(case), inputs().requires_grad_()
    wanted = [x, *memory.parameters()]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    whole = torch.autograd.grad((memory(x)[0] * direction).sum(), wanted)
    split = torch.autograd.grad((read_in_pieces(memory, x, [1] * TOKENS)[0] * direction).sum(), wanted)
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def no_look_ahead(case: Case) -> None:
    x = inputs(rows=1).requires_grad_()
    y, _ = build(case)(x)
    for t in range(TOKENS - 1):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        ahead = gradient[0, t + 1 :].abs().amax(-1).nonzero().flatten()
        require(not len(ahead), f"the output of token {t} depends on later tokens ({(ahead + t + 1).tolist()})")
        require(gradient[0, t].abs().max() > 0, f"the output of token {t} does not depend on token {t}")


def independent_rows(case: Case) -> None:
    memory, x = build(case), inputs(rows=3)
    together, state = memory(x)
    for row in range(3):
        alone, own = memory(x[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)
        assert_same_state(state.rows([row]), own)


def nothing_read(case: Case) -> None:
    memory = build(case)
    before = memory(inputs())[1]
    y, after = memory(inputs(0), before)
    require(tuple(y.shape) == (2, 0, WIDTH), f"for no tokens y has the shape {tuple(y.shape)}, not (2, 0, {WIDTH})")
    assert_same_state(after, before, 0)
    require(describe(after) == describe(before), "no tokens moved a counter of the state")


def one_token(case: Case) -> None:
    memory = build(case)
    y, state = memory(inputs(1))
    start = memory.init_state(2)
    require(tuple(y.shape) == (2, 1, WIDTH), f"for one token y has the shape {tuple(y.shape)}, not (2, 1, {WIDTH})")
    require(bool(y.abs().max() > 0), "one token is read as nothing: y is 0")
    pairs = zip(state.tensors().values(), start.tensors().values())
    moved = describe(state) != describe(start) or any(not torch.equal(a, b) for a, b in pairs)
    require(moved, "one token left the state as it was: nothing is written")


def precision(case: Case, dtype: torch.dtype, band: float) -> None:
    exact, _ = build(case)(inputs())
    y, state = build(case, dtype)(inputs(dtype=dtype))
    require(y.dtype == dtype, f"x of {dtype} gives y of {y.dtype}")
    finite = all(t.isfinite().all() for t in state.tensors().values() if t.is_floating_point())
    require(finite, f"in {dtype} the state holds numbers that are not finite")
    error = float((y.detach().double() - exact.detach()).abs().max() / exact.detach().abs().max())
    require(error < band, f"in {dtype} the output is off by {error:.2g} of the largest, more than {band:g}")


def single_precision(case: Case) -> None:
    precision(case, torch.float32, 1e-4)


def half_precision(case: Case) -> None:
    precision(case, torch.bfloat16, case.bf16_band)


def state_size(case: Case) -> None:
    for dtype in (torch.float64, torch.float32):
        for tokens in (0, 1, TOKENS, 3 * TOKENS):
            size_after(case, tokens, dtype)


def size_after(case: Case, tokens: int, dtype: torch.dtype) -> None:
    memory = build(case, dtype)
    with torch.no_grad():
        _, state = memory(inputs(tokens, rows=3, dtype=dtype))
    formula = memory.state_bytes(tokens, batch_size=3)
    said = f"after {tokens} tokens of 3 rows in {dtype} the state holds {state.nbytes} bytes"
    require(state.nbytes == formula, f"{said}, state_bytes says {formula}")
    require(state.capacity_bytes >= state.nbytes, f"{said}, more than its capacity, {state.capacity_bytes}")
    if not case.grows and tokens > TOKENS:
        far = memory.state_bytes(tokens + 10**6 * case.period, batch_size=3)
        require(state.nbytes == far, f"{said}, a million tokens later {far}: it grows and does not say so")


def trace_changes_nothing(case: Case) -> None:
    memory, trace, x = build(case), Trace(), inputs()
    plain, plain_state = memory(x)
    traced, traced_state = memory(x, None, trace)
    require(torch.equal(plain, traced), "with a trace the output is another")
    assert_same_state(plain_state, traced_state, 0)
    require(bool(trace.names()), "nothing is traced: a memory that shows nothing cannot be taught")
    split, state = Trace(), None
    for piece in x.split([4, 1, 6], dim=1):
        _, state = memory(piece, state, split)
    for name in trace.names():
        shape = tuple(trace[name].shape)
        require(shape[:2] == (2, TOKENS), f"the trace {name!r} has the shape {shape}, not (2, {TOKENS}, ...)")
        require(not trace[name].requires_grad, f"the trace {name!r} keeps the graph: detach it")
        ours, theirs = split[name], trace[name]
        seen = ours.isfinite() & theirs.isfinite()  # a masked score is -inf, or padding where it was not yet there
        torch.testing.assert_close(ours[seen], theirs[seen], **CLOSE, msg=lambda m, n=name: f"trace {n}: {m}")


@torch.no_grad()
def branches(case: Case) -> None:
    memory = build(case)
    _, state = memory(inputs(5))
    before = {name: t.clone() for name, t in state.tensors().items()}
    left, left_state = memory(inputs(), state)
    kept = {name: t.clone() for name, t in left_state.tensors().items()}
    right, _ = memory(-inputs(), state)
    again, _ = memory(inputs(), state)
    require(not torch.equal(left, right), "two different texts after the same state gave the same output")
    torch.testing.assert_close(left, again, **CLOSE)
    for found, was in ((state, before), (left_state, kept)):
        changed = [name for name, t in found.tensors().items() if not torch.equal(t, was[name])]
        require(not changed, f"reading on changed a state that somebody still holds, in {changed}")


@torch.no_grad()
def saving(case: Case) -> None:
    memory, x = build(case), inputs()
    _, state = memory(x[:, :5])
    expected, expected_state = memory(x[:, 5:], state)
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "state.safetensors")
        loaded = State.load(Path(folder) / "state.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(state)), state.detach()):
        require(describe(copy) == describe(state), "saved and loaded, the state counts otherwise")
        assert_same_state(copy, state, 0)
        y, after = memory(x[:, 5:], copy)
        torch.testing.assert_close(y, expected, **CLOSE)
        assert_same_state(after, expected_state)


def rows_picked(case: Case) -> None:
    memory = build(case)
    _, state = memory(inputs(5))
    twice = state.rows([1, 1])
    y, _ = memory(inputs(3)[:1].expand(2, -1, -1), twice)
    torch.testing.assert_close(y[0], y[1], **CLOSE)
    require(twice.batch_size in (2, None), f"two rows were picked and the state has {twice.batch_size}")


def mistakes_named(case: Case) -> None:
    memory = build(case)
    refused(memory, torch.zeros(2, 3, WIDTH + 1, dtype=torch.float64), None, f"batch, time, {WIDTH}")
    refused(memory, torch.zeros(3, WIDTH, dtype=torch.float64), None, "batch, time")
    _, state = memory(inputs(2))
    if state.batch_size is not None:
        refused(memory, inputs(2, rows=3), state, "3 rows")


def refused(memory, x, state, words: str) -> None:
    try:
        memory(x, state)
    except CourseError as error:
        require(words in str(error), f"x of shape {tuple(x.shape)} is refused without saying {words!r}: {error}")
    else:
        require(False, f"x of shape {tuple(x.shape)} is taken, and should be refused")


def compiled(case: Case) -> None:
    memory, x = build(case), inputs()
    ours = torch.compile(memory, backend="aot_eager", dynamic=False)
    try:
        y, state = ours(x)
        y2, _ = ours(x, state)
    finally:
        torch._dynamo.reset()
    expected, expected_state = memory(x)
    torch.testing.assert_close(y, expected, **CLOSE)
    assert_same_state(state, expected_state)
    torch.testing.assert_close(y2, memory(x, expected_state)[0], **CLOSE)


def on_a_gpu(case: Case) -> None:
    exact, _ = build(case)(inputs())
    y, _ = build(case, device="cuda")(inputs(device="cuda"))
    torch.testing.assert_close(y.cpu(), exact, rtol=1e-8, atol=1e-8)
    low, _ = build(case, torch.bfloat16, "cuda")(inputs(dtype=torch.bfloat16, device="cuda"))
    error = float((low.detach().double().cpu() - exact.detach()).abs().max() / exact.detach().abs().max())
    require(error < case.bf16_band, f"in bf16 on a GPU the output is off by {error:.2g}, more than {case.bf16_band:g}")


class Property(NamedTuple):
    """A property's name, as a statement, and the function that raises where it does not hold."""

    name: str
    holds: Callable[[Case], None]


PROPERTIES = (
    Property("one token is read and written", one_token),
    Property("no tokens change nothing", nothing_read),
    Property("any split gives the same output and state", several_splits),
    Property("token by token gives the same gradients", same_gradients),
    Property("no output depends on a later token, exactly", no_look_ahead),
    Property("rows of a batch are independent", independent_rows),
    Property("rows of a state can be picked and repeated", rows_picked),
    Property("the state's size is what the formula says", state_size),
    Property("a state that is branched never changes its twin", branches),
    Property("saved in mid-stream it goes on exactly", saving),
    Property("a trace changes nothing, and shows something", trace_changes_nothing),
    Property("fp32 stays in its band", single_precision),
    Property("bf16 stays in its band", half_precision),
    Property("mistakes are named", mistakes_named),
)
