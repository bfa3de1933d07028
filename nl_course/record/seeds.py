"""What several seeds say together: their mean, and how far it may be off."""

from collections.abc import Mapping, Sequence

from nl_course.errors import CourseError


def reach(values: Sequence[float]) -> float | None:
    """Half of Student's 95 % interval of the mean of `values`; None from a single one."""
    if len(values) < 2:
        return None
    from scipy.stats import sem, t

    return float(t.ppf(0.975, len(values) - 1) * sem(values))


def over_seeds(values: Sequence[float]) -> dict[str, float | list[float]]:
    """The mean, Student's 95 % interval for it (none from a single seed), and the values."""
    mean, half = sum(values) / len(values), reach(values)
    ends = {} if half is None else {"low": round(mean - half, 4), "high": round(mean + half, 4)}
    return {"mean": round(mean, 4), **ends, "values": [round(v, 4) for v in values]}


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | list[float]]:
    """`first` less `second`, seed by seed: the mean of the differences, Student's 95 % interval for it (none from a
    single seed), and the differences. The two must be of the same seeds in the same order: what a seed does to both
    then cancels. Raises CourseError if they are not equally many, or none."""
    if len(first) != len(second) or not first:
        raise CourseError(f"a difference by seed needs two equal numbers of runs, not {len(first)} and {len(second)}.")
    return over_seeds([a - b for a, b in zip(first, second, strict=True)])


def verdict(difference: Mapping[str, float]) -> str:
    """Whether an interval lies below 0 ("lower"), above it ("higher") or holds it ("not told apart")."""
    if difference["high"] < 0:
        return "lower"
    return "higher" if difference["low"] > 0 else "not told apart"
