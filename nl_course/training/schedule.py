"""The learning rate over a run: a linear warm-up, then half a cosine down to a last share (Loshchilov and Hutter 2017,
arXiv 1608.03983, eq. 5, without restarts)."""

from math import cos, pi

from nl_course.errors import check_int, check_min


def warmup_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """The share of the peak rate that step `step` of `steps` uses (the first step is 0): up to 1 after `warmup`
    steps, `final` at the last. Beyond the last step it stays there."""
    check_int("step", step)
    check_int("steps", steps, 1)
    check_int("warmup", warmup)
    check_min("final", final, 0)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min((step - warmup) / max(steps - 1 - warmup, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + cos(pi * done))
