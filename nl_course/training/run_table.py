"""Runs side by side: their settings, how far they came, loss, speed and memory. `nl-course runs DIR` prints them.

table = find_runs("runs")          # every run folder under runs/, the one written last at the end
print(table)
"""

import argparse
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

LAST = 20  # steps; a run's loss is the mean over so many last ones, since that of a single batch is noisy
HEADINGS = ("run", "memory", "task", "parameters", "steps", "loss", "held out", "tokens/s", "memory held")
WORDS = ("run", "memory", "task")  # columns of words, which start at the left; numbers end at the right


@dataclass(frozen=True)
class RunSummary:
    """One run as its folder tells it.

    `settings` is what the run was started with. `loss` is the mean over the logged steps among the last 20, in nats per
    token; `held_out` is the last held-out loss, also in nats per token. `seconds` is the time of its steps alone.
    `loss`, `tokens_per_second` and `memory_bytes` are None in a folder in which no step was logged.
    """

    name: str
    memory: str
    parameters: int
    settings: dict[str, Any]
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
        """How many steps the run was started for."""
        return self.settings.get("steps", self.steps)

    @property
    def task(self) -> str:
        """What it was trained on: a task of the course, or a text; "" if nothing says so."""
        return str(self.settings.get("task", self.settings.get("text", "")))


class Runs(list[RunSummary]):
    """Some runs; printed, a table with a row per run."""

    def __str__(self) -> str:
        if not self:
            return "no run here"
        rows = [HEADINGS, *(_row(run) for run in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = []
            for heading, width, cell in zip(HEADINGS, widths, row, strict=True):
                cells.append(cell.ljust(width) if heading in WORDS else cell.rjust(width))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def _row(run: RunSummary) -> tuple[str, ...]:
    """A run's cells, in the order of HEADINGS."""
    return (
        run.name,
        run.memory,
        run.task or "-",
        f"{run.parameters:,}",
        f"{run.steps:,}" if run.done else f"{run.steps:,} of {run.wanted:,}",
        _number(run.loss, ".3f"),
        _number(run.held_out, ".3f"),
        _number(run.tokens_per_second, ",.0f"),
        "-" if run.memory_bytes is None else readable_bytes(run.memory_bytes),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


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
    """A run from the content of its run.json (`about`) and its lines of metrics."""
    model = about["model"]
    # The files of older versions have other names for some settings.
    class_name, config = translate_model(model.get("class"), model["config"])
    _, settings = translate("TrainingConfig", about["asked"])
    # A plan names the kind of model it trains (with clocks or without), `nl-course train` the memory; a run that was
    # started in Python may name neither.
    memory = settings.get("kind") or settings.get("memory") or config.get("memory", class_name or "?")
    held_out_losses = [line["held_out_loss"] for line in metrics if "held_out_loss" in line]
    loss = None
    tokens_per_second = None
    memory_bytes = None
    last: dict[str, Any] = {}
    if metrics:
        last = metrics[-1]
        loss = fmean(line["loss"] for line in metrics if line["step"] > last["step"] - LAST)
        memory_bytes = max(line.get("memory_bytes", 0) for line in metrics) or None
    if "tokens_per_second" in last:
        # The median: the first step is slow, and so is one during which the machine did something else.
        tokens_per_second = median(line["tokens_per_second"] for line in metrics)
    return RunSummary(
        name=name,
        memory=str(memory),
        parameters=model["parameters"],
        settings=settings,
        steps=last.get("step", 0),
        loss=loss,
        held_out=held_out_losses[-1] if held_out_losses else None,
        tokens=last.get("tokens", 0),
        seconds=last.get("seconds", nan if metrics else 0.0),
        tokens_per_second=tokens_per_second,
        memory_bytes=memory_bytes,
        done=done,
        metrics=metrics,
    )


def find_runs(folder: str | os.PathLike) -> Runs:
    """Every run under a folder (or the run that it is), in the order in which they were last written.

    Raises CourseError if there is no such folder, or a run in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"there is no folder {str(folder)!r}.")
    logs = sorted(folder.rglob("metrics.jsonl"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
    runs = Runs()
    for log in logs:
        name = log.parent.relative_to(folder).as_posix()
        runs.append(read_run(log.parent, folder.name if name == "." else name))
    return runs


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds `runs DIR` to the command line."""
    parser = commands.add_parser("runs", help="compare the runs in a folder: loss, speed, memory")
    parser.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="where to look (default: runs)")
    parser.set_defaults(run=lambda options: print(find_runs(options.folder)))
