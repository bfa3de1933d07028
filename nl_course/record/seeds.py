"""What several seeds say together: their mean, and how far it may be off."""

from collections.abc import Sequence


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
