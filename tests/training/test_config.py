"""Settings that are no numbers are refused before anything is built, each in one line."""

import math
from dataclasses import fields

import pytest

from nl_course.errors import CourseError
from nl_course.training import TrainingConfig

NUMBERS = [f.name for f in fields(TrainingConfig) if type(f.default) in (int, float)]
NO_NUMBERS = [math.nan, math.inf, -math.inf, -1, 10**400, "3", None, True, [1]]


def refusal(**settings) -> str:
    with pytest.raises(CourseError) as refused:
        TrainingConfig(**settings)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
    return str(refused.value)


def test_the_numbers_are_all_here():
    assert len(NUMBERS) == 14 and {"learning_rate", "inner_warmup", "seed", "evaluate_every"} <= set(NUMBERS)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:8])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused_by_name(name, value):
    assert refusal(**{name: value}).startswith(f"{name} must be a")


@pytest.mark.parametrize(
    "betas",
    [(math.nan, 0.9), (0.9, math.inf), (0.9, 1.0), (-0.1, 0.9), (0.9,), (0.9, 0.9, 0.9), 0.9, None, "ab", ("0", 0), {}],
    ids=str,
)
def test_betas_that_are_none_are_refused(betas):
    assert refusal(betas=betas).startswith("betas must be")


@pytest.mark.parametrize("value", ["no", 1, None, math.nan])
def test_a_switch_is_true_or_false(value):
    assert refusal(recompute=value).startswith("recompute must be True or False")
    assert refusal(checkpoint_blocks=value).startswith("checkpoint_blocks must be True or False")


@pytest.mark.parametrize("value", [None, [("foreach", True)], "foreach", 3])
def test_options_of_an_optimizer_go_by_name(value):
    assert refusal(optimizer_options=value).startswith("optimizer_options must be a dict")
