"""Checkpoints of sharded runs: each process writes its part, through torch.distributed.checkpoint (DCP).

    runs/large/sharded.json            names the last complete folder, and the progress: step, settings, ...
    runs/large/sharded-00000200/       the parts, and DCP's table of them

The folder is written first. Then the small file is moved into place, and only then older folders are removed: wherever
a crash comes, the last complete checkpoint stands. Tensors are kept by name, so that any number of processes can read
them, one included, and a run may also go on from an unsharded `checkpoint.safetensors`. DCP's table is a pickle, which
can run code: open only sharded checkpoints of your own. `model.safetensors`, which a finished run writes, is safe from
anyone.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from nl_course.errors import CourseError
from nl_course.files import write_atomically
from nl_course.optimizers import former_groups
from nl_course.training.checkpoint import bare, load_training, save_model, translate_progress
from nl_course.training.distributed import Ranks

POINTER = "sharded.json"
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)  # whole tensors, gathered on the processor


def read_pointer(run: Path) -> dict[str, Any] | None:
    """{"folder": ..., "progress": ...} of the run's last complete sharded checkpoint; None if it has none.

    Raises CourseError if the pointer or what it points to is damaged.
    """
    path = run / POINTER
    if not path.is_file():
        return None
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
        step = pointer["progress"]["step"]
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"the checkpoint {path} is damaged and cannot be read ({error}).") from error
    pointer["progress"] = translate_progress(pointer["progress"])
    # DCP writes its table last: a folder without one was not finished.
    if not (run / pointer["folder"] / ".metadata").is_file():
        raise CourseError(f"the sharded checkpoint {run / pointer['folder']} of step {step} is missing or incomplete.")
    return pointer


def save_sharded(
    run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any], ranks: Ranks
) -> None:
    """Writes the checkpoint of a sharded run. Every process calls it, and returns when the checkpoint is complete."""
    name = f"sharded-{progress['step']:08d}"
    # Left over from a crash while this very step was saved.
    if ranks.is_main and (run / name).exists():
        shutil.rmtree(run / name)
    ranks.barrier()
    model_tensors, optimizer_tensors = get_state_dict(bare(model), optimizer)
    with _QuietDCP():
        dcp.save({"model": model_tensors, "optimizer": optimizer_tensors}, checkpoint_id=run / name)
    # The pointer may move only once every process has written its part.
    ranks.barrier()
    if ranks.is_main:
        text = json.dumps({"folder": name, "progress": progress}, indent=1) + "\n"
        write_atomically(run / POINTER, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        for old in run.glob("sharded-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
    ranks.barrier()


def load_sharded(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None],
    ranks: Ranks,
) -> dict[str, Any]:
    """Fills model and optimizer, sharded or whole, from the run's sharded checkpoint; returns its progress, which
    `check` may refuse. Raises CourseError if the checkpoint is missing, damaged or made for another model."""
    pointer = read_pointer(run)
    if pointer is None:
        raise CourseError(f"there is no sharded checkpoint in {run}.")
    check(pointer["progress"])
    model = bare(model)
    # DCP fills tensors that are already there. It is given the present ones: their names and shards say what to read.
    model_tensors, optimizer_tensors = get_state_dict(model, optimizer)
    tensors = {"model": model_tensors, "optimizer": optimizer_tensors}
    try:
        with _QuietDCP():
            dcp.load(tensors, checkpoint_id=run / pointer["folder"], no_dist=ranks.mode == "none")
    except (RuntimeError, ValueError, OSError, dcp.api.CheckpointException) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CourseError(
            f"the checkpoint {run / pointer['folder']} does not fit this run or is damaged: {why}"
        ) from error
    set_state_dict(model, optimizer, model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"])
    return pointer["progress"]


def load_plain(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
) -> dict[str, Any]:
    """Fills a sharded model and its optimizer from a plain `checkpoint.safetensors`; returns its progress.

    Every process reads the file. `check` may refuse its progress. `make_optimizer` makes the optimizer of an unsharded
    model.
    """
    # The file is read into an unsharded twin first, by the same code and with the same checks as without fsdp; its
    # tensors are then handed over, each process keeping its part.
    empty = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in model.state_dict().items()}
    twin = unsharded(model, empty)
    twin_optimizer = make_optimizer(twin)
    progress = load_training(path, twin, twin_optimizer, check)
    # A run of an earlier version goes on with the groups it had, and so must both optimizers.
    sizes = [len(group["params"]) for group in twin_optimizer.param_groups]
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        optimizer.param_groups[:] = former_groups(optimizer, model, sizes)
    set_model_state_dict(model, get_model_state_dict(twin), options=FULL)
    set_optimizer_state_dict(model, optimizer, get_optimizer_state_dict(twin, twin_optimizer), options=FULL)
    return progress


def unsharded(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """A model of the same class and config whose tensors are these whole ones."""
    # `fully_shard` gives a model a class of its own, derived from the course's.
    course_class = next(c for c in type(model).__mro__ if c.__module__.startswith("nl_course."))
    with torch.device("meta"):  # without memory: all tensors are replaced
        twin = course_class(model.config)
    twin.load_state_dict(tensors, assign=True)
    return twin


def save_whole_model(model: nn.Module, path: Path, info: dict[str, Any], ranks: Ranks) -> None:
    """`save_model` of a sharded model, in 32 bits: every process sends its part, the main one writes."""
    tensors = get_model_state_dict(model, options=FULL)
    if ranks.is_main:
        save_model(unsharded(model, tensors), path, torch.float32, info)
    ranks.barrier()


class _QuietDCP(warnings.catch_warnings):
    """Silences DCP's warnings about deprecated calls inside itself, which a learner can do nothing about."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
