"""The learning rate over a run: a linear warm-up, then half a cosine down to a final share of the peak (Loshchilov and
Hutter 2017, arXiv 1608.03983, eq. 5, without restarts)."""

from math import cos, pi

from nl_course.errors import check_int, check_min


def warmup_cosine(step: int, steps: int, warmup: int, final: float) -> float:
    """The learning rate of step `step` (the first is 0) of `steps`, as a share of the peak rate.

    It rises to 1 in `warmup` steps and is `final` at the last step; beyond the last step it stays there. Raises
    CourseError for numbers that are no steps, and for a negative `final`.
    """
    check_int("step", step)
    check_int("steps", steps, 1)
    check_int("warmup", warmup)
    check_min("final", final, 0)
    if step < warmup:
        # Divided by warmup + 1, so that the first step moves at all and the peak is reached right after the warm-up.
        return (step + 1) / (warmup + 1)
    falling_steps = max(steps - 1 - warmup, 1)
    done = min((step - warmup) / falling_steps, 1.0)
    return final + (1 - final) * 0.5 * (1 + cos(pi * done))
