"""Mistakes are named, and what is allowed is said."""

import numpy as np
import pytest

from nl_course.errors import CourseError, at_least, choose, whole


def test_what_is_allowed_passes_through():
    assert choose("colour", "red", ["red", "blue"]) == "red"
    assert whole("steps", 3, least=1) == 3 and whole("steps", np.int64(3)) == 3
    assert at_least("rate", 0.5, 0) == 0.5 and at_least("rate", np.float32(0.5), 0) == 0.5


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda: choose("colour", "rde", ["red", "blue"]), "colour 'rde' .* red, blue.* Did you mean 'red'"),
        (lambda: choose("colour", "zzz", ["red", "blue"]), "red, blue.$"),
        (lambda: whole("steps", 0, least=1), "steps must be a whole number of at least 1, not 0"),
        (lambda: whole("steps", 2.0), "not 2.0"),
        (lambda: whole("steps", True), "not True"),
        (lambda: at_least("rate", -1, 0), "rate must be a number of at least 0, not -1"),
        (lambda: at_least("rate", float("nan"), 0), "not nan"),
        (lambda: at_least("rate", "fast", 0), "not 'fast'"),
    ],
)
def test_mistakes(mistake, says):
    with pytest.raises(CourseError, match=says):
        mistake()
