"""One kind of error for everything a user can get wrong: it names what was wrong and says what is allowed."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from math import isfinite
from numbers import Integral, Real

LARGEST_INT = 2**63 - 1  # torch counts and seeds with 64 bits

# Exit codes of the command line; `nl_course/app/cli.py` says what each of them means.
DONE, FOUND, REFUSED, FAULT, INTERRUPTED = 0, 1, 2, 3, 130


class CourseError(ValueError):
    """Bad input. The command line prints its message on one line and exits with code 2."""


def check_choice(what: str, value: object, allowed: Iterable[str]) -> str:
    """Returns `value` if it is one of `allowed`, else raises a CourseError that lists them and guesses a typo."""
    allowed = list(allowed)
    if value in allowed:
        return str(value)
    close = get_close_matches(str(value), allowed, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise CourseError(f"{what} {shortened(value)} is not known; choose one of: {', '.join(allowed)}.{guess}")


def check_min(what: str, value: int | float, least: int | float) -> int | float:
    """Returns `value` if it is a finite number of at least `least`, else raises a CourseError."""
    # True and False are numbers to Python, and `not >=` also catches what is not a number (NaN).
    if isinstance(value, bool) or not isinstance(value, Real) or not value >= least:
        raise CourseError(f"{what} must be a number of at least {least}, not {shortened(value)}.")
    try:
        finite = isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits, which no float holds
        finite = False
    if not finite:
        raise CourseError(f"{what} must be a finite number of at least {least}, not {shortened(value)}.")
    return value


def check_positive(what: str, value: int | float) -> int | float:
    """Returns `value` if it is a finite number above 0, else raises a CourseError."""
    if check_min(what, value, 0) == 0:
        raise CourseError(f"{what} must be above 0, not {shortened(value)}.")
    return value


def check_bool(what: str, value: bool) -> bool:
    """Returns `value` if it is True or False, else raises a CourseError: most strings, "no" among them, count as True
    to Python."""
    if not isinstance(value, bool):
        raise CourseError(f"{what} must be True or False, not {shortened(value)}.")
    return value


def check_int(what: str, value: int, least: int = 0, most: int = LARGEST_INT) -> int:
    """Returns `value` if it is a whole number from `least` to `most`, else raises a CourseError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        allowed = f"of at least {least}" if most == LARGEST_INT else f"from {least} to {most:,}"
        if isinstance(value, Integral) and value > most == LARGEST_INT:
            allowed = f"of at most {most:,}"
        raise CourseError(f"{what} must be a whole number {allowed}, not {shortened(value)}.")
    return value


def check_text(what: str, value: str) -> str:
    """Returns `value` if it can be written as UTF-8, else raises a CourseError.

    A Python string may hold half of a surrogate pair, from a damaged file name or a cut-off emoji, that no file holds.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CourseError(
            f"{what} holds {value[error.start]!r} at position {error.start}, which is half a character; "
            "remove it or write the whole character."
        ) from None
    return value


def shortened(value: object, most: int = 60) -> str:
    """A value as it stands in a message, `repr(value)` cut to `most` characters."""
    # Python refuses to write out whole numbers of more than 4,300 digits.
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return f"a number of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


# How torch's allocators say in a RuntimeError that there is no more memory. Other errors may well speak of a memory:
# here every second parameter is called `memory`.
_NO_MEMORY = (
    "std::bad_alloc",
    "std::bad_array_new_length",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "Storage size calculation overflowed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, or that a size is beyond any memory."""
    if isinstance(error, MemoryError):
        return True
    # `errors` does not import torch: where nobody has, the error is not one of torch's.
    torch = sys.modules.get("torch")
    if isinstance(error, getattr(torch, "OutOfMemoryError", ())):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
