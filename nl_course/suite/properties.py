"""What every memory must do, one function per property: it takes a `Case` and raises where the property does not hold.

The tests run all of them on every memory of the course, `nl-course check-memory FILE` on a learner's. `PROPERTIES`
lists them in the order in which they are tried: what a failure of the first would only repeat comes later.
"""

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories import Memory, State, Trace
from nl_course.suite.case import (
    CLOSE,
    TOKENS,
    WIDTH,
    Case,
    assert_close,
    assert_same_state,
    build,
    describe,
    inputs,
    read_in_pieces,
    require,
)
from nl_course.suite.states import any_precision, belongs, damage_named, prints_as_a_line, settings_kept, wrong_x_named

# Token by token, in odd pieces, with empty pieces, cut before and after a chunk's end; a text may be short or long.
SPLITS = ([1] * TOKENS, [4, 1, 6], [5, 0, 5, 1], [2, 3, 2, 3, 1], [3, 7], [0], [12, 1, 9])


def any_split(case: Case, pieces: list[int], grad: bool = True) -> None:
    """Read in these pieces, a text gives the outputs and the state that it gives read at once."""
    memory, x = build(case), inputs(sum(pieces))
    # Without autograd a memory may take other paths, such as a cache that grows in place.
    with torch.set_grad_enabled(grad):
        whole, whole_state = memory(x)
        split, split_state = read_in_pieces(memory, x, pieces)
    assert_close(split, whole, f"in pieces of {pieces} tokens")
    assert_same_state(split_state, whole_state)
    require(describe(split_state) == describe(whole_state), f"in pieces of {pieces} tokens the state counts otherwise")


def several_splits(case: Case) -> None:
    """`any_split` with the pieces of SPLITS, with and without autograd in turn."""
    for number, pieces in enumerate(SPLITS):
        any_split(case, pieces, grad=number % 2 == 0)


def same_gradients(case: Case) -> None:
    """Read token by token, a text gives the gradients by x and by every parameter that it gives read at once."""
    memory, x = build(case), inputs().requires_grad_()
    variables = [x, *memory.parameters()]
    # A sum of the outputs would be blind to a memory that only reorders them.
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    at_once, _ = memory(x)
    split, _ = read_in_pieces(memory, x, [1] * TOKENS)
    of_whole = torch.autograd.grad((at_once * direction).sum(), variables)
    of_split = torch.autograd.grad((split * direction).sum(), variables)
    for a, b in zip(of_whole, of_split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def no_look_ahead(case: Case) -> None:
    """The gradient of an output by later inputs is exactly 0, and by its own input it is not."""
    x = inputs(rows=1).requires_grad_()
    y, _ = build(case)(x)
    for t in range(TOKENS - 1):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)  # (1, T, D)
        by_token = gradient[0].abs().amax(-1)  # (T,)
        ahead = by_token[t + 1 :].nonzero().flatten()
        require(not len(ahead), f"the output of token {t} depends on later tokens ({(ahead + t + 1).tolist()})")
        require(by_token[t] > 0, f"the output of token {t} does not depend on token {t}")


