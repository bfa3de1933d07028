"""Mistakes are named, and what is allowed is said."""

import numpy as np
import pytest
import torch

from nl_course.errors import (
    LARGEST_INT,
    CourseError,
    check_bool,
    check_choice,
    check_int,
    check_min,
    check_positive,
    check_text,
    is_out_of_memory,
)

NO_NUMBERS = (-1, float("nan"), float("inf"), 10**400, "1", True, None)


def test_what_is_allowed_passes_through():
    assert check_choice("colour", "red", ["red", "blue"]) == "red"
    assert check_int("steps", 3, least=1) == 3 and check_int("steps", np.int64(3)) == 3
    assert check_int("seed", LARGEST_INT) == LARGEST_INT
    assert check_text("name", "é 😀") == "é 😀"
    assert check_min("rate", 0.5, 0) == 0.5 and check_min("rate", np.float32(0.5), 0) == 0.5
    assert check_positive("theta", 1e-300) == 1e-300 and check_positive("theta", 10_000) == 10_000
    assert check_bool("gate", False) is False


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda: check_choice("colour", "rde", ["red", "blue"]), "colour 'rde' .* red, blue.* Did you mean 'red'"),
        (lambda: check_choice("colour", "zzz", ["red", "blue"]), "red, blue.$"),
        (lambda: check_int("steps", 0, least=1), "steps must be a whole number of at least 1, not 0"),
        (lambda: check_int("steps", 2.0), "not 2.0"),
        (lambda: check_int("steps", True), "not True"),
        (
            lambda: check_int("seed", 2**70),
            "seed must be .* at most 9,223,372,036,854,775,807, not 1180",
        ),
        (lambda: check_int("seed", 10**5000), "not a number of 16,610 bits"),
        (lambda: check_int("port", 70_000, 1, 65_535), "port must be a whole number from 1 to 65,535, not 70000"),
        (lambda: check_choice("colour", "x" * 1000, ["red"]), r"colour 'x{56}\.\.\. is not known"),
        (lambda: check_min("rate", -1, 0), "rate must be a number of at least 0, not -1"),
        (lambda: check_min("rate", float("nan"), 0), "not nan"),
        (lambda: check_min("rate", "fast", 0), "not 'fast'"),
        (lambda: check_min("rate", float("inf"), 0), "rate must be a finite number of at least 0, not inf"),
        (lambda: check_min("rate", 10**400, 0), "finite number"),
        (lambda: check_text("the name", "a\ud83d"), "the name holds .* at position 1, which is half a character"),
        *[(lambda v=v: check_positive("theta", v), "theta must be a .*number of at least 0") for v in NO_NUMBERS],
        (lambda: check_positive("theta", 0), "theta must be above 0, not 0"),
        *[(lambda v=v: check_bool("gate", v), "gate must be True or False, not") for v in ("no", 0, 1, None)],
    ],
)
def test_mistakes(mistake, says):
    with pytest.raises(CourseError, match=says):
        mistake()


class OwnOutOfMemory(MemoryError):
    pass


@pytest.mark.parametrize(
    "demand",
    [
        lambda: torch.zeros(10**14),
        lambda: torch.empty(2**62),
        lambda: torch.zeros(2**40, 2**40),
        lambda: [0] * 10**15,
        lambda: np.zeros(10**15),
        lambda: raised(torch.OutOfMemoryError("CUDA out of memory.")),
        lambda: raised(RuntimeError("std::bad_alloc")),
        lambda: raised(OwnOutOfMemory()),
    ],
)
def test_a_want_of_memory_is_known_whoever_reports_it(demand):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        demand()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError('Error(s) in loading state_dict: Missing key(s): "layers.0.memory.query.weight".'),
        RuntimeError("a view of memory that is shared"),
        ValueError("std::bad_alloc"),
        RecursionError("maximum recursion depth exceeded"),
    ],
)
def test_an_error_that_only_speaks_of_memory_is_none(error):
    assert not is_out_of_memory(error)


def raised(error):
    raise error
