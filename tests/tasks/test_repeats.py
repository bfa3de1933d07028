"""Strings that repeat do repeat, and are random otherwise."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.repeats import repeated_passages, repeated_strings


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


def test_blanks_make_words_and_still_repeat():
    text = repeated_strings(rows=50, length=80, period=40, seed=0, blanks=0.25)
    assert torch.equal(text[:, 40:], text[:, :-40])
    assert 0.2 < (text == ord(" ")).float().mean() < 0.3


def test_passages_are_of_the_text_and_repeat():
    stream = torch.arange(200, dtype=torch.uint8)
    text = repeated_passages(stream, rows=100, length=40, period=(5, 9), seed=0)
    assert text.shape == (100, 40) and text.dtype == torch.int64
    for row in text:
        period = next(p for p in range(1, 40) if torch.equal(row[p:], row[:-p]))
        assert 5 <= period <= 9 and torch.equal(row[:period], row[0] + torch.arange(period))
    assert int(text.max()) <= 199 and torch.equal(text, repeated_passages(stream, 100, 40, (5, 9), 0))
    with pytest.raises(CourseError, match="too short for passages of 9 bytes: it has 8"):
        repeated_passages(stream[:8], 1, 10, (5, 9), 0)