def independent_rows(case: Case) -> None:
    """A row of a batch gives what it gives alone."""
    memory, x = build(case), inputs(rows=3)
    together, state = memory(x)
    for row in range(3):
        alone, own_state = memory(x[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)
        assert_same_state(state.rows([row]), own_state)


def nothing_read(case: Case) -> None:
    """A text of no tokens gives no outputs and leaves the state exactly as it was."""
    memory = build(case)
    _, before = memory(inputs())
    y, after = memory(inputs(0), before)
    require(tuple(y.shape) == (2, 0, WIDTH), f"for no tokens y has the shape {tuple(y.shape)}, not (2, 0, {WIDTH})")
    assert_same_state(after, before, 0)
    require(describe(after) == describe(before), "no tokens moved a counter of the state")


def one_token(case: Case) -> None:
    """One token gives one output that is not 0, and a state that is another than the start."""
    memory = build(case)
    y, state = memory(inputs(1))
    start = memory.init_state(2)
    require(tuple(y.shape) == (2, 1, WIDTH), f"for one token y has the shape {tuple(y.shape)}, not (2, 1, {WIDTH})")
    require(bool(y.abs().max() > 0), "one token is read as nothing: y is 0")
    pairs = zip(state.tensors().values(), start.tensors().values())
    written = any(not torch.equal(now, at_start) for now, at_start in pairs)
    require(written or describe(state) != describe(start), "one token left the state as it was: nothing is written")


def precision(case: Case, dtype: torch.dtype, band: float) -> None:
    """In `dtype` y is of that type, the state is finite, and the error is below `band` of the largest output."""
    exact, _ = build(case)(inputs())
    y, state = build(case, dtype)(inputs(dtype=dtype))
    require(y.dtype == dtype, f"x of {dtype} gives y of {y.dtype}")
    finite = all(t.isfinite().all() for t in state.tensors().values() if t.is_floating_point())
    require(finite, f"in {dtype} the state holds numbers that are not finite")
    error = relative_error(y, exact)
    require(error < band, f"in {dtype} the output is off by {error:.2g} of the largest, more than {band:g}")


def relative_error(y: Tensor, exact: Tensor) -> float:
    """The largest difference, relative to the largest exact number."""
    y, exact = y.detach().double().cpu(), exact.detach()
    return float((y - exact).abs().max() / exact.abs().max())


def single_precision(case: Case) -> None:
    """`precision` in float32."""
    precision(case, torch.float32, 1e-4)


def half_precision(case: Case) -> None:
    """`precision` in bfloat16, in the band that the memory promises."""
    precision(case, torch.bfloat16, case.bf16_band)


def state_size(case: Case) -> None:
    """`size_after` for short and long texts in two dtypes."""
    for dtype in (torch.float64, torch.float32):
        for tokens in (0, 1, TOKENS, 3 * TOKENS):
            size_after(case, tokens, dtype)


def size_after(case: Case, tokens: int, dtype: torch.dtype) -> None:
    """After so many tokens the state holds the bytes that `state_bytes` says, and a million tokens later as many,
    unless the memory says that it grows."""
    memory = build(case, dtype)
    with torch.no_grad():
        _, state = memory(inputs(tokens, rows=3, dtype=dtype))
    formula = memory.state_bytes(tokens, batch_size=3)
    measured = f"after {tokens} tokens of 3 rows in {dtype} the state holds {state.nbytes} bytes"
    require(state.nbytes == formula, f"{measured}, state_bytes says {formula}")
    require(state.capacity_bytes >= state.nbytes, f"{measured}, more than its capacity, {state.capacity_bytes}")
    if not case.grows and tokens > TOKENS:
        far = memory.state_bytes(tokens + 10**6 * case.period, batch_size=3)
        require(state.nbytes == far, f"{measured}, a million tokens later {far}: it grows and does not say so")


def trace_changes_nothing(case: Case) -> None:
    """With a trace outputs and state are bit for bit the same, and what is traced does not depend on the split."""
    memory, trace, x = build(case), Trace(), inputs()
    plain, plain_state = memory(x)
    traced, traced_state = memory(x, None, trace)
    require(torch.equal(plain, traced), "with a trace the output is another")
    assert_same_state(plain_state, traced_state, 0)
    require(bool(trace.names()), "nothing is traced: a memory that shows nothing cannot be taught")
    trace_of_split, state = Trace(), None
    for piece in x.split([4, 1, 6], dim=1):
        _, state = memory(piece, state, trace_of_split)
    for name in trace.names():
        whole, split = trace[name], trace_of_split[name]  # (B, T, ...)
        shape = tuple(whole.shape)
        require(shape[:2] == (2, TOKENS), f"the trace {name!r} has the shape {shape}, not (2, {TOKENS}, ...)")
        require(not whole.requires_grad, f"the trace {name!r} keeps the graph: detach it")
        # A masked score is -inf, or padding where it was not yet there: only numbers can be compared.
        both = split.isfinite() & whole.isfinite()
        assert_close(split[both], whole[both], f"trace {name}")


@torch.no_grad()
def branches(case: Case) -> None:
    """Two texts that go on from one state do not disturb each other, and leave every state as it was."""
    memory = build(case)
    _, state = memory(inputs(5))
    state_before = copied(state)
    left, left_state = memory(inputs(), state)
    left_before = copied(left_state)
    right, _ = memory(-inputs(), state)
    again, _ = memory(inputs(), state)
    require(not torch.equal(left, right), "two different texts after the same state gave the same output")
    torch.testing.assert_close(left, again, **CLOSE)
    for now, before in ((state, state_before), (left_state, left_before)):
        changed = [name for name, t in now.tensors().items() if not torch.equal(t, before[name])]
        require(not changed, f"reading on changed a state that somebody still holds, in {changed}")


def copied(state: State) -> dict[str, Tensor]:
    """The tensors of a state, copied, by their paths."""
    return {name: t.clone() for name, t in state.tensors().items()}


@torch.no_grad()
def saving(case: Case) -> None:
    """A state that was saved and loaded, pickled or detached in mid-stream goes on as itself."""
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
    """A row picked twice is read on twice in the same way."""
    memory = build(case)
    _, state = memory(inputs(5))
    twice = state.rows([1, 1])
    same_text = inputs(3)[:1].expand(2, -1, -1)  # (2, 3, D)
    y, _ = memory(same_text, twice)
    torch.testing.assert_close(y[0], y[1], **CLOSE)
    require(twice.batch_size in (2, None), f"two rows were picked and the state has {twice.batch_size}")


def mistakes_named(case: Case) -> None:
    """Inputs of a wrong width, of two axes, and a state of another batch are refused in words."""
    memory = build(case)
    refused(memory, torch.zeros(2, 3, WIDTH + 1, dtype=torch.float64), None, f"batch, time, {WIDTH}")
    refused(memory, torch.zeros(3, WIDTH, dtype=torch.float64), None, "batch, time")
    _, state = memory(inputs(2))
    if state.batch_size is not None:
        refused(memory, inputs(2, rows=3), state, "3 rows")


def refused(memory: Memory, x: Tensor, state: State | None, words: str) -> None:
    """Raises unless the memory refuses x and state with a CourseError that contains `words`."""
    try:
        memory(x, state)
    except CourseError as error:
        require(words in str(error), f"x of shape {tuple(x.shape)} is refused without saying {words!r}: {error}")
    else:
        require(False, f"x of shape {tuple(x.shape)} is taken, and should be refused")


def compiled(case: Case) -> None:
    """Compiled, the memory gives the same outputs, states and gradients, from its start and from a state."""
    memory = build(case)
    x = inputs().requires_grad_()
    start, rest = x.split([9, TOKENS - 9], dim=1)  # several chunks and the beginning of one; and on from there
    variables = [x, *memory.parameters()]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)

    def read_twice(memory: Callable) -> tuple[Tensor, State, Tensor, tuple]:
        """Outputs and state of two calls in a row, and the gradients of everything that trains."""
        y, state = memory(start)
        y_after, _ = memory(rest, state)
        loss = (torch.cat([y, y_after], dim=1) * direction).sum()
        return y, state, y_after, torch.autograd.grad(loss, variables, allow_unused=True)

    try:
        y, state, y_after, gradients = read_twice(torch.compile(memory, backend="aot_eager", dynamic=False))
    finally:
        torch._dynamo.reset()  # what was compiled for this case would count against the limit of the next
    expected, expected_state, expected_after, expected_gradients = read_twice(memory)
    torch.testing.assert_close(y, expected, **CLOSE)
    assert_same_state(state, expected_state)
    torch.testing.assert_close(y_after, expected_after, **CLOSE)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


