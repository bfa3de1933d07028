"""Whom a state belongs to, and whether it fits.

The matrices of linear attention and of the delta rule have one shape and mean different things; so do the weights of
Titans with chunks of 4 and of 16 tokens. Read on by the wrong memory, such a state would give wrong numbers without a
word. So every state carries the name and the settings of what made it, as one line of JSON:

    state.owner == '{"name": "retnet", "settings": {"width": 64, "heads": 4, ...}}'

A setting counts if the state's meaning depends on it. How fast something is computed, and which numbers training has
found, do not count. A state without an owner was made by hand, or by an earlier version of the course: of such a state
only the form can be checked.

And every state has the form that `init_state` gives it: the same classes, names and shapes, and in every tensor the
same dtype. A tensor of a lower precision is brought to that dtype before it is read, which loses nothing. One of a
higher precision is refused: only the user can say that it may be rounded, by `state.to(dtype)`. Autocast does say so
for the caches of attention: inside of it they are kept in autocast's dtype (cache.py). None of this depends on how many
tokens are read.

When torch.compile traces a call, the owner is compared and the form is not.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import wraps
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_int
from nl_course.memories import tree
from nl_course.renamed import MEMORY_CONFIGS, translate

REMEDY = "Read a state on with what made it, or with a twin of the same settings; without a state a text begins anew."
# The configs of models, by what the models are called.
MODEL_CONFIGS = {"LanguageModel": "ModelConfig", "NestedLanguageModel": "NestedConfig"}
_PROBE = 33  # tokens after which a memory whose state changes its form has shown it


class StateOwner(nn.Module):
    """What memories and models have in common: their states know them, and they know their states."""

    # What the course calls it, e.g. "titans"; a class that says nothing is called by its own name.
    owner_name: ClassVar[str] = ""
    # Fields of the config that do not change what a state means: they change the speed, training or a first start only.
    outside_state: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # torch derives classes of its own, for sharded modules: they keep the name.
        if "owner_name" not in vars(cls) and not cls.__module__.startswith("torch."):
            cls.owner_name = cls.__name__
        for name, wrapped in (("init_state", _with_owner), ("state_bytes", _with_counts_checked)):
            if name in vars(cls):
                setattr(cls, name, wrapped(vars(cls)[name]))

    # -- whose a state is ----------------------------------------------------------------------------------------
    @property
    def owner(self) -> str:
        """What its states carry: its name and settings, as JSON."""
        return self._described()

    def _described(self) -> str:
        """The owner, made once per config."""
        known = vars(self).get("_owner")
        config = getattr(self, "config", None)
        if known is None or known[0] is not config:
            text = json.dumps({"name": self.owner_name, "settings": self.state_settings()})
            known = self.__dict__["_owner"] = (config, text)
        return known[1]

    # What torch.compiler.assume_constant_result sets: the compiler takes the string and does not look inside. That
    # function is not called here, because it imports the whole compiler.
    _described._dynamo_marked_constant = True

    def state_settings(self) -> dict[str, Any]:
        """The settings on which a state's meaning depends, as JSON holds them: those of `config`, if it is a dataclass,
        without `outside_state`."""
        config = getattr(self, "config", None)
        if not is_dataclass(config):
            return {}
        return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in self.outside_state}

    def default_settings(self) -> dict[str, Any]:
        """What a setting was before it could be chosen: the config's defaults, as far as there are any."""
        config = getattr(self, "config", None)
        known = fields(config) if is_dataclass(config) else ()
        return {f.name: _plain(f.default) for f in known if f.default is not MISSING}

    def check_owner(self, state: Any) -> None:
        """Raises CourseError if the state says that something else made it, or was made with other settings."""
        theirs = state.owner
        if theirs is not None and theirs != self.owner:
            differs = self._difference_from(theirs)
            if differs is not None:
                raise CourseError(f"this state {differs}. {REMEDY}")

    def _difference_from(self, theirs: str) -> str | None:
        return difference(theirs, self.owner, self.default_settings())

    _difference_from._dynamo_marked_constant = True

    def owned(self, state: Any) -> Any:
        """The state with its owner written on it."""
        owner = self.owner
        if getattr(state, "owner", owner) == owner:
            return state
        try:
            return replace(state, owner=owner)
        except TypeError:  # a class that builds its states in a way of its own
            return state

    def made_from(self, x: Tensor, state: Any) -> Any:
        """A state that was just made by reading x (B, ...), with its owner written on it."""
        return trusted(self.owned(state), x)

    # -- whether a state fits ------------------------------------------------------------------------------------
    def checked_state(self, state: Any, x: Tensor, inside: bool = False) -> Any:
        """A state for x (B, ...), in the dtypes of `init_state`. Raises CourseError if it is of another batch, belongs
        to something else, or does not fit. `inside`: see `fitted`."""
        if is_trusted(state, x) and state.owner == self.owner:
            return state
        name = type(self).__name__
        if not (tree.is_state(state) and hasattr(state, "owner")):
            raise CourseError(f"{name} takes a state that it has returned, not {_in_words(state)}.")
        self.check_owner(state)
        rows, rows_of_state = x.shape[0], _rows_of(state)
        if rows_of_state not in (None, rows):
            raise CourseError(f"{name} was given {rows} rows of x and a state of {rows_of_state} rows.")
        return fitted(self, state, x, inside)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's. Weights that do not fit are a CourseError of one line."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            name = type(self).__name__
            text = " ".join(str(error).removeprefix(f"Error(s) in loading state_dict for {name}:").split())
            raise CourseError(f"the weights do not fit {name}: {text:.400}{' ...' * (len(text) > 400)}") from error


