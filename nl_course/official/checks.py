"""Refusals for weights of other people's code: every tensor that lacks, is too many or does not fit is named."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from nl_course.errors import CourseError


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
