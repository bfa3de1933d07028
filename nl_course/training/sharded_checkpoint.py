"""Checkpoints of sharded runs: each process writes what it holds into a file of its own.

    runs/large/sharded.json                                  what a plain checkpoint says of itself, and the folder
    runs/large/sharded-00000200/shard-00000.safetensors      what the first process held: a part of each tensor
    runs/large/sharded-00000200/shard-00001.safetensors      what the second one held

The folder is written first. Then the small file is moved into place, and only then older folders are removed: wherever
a crash comes, the last complete checkpoint stands. Every part says where it stands in the whole tensor, so that any
number of processes can read them, one included, and a run may also go on from a plain `checkpoint.safetensors`.

There is no pickle in them, so they are safe to open from anywhere. Each shard has its checksums, and `sharded.json` has
those of the shards and of itself, so that a shard of another step or run is noticed. Earlier versions of the course
kept pickles; their checkpoints are read on demand only (pickled_checkpoint.py).
"""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from nl_course.errors import CourseError
from nl_course.files import read_json, write_atomically
from nl_course.tensor_files import TensorFile, open_tensors, write_tensors
from nl_course.training.checkpoint import (
    check_description,
    describe_training,
    restore,
    save_model,
    translate_progress,
)
from nl_course.training.distributed import Ranks
from nl_course.training.run_files import CHECKPOINT, SHARDED, remove_shards, shard_folders, shard_name
from nl_course.training.tensor_parts import Box, box, is_sharded, local

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)  # whole tensors, gathered on the processor
_FOLDER = re.compile(r"sharded-[0-9]{8,}")
_KEY = "nl_course.shard"  # where a shard's description stands: {"tensors": {name: {"shape", "starts"}}}


def read_pointer(run: Path) -> dict[str, Any] | None:
    """What `sharded.json` says of the run's last complete sharded checkpoint; None if there is none.

    {"folder", "shards", "format", "kind", "model", "config", "aliases", "optimizer", "progress"}: see checkpoint.py for
    all but the first two. A checkpoint of an earlier version has only "folder" and "progress". Raises CourseError if
    the file is damaged or its folder is missing.
    """
    path = run / SHARDED
    if not path.is_file():
        return None
    pointer = read_json(path, "checkpoint")

    def fault(why: str) -> CourseError:
        """The error for a pointer that cannot be read, with the reason."""
        return CourseError(f"the checkpoint {path} is damaged and cannot be read ({why}).")

    if not isinstance(pointer, dict):
        raise fault("it is not a JSON object")
    if "sha256" in pointer and pointer.pop("sha256") != _checksum(pointer):
        raise fault("its checksum does not match")
    # A name and nothing else: a path could lead anywhere.
    name = pointer.get("folder")
    if not isinstance(name, str) or not _FOLDER.fullmatch(name):
        raise fault(f"'folder' cannot be {name!r:.50}")
    if is_pickled(pointer):
        progress = pointer.get("progress")
        if not isinstance(progress, dict) or not isinstance(progress.get("step"), int):
            raise fault("it does not say of which step it is")
        pointer["progress"] = translate_progress(progress)
    else:
        pointer = check_description(pointer, fault)
        shards = pointer.get("shards")
        if not isinstance(shards, list) or not all(isinstance(shard, str) for shard in shards):
            raise fault("it does not say which shards it has")
    if not (run / name).is_dir():
        raise CourseError(f"the sharded checkpoint {run / name} is missing or incomplete.")
    return pointer


def is_pickled(pointer: dict[str, Any]) -> bool:
    """Whether this checkpoint is of an earlier version, which kept pickles."""
    return "format" not in pointer


def save_sharded(
    run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any], ranks: Ranks
) -> None:
    """Writes the checkpoint of a sharded run. Every process calls it, and returns when the checkpoint is complete.

    Raises CourseError in every process if any of them cannot write its part; the last complete checkpoint then stands.
    """
    folder = run / f"sharded-{progress['step']:08d}"
    # Left over from a crash while this very step was saved.
    if ranks.is_main:
        remove_shards(folder)
    ranks.barrier()
    tensors, description = describe_training(model, optimizer, progress)
    try:
        with ranks.together():
            _write_shard(folder / shard_name(ranks.rank), tensors, ranks)
        # The pointer moves only once every process has written its part.
        with ranks.together():
            if ranks.is_main:
                _write_pointer(run, folder, description, ranks.world_size)
    except (CourseError, OSError):
        if ranks.is_main:
            remove_shards(folder)
        raise
    if ranks.is_main:
        for old in shard_folders(run):
            if old != folder:
                remove_shards(old)
    ranks.barrier()


def load_sharded(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None],
    ranks: Ranks,
    trust: bool = False,
) -> dict[str, Any]:
    """Fills model and optimizer, sharded or whole, from the run's sharded checkpoint; returns its progress, which
    `check` may refuse.

    `trust` also reads a checkpoint of an earlier version, whose pickles can run any code. Raises CourseError, with
    nothing changed, if the checkpoint is missing, damaged, made for another model, or holds pickles and is not trusted.
    """
    pointer = read_pointer(run)
    if pointer is None:
        raise CourseError(f"there is no sharded checkpoint in {run}.")
    check(pointer["progress"])
    if is_pickled(pointer):
        if not trust:
            plain = run / CHECKPOINT
            instead = f", or remove {run / SHARDED} to go on from {plain.name}" if plain.exists() else ""
            raise CourseError(
                f"the sharded checkpoint in {run} is of an earlier version of the course, which kept pickles: reading "
                "them can run any code. If it is your own, read it once with --trust (trust=True in Python)"
                f"{instead}; the next save holds no pickle."
            )
        from nl_course.training.pickled_checkpoint import load_pickled

        load_pickled(run / pointer["folder"], model, optimizer, ranks)
        return pointer["progress"]
    with ranks.together(), ExitStack() as stack:
        source = Shards(run / pointer["folder"], pointer["shards"], stack)
        restore(source, pointer, model, optimizer)
    return pointer["progress"]