def _with_owner(init_state: Callable) -> Callable:
    """`init_state` with the owner on what it returns."""

    @wraps(init_state)
    def with_owner(self: StateOwner, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            check_int("batch_size", batch_size)
        return self.owned(init_state(self, batch_size, *args, **kwargs))

    return with_owner


def _with_counts_checked(state_bytes: Callable) -> Callable:
    """`state_bytes` that refuses what is no count."""

    @wraps(state_bytes)
    def with_counts_checked(self: StateOwner, tokens: int, batch_size: int = 1) -> int:
        return state_bytes(self, check_int("tokens", tokens), check_int("batch_size", batch_size))

    return with_counts_checked


# -- settings as JSON --------------------------------------------------------------------------------------------------
def _plain(value: Any) -> Any:
    """A setting as JSON holds it, the same in every process."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(inside) for name, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inside) for inside in value]
    # A function has an address in its text, which changes from run to run.
    return getattr(value, "__qualname__", None) or repr(value).partition(" at 0x")[0]


def difference(theirs: str, ours: str, defaults: Mapping[str, Any]) -> str | None:
    """How two owners differ, in words that follow "this state"; None if they mean the same. A setting that `theirs`
    lacks was not there when the state was made; then it counts as its default."""
    their_name, their_settings = _parsed(theirs)
    our_name, our_settings = _parsed(ours)
    if their_name != our_name:
        return f"was made by {their_name}, and this is {our_name}"
    given, expected = _flat(_filled(their_settings, our_settings, defaults)), _flat(our_settings)
    for name in dict.fromkeys([*expected, *given]):
        before, now = (settings.get(name, "not there") for settings in (given, expected))
        if before != now:
            return f"was made by {their_name} with {name} {before!r}, and here {name} is {now!r}"
    return None


def _parsed(owner: str) -> tuple[str, dict[str, Any]]:
    """Name and settings, under the names of today."""
    try:
        said = json.loads(owner)
        name, settings = said["name"], dict(said["settings"])
    except (TypeError, ValueError, KeyError):
        return f"{owner!r:.50}", {}
    _, settings = translate({**MEMORY_CONFIGS, **MODEL_CONFIGS}.get(name, name), settings)
    return name, settings


def _filled(theirs: dict[str, Any], ours: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`theirs` with the defaults of what only `ours` has, also inside of options."""
    filled = dict(theirs)
    for name, default in defaults.items():
        if name not in ours:
            continue
        if name not in filled:
            filled[name] = default
        elif isinstance(default, Mapping) and isinstance(filled[name], dict) and isinstance(ours[name], dict):
            filled[name] = _filled(filled[name], ours[name], default)
    return filled


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    """Every single setting by its dotted path."""
    if not isinstance(settings, (dict, list)):
        return {path: settings}
    flat = {}
    for name, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
        flat |= _flat(value, tree.join(path, str(name)))
    return flat


# -- the form of a state -----------------------------------------------------------------------------------------------
class Misfit(Exception):
    """A state does not have the form that it should have; the message says where and how."""


@dataclass(frozen=True)
class Form:
    """What a part of a state is, without its numbers: its class, and its `children` by name; of a tensor the `shape`
    behind the batch and the dtype. A length of 0 allows any, since such an axis grows with the text. `complete` False:
    somebody else looks into this part, as a memory does inside a model."""

    kind: type
    children: dict[str, "Form"]
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    complete: bool = True

    @classmethod
    def of(cls, part: Any, dtype: torch.dtype, stops: Callable[[Any], bool]) -> "Form":
        """The form of a part of a state, whose insides count unless `stops(part)`. `dtype` is the parameters': an empty
        tensor has no numbers that would say what it will hold."""
        if isinstance(part, Tensor):
            empty = part.numel() == 0 and part.is_floating_point()
            kept = torch.promote_types(part.dtype, dtype) if empty else part.dtype
            return cls(Tensor, {}, tuple(part.shape[1:]), kept)
        if stops(part):
            return cls(type(part), {}, complete=False)
        children = {name: cls.of(child, dtype, stops) for name, child in tree.children(part).items()}
        return cls(type(part), children)


class Reading(NamedTuple):
    """What is read with a state: so many rows of a dtype, on a device, inside of autocast or not."""

    rows: int
    device: torch.device
    dtype: torch.dtype
    autocast: bool = False

    @classmethod
    def of(cls, x: Tensor) -> "Reading":
        """That of x (B, ...)."""
        return cls(x.shape[0], x.device, x.dtype, autocast_is_on(x.device))

    def check(self, part: Any, form: Form, path: str = "") -> bool:
        """Whether a tensor in `part` has to be brought to a higher precision. Raises Misfit unless it has the form."""
        if form.kind is Tensor:
            is_narrow = self.check_tensor(part, form.dtype, path)
            self._check_shape(part, form.shape, path)
            return is_narrow
        if not _is_kind(part, form.kind):
            raise Misfit(f"{path or 'it'} is {_in_words(part)} and should be {_article(form.kind)}")
        if not form.complete:
            return False
        try:
            children = tree.children(part)
        except Exception as error:  # a part from which the others follow is damaged
            raise Misfit(f"{path or 'it'} has parts that do not go together ({error})") from None
        if children.keys() != form.children.keys():
            raise Misfit(f"{path or 'it'} holds {_names(children)} and should hold {_names(form.children)}")
        narrow = [self.check(child, form.children[name], tree.join(path, name)) for name, child in children.items()]
        return any(narrow)

    def check_tensor(self, part: Any, kept: torch.dtype, path: str) -> bool:
        """Whether it has to be brought to the dtype `kept`. Raises Misfit unless it is a tensor for these rows, on this
        device, for which that can be done."""
        if not isinstance(part, Tensor):
            raise Misfit(f"{path} is {_in_words(part)} and should be a tensor")
        if part.dim() == 0 or part.shape[0] != self.rows:
            raise Misfit(f"{path} has the shape {tuple(part.shape)} and should have {self.rows} rows")
        if part.device != self.device:
            raise Misfit(f"{path} is on {part.device} and x on {self.device}; state.to({str(self.device)!r}) moves it")
        if part.dtype == kept:
            return False
        if part.is_floating_point() != kept.is_floating_point:
            raise Misfit(f"{path} is {part.dtype} and should be {kept}")
        if part.numel() and torch.promote_types(part.dtype, kept) != kept:
            raise Misfit(
                f"{path} is {part.dtype}, which would be rounded to {kept} here; state.to({kept}) says that it may be"
            )
        return True

    def _check_shape(self, part: Tensor, wanted: tuple[int, ...], path: str) -> None:
        if part.dim() != 1 + len(wanted):
            raise Misfit(f"{path} has the shape {tuple(part.shape)} and should have {1 + len(wanted)} axes")
        for size, length in zip(part.shape[1:], wanted):
            if length not in (0, size):
                sizes = ", ".join(str(n) if n else "any" for n in (self.rows, *wanted))
                raise Misfit(f"{path} has the shape {tuple(part.shape)} and should have ({sizes})")

    def widened(self, part: Any, form: Form) -> Any:
        """`part`, which has the form, with every tensor in the form's dtype. Inside of autocast caches stay as they
        are."""
        if form.kind is Tensor:
            return part.to(form.dtype)
        if not form.children or (self.autocast and getattr(part, "follows_autocast", False)):
            return part
        children = {name: self.widened(child, form.children[name]) for name, child in tree.children(part).items()}
        return tree.with_children(part, children)


def _rows_of(state: Any) -> int | None:
    """Rows of the batch; None where the state is too damaged to say so."""
    try:
        return state.batch_size
    except Exception:
        return None


def fitted(module: nn.Module, state: Any, x: Tensor, inside: bool = False) -> Any:
    """The state in the dtypes that the module's `init_state` gives it, for x (B, ...). Raises CourseError if it has
    another form. `inside` True: the module is around memories, which look after their own states."""
    # The compiler would look at every name and shape, in every state, each time that it traces a call.
    if torch.compiler.is_compiling():
        return state
    reading = Reading.of(x)
    try:
        if changes_form(module):
            return _in_dtypes(module, state, reading)
        return _in_form(module, state, reading, inside)
    except Misfit as misfit:
        name = getattr(module, "owner_name", None) or type(module).__name__
        raise CourseError(f"this state does not fit {name}: {misfit}.") from None


def trusted(state: Any, x: Tensor) -> Any:
    """The same state, which was just made while x was read: it fits what comes next, if that is read like x. To look
    through every state again would take a tenth of the time that attention needs for a token."""
    if not torch.compiler.is_compiling():
        object.__setattr__(state, "_fits", tuple(Reading.of(x)))  # no part of the state: none of its copies has it
    return state


def is_trusted(state: Any, x: Tensor) -> bool:
    """Whether it was made by reading what is like x."""
    if torch.compiler.is_compiling():
        return False
    return getattr(state, "_fits", None) == Reading.of(x)


def _in_form(module: nn.Module, state: Any, reading: Reading, inside: bool) -> Any:
    """`fitted` for modules whose every state has the form of the first: all of the course's."""
    form = _form_of(module, reading, inside)
    try:
        is_narrow = reading.check(state, form)
    except Misfit:
        # What stands in for a part of the module may have changed what it keeps since its form was taken.
        form = _form_of(module, reading, inside, anew=True)
        try:
            is_narrow = reading.check(state, form)
        except Misfit:
            if not inside:
                _look_for_changes(module, form, reading)
            if not changes_form(module):
                raise
            return _in_dtypes(module, state, reading)
    return reading.widened(state, form) if is_narrow else state


def _form_of(module: nn.Module, reading: Reading, inside: bool, anew: bool = False) -> Form:
    """The form of what `init_state` gives, outside of autocast; made once per dtype of the parameters."""
    dtype = _dtype_of(module, reading)
    known = vars(module).get("_form")
    if known is None or known[0] != dtype or anew:
        with torch.no_grad(), _without_autocast(reading.device):
            first = module.init_state(1)

        def is_looked_after(part: Any) -> bool:
            return inside and part is not first and getattr(part, "owner", None) is not None

        known = module.__dict__["_form"] = (dtype, Form.of(first, dtype, is_looked_after))
    return known[1]


def autocast_is_on(device: torch.device) -> bool:
    """Whether this is inside of autocast for that kind of device; torch's own question fails for kinds that have
    none."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _without_autocast(device: torch.device) -> AbstractContextManager:
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _dtype_of(module: nn.Module, reading: Reading) -> torch.dtype:
    """Of the parameters; without any, of what is read."""
    parameter = next(module.parameters(), None)
    return reading.dtype if parameter is None else parameter.dtype


# -- a learner's memory may begin with None, or with a column that is no token: then its first state has no say --------
def changes_form(module: nn.Module) -> bool:
    """Whether the module is known to make states of other forms than its first."""
    return bool(vars(module).get("_own_dtypes"))


def _look_for_changes(module: nn.Module, form: Form, reading: Reading) -> None:
    """Notes in `_own_dtypes` the dtype of each tensor in the states that a memory makes, if some of them have other
    forms than its first."""
    if "_own_dtypes" in vars(module):
        return
    module.__dict__["_own_dtypes"] = {}
    x = torch.zeros(1, 1, module.width, device=reading.device, dtype=_dtype_of(module, reading))
    one_row = Reading.of(x)
    changes = False
    dtypes = {}
    try:
        with torch.no_grad(), _without_autocast(x.device):
            state = module.init_state(1)
            for _ in range(_PROBE):
                _, state = module.advance(x, state, None)
                dtypes |= {path: tensor.dtype for path, tensor in tree.leaves(state)}
                changes = changes or not _has(one_row, state, form)
    except Exception:  # whatever stops it, it is not what is asked here
        return
    if changes:
        module.__dict__["_own_dtypes"] = dtypes


def _has(reading: Reading, state: Any, form: Form) -> bool:
    """Whether the state has the form."""
    try:
        reading.check(state, form)
    except Misfit:
        return False
    return True


def _in_dtypes(module: nn.Module, state: Any, reading: Reading) -> Any:
    """`fitted` for a memory that changes the form of its state: rows, device and dtypes are all that can be checked."""
    dtypes = vars(module)["_own_dtypes"]
    kept = [dtypes.get(path, tensor.dtype) for path, tensor in tree.leaves(state)]
    narrow = []
    for (path, tensor), dtype in zip(tree.leaves(state), kept, strict=True):
        narrow.append(reading.check_tensor(tensor, dtype, path))
    if not any(narrow):
        return state
    in_order = iter(kept)
    return tree.map_leaves(state, lambda tensor: tensor.to(next(in_order)))


# -- in words ----------------------------------------------------------------------------------------------------------
def _is_kind(part: Any, kind: type) -> bool:
    """Whether `part` is of that class; a class that was defined anew under its name counts as the same."""
    if kind is int:
        return isinstance(part, Integral) and not isinstance(part, bool)
    if kind is float:
        return isinstance(part, Real) and not isinstance(part, bool)
    if issubclass(kind, dict):
        return isinstance(part, dict)
    return isinstance(part, kind) or type(part).__qualname__ == kind.__qualname__


def _in_words(part: Any) -> str:
    """What stands where something else should."""
    if part is None:
        return "None"
    return f"{_article(Tensor)} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else _article(type(part))


def _article(kind: type) -> str:
    name = {Tensor: "tensor", type(None): "None", int: "whole number"}.get(kind, kind.__name__)
    if name == "None":
        return name
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def _names(children: Mapping[str, Any]) -> str:
    return ", ".join(children) or "nothing"