class MemoryProperty(NamedTuple):
    """A property's name, as a statement, and the function that raises where it does not hold."""

    name: str
    holds: Callable[[Case], None]


PROPERTIES = (
    MemoryProperty("one token is read and written", one_token),
    MemoryProperty("no tokens change nothing", nothing_read),
    MemoryProperty("any split gives the same output and state", several_splits),
    MemoryProperty("token by token gives the same gradients", same_gradients),
    MemoryProperty("no output depends on a later token, exactly", no_look_ahead),
    MemoryProperty("rows of a batch are independent", independent_rows),
    MemoryProperty("rows of a state can be picked and repeated", rows_picked),
    MemoryProperty("the state's size is what the formula says", state_size),
    MemoryProperty("a state that is branched never changes its twin", branches),
    MemoryProperty("saved in mid-stream it goes on exactly", saving),
    MemoryProperty("a trace changes nothing, and shows something", trace_changes_nothing),
    MemoryProperty("fp32 stays in its band", single_precision),
    MemoryProperty("bf16 stays in its band", half_precision),
    MemoryProperty("mistakes are named", mistakes_named),
    MemoryProperty("an x that cannot be read is named", wrong_x_named),
    MemoryProperty("a state is read on by its own memory alone", belongs),
    MemoryProperty("after a changed setting a state is refused, or exact", settings_kept),
    MemoryProperty("a state in another precision is brought to the memory's, or refused", any_precision),
    MemoryProperty("a damaged state is named", damage_named),
    MemoryProperty("a state prints as one line", prints_as_a_line),
)