def save_whole_model(model: nn.Module, path: Path, info: dict[str, Any], ranks: Ranks) -> None:
    """`save_model` of a sharded model, in 32 bits: every process sends its part, the main one writes."""
    tensors = get_model_state_dict(model, options=FULL)
    with ranks.together():
        if ranks.is_main:
            save_model(unsharded(model, tensors), path, torch.float32, info)


def unsharded(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """A model of the same class and config whose tensors are these whole ones."""
    # `fully_shard` gives a model a class of its own, derived from the course's.
    course_class = next(c for c in type(model).__mro__ if c.__module__.startswith("nl_course."))
    with torch.device("meta"):  # without memory: all tensors are replaced
        twin = course_class(model.config)
    twin.load_state_dict(tensors, assign=True)
    return twin


class Shards:
    """The tensors of a sharded checkpoint, put together from the files of all processes: see `checkpoint.Source`."""

    def __init__(self, folder: Path, fingerprints: list[str], stack: ExitStack):
        """Opens a shard for each of `fingerprints`; they are closed with `stack`. Raises CourseError for one that is
        missing, damaged or another than the one that was written."""
        self.path = folder
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, list[tuple[TensorFile, Box]]] = {}
        for rank, fingerprint in enumerate(fingerprints):
            path = folder / shard_name(rank)
            file = stack.enter_context(open_tensors(path, _KEY, "shard"))
            if file.fingerprint != fingerprint:
                raise file.fault("it is not the shard that was written with this checkpoint")
            self._add(file)
        self.names = frozenset(self._parts)

    def _add(self, file: TensorFile) -> None:
        """Notes which part of which tensor a shard has."""
        described = file.description.get("tensors") if isinstance(file.description, dict) else None
        if not isinstance(described, dict) or described.keys() != file.names:
            raise file.fault("its description does not fit its tensors")
        for name, about in described.items():
            shape = tuple(about["shape"]) if isinstance(about, dict) and _whole_numbers(about.get("shape")) else None
            starts = tuple(about["starts"]) if shape is not None and _whole_numbers(about.get("starts")) else None
            sizes = file.shape(name)
            if starts is None or not len(shape) == len(starts) == len(sizes):
                raise file.fault(f"it does not say where {name!r} stands in the whole tensor")
            part = Box(starts, sizes)
            if part.count and part.overlap(Box.whole(shape)) != part:
                raise file.fault(f"its part of {name!r} reaches beyond the whole tensor")
            if self._shapes.setdefault(name, shape) != shape:
                raise file.fault(f"{name!r} has another shape than in the other shards")
            self._parts.setdefault(name, []).append((file, part))

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's shape."""
        if name not in self._shapes:
            raise self.fault(f"it lacks the tensor {name!r}")
        return self._shapes[name]

    def part(self, name: str, wanted: Box) -> Tensor:
        """A part of a tensor, on the processor, copied from the shards that have some of it. Each of these is read
        whole, since its checksum is that of the whole."""
        self.shape(name)
        result = None
        filled = 0
        for file, held in self._parts[name]:
            common = wanted.overlap(held)
            if common is None and result is not None:
                continue
            tensor = file.tensor(name)
            if result is None:
                result = tensor.new_empty(wanted.sizes)
            if common is not None:
                result[common.slices(wanted.starts)] = tensor[common.slices(held.starts)]
                filled += common.count
        # Parts that overlap would count twice, parts that are missing not at all.
        if filled != wanted.count:
            raise self.fault(f"its shards do not make up {name!r}")
        return result

    def fault(self, why: str) -> CourseError:
        """An error that says that this checkpoint is damaged, and why."""
        return CourseError(f"the checkpoint {self.path} is damaged or incomplete and cannot be read ({why}).")


# -- inside --------------------------------------------------------------------------------------------------
def _write_shard(path: Path, tensors: dict[str, Tensor], ranks: Ranks) -> None:
    """Writes what this process holds. What is not sharded is the same in every process, so the main one writes it."""
    parts = {}
    described = {}
    for name, tensor in tensors.items():
        held = local(tensor)
        if held.numel() == 0 and not ranks.is_main:
            continue
        if is_sharded(tensor) or ranks.is_main:
            parts[name] = held
            described[name] = {"shape": list(tensor.shape), "starts": list(box(tensor).starts)}
    write_tensors(path, parts, _KEY, {"tensors": described}, "shard")


def _write_pointer(run: Path, folder: Path, description: dict[str, Any], shards: int) -> None:
    fingerprints = []
    for rank in range(shards):
        with open_tensors(folder / shard_name(rank), _KEY, "shard") as file:
            fingerprints.append(file.fingerprint)
    # Through JSON, so that the checksum is that of what will be read: a tuple comes back as a list.
    pointer = json.loads(json.dumps({"folder": folder.name, "shards": fingerprints, **description}))
    text = json.dumps({"sha256": _checksum(pointer), **pointer}, indent=1) + "\n"
    try:
        write_atomically(run / SHARDED, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"cannot write the checkpoint {run / SHARDED}: {error.strerror or error}.") from error


def _checksum(pointer: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pointer, sort_keys=True).encode()).hexdigest()


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
