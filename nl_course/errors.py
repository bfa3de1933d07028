"""One kind of error for everything a user can get wrong: it names what was wrong and says what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real


class CourseError(ValueError):
    """Bad input. The command line prints its message on one line and exits with code 2."""


def check_choice(what: str, value: object, allowed: Iterable[str]) -> str:
    """Returns `value` if it is one of `allowed`, else raises a CourseError that lists them and guesses a typo."""
    allowed = list(allowed)
    if value in allowed:
        return str(value)
    close = get_close_matches(str(value), allowed, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise CourseError(f"{what} {value!r} is not known; choose one of: {', '.join(allowed)}.{guess}")


def check_min(what: str, value: int | float, least: int | float) -> int | float:
    """Returns `value` if it is a number of at least `least`, else raises a CourseError."""
    # True and False are numbers to Python, and `not >=` also catches what is not a number (NaN).
    if isinstance(value, bool) or not isinstance(value, Real) or not value >= least:
        raise CourseError(f"{what} must be a number of at least {least}, not {value!r}.")
    return value


def check_int(what: str, value: int, least: int = 0) -> int:
    """Returns `value` if it is a whole number of at least `least`, else raises a CourseError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise CourseError(f"{what} must be a whole number of at least {least}, not {value!r}.")
    return value
