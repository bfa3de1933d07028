"""Sharded checkpoints of earlier versions, written by torch.distributed.checkpoint (DCP): its table is a pickle, and so
is all that is no tensor. Reading a pickle can run any code, so these are read only where the user says that they are
trusted. The next save replaces them by sharded_checkpoint.py's, which hold none.
"""

import warnings
from pathlib import Path

import torch
from torch import nn

from nl_course.errors import CourseError
from nl_course.optimizers import former_groups
from nl_course.training.checkpoint import bare
from nl_course.training.distributed import Ranks


def load_pickled(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    """Fills model and optimizer, sharded or whole. Raises CourseError if the folder is damaged or does not fit."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    # DCP wrote its table last: a folder without one was not finished.
    if not (folder / ".metadata").is_file():
        raise CourseError(f"the sharded checkpoint {folder} is missing or incomplete.")
    model = bare(model)
    # All of these are from before parameters had roles; the run goes on with the groups of then.
    present_groups = list(optimizer.param_groups)
    optimizer.param_groups[:] = former_groups(optimizer, model) or present_groups
    # DCP fills tensors that are already there. It is given the present ones: their names and shards say what to read.
    model_tensors, optimizer_tensors = get_state_dict(model, optimizer)
    tensors = {"model": model_tensors, "optimizer": optimizer_tensors}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecated calls inside of DCP
            dcp.load(tensors, checkpoint_id=folder, no_dist=ranks.mode == "none")
    # DCP's own exception is no Exception: it derives from BaseException.
    except (Exception, dcp.api.CheckpointException) as error:
        optimizer.param_groups[:] = present_groups
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CourseError(f"the checkpoint {folder} does not fit this run or is damaged: {why}") from error
    set_state_dict(model, optimizer, model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"])
