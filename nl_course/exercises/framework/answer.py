"""A learner's function under test: called with care; what goes wrong in it is put into words."""

import math
import re
import traceback
from collections.abc import Callable
from typing import Any

import torch

from nl_course.errors import is_out_of_memory
from nl_course.limits import TimeUp


class NotAttempted(Exception):
    """The stub as it was given: it returns nothing, or raises NotImplementedError."""


class Failed(Exception):
    """A property does not hold."""


class Miss(Failed):
    """Expected against got, both short texts or values; `size` replaces the description of the last call."""

    def __init__(self, expected: Any, got: Any, size: str | None = None):
        self.expected, self.got, self.size = short(expected), short(got), size
        super().__init__(f"expected {self.expected}, got {self.got}")


class Stopped(Failed):
    """The answer raised an error: told in `words`, by the traceback's `last_line`, and by `place`."""

    def __init__(self, error: BaseException, place: str):
        kind = MemoryError if is_out_of_memory(error) else next(k for k in _IN_WORDS if isinstance(error, k))
        message = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))
        self.words = _IN_WORDS[kind]
        # Of a TimeUp a traceback would say nothing more.
        self.last_line = "" if kind is TimeUp else f"{type(error).__name__}: {message}"[:200].rstrip(": ")
        self.place = place
        super().__init__(self.last_line)


_IN_WORDS: dict[type[BaseException], str] = {
    NameError: "it uses a name that is not defined.",
    TypeError: "something was called or combined with the wrong kind or number of arguments.",
    IndexError: "it asks for an entry that is not there.",
    KeyError: "it asks for a key that is not there.",
    AttributeError: "it asks a value for something that it does not have.",
    ZeroDivisionError: "it divides by zero.",
    RecursionError: "it calls itself without an end.",
    MemoryError: "it asks for more memory than there is; look at the sizes of what it makes.",
    TimeUp: "it was still running when the time was up; look for a loop that never ends.",
    SystemExit: "it ends the program; let it return a result instead.",
    NotImplementedError: "torch has no such operation for this kind of number.",
    RuntimeError: "torch could not do an operation; mostly two shapes do not fit.",
    ValueError: "an operation was given a value that it cannot use.",
    BaseException: "it raised an error.",
}


class Answer:
    """Calls the learner's function, and remembers with what sizes (`last_call`) and what came out (`last_result`)."""

    def __init__(self, function: Callable, names: list[str]):
        self.function, self.names = function, names
        self.last_call, self.last_result, self._calls = "", "nothing", 0

    def __call__(self, *args, **kwargs):
        named = [*zip(self.names, args), *kwargs.items()]
        self.last_call = ", ".join(f"{name} {describe(value)}" for name, value in named) or "no arguments"
        self._calls += 1
        try:
            result = self.function(*args, **kwargs)
        except (Exception, SystemExit) as error:
            place = self.place(error)
            if isinstance(error, NotImplementedError) and (not place or "raise" in place):
                raise NotAttempted from None
            raise Stopped(error, place) from None
        if nothing(result):
            if self._calls == 1:
                raise NotAttempted
            raise Miss("a result", "nothing (is a `return` missing?)")
        self.last_result = (
            short(result) if isinstance(result, torch.Tensor) else f"a value of type {type(result).__name__}"
        )
        return result

    def place(self, error: BaseException) -> str:
        """The last line of the learner's own code that was running, e.g. "line 3: scores = q @ k"."""
        code = getattr(self.function, "__code__", None)
        stack = traceback.extract_tb(error.__traceback__)
        frames = [frame for frame in stack if code and frame.filename == code.co_filename]
        if not frames or not frames[-1].line:
            return ""
        return f"line {frames[-1].lineno}: {frames[-1].line.strip()}"


def nothing(value: Any) -> bool:
    """Whether a stub returned this: None, `...`, NotImplemented, or a tuple of nothing else."""
    if isinstance(value, tuple) and value:
        return all(nothing(part) for part in value)
    return value is None or value is Ellipsis or value is NotImplemented


def describe(value: Any) -> str:
    """The size of an argument: a tensor's shape, a number itself, a tuple's parts."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape)) if value.ndim else "= " + short(value)
    if isinstance(value, (tuple, list)) and any(isinstance(part, torch.Tensor) for part in value):
        return "[" + ", ".join(describe(part) for part in value) + "]"
    if callable(value):
        return "(a function)"
    return f"= {short(value)}"


def short(value: Any) -> str:
    """A value in a few characters: numbers with four digits, small tensors in full, large ones by shape."""
    if isinstance(value, str):
        return value
    if isinstance(value, torch.Tensor):
        if value.ndim == 0:
            return short(value.item())
        if value.numel() > 6:
            return f"a tensor of shape {tuple(value.shape)}"
        return str(value.tolist()) if not value.is_floating_point() else _rounded(value.tolist())
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, (tuple, list)) and len(value) <= 6:
        left, right = "()" if isinstance(value, tuple) else "[]"
        return left + ", ".join(short(part) for part in value) + right
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _rounded(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_rounded(part) for part in value) + "]"
    if math.isfinite(value) and value == int(value) and abs(value) < 1e7:
        return str(int(value))
    digits = ".0f" if 1e4 <= abs(value) < 1e9 else ".4g"
    return format(value, digits)


def unlike(expected: Any, got: Any) -> tuple[str, str]:
    """Two different values as texts that differ: with four digits, or with twelve where four look alike."""
    if short(expected) == short(got) and all(isinstance(x, float) for x in (expected, got)):
        return f"{expected:.12g}", f"{got:.12g}"
    return short(expected), short(got)
