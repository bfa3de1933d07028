"""What an outer loop sets on a model with clocks for the length of one step, and takes back after it.

    with outer_step(model, inner_share(step, steps, warmup), recompute):
        loss = gradient(...)

The inner rate is warmed up (TTT-E2E, arXiv 2512.23675: eta from 0.1 to 1 over the first tenth of pre-training): a start
that nothing has shaped yet would be thrown about by whole steps. What is measured between steps runs at the full rate.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from nl_course.errors import CourseError, check_int, check_min
from nl_course.nested.levels import Level
from nl_course.nested.model import NestedLanguageModel

FIRST_SHARE = 0.1  # of the rate, at the first step


def inner_share(step: int, steps: int, warmup: float) -> float:
    """The share of its inner rate that a level moves by in step `step` (the first is 0) of `steps`: FIRST_SHARE at the
    first, from there in a straight line to 1 after the share `warmup` of all steps. By the step's number alone."""
    check_int("step", step)
    check_int("steps", steps, 1)
    if check_min("inner_warmup", warmup, 0) > 1:
        raise CourseError(f"inner_warmup must be a share of the steps, from 0 to 1, not {warmup}.")
    done = 1.0 if step >= warmup * steps else step / (warmup * steps)
    return FIRST_SHARE + (1 - FIRST_SHARE) * done


def check_outer(model: nn.Module, inner_warmup: float, recompute: bool) -> None:
    """Refuses what this model has no use for: both are for models some of whose levels move."""
    inner_share(0, 1, inner_warmup)
    if (inner_warmup or recompute) and not _moving(model):
        asked = "inner_warmup" if inner_warmup else "recompute"
        raise CourseError(
            f"{asked} is for models with levels that learn as they read, such as the preset ttt-e2e-tiny; "
            f"in this {type(model).__name__} none does."
        )


@contextmanager
def outer_step(model: nn.Module, share: float = 1.0, recompute: bool = False) -> Iterator[None]:
    """Every level that moves does so by `share` of its rate, and with `recompute` segments are computed a second time
    for their gradient (recompute.py). Afterwards both are as they were; of other models nothing is touched."""
    levels = _moving(model)
    nets = [m for m in model.modules() if isinstance(m, NestedLanguageModel)] if recompute else []
    before = [level.rate_share for level in levels], [net.checkpoint for net in nets]
    try:
        for level in levels:
            level.rate_share = share
        for net in nets:
            net.checkpoint = True
        yield
    finally:
        for level, old in zip(levels, before[0], strict=True):
            level.rate_share = old
        for net, old in zip(nets, before[1], strict=True):
            net.checkpoint = old


def _moving(model: nn.Module) -> list[Level]:
    return [m for m in model.modules() if isinstance(m, Level) and m.config.chunk]
