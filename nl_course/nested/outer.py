"""What an outer loop sets on a model with clocks for the length of one step, and takes back after it.

    with outer_step(model, inner_rate_scale(step, steps, warmup), recompute):
        loss = gradient(...)

The inner rate is warmed up: TTT-E2E (arXiv 2512.23675) raises eta from 0.1 to 1 over the first tenth of pre-training.
A start that nothing has shaped yet would be thrown about by full steps. What is measured between two outer steps runs
at the full rate.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from nl_course.errors import CourseError, check_int, check_min
from nl_course.nested.levels import Level
from nl_course.nested.model import NestedLanguageModel

FIRST_SCALE = 0.1  # of the inner rate, at the first step


def inner_rate_scale(step: int, steps: int, warmup: float) -> float:
    """What the inner rate is multiplied by in step `step` (the first is 0) of `steps`.

    FIRST_SCALE at the first step, and from there in a straight line to 1, which it reaches after the share `warmup` of
    all steps. It depends on the step's number alone, so a resumed run goes on as the unbroken one.
    Raises CourseError for a `warmup` outside 0 .. 1.
    """
    check_int("step", step)
    check_int("steps", steps, 1)
    if check_min("inner_warmup", warmup, 0) > 1:
        raise CourseError(f"inner_warmup must be a share of the steps, from 0 to 1, not {warmup}.")
    progress = 1.0 if step >= warmup * steps else step / (warmup * steps)
    return FIRST_SCALE + (1 - FIRST_SCALE) * progress


def check_outer(model: nn.Module, inner_warmup: float, recompute: bool) -> None:
    """Raises CourseError if either setting is on and no level of this model moves: it would do nothing."""
    inner_rate_scale(0, 1, inner_warmup)
    if (inner_warmup or recompute) and not _moving_levels(model):
        setting = "inner_warmup" if inner_warmup else "recompute"
        raise CourseError(
            f"{setting} is for models with levels that learn as they read, such as the preset ttt-e2e-tiny; "
            f"in this {type(model).__name__} none does."
        )


@contextmanager
def outer_step(model: nn.Module, rate_scale: float = 1.0, recompute: bool = False) -> Iterator[None]:
    """Within it, every level that moves does so by `rate_scale` times its rate, and with `recompute` segments are
    computed a second time for their gradient (recompute.py). Afterwards both are as they were, also after an error.
    A model without such levels is not touched."""
    levels = _moving_levels(model)
    models = []
    if recompute:
        models = [m for m in model.modules() if isinstance(m, NestedLanguageModel)]
    earlier_scales = [level.rate_scale for level in levels]
    earlier_recompute = [m.recompute for m in models]
    try:
        for level in levels:
            level.rate_scale = rate_scale
        for m in models:
            m.recompute = True
        yield
    finally:
        for level, scale in zip(levels, earlier_scales, strict=True):
            level.rate_scale = scale
        for m, earlier in zip(models, earlier_recompute, strict=True):
            m.recompute = earlier


def _moving_levels(model: nn.Module) -> list[Level]:
    """The levels that learn as they read, wherever they are in the model."""
    return [m for m in model.modules() if isinstance(m, Level) and m.config.chunk]
