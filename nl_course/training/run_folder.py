"""The folder of a training run: what was asked, a line of metrics a step, and the checkpoint to go on from.

run.json                    config, model, versions, device
metrics.jsonl               one JSON object a line, as long as the run; resumed runs continue it
checkpoint.safetensors      the last whole step that was saved; of a sharded run sharded.json and a folder instead
model.safetensors           the model alone, once the run is done
"""

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from nl_course import __version__
from nl_course.errors import CourseError, check_choice
from nl_course.files import write_atomically
from nl_course.training.checkpoint import bare, load_training, read_info, save_model, save_training
from nl_course.training.distributed import ALONE, Ranks


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The metrics of a run, one dict a line; a last line that was cut off by a crash is left out."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise CourseError(f"there is no run in {str(folder)!r}: it has no metrics.jsonl.")
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def checkpoints(folder: Path) -> tuple[bool, bool]:
    """Whether the run in `folder` has a checkpoint, and whether it is the sharded one that is the newest."""
    plain, pointer = folder / "checkpoint.safetensors", folder / "sharded.json"
    if not pointer.is_file():
        return plain.exists(), False
    return True, not plain.exists() or asked_for(folder)["step"] > read_info(plain)["progress"]["step"]


def asked_for(folder: Path) -> dict[str, Any]:
    """The progress kept with the sharded checkpoint in `folder`: its step, what was asked, ..."""
    from nl_course.training.sharded_checkpoint import read_pointer

    return read_pointer(folder)["progress"]


class RunFolder:
    """Opened before the first step, so that a folder that cannot be used is refused before anything is computed."""

    def __init__(self, path: str | os.PathLike, ranks: Ranks = ALONE, twin=None):
        """`ranks`: who takes part; the first writes, all read. `twin` makes the optimizer of an unsharded model."""
        self.path, self._log, self.ranks, self.twin = Path(path), None, ranks, twin

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def open(
        self,
        resume: bool | str,
        asked: dict[str, Any],
        free: tuple[str, ...],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Starts or resumes: returns the saved progress ({} for a new run) and the metrics up to there.

        `asked` is what the run was asked for; a resumed one must ask for the same, except in the fields `free`.
        """
        check_choice("resume", str(resume), ("True", "False", "auto"))
        there, sharded = checkpoints(self.path)
        if there and resume is False:
            raise CourseError(f"{self.path} already holds a run; resume it, or take another folder.")
        if not there and resume is True:
            raise CourseError(f"there is no checkpoint to resume from at {self.checkpoint}.")
        progress: dict[str, Any] = {}
        if there:
            progress = self._load(sharded, model, optimizer, lambda saved: self._same(saved, asked, free))
        metrics = [m for m in read_metrics(self.path) if m["step"] <= progress["step"]] if there else []
        self.ranks.wait()  # until all have read
        if not self.ranks.first:
            return progress, metrics
        where = {**machine(next(model.parameters()).device), "processes": self.ranks.world}
        about = {"asked": asked, "model": _about(model), "machine": where}
        try:
            _write_text(self.path / "run.json", json.dumps(about, indent=1) + "\n")
            _write_text(self.path / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in metrics))
            self._log = open(self.path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise CourseError(f"cannot write into the folder {str(self.path)!r}: {error.strerror or error}.") from error
        return progress, metrics

    def _same(self, progress: dict[str, Any], asked: dict[str, Any], free: tuple[str, ...]) -> None:
        saved = progress.get("asked", {})
        for name in asked:
            if name not in free and saved.get(name) != json.loads(json.dumps(asked[name])):
                raise CourseError(
                    f"the run in {self.path} was started with {name} = {saved.get(name)}, not {asked[name]}; "
                    "resume it with what it was started with, or start another folder."
                )

    def record(self, metrics: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(json.dumps(metrics) + "\n")
            self._log.flush()

    def _load(self, sharded: bool, model, optimizer, check) -> dict[str, Any]:
        from nl_course.training import sharded_checkpoint

        if sharded:
            return sharded_checkpoint.load_sharded(self.path, model, optimizer, check, self.ranks)
        if self.ranks.sharded:
            return sharded_checkpoint.load_plain(self.checkpoint, model, optimizer, check, self.twin)
        return load_training(self.checkpoint, model, optimizer, check)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
        """Every process calls it. One kind of checkpoint stands at a time: the other goes once this one is whole."""
        if self.ranks.sharded:
            from nl_course.training.sharded_checkpoint import save_sharded

            save_sharded(self.path, model, optimizer, progress, self.ranks)
            if self.ranks.first:
                self.checkpoint.unlink(missing_ok=True)
            return
        if self.ranks.first:
            save_training(self.checkpoint, model, optimizer, progress)
            for old in self.path.glob("sharded*"):
                old.unlink() if old.is_file() else shutil.rmtree(old)
        self.ranks.wait()

    def finish(self, model: nn.Module, info: dict[str, Any]) -> None:
        if self.ranks.sharded:
            from nl_course.training.sharded_checkpoint import save_whole_model

            save_whole_model(model, self.path / "model.safetensors", info, self.ranks)
        elif self.ranks.first:
            save_model(model, self.path / "model.safetensors", torch.float32, info)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a run was made with and on: versions, device, processor's kind."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "nl_course": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
    }


def memory_in_use(device: torch.device | str = "cpu") -> int:
    """Bytes: on a GPU the most that PyTorch has held there, else what the whole process holds now."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def _about(model: nn.Module) -> dict[str, Any]:
    model = bare(model)
    config = getattr(model, "config", None)
    return {
        "class": type(model).__name__,
        "config": config.to_dict() if hasattr(config, "to_dict") else {},
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
