"""The outer loop: one step reads a batch and writes what it learned into the weights. `loop.py` is where it stands."""

from nl_course.training.loop import (
    IGNORED,
    REPORTING,
    Data,
    Diverged,
    Evaluation,
    Run,
    TrainingConfig,
    autocast,
    by_name,
    evaluate,
    evaluate_windows,
    gradient,
    token_losses,
    train,
)

__all__ = [
    "IGNORED",
    "REPORTING",
    "Data",
    "Diverged",
    "Evaluation",
    "Run",
    "TrainingConfig",
    "autocast",
    "by_name",
    "evaluate",
    "evaluate_windows",
    "gradient",
    "token_losses",
    "train",
]
