"""The folder of a training run: its settings, a line of metrics per step, and the checkpoint to go on from.

run.json                    `asked`: every setting of the run and what it is about; `model`; `machine`: versions, device
metrics.jsonl               one JSON object per line, one line per step; a resumed run continues it
checkpoint.safetensors      the last whole step that was saved; a sharded run has sharded.json and a folder instead
model.safetensors           the model alone, once the run is done
"""

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from nl_course import __version__
from nl_course.errors import CourseError, check_choice
from nl_course.files import write_atomically
from nl_course.training.checkpoint import bare, load_training, read_info, save_model, save_training
from nl_course.training.distributed import SINGLE_PROCESS, Ranks


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The metrics of a run, one dict per line. Raises CourseError if the folder holds no run.

    A crash can cut off the last line. It is left out, and so is whatever follows it.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise CourseError(f"there is no run in {str(folder)!r}: it has no metrics.jsonl.")
    metrics = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            metrics.append(json.loads(line))
        except ValueError:
            break
    return metrics


def checkpoints(folder: Path) -> tuple[bool, bool]:
    """Whether the run in `folder` has a checkpoint, and whether the newest one is sharded.

    Both kinds stand side by side only after a crash between writing one and removing the other.
    """
    plain = folder / "checkpoint.safetensors"
    if not (folder / "sharded.json").is_file():
        return plain.exists(), False
    if not plain.exists():
        return True, True
    return True, sharded_progress(folder)["step"] > read_info(plain)["progress"]["step"]


def sharded_progress(folder: Path) -> dict[str, Any]:
    """The progress that is kept with the sharded checkpoint in `folder`: its step, the run's settings (`asked`), ..."""
    from nl_course.training.sharded_checkpoint import read_pointer

    return read_pointer(folder)["progress"]


class RunFolder:
    """A run's folder, opened before the first step: a folder that cannot be used is refused before any computing."""

    def __init__(
        self,
        path: str | os.PathLike,
        ranks: Ranks = SINGLE_PROCESS,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    ):
        """`ranks` are the processes of the run: the main one writes, all read. `make_optimizer` makes the optimizer of
        an unsharded model, which a sharded run needs to read a plain checkpoint."""
        self.path = Path(path)
        self.ranks = ranks
        self.make_optimizer = make_optimizer
        self._log = None

    @property
    def checkpoint(self) -> Path:
        """Where the plain checkpoint stands, if there is one."""
        return self.path / "checkpoint.safetensors"

    def open(
        self,
        resume: bool | str,
        settings: dict[str, Any],
        may_change: tuple[str, ...],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Starts or resumes a run; returns the saved progress ({} for a new run) and the metrics up to it.

        `resume` is True, False or "auto", as in `train`. A resumed run must have the same `settings` as before, except
        those named in `may_change`. Fills `model` and `optimizer` from the checkpoint. Raises CourseError, with nothing
        changed, if the run cannot be started or resumed here.
        """
        check_choice("resume", str(resume), ("True", "False", "auto"))
        exists, sharded = checkpoints(self.path)
        if exists and resume is False:
            raise CourseError(f"{self.path} already holds a run; resume it, or take another folder.")
        if not exists and resume is True:
            raise CourseError(f"there is no checkpoint to resume from at {self.checkpoint}.")
        progress: dict[str, Any] = {}
        metrics: list[dict[str, Any]] = []
        if exists:
            progress = self._load(
                sharded, model, optimizer, lambda saved: self._check_same(saved, settings, may_change)
            )
            # Steps after the checkpoint will be done again; their lines must not stand there twice.
            metrics = [line for line in read_metrics(self.path) if line["step"] <= progress["step"]]
        # The main process rewrites the files below, so all others must have read them by now.
        self.ranks.barrier()
        if not self.ranks.is_main:
            return progress, metrics
        where = {**machine(next(model.parameters()).device), "processes": self.ranks.world_size}
        about = {"asked": settings, "model": _about(model), "machine": where}
        try:
            _write_text(self.path / "run.json", json.dumps(about, indent=1) + "\n")
            _write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))
            self._log = open(self.path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise CourseError(f"cannot write into the folder {str(self.path)!r}: {error.strerror or error}.") from error
        return progress, metrics

    def _check_same(self, progress: dict[str, Any], settings: dict[str, Any], may_change: tuple[str, ...]) -> None:
        """Raises CourseError if the saved run had other settings."""
        saved = progress.get("asked", {})
        for name, value in settings.items():
            # Through JSON and back, as the saved value went: a tuple comes back as a list.
            as_saved = json.loads(json.dumps(value))
            if name not in may_change and saved.get(name) != as_saved:
                raise CourseError(
                    f"the run in {self.path} was started with {name} = {saved.get(name)}, not {value}; "
                    "resume it with what it was started with, or start another folder."
                )

    def record(self, metrics: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl, at once: who watches the run sees it, and a crash does not lose it."""
        if self._log is not None:
            self._log.write(json.dumps(metrics) + "\n")
            self._log.flush()

    def _load(
        self,
        sharded: bool,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        check: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Reads either kind of checkpoint into either kind of run; returns its progress, which `check` may refuse."""
        from nl_course.training import sharded_checkpoint

        if sharded:
            return sharded_checkpoint.load_sharded(self.path, model, optimizer, check, self.ranks)
        if self.ranks.sharded:
            return sharded_checkpoint.load_plain(self.checkpoint, model, optimizer, check, self.make_optimizer)
        return load_training(self.checkpoint, model, optimizer, check)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
        """Writes the checkpoint. Every process calls it, and returns when the checkpoint is complete.

        One kind of checkpoint stands at a time. The other kind is removed only once this one is whole, so that a crash
        never leaves the folder without any.
        """
        if self.ranks.sharded:
            from nl_course.training.sharded_checkpoint import save_sharded

            save_sharded(self.path, model, optimizer, progress, self.ranks)
            if self.ranks.is_main:
                self.checkpoint.unlink(missing_ok=True)
            return
        if self.ranks.is_main:
            save_training(self.checkpoint, model, optimizer, progress)
            for old in self.path.glob("sharded*"):
                if old.is_file():
                    old.unlink()
                else:
                    shutil.rmtree(old)
        self.ranks.barrier()

    def finish(self, model: nn.Module, info: dict[str, Any]) -> None:
        """Writes model.safetensors, in 32 bits and with `info` (anything JSON holds). Every process calls it."""
        if self.ranks.sharded:
            from nl_course.training.sharded_checkpoint import save_whole_model

            save_whole_model(model, self.path / "model.safetensors", info, self.ranks)
        elif self.ranks.is_main:
            save_model(model, self.path / "model.safetensors", torch.float32, info)

    def close(self) -> None:
        """Closes metrics.jsonl; what is recorded afterwards is not written."""
        if self._log is not None:
            self._log.close()


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a run was made with and on: versions of the course, torch and Python; system, device, threads."""
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
    """Bytes in use: on a GPU the most that PyTorch has held there, else what the whole process holds now."""
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
