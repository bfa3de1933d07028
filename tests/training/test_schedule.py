from itertools import pairwise

import pytest

from nl_course.errors import CourseError
from nl_course.training.schedule import warmup_cosine


def test_the_rate_rises_to_one_falls_to_its_last_share_and_stays():
    shares = [warmup_cosine(step, 100, 10, 0.1) for step in range(120)]
    assert all(a < b for a, b in pairwise(shares[:11])) and shares[10] == 1
    assert all(a > b for a, b in pairwise(shares[10:100]))
    assert shares[0] == pytest.approx(1 / 11) and shares[99] == pytest.approx(0.1) and set(shares[99:]) == {shares[99]}
    assert warmup_cosine(10 + 89 // 2, 101, 10, 0.0) == pytest.approx(0.5, abs=0.02)  # half way down


def test_odd_lengths_work_and_nonsense_is_refused():
    assert warmup_cosine(0, 1, 0, 0.1) == 1 and warmup_cosine(3, 4, 10, 0.1) == pytest.approx(4 / 11)
    with pytest.raises(CourseError, match="steps must be a whole number of at least 1"):
        warmup_cosine(0, 0, 0, 0.1)
