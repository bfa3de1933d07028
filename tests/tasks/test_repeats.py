"""Strings that repeat do repeat, and are random otherwise."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.repeats import repeated_strings


def test_every_row_repeats_with_the_period_and_rows_differ():
    text = repeated_strings(rows=5, length=40, period=13, seed=0)
    assert text.shape == (5, 40) and text.dtype == torch.int64
    assert torch.equal(text[:, 13:], text[:, :-13])
    assert len({tuple(row.tolist()) for row in text}) == 5
    assert text.min() >= ord("a") and text.max() <= ord("z")
    assert torch.equal(text, repeated_strings(5, 40, 13, 0)) and not torch.equal(text, repeated_strings(5, 40, 13, 1))


def test_rows_draw_their_own_period_between_the_two():
    text = repeated_strings(rows=200, length=60, period=(4, 9), seed=0)
    found = {next(p for p in range(1, 60) if torch.equal(row[p:], row[:-p])) for row in text}
    assert found == set(range(4, 10))


@pytest.mark.parametrize("period", [0, (5, 4), (0, 3)])
def test_an_impossible_period_is_named(period):
    with pytest.raises(CourseError, match="period"):
        repeated_strings(1, 10, period, 0)
