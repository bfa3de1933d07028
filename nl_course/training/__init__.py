"""The outer loop: one step reads a batch and writes what it learned into the weights.

To follow one batch, read in this order:

    config.py              what a run is asked for
    loop.py                train(): batch -> loss -> gradient -> optimizer step -> metrics -> checkpoint
    loss.py                the loss of every token
    evaluation.py          the same loss on held-out text
    blocks.py              blocks that are computed twice, or compiled
    schedule.py            the learning rate of a step
    run_folder.py          what a run leaves on disk, and how it is resumed
    checkpoint.py          models and runs in one safetensors file
    optimizer_state.py     what an optimizer keeps, in such a file
    resuming.py            whether a checkpoint belongs to the run that goes on from it

Around the loop: `distributed.py`, `sharded_checkpoint.py` and `tensor_parts.py` (several processes), `interrupts.py`
(ctrl-C), `run_files.py` and `run_lock.py` (whose a folder is), `pickled_checkpoint.py` (runs of earlier versions),
`estimate.py` (what a run will take), `runner.py` (a run to start and pause), `run_table.py` (runs side by side).
"""

from nl_course.tasks.targets import IGNORED
from nl_course.training.config import REPORTING, TrainingConfig
from nl_course.training.evaluation import Evaluation, evaluate, evaluate_lengths, evaluate_windows
from nl_course.training.loop import Data, Diverged, Run, default_optimizer, gradient, train
from nl_course.training.loss import autocast, token_losses

__all__ = [
    "IGNORED",
    "REPORTING",
    "Data",
    "Diverged",
    "Evaluation",
    "Run",
    "TrainingConfig",
    "autocast",
    "default_optimizer",
    "evaluate",
    "evaluate_lengths",
    "evaluate_windows",
    "gradient",
    "token_losses",
    "train",
]
