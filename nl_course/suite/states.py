"""What every memory must do with a state, or an x, that is not its own: refuse it in words, or go on exactly.

Properties as in properties.py, which lists them. All of them hold for a memory that leaves `Memory.forward` as it is.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories import Attention, AttentionConfig, LinearAttention, LinearAttentionConfig, Memory, State, tree
from nl_course.memories.owner import changes_form, fitted
from nl_course.seeding import seeded
from nl_course.suite.case import (
    TOKENS,
    WIDTH,
    Case,
    assert_close,
    assert_same_state,
    build,
    inputs,
    require,
)

LENGTHS = (1, 3, 4, 5)  # around the suite's chunks of 4 tokens
FIRST = 5  # tokens read before a state is taken


def refusal(call: Callable[[], Any], what: str) -> str:
    """The words with which a call is refused. Raises unless it is refused by a CourseError of one line."""
    try:
        call()
    except CourseError as error:
        require("\n" not in str(error), f"{what} is refused in several lines: {error}")
        return str(error)
    except Exception as error:
        require(False, f"{what} ends in {type(error).__name__}, not in a CourseError: {error}")
    require(False, f"{what} is taken, and should be refused")
    return ""


@torch.no_grad()
def belongs(case: Case) -> None:
    """A state knows its memory, also as a copy and from a file; another memory refuses it. A state that does not know
    its memory goes on as well."""
    memory, x = build(case), inputs()
    _, state = memory(x[:, :FIRST])
    expected, _ = memory(x[:, FIRST:], state)
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "state.safetensors")
        loaded = State.load(Path(folder) / "state.safetensors")
    copies = (state.detach(), state.rows([0, 1]), loaded, pickle.loads(pickle.dumps(state)), memory.init_state(2))
    for copy in copies:
        require(copy.owner == state.owner, "a copy of a state does not say any more whose it is")
    others = (
        Attention(AttentionConfig(width=WIDTH, heads=2)).double(),
        LinearAttention(LinearAttentionConfig(width=WIDTH, heads=2)).double(),
    )
    for other in others:
        if other.owner != memory.owner:
            _, foreign = other(x)
            refusal(lambda foreign=foreign: memory(x, foreign), f"a state of {other.owner_name}")
            refusal(lambda other=other: other(x, state), f"a state of this memory, given to {other.owner_name},")
    if state.owner is not None:
        y, _ = memory(x[:, FIRST:], replace(state, owner=None))
        assert_close(y, expected, "after a state that does not say whose it is")


@torch.no_grad()
def settings_kept(case: Case) -> None:
    """After one setting of the config has changed, a state is refused, or it goes on exactly as if it had been written
    with the new setting."""
    memory, x = build(case), inputs()
    _, state = memory(x[:, :FIRST])
    for what, other in with_a_changed_setting(memory):
        exact_or_refused(other, x, state, what)


def exact_or_refused(other: Memory, x: Tensor, state: State, what: str) -> None:
    """Raises unless `other` refuses a state of FIRST tokens of x (B, T, D), or goes on as after its own."""
    try:
        y, _ = other(x[:, FIRST:], state)
    except CourseError as error:
        require("\n" not in str(error), f"with {what} a state is refused in several lines: {error}")
        return
    expected, _ = other(x)
    assert_close(y, expected[:, FIRST:], f"with {what} a state is read, and not as what it is")


def with_a_changed_setting(memory: Memory) -> Iterator[tuple[str, Memory]]:
    """Memories like this one, with the same weights as far as they fit, each with one switch or number changed."""
    config = getattr(memory, "config", None)
    if not is_dataclass(config):
        return
    for field in fields(config):
        for value in _other_values(getattr(config, field.name)):
            other = changed(memory, **{field.name: value})
            if other is not None:
                yield f"{field.name} {value!r}", other
                break


def changed(memory: Memory, /, **settings: Any) -> Memory | None:
    """A memory like this one with other settings, and with its weights as far as they fit. None: there can be none."""
    try:
        with seeded(0):
            other = type(memory)(replace(memory.config, **settings)).to(memory.dtype)
    except Exception:  # these settings do not go together
        return None
    weights = memory.state_dict()
    shapes = {name: weight.shape for name, weight in other.state_dict().items()}
    fitting = {name: weight for name, weight in weights.items() if shapes.get(name) == weight.shape}
    other.load_state_dict(fitting, strict=False)
    return other


def _other_values(value: Any) -> tuple:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (2 * value, value + 1)
    return (0.5 * value,) if isinstance(value, float) and value else ()


@torch.no_grad()
def any_precision(case: Case) -> None:
    """A state that was filled in another precision is brought to the memory's own, exactly; one that would be rounded
    is refused. None of it depends on how many tokens are read."""
    memory, x = build(case, torch.float32), inputs(FIRST + TOKENS, dtype=torch.float32)
    _, state = memory(x[:, :FIRST])
    wide = any(t.numel() and t.dtype == torch.float32 for t in state.tensors().values())
    states = {"that was rounded to bfloat16": state.to(torch.bfloat16)}
    if _reads_inside_of_autocast(memory, x):
        with torch.autocast("cpu", torch.bfloat16):
            _, states["that was filled inside of autocast"] = memory(x[:, :FIRST])
    for length in LENGTHS:
        piece = x[:, FIRST : FIRST + length]
        for what, low in states.items():
            y, after = _read(memory, piece, low, f"a state {what}, before {length} tokens,")
            expected, expected_after = memory(piece, low.to(torch.float32))
            assert_close(y, expected, f"{length} tokens after a state {what}", 1e-5)
            assert_same_state(after, expected_after, 1e-5)
        if wide:
            words = refusal(lambda piece=piece: memory(piece, state.to(torch.float64)), "a state in float64")
            require("float64" in words, f"a state in float64 is refused without saying so: {words}")
        if len(states) > 1:
            with torch.autocast("cpu", torch.bfloat16):
                y, _ = _read(memory, piece, state, f"inside of autocast a state from outside, before {length} tokens,")
            require(bool(y.isfinite().all()), "inside of autocast a state from outside gives what is not a number")


def _read(memory: Memory, x: Tensor, state: State, what: str) -> tuple[Tensor, State]:
    try:
        return memory(x, state)
    except Exception as error:
        require(False, f"{what} cannot be read: {type(error).__name__}: {error}")
        raise


def _reads_inside_of_autocast(memory: Memory, x: Tensor) -> bool:
    """Whether it can do so at all, from the start of a text. Nobody asks that of a memory."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            _, state = memory(x[:, :FIRST])
            memory(x[:, FIRST:], state)
    except Exception:
        return False
    return True


