"""The folder of a training run: its settings, a line of metrics per step, and the checkpoint to go on from.

run.json                    `asked`: every setting of the run and what it is about; `model`; `machine`: versions, device
                            `data`: what a token is, and how many bytes of text it stands for
metrics.jsonl               one JSON object per line, one line per step; a resumed run continues it
checkpoint.safetensors      the last whole step that was saved; a sharded run has sharded.json and a folder instead
model.safetensors           the model alone, once the run is done
lengths.json                the held-out loss at several context lengths, where those were asked for
run.lock                    who trains here, while the run goes on (run_lock.py)
unfinished-1/               the curve of a run that ended before its first checkpoint, if there was one

Files of other origin are never replaced or removed (run_files.py).
"""

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from nl_course import __version__
from nl_course.errors import CourseError, check_choice
from nl_course.files import check_folder, parse_json, reason, write_atomically
from nl_course.training.checkpoint import bare, load_training, read_info, save_model, save_training
from nl_course.training.distributed import SINGLE_PROCESS, Ranks
from nl_course.training.resuming import check_one_run, check_settings, step_of
from nl_course.training.run_files import (
    ABOUT,
    CHECKPOINT,
    LENGTHS,
    METRICS,
    MODEL,
    SHARDED,
    check_files,
    keep_aside,
    remove_sharded,
    remove_unfinished,
)
from nl_course.training.run_lock import RunLock


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The metrics of a run, one dict per line. Raises CourseError if the folder holds no run.

    A crash can cut off the last line. It is left out, and so is whatever follows it.
    """
    path = Path(folder) / METRICS
    if not path.is_file():
        raise CourseError(f"there is no run in {str(folder)!r}: it has no metrics.jsonl.")
    metrics = []
    for line in path.read_bytes().splitlines():
        try:
            values = parse_json(line)
        except ValueError:
            break
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            break
        metrics.append(values)
    return metrics


def check_run_folder(folder: str | os.PathLike, resume: bool | str) -> None:
    """Raises CourseError if no run can be started or resumed in a folder, as far as can be seen there. `resume` is that
    of `train`. Changes nothing."""
    folder = check_folder(folder, "the run's folder")
    RunLock(folder).check()
    _check_content(folder, resume)


def _check_content(folder: Path, resume: bool | str) -> None:
    """`check_run_folder`, but for the question whether a run goes on there now."""
    check_files(folder)
    exists, _ = checkpoints(folder)
    if exists and resume is False:
        raise CourseError(f"{folder} already holds a run; resume it, or take another folder.")
    if not exists and resume is True:
        raise CourseError(f"there is no checkpoint to resume from at {folder / CHECKPOINT}.")
    if not exists and (folder / MODEL).exists():
        raise CourseError(
            f"{folder} holds a finished model and no checkpoint to go on from; take another folder, or move {MODEL} "
            "away."
        )


def checkpoints(folder: Path) -> tuple[bool, bool]:
    """Whether the run in `folder` has a checkpoint, and whether the newest one is sharded.

    Both kinds stand side by side only after a crash between writing one and removing the other.
    """
    plain = folder / CHECKPOINT
    if not (folder / SHARDED).is_file():
        return plain.exists(), False
    if not plain.exists():
        return True, True
    return True, step_of(folder, sharded_progress(folder)) > step_of(folder, read_info(plain).get("progress", {}))


def sharded_progress(folder: Path) -> dict[str, Any]:
    """The progress that is kept with the sharded checkpoint in `folder`: its step, the run's settings (`asked`), ..."""
    from nl_course.training.sharded_checkpoint import read_pointer

    return read_pointer(folder)["progress"]


