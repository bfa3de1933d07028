"""The one interface that carries the whole course: a memory reads and writes as tokens pass.

    y, state = memory(x, state)        x (B, T, D) -> y (B, T, D), any T >= 0, in any split

Feeding one token at a time, in odd pieces, or all at once gives the same y and the same final state. What a memory
carries from one token to the next is its `State`: a value, a small tree of tensors whose first axis is the batch.
A state is never changed under the one who holds it: branch it, save it, carry it on as often as you like.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.memories import tree
from nl_course.memories.overflow import overflowed, read_in_halves
from nl_course.memories.trace import Trace
from nl_course.renamed import translate
from nl_course.roles import INTO_STREAM, Roles
from nl_course.tensor_files import open_tensors, write_tensors

_FORMAT = "nl_course.state"  # key of the description in a saved file's metadata


@dataclass(frozen=True)
class State:
    """What a memory carries. Subclasses are frozen dataclasses of tensors, numbers, strings, None, states,
    and tuples or dicts of these; every tensor has the batch as axis 0."""

    # Saved files name the class of every state in them; this finds the class again.
    _kinds: ClassVar[dict[str, type["State"]]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # The same class may be defined again (a learner's file that runs anew), another one of that name may not.
        if State._kinds.setdefault(cls.__name__, cls).__qualname__ != cls.__qualname__:
            raise TypeError(f"two kinds of state are named {cls.__name__!r}; saved states are found by that name")
        State._kinds[cls.__name__] = cls

    # -- a state as a tree -------------------------------------------------------------------------------------
    def parts(self) -> dict[str, Any]:
        """The values that define this state, by name (what is saved, moved and compared)."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> "State":
        """The state that `parts` describes: the inverse of `parts()`."""
        return cls(**parts)

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """A new state with `function` applied to every tensor."""
        return tree.map_leaves(self, function)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its dotted path, e.g. `{"key.columns": ...}`."""
        return dict(tree.leaves(self))

    # -- what everybody asks of it -----------------------------------------------------------------------------
    @property
    def nbytes(self) -> int:
        """Bytes that are filled: what this memory must keep to go on exactly."""
        return sum(_bytes(t) for t in self.tensors().values())

    @property
    def capacity_bytes(self) -> int:
        """Bytes that are allocated: `nbytes`, and the spare room of a cache that grows in place."""
        # A state inside counts for itself, since only a cache knows how much room it has made.
        inside = tree.leaves(self.parts(), is_leaf=lambda value: isinstance(value, (Tensor, State)))
        return sum(part.capacity_bytes if isinstance(part, State) else _bytes(part) for _, part in inside)

    @property
    def batch_size(self) -> int | None:
        """Rows of the batch, or None for a state without tensors."""
        return next((t.shape[0] for t in self.tensors().values()), None)

    def detach(self) -> "State":
        """The same values, cut off from the graph that made them."""
        return self.map(Tensor.detach)

    def to(self, target: torch.device | torch.dtype | str) -> "State":
        """A copy on another device, or with its floating-point tensors in another dtype."""
        if isinstance(target, torch.dtype):
            # Tokens and counters are whole numbers and keep their type.
            return self.map(lambda t: t.to(target) if t.is_floating_point() else t)
        return self.map(lambda t: t.to(target))

    def rows(self, index: Tensor | list[int] | slice) -> "State":
        """Some rows of the batch, in that order, repeats allowed: `state.rows([0, 0, 0])` makes three branches."""
        return self.map(lambda t: t[index])

    # -- keeping it --------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike) -> None:
        """Writes the state as safetensors, atomically; `State.load(path)` gives it back bit for bit. Raises CourseError
        if the file cannot be written."""
        write_tensors(path, self.tensors(), _FORMAT, tree.describe(self), "saved state")

    @staticmethod
    def load(path: str | os.PathLike, device: str = "cpu") -> "State":
        """Reads what `save` wrote. Raises CourseError if the file is missing, damaged or of another kind."""
        with open_tensors(path, _FORMAT, "saved state") as file:
            unused = set(file.names)

            def take(name: str) -> Tensor:
                unused.discard(name)
                return file.tensor(name)

            try:
                state = tree.restore(file.description, take, _state_of_kind)
                if not isinstance(state, State):
                    raise ValueError("it describes no state")
                if unused:
                    raise ValueError(f"no part of the state is the tensor {min(unused)!r}")
                _check_rows(state)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
                # A refusal that names the file, or what this version lacks, is clear already.
                if isinstance(error, CourseError):
                    raise
                # What builds a state relies on its parts. Here they are what a file says, so the file is at fault.
                raise file.fault(f"{type(error).__name__}: {error}") from error
        return state.to(device)


def _state_of_kind(kind: str, parts: dict[str, Any]) -> State:
    """The saved state of that class name; names of older versions are translated.

    Raises ValueError if a part is missing or is not what the class says it is.
    """
    today, parts = translate(kind, parts)
    if today not in State._kinds:
        raise CourseError(f"the saved state is a {kind!r}, which this version of the course lacks.")
    state = State._kinds[today].from_parts(parts)
    for name, type_wanted in _field_types(type(state)).items():
        value = getattr(state, name)
        if not tree.fits(value, type_wanted):
            raise ValueError(f"{name} of {today} cannot be {_short(value)}")
        # Whole numbers in the course's states count tokens. A learner's may count anything.
        if type_wanted is int and value < 0 and type(state).__module__.startswith("nl_course."):
            raise ValueError(f"{name} of {today} cannot be {value}")
    return state


@lru_cache
def _field_types(kind: type[State]) -> dict[str, Any]:
    """The type of each field of a state's class; {} where a name in one cannot be found, as in a learner's cell."""
    try:
        types = get_type_hints(kind)
    except NameError:
        return {}
    return {f.name: types[f.name] for f in fields(kind)}


def _check_rows(state: State) -> None:
    """Raises ValueError unless all tensors have the same rows of the batch as axis 0."""
    tensors = state.tensors()
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or len(tensor) != state.batch_size:
            raise ValueError(f"{name!r} of shape {tuple(tensor.shape)} has other rows than {next(iter(tensors))!r}")


def _short(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.50}"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class Memory(nn.Module):
    """A sequence layer that reads and writes as tokens pass. Subclasses define `init_state`, `advance` and
    `state_bytes`; `forward` checks its input, so that every memory refuses the same mistakes in the same words.

    `deep_path` is the path to take where a level below learns from a loss above: the memory's backward pass is then
    differentiated again, which not every fast path can be."""

    deep_path = "auto"
    # A linear layer `output` is by custom what a memory's answer leaves through. Memories with another way out say so.
    param_roles: ClassVar[Roles] = {"output.weight": INTO_STREAM}

    def __init__(self, width: int):
        """`width`: features of a token, D."""
        super().__init__()
        self.width = width

    def init_state(self, batch_size: int) -> State:
        """What the memory knows before the first token, one row for each of `batch_size` texts: nothing, or the
        learned start where the paper learns one."""
        raise NotImplementedError

    def advance(self, x: Tensor, state: State, trace: Trace | None) -> tuple[Tensor, State]:
        """Reads and writes for every token of x (B, T, D), T >= 0; returns y (B, T, D) and the state after the last."""
        raise NotImplementedError

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The formula for `state.nbytes` after `tokens` tokens, in the parameters' dtype."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, trace: Trace | None = None) -> tuple[Tensor, State]:
        """x (B, T, D) -> y (B, T, D) and the new state. Without a state it starts from `init_state`.

        Rows of the batch are independent and equally long: there is no padding mask, since a padded token would be
        written into the memory like any other. Raises CourseError for a wrong shape or a state of another batch.
        """
        name = type(self).__name__
        if x.dim() != 3 or x.shape[-1] != self.width:
            raise CourseError(f"{name} takes x of shape (batch, time, {self.width}), not {tuple(x.shape)}.")
        if state is None:
            state = self.init_state(x.shape[0])
        elif state.batch_size not in (None, x.shape[0]):
            raise CourseError(f"{name} was given {x.shape[0]} rows of x and a state of {state.batch_size} rows.")
        y, after = self.advance(x, state, trace)
        if x.shape[1] > 1 and overflowed(y):
            # What broke must not reach the tokens before it. (Traces keep what was seen at once.)
            return read_in_halves(self, x, state, y, after)
        return y, after

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
