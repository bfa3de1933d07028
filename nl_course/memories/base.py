"""The one interface that carries the whole course: a memory reads and writes as tokens pass.

    y, state = memory(x, state)        x (B, T, D) -> y (B, T, D), any T >= 0, in any split

Feeding one token at a time, in odd pieces, or all at once gives the same y and the same final state. What a memory
carries from one token to the next is its `State`: a value, a small tree of tensors whose first axis is the batch.
A state is never changed under the one who holds it: branch it, save it, carry it on as often as you like. It knows
whose it is, and another memory refuses it (owner.py).
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories import tree
from nl_course.memories.overflow import overflowed, read_in_halves
from nl_course.memories.owner import StateOwner, autocast_is_on
from nl_course.memories.trace import Trace
from nl_course.renamed import translate
from nl_course.roles import INTO_STREAM, Roles
from nl_course.tensor_files import open_tensors, write_tensors

_FORMAT = "nl_course.state"  # key of the description in a saved file's metadata


@dataclass(frozen=True)
class State:
    """What a memory carries. Subclasses are frozen dataclasses of tensors, numbers, strings, None, states,
    and tuples or dicts of these; every tensor has the batch as axis 0.

    `owner` is no part of a state but says what made it and with which settings (owner.py); None where nobody knows. It
    stays on copies, and it is saved."""

    owner: str | None = field(default=None, kw_only=True, compare=False)

    # Whether it holds tensors in autocast's dtype while autocast is on.
    follows_autocast: ClassVar[bool] = False
    # Saved files name the class of every state in them; this finds the class again.
    _kinds: ClassVar[dict[str, type["State"]]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # The same class may be defined again (a learner's file that runs anew), another one of that name may not.
        if State._kinds.setdefault(cls.__name__, cls).__qualname__ != cls.__qualname__:
            raise TypeError(f"two kinds of state are named {cls.__name__!r}; saved states are found by that name")
        State._kinds[cls.__name__] = cls
        # A dataclass would print all of its tensors.
        if "__repr__" not in vars(cls):
            cls.__repr__ = State.__repr__

    # -- a state as a tree -------------------------------------------------------------------------------------
    def parts(self) -> dict[str, Any]:
        """The values that define this state, by name (what is saved, moved and compared)."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "owner"}

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
        return next((t.shape[0] for _, t in tree.leaves(self)), None)

    @property
    def tokens_read(self) -> int | None:
        """How many tokens were read, where the state counts them, or a state inside of it does."""
        if isinstance(getattr(self, "position", None), int):
            return self.position
        inside = tree.leaves(self.parts(), is_leaf=lambda value: isinstance(value, State))
        counts = (part.tokens_read for _, part in inside)
        return next((count for count in counts if count is not None), None)

    def __repr__(self) -> str:
        """One line: the class, rows, tokens, dtypes and bytes."""
        tensors = list(self.tensors().values())
        facts = [f"batch {len(tensors[0])}"] if tensors and tensors[0].dim() else []
        if self.tokens_read is not None:
            facts.append(f"{self.tokens_read:,} tokens")
        dtypes = dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point())
        if dtypes:
            facts.append(" and ".join(dtypes))
        facts.append(f"{self.nbytes:,} bytes")
        if tensors and tensors[0].device.type != "cpu":
            facts.append(f"on {tensors[0].device}")
        return f"{type(self).__name__}({', '.join(facts)})"

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
        with open_tensors(path, _FORMAT, "saved state", also=" and did not note what made a state") as file:
            unused = set(file.names)

            def take(name: str) -> Tensor:
                """A tensor of the file by its name, ticked off: what is left at the end belongs to no field."""
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
            # Of a file without checksums this has been said already.
            if state.owner is None and file.has_checksums:
                warnings.warn(
                    f"the saved state {path} does not say what made it: what reads it on can compare the form only.",
                    stacklevel=2,
                )
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


class Memory(StateOwner):
    """A sequence layer that reads and writes as tokens pass. Subclasses define `init_state`, `advance` and
    `state_bytes`; `forward` checks its input, so that every memory refuses the same mistakes in the same words. What
    they return as a state says that it is theirs, and with which settings of their `config` it was made: all of its
    fields but those in `outside_state`.

    `deep_path` is the path to take where a level below learns from a loss above: the memory's backward pass is then
    differentiated again, which not every fast path can be."""

    deep_path = "auto"
    # A linear layer `output` is by custom what a memory's answer leaves through. Memories with another way out say so.
    param_roles: ClassVar[Roles] = {"output.weight": INTO_STREAM}
    # Whether x is looked through for what is not a number. A model turns this off for its memories: no token brings
    # such a number in, and where the model itself overflows the loss says so.
    checks_numbers = True

    def __init__(self, width: int):
        """`width`: features of a token, D."""
        super().__init__()
        self.width = width

    def begin_in_model(self) -> None:
        """Called once a model has drawn the weights of its linear layers: for starts that it must not replace."""

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
        written into the memory like any other. Raises CourseError for an x of a wrong shape, dtype or device or with
        numbers that are not finite, and for a state of another batch, of another memory, or of another form.
        """
        self._check(x)
        state = self.init_state(x.shape[0]) if state is None else self.checked_state(state, x)
        y, after = self.advance(x, state, trace)
        if x.shape[1] > 1 and overflowed(y):
            # What broke must not reach the tokens before it. (Traces keep what was seen at once.)
            y, after = read_in_halves(self, x, state, y, after)
        return y, self.made_from(x, after)

    def _check(self, x: Tensor) -> None:
        """Raises CourseError for an x that the memory cannot read."""
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise CourseError(f"{name} takes x as a tensor (batch, time, {self.width}), not a {type(x).__name__}.")
        if x.dim() != 3 or x.shape[-1] != self.width:
            raise CourseError(f"{name} takes x of shape (batch, time, {self.width}), not {tuple(x.shape)}.")
        if not x.is_floating_point():
            raise CourseError(f"{name} takes x in a floating-point dtype, not in {x.dtype}.")
        parameter = next((p for p in self.parameters() if p.is_floating_point()), None)
        if parameter is not None:
            if x.device != parameter.device:
                raise CourseError(f"{name} is on {parameter.device} and x on {x.device}: move one of them.")
            # Autocast brings everything but float64 to a dtype of its own.
            exact = torch.float64 in (x.dtype, parameter.dtype)
            if x.dtype != parameter.dtype and (exact or not autocast_is_on(x.device)):
                raise CourseError(
                    f"{name} computes in {parameter.dtype} and x is {x.dtype}: use x.to({parameter.dtype})."
                )
        # A token that is not a number stays in a state for good. One sum costs a CPU less than any product that
        # follows. On an accelerator it would wait for the device, so there nothing is checked.
        if self.checks_numbers and x.device.type == "cpu" and overflowed(x):
            row, time, _ = (~x.isfinite()).nonzero()[0].tolist()
            raise CourseError(f"{name} was given numbers that are not finite (first in row {row}, token {time} of x).")

    def state_settings(self) -> dict[str, Any]:
        """As of every `StateOwner`; the width alone where there is no config."""
        return super().state_settings() or {"width": self.width}

    @property
    def position_period(self) -> int | None:
        """After how many tokens what a memory does depends on their number alike: 1 where it never depends on it, None
        where every position is another one (joining.py)."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