class RunFolder:
    """A run's folder, opened before the first step: a folder that cannot be used is refused before any computing.

    From `open` to `release` no other run can use it. `failure` is what went wrong when metrics were written, if
    anything did, and `unwritten` are those metrics; the run should then save what it has, and end.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        ranks: Ranks = SINGLE_PROCESS,
    ):
        """`ranks` are the processes of the run: the main one writes, all read."""
        self.path = Path(path)
        self.ranks = ranks
        self.failure: CourseError | None = None
        self.unwritten: list[dict[str, Any]] = []
        self._lock = RunLock(self.path)
        self._log = None

    @property
    def checkpoint(self) -> Path:
        """Where the plain checkpoint stands, if there is one."""
        return self.path / CHECKPOINT

    def open(
        self,
        resume: bool | str,
        settings: dict[str, Any],
        may_change: tuple[str, ...],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        trust: bool = False,
        token_unit: Callable[[], dict[str, Any]] = dict,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Starts or resumes a run; returns the saved progress ({} for a new run) and the metrics up to it.

        `resume` is True, False or "auto", as in `train`. A resumed run must have the same `settings` as before, except
        those named in `may_change`. Fills `model` and `optimizer` from the checkpoint. `trust` is that of `train`.
        `token_unit()` says what a token is; it is kept beside the settings.
        Raises CourseError, with nothing changed, if the run cannot be started or resumed here. Call `release` in any
        case.
        """
        check_choice("resume", str(resume), ("True", "False", "auto"))
        # One process locks the folder for all, and looks into it before the others do.
        with self.ranks.together():
            if self.ranks.is_main:
                self._take(resume)
        exists, sharded = checkpoints(self.path)
        progress: dict[str, Any] = {}
        metrics: list[dict[str, Any]] = []
        if exists:
            # Steps after the checkpoint will be done again; their lines must not stand there twice.
            lines = read_metrics(self.path)

            def check(saved: dict[str, Any]) -> None:
                """Raises CourseError if the checkpoint is of another run or other settings."""
                check_settings(self.path, saved, settings, may_change)
                check_one_run(self.path, saved, may_change, lines, trust)

            progress = self._load(sharded, model, optimizer, check, trust)
            metrics = [line for line in lines if line["step"] <= progress["step"]]
            # A disk that was full when the run ended has had no room for the last line, but for the checkpoint.
            written = {line["step"] for line in metrics}
            metrics += [line for line in progress.get("unwritten", []) if line["step"] not in written]
        # The main process rewrites the files below, so all others must have read them by now.
        self.ranks.barrier()
        with self.ranks.together():
            if self.ranks.is_main:
                where = {**machine(next(model.parameters()).device), "processes": self.ranks.world_size}
                about = {"asked": settings, "model": _about(model), "machine": where, "data": token_unit()}
                self._start_files(about, metrics, new=not exists)
        return progress, metrics

    def _take(self, resume: bool | str) -> None:
        """Locks the folder. Raises CourseError if it is in use or holds something that a run must not touch."""
        check_run_folder(self.path, resume)
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        # Again: until now, another run may have been at work there.
        _check_content(self.path, resume)
        remove_unfinished(self.path)

    def _start_files(self, about: dict[str, Any], metrics: list[dict[str, Any]], new: bool) -> None:
        """Writes what is known before the first step."""
        with self._writing():
            if new:
                keep_aside(self.path)
            _write_text(self.path / ABOUT, json.dumps(about, indent=1) + "\n")
            _write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in metrics))
            self._log = open(self.path / METRICS, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns an OSError into a CourseError that names the folder."""
        try:
            yield
        except OSError as error:
            raise CourseError(f"cannot write into the folder {str(self.path)!r}: {reason(error)}.") from error

    def record(self, metrics: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl, at once: who watches the run sees it, and a crash does not lose it.

        What goes wrong is kept in `failure`, so that the step is not lost with its line.
        """
        if self._log is None:
            return
        try:
            self._log.write(json.dumps(metrics) + "\n")
            self._log.flush()
        except OSError as error:
            self.failure = CourseError(f"cannot write {self.path / METRICS}: {reason(error)}.")
            self.unwritten.append(metrics)
            self.close()

    def _load(
        self,
        sharded: bool,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        check: Callable[[dict[str, Any]], None],
        trust: bool,
    ) -> dict[str, Any]:
        """Reads either kind of checkpoint into either kind of run; returns its progress, which `check` may refuse."""
        if sharded:
            from nl_course.training.sharded_checkpoint import load_sharded

            return load_sharded(self.path, model, optimizer, check, self.ranks, trust)
        return load_training(self.checkpoint, model, optimizer, check)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
        """Writes the checkpoint. Every process calls it, and returns when the checkpoint is complete.

        One kind of checkpoint stands at a time. The other kind is removed only once this one is whole, so that a crash
        never leaves the folder without any.
        """
        with suppress(OSError):
            self._sync()
        if self.ranks.sharded:
            from nl_course.training.sharded_checkpoint import save_sharded

            save_sharded(self.path, model, optimizer, progress, self.ranks)
            with self.ranks.together():
                if self.ranks.is_main:
                    self.checkpoint.unlink(missing_ok=True)
            return
        with self.ranks.together():
            if self.ranks.is_main:
                save_training(self.checkpoint, model, optimizer, progress)
                remove_sharded(self.path)

    def finish(self, model: nn.Module, info: dict[str, Any]) -> None:
        """Writes model.safetensors, in 32 bits and with `info` (anything JSON holds). Every process calls it."""
        if self.ranks.sharded:
            from nl_course.training.sharded_checkpoint import save_whole_model

            save_whole_model(model, self.path / MODEL, info, self.ranks)
            return
        with self.ranks.together():
            if self.ranks.is_main:
                save_model(model, self.path / MODEL, torch.float32, info)

    def close(self) -> None:
        """Closes metrics.jsonl; what is recorded afterwards is not written."""
        if self._log is not None:
            # A full disk again, at which `record` has failed already.
            with suppress(OSError):
                self._sync()
            with suppress(OSError):
                self._log.close()
            self._log = None

    def release(self) -> None:
        """Lets other runs use the folder."""
        self.close()
        self._lock.release()

    def _sync(self) -> None:
        """Makes sure that a checkpoint never outlives the lines of its steps, even if the machine fails."""
        if self._log is not None:
            self._log.flush()
            os.fsync(self._log.fileno())


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


def write_lengths(folder: str | os.PathLike, table: dict[str, Any]) -> None:
    """Keeps what a finished run's model loses at several context lengths. Raises CourseError where it cannot."""
    try:
        _write_text(Path(folder) / LENGTHS, json.dumps(table, indent=1) + "\n")
    except OSError as error:
        raise CourseError(f"cannot write {Path(folder) / LENGTHS}: {reason(error)}.") from error


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