@torch.no_grad()
def damage_named(case: Case) -> None:
    """A state with a part that is missing, that is of another kind, or that has another shape, is refused in words."""
    memory, x = build(case), inputs(3)
    _, state = memory(inputs(FIRST))
    fitted(memory, state, x)
    if changes_form(memory):
        return  # its states have no form of their own that could be damaged
    for what, damaged in damaged_states(state):
        refusal(lambda damaged=damaged: memory(x, damaged), f"a state whose {what}")


def damaged_states(state: State) -> Iterator[tuple[str, State]]:
    """States like this one, each with one part damaged, and which part that is."""
    for path, part in _parts(state):
        for what, damaged in _damages(part):
            yield f"{'.'.join(path)} is {what}", _with_part(state, path, damaged)


def _parts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every part of a state, large and small, by the names on the way to it, without the state itself."""
    for name, child in tree.children(value).items():
        yield (*path, name), child
        yield from _parts(child, (*path, name))


def _damages(part: Any) -> Iterator[tuple[str, Any]]:
    if part is not None:
        yield "missing", None
    if isinstance(part, Tensor):
        yield "of one row", part[:1]
        yield "of one axis more", part[None].transpose(0, 1)
        yield "a number", 1
    elif part is not None:
        yield "a word", "word"


def _with_part(value: Any, path: tuple[str, ...], part: Any) -> Any:
    """A state with another part at that path. Where nothing can be built from it, the part takes the whole's place."""
    name, *rest = path
    children = dict(tree.children(value))
    children[name] = _with_part(children[name], tuple(rest), part) if rest else part
    try:
        return tree.with_children(value, children)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return part


def prints_as_a_line(case: Case) -> None:
    """A state prints as one line that says its class and its bytes."""
    _, state = build(case)(inputs())
    text = repr(state)
    require("\n" not in text and len(text) < 200, f"a state prints as {len(text)} characters: {text:.80} ...")
    require(type(state).__name__ in text and f"{state.nbytes:,} bytes" in text, f"a state prints as {text}")


def wrong_x_named(case: Case) -> None:
    """An x that is no tensor, of another kind of number or dtype, or not finite, is refused in words; and so is a
    negative count of tokens."""
    memory, x = build(case), inputs(3)
    not_a_number, infinite = x.clone(), x.clone()
    not_a_number[1, 2, 0] = torch.nan
    infinite[0, 1, 0] = torch.inf
    wrong = {
        "a list": x.tolist(),
        "a numpy array": x.numpy(),
        "whole numbers": x.long(),
        "complex numbers": x + 0j,
        "x in another dtype": x.float(),
        "x that is not a number": not_a_number,
        "x that is infinite": infinite,
    }
    if next(memory.parameters(), None) is None:
        del wrong["x in another dtype"]
    for what, given in wrong.items():
        refusal(lambda given=given: memory(given), what)
    refusal(lambda: memory(x, x), "a tensor as a state")
    refusal(lambda: memory.state_bytes(-1), "a text of -1 tokens")
