"""Refusals for weights and options of other people's code: what lacks, is too many or does not fit is named."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from nl_course.errors import CourseError


class AssumedOption(UserWarning):
    """An option that changes numbers was not given, so that the authors' value was taken."""


def warn_of_assumed(values: Mapping[str, Any]) -> None:
    """Warns, where the loader was called, that these options by name were not given and what was taken for them."""
    if values:
        listed = ", ".join(f"{name} {value}" for name, value in values.items())
        warnings.warn(
            f"assumed, as in the authors' code: {listed}. Pass config= or these arguments.", AssumedOption, stacklevel=4
        )


def one_value(ours: str, argument: Any, theirs: str, stated: Any) -> Any:
    """The argument `ours` or what a config states as `theirs` (None: not given). Raises CourseError if both are given
    and differ."""
    if argument is None:
        return stated
    if stated is not None and stated != argument:
        raise CourseError(f"{ours} is {argument!r}, and the config's {theirs} is {stated!r}: give one of them.")
    return argument


def check_size(name: str, stated: Any, value: Any, source: str) -> None:
    """Raises CourseError if a config states something else than `value`, which is in the tensors `source`."""
    if stated != value:
        raise CourseError(f"{name} is {stated!r}, but the weights say {value!r}: see {source}.")


def check_names(weights: Iterable[str], expected: Iterable[str], what: str) -> None:
    """Raises CourseError unless the names in `weights` are exactly the `expected` ones. The message says of `what`."""
    present, expected = set(weights), set(expected)
    missing = sorted(expected - present)
    if missing:
        raise CourseError(f"the weights of {what} lack {', '.join(missing)}.")
    extra = sorted(present - expected)
    if extra:
        raise CourseError(f"the weights of {what} have names that it does not know: {', '.join(extra)}.")


def check_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CourseError for the first tensor whose shape is not the one that `shapes` has for its name."""
    for name, tensor in weights.items():
        if name in shapes and tuple(tensor.shape) != tuple(shapes[name]):
            raise CourseError(f"{name} must have the shape {tuple(shapes[name])}, not {tuple(tensor.shape)}.")
