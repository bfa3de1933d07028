"""Runs side by side: what each was asked, how far it came, loss, speed and memory. `nl-course runs DIR` prints them.

table = find_runs("runs")          # every run folder under runs/, oldest first
print(table)
"""

import json
import os
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nl_course.errors import CourseError
from nl_course.renamed import translate, translate_model
from nl_course.scaling.formats import readable_bytes
from nl_course.training.run_folder import read_metrics

LAST = 20  # steps whose mean is the loss that a run has reached


@dataclass(frozen=True)
class RunSummary:
    """One run as its folder tells it. `loss` is the mean of the last 20 steps, of those that were logged, nats a
    token; `seconds` are those of its steps alone; rates and bytes are None in a folder that no step was logged in."""

    name: str
    memory: str
    parameters: int
    asked: dict[str, Any]
    steps: int
    loss: float | None
    held_out: float | None
    tokens: int
    seconds: float
    tokens_per_second: float | None
    memory_bytes: int | None
    done: bool
    metrics: list[dict[str, Any]] = field(repr=False, default_factory=list)

    @property
    def wanted(self) -> int:
        """The steps that were asked for."""
        return self.asked.get("steps", self.steps)

    @property
    def task(self) -> str:
        return str(self.asked.get("task", self.asked.get("text", "")))


class Runs(list):
    """Some runs; printed, a table."""

    def __str__(self) -> str:
        if not self:
            return "no run here"
        heads = ("run", "memory", "task", "parameters", "steps", "loss", "held out", "tokens/s", "memory held")
        rows = [heads, *(_row(run) for run in self)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
        left = {0, 1, 2}
        lines = []
        for row in rows:
            cells = (t.ljust(w) if i in left else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths)))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def _row(run: RunSummary) -> tuple[str, ...]:
    def number(value, form: str) -> str:
        return "-" if value is None else format(value, form)

    steps = f"{run.steps:,}" if run.done else f"{run.steps:,} of {run.wanted:,}"
    held = "-" if run.memory_bytes is None else readable_bytes(run.memory_bytes)
    found = (number(run.loss, ".3f"), number(run.held_out, ".3f"), number(run.tokens_per_second, ",.0f"))
    return run.name, run.memory, run.task or "-", f"{run.parameters:,}", steps, *found, held


def read_run(folder: str | os.PathLike, name: str | None = None) -> RunSummary:
    """The run in a folder. Raises CourseError where there is none, or its run.json cannot be read."""
    folder = Path(folder)
    metrics = read_metrics(folder)
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"the run in {str(folder)!r} has no run.json that can be read.") from error
    return summary(name or folder.name, about, metrics, (folder / "model.safetensors").is_file())


def summary(name: str, about: dict[str, Any], metrics: list[dict[str, Any]], done: bool) -> RunSummary:
    """A run from what it was asked (`asked`, `model`) and its lines of metrics."""
    model, last = about["model"], metrics[-1] if metrics else {}
    kind, config = translate_model(model.get("class"), model["config"])
    _, asked = translate("TrainingConfig", about["asked"])
    looks = [line["held_out_loss"] for line in metrics if "held_out_loss" in line]
    memory = asked.get("memory") or config.get("memory", kind or "?")
    return RunSummary(
        name=name,
        memory=str(asked.get("kind", memory)),
        parameters=model["parameters"],
        asked=asked,
        steps=last.get("step", 0),
        loss=fmean(line["loss"] for line in metrics if line["step"] > last["step"] - LAST) if metrics else None,
        held_out=looks[-1] if looks else None,
        tokens=last.get("tokens", 0),
        seconds=last.get("seconds", nan if metrics else 0.0),
        tokens_per_second=median(m["tokens_per_second"] for m in metrics) if "tokens_per_second" in last else None,
        memory_bytes=max(m.get("memory_bytes", 0) for m in metrics) or None if metrics else None,
        done=done,
        metrics=metrics,
    )


def find_runs(folder: str | os.PathLike) -> Runs:
    """Every run under a folder (or the run that it is), in the order in which they were last written."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"there is no folder {str(folder)!r}.")
    logs = sorted(folder.rglob("metrics.jsonl"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
    names = {log: log.parent.relative_to(folder).as_posix() for log in logs}
    return Runs(read_run(log.parent, folder.name if name == "." else name) for log, name in names.items())


def add_command(commands) -> None:
    """`nl-course runs`."""
    parser = commands.add_parser("runs", help="compare the runs in a folder: loss, speed, memory")
    parser.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="where to look (default: runs)")
    parser.set_defaults(run=lambda options: print(find_runs(options.folder)))
