"""The bound in bits: ends by hand, a scheme that nobody can beat, and the inverse."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling.information import least_bits, most_recall


def test_all_right_takes_all_bits_and_guessing_none():
    assert least_bits(10, 1024, 1.0) == 100
    assert least_bits(10, 1024, 1 / 1024) == least_bits(10, 1024, 0.0) == 0
    assert least_bits(0, 2, 1.0) == 0


def test_one_bit_that_is_right_nine_times_in_ten():
    h = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    assert least_bits(1, 2, 0.9) == pytest.approx(1 - h)  # the capacity of a channel that flips one bit in ten


@given(st.integers(2, 10**5), st.floats(0, 1))
def test_keeping_some_facts_whole_and_guessing_the_rest_needs_no_fewer(choices, kept):
    recall = kept + (1 - kept) / choices
    assert least_bits(1000, choices, min(1, recall)) <= 1000 * kept * math.log2(choices) + 1e-6


@given(st.integers(2, 10**5), st.floats(0.01, 1))
def test_the_inverse(choices, recall):
    bits = least_bits(7, choices, recall)
    assert most_recall(bits, 7, choices) == pytest.approx(max(recall, 1 / choices), abs=1e-4)


def test_bad_input_is_named():
    for wrong, said in (({"recall": 1.5}, "recall"), ({"choices": 1}, "choices"), ({"facts": -1}, "facts")):
        with pytest.raises(CourseError, match=said):
            least_bits(**{"facts": 1, "choices": 2, "recall": 0.5, **wrong})
    with pytest.raises(CourseError, match="recall must be a number"):
        least_bits(1, 2, "half")
    with pytest.raises(CourseError, match="bits must be a number"):
        most_recall(None, 1, 2)
