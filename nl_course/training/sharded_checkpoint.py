"""Checkpoints of sharded runs: each process writes its part, through torch.distributed.checkpoint (DCP).

    runs/large/sharded.json            which folder is the last whole one, and the progress: step, config, ...
    runs/large/sharded-00000200/       the parts, and DCP's table of them

The folder is written first, the small file moved into place last, and older folders go then: whatever breaks off in
between, the last whole checkpoint stands. Tensors are kept by name, so that any number of processes can read them,
one included, and a run may go on from an unsharded `checkpoint.safetensors` too. DCP's table is a pickle: open sharded
checkpoints of your own only; `model.safetensors`, which a run writes when it is done, is safe from anyone.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
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
from nl_course.training.checkpoint import bare, load_training, save_model, translate_progress
from nl_course.training.distributed import Ranks

POINTER = "sharded.json"
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def read_pointer(run: Path) -> dict[str, Any] | None:
    """{"folder": ..., "progress": ...} of the run's last whole sharded checkpoint, None if it has none."""
    path = run / POINTER
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["progress"] = translate_progress(found["progress"])
        step = found["progress"]["step"]
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"the checkpoint {path} is damaged and cannot be read ({error}).") from error
    if not (run / found["folder"] / ".metadata").is_file():
        raise CourseError(f"the sharded checkpoint {run / found['folder']} of step {step} is missing or incomplete.")
    return found


def save_sharded(run: Path, model: nn.Module, optimizer, progress: dict[str, Any], ranks: Ranks) -> None:
    """Every process calls it; returns when the checkpoint stands."""
    name = f"sharded-{progress['step']:08d}"
    if ranks.first and (run / name).exists():
        shutil.rmtree(run / name)
    ranks.wait()
    tensors, kept = get_state_dict(bare(model), optimizer)
    with _quiet():
        dcp.save({"model": tensors, "optimizer": kept}, checkpoint_id=run / name)
    ranks.wait()
    if ranks.first:
        text = json.dumps({"folder": name, "progress": progress}, indent=1) + "\n"
        write_atomically(run / POINTER, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        for old in run.glob("sharded-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
    ranks.wait()


def load_sharded(run: Path, model: nn.Module, optimizer, check: Callable[[dict], None], ranks: Ranks) -> dict[str, Any]:
    """Fills model and optimizer, sharded or whole, from the run's sharded checkpoint; returns its progress, which
    `check` may refuse. Raises CourseError if it is damaged or made for another model."""
    found = read_pointer(run)
    if found is None:
        raise CourseError(f"there is no sharded checkpoint in {run}.")
    check(found["progress"])
    model = bare(model)
    tensors, kept = get_state_dict(model, optimizer)
    state = {"model": tensors, "optimizer": kept}
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=run / found["folder"], no_dist=ranks.mode == "none")
    except (RuntimeError, ValueError, OSError, dcp.api.CheckpointException) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CourseError(
            f"the checkpoint {run / found['folder']} does not fit this run or is damaged: {why}"
        ) from error
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return found["progress"]


def load_plain(path: Path, model: nn.Module, optimizer, check: Callable[[dict], None], make) -> dict[str, Any]:
    """Fills a sharded model and its optimizer from a whole `checkpoint.safetensors`, which every process reads.
    `make(model)` makes the optimizer of an unsharded twin."""
    twin = unsharded(model, {name: torch.empty(t.shape, dtype=t.dtype) for name, t in model.state_dict().items()})
    its = make(twin)
    progress = load_training(path, twin, its, check)
    set_model_state_dict(model, get_model_state_dict(twin), options=FULL)
    set_optimizer_state_dict(model, optimizer, get_optimizer_state_dict(twin, its), options=FULL)
    return progress


def unsharded(model: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A model of the same class and config with these whole tensors."""
    kind = next(k for k in type(model).__mro__ if k.__module__.startswith("nl_course."))
    with torch.device("meta"):
        twin = kind(model.config)
    twin.load_state_dict(tensors, assign=True)
    return twin


def save_whole_model(model: nn.Module, path: Path, info: dict[str, Any], ranks: Ranks) -> None:
    """`save_model` in 32 bits of a sharded model: every process sends its part, the first writes."""
    tensors = get_model_state_dict(model, options=FULL)
    if ranks.first:
        save_model(unsharded(model, tensors), path, torch.float32, info)
    ranks.wait()


def to_model(run: Path, path: Path, model: nn.Module) -> None:
    """The weights of a run's sharded checkpoint as one `save_model` file; `model`, unsharded, is filled with them."""
    found = read_pointer(run)
    if found is None:
        raise CourseError(f"there is no sharded checkpoint in {run}.")
    state = {"model": get_model_state_dict(model)}
    with _quiet():
        dcp.load(state, checkpoint_id=run / found["folder"], no_dist=True)
    set_model_state_dict(model, state["model"])
    save_model(model, path, torch.float32, {"step": found["progress"]["step"]})


class _quiet(warnings.catch_warnings):
    """DCP warns of deprecated calls inside itself."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
