"""Intervals over seeds, by the table of Student's t and by hand."""

import pytest

from nl_course.record.seeds import over_seeds, reach


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262)])
def test_the_reach_is_students(n, t):
    values = [float(i * i) for i in range(n)]
    mean = sum(values) / n
    spread = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    assert reach(values) == pytest.approx(t * spread / n**0.5, rel=1e-3)


def test_the_mean_its_ends_and_the_values():
    assert over_seeds([1.0, 2.0, 3.0]) == {"mean": 2.0, "low": -0.4841, "high": 4.4841, "values": [1.0, 2.0, 3.0]}
    assert over_seeds([0.5]) == {"mean": 0.5, "values": [0.5]} and reach([0.5]) is None
    assert over_seeds([2.0, 2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0, "values": [2.0, 2.0]}
