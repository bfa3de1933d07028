"""Mistakes are named, and what is allowed is said."""

import numpy as np
import pytest

from nl_course.errors import CourseError, check_choice, check_int, check_min


def test_what_is_allowed_passes_through():
    assert check_choice("colour", "red", ["red", "blue"]) == "red"
    assert check_int("steps", 3, least=1) == 3 and check_int("steps", np.int64(3)) == 3
    assert check_min("rate", 0.5, 0) == 0.5 and check_min("rate", np.float32(0.5), 0) == 0.5


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda: check_choice("colour", "rde", ["red", "blue"]), "colour 'rde' .* red, blue.* Did you mean 'red'"),
        (lambda: check_choice("colour", "zzz", ["red", "blue"]), "red, blue.$"),
        (lambda: check_int("steps", 0, least=1), "steps must be a whole number of at least 1, not 0"),
        (lambda: check_int("steps", 2.0), "not 2.0"),
        (lambda: check_int("steps", True), "not True"),
        (lambda: check_min("rate", -1, 0), "rate must be a number of at least 0, not -1"),
        (lambda: check_min("rate", float("nan"), 0), "not nan"),
        (lambda: check_min("rate", "fast", 0), "not 'fast'"),
    ],
)
def test_mistakes(mistake, says):
    with pytest.raises(CourseError, match=says):
        mistake()
