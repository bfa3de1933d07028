"""Runs side by side: their settings, how far they came, loss, speed and memory. `nl-course runs DIR` prints them.

table = find_runs("runs")          # every run folder under runs/, the one written last at the end
print(table)

A loss in nats per token cannot be compared between tokenizers: a token of several bytes holds more to predict. So the
table shows bits per byte: nats per token, divided by ln 2 and by the bytes that a token stands for on average. A run
writes that number down when it starts. Where it is not known the loss stands in nats per token, behind a "?".
"""

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import log, nan
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nl_course.errors import DONE, FOUND, CourseError, shortened
from nl_course.files import read_json, reason
from nl_course.renamed import translate, translate_model
from nl_course.scaling.formats import readable_bytes
from nl_course.training.run_files import ABOUT, METRICS, MODEL
from nl_course.training.run_folder import read_metrics

LAST = 20  # steps; a run's loss is the mean over so many last ones, since that of a single batch is noisy
HEADINGS = (
    "run", "memory", "data", "tokenizer", "parameters", "steps", "bits/byte", "held out", "tokens/s", "memory held",
)  # fmt: skip
WORDS = ("run", "memory", "data", "tokenizer")  # columns of words, which start at the left; numbers end at the right
BYTES = "bytes"  # how the table, and a run, call the tokenizer whose tokens are bytes
NO_TEXT = "symbols"  # and the tokens of a task that is no text
BYTEWISE_TASKS = ("text", "needle")  # tasks of the course's plans whose tokens are bytes; `recall` has symbols


@dataclass(frozen=True)
class RunSummary:
    """One run as its folder tells it.

    `settings` is what the run was started with. `loss` is the mean over the logged steps among the last 20, in nats per
    token; `held_out` is the last held-out loss, also in nats per token. `bytes_per_token` is what a token of
    `tokenizer` stands for on average; None if that is not known, or a token is no text. `seconds` is the time of its
    steps alone. `loss`, `tokens_per_second` and `memory_bytes` are None in a folder in which no step was logged.
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
    tokenizer: str = "?"
    bytes_per_token: float | None = None

    @property
    def wanted(self) -> int:
        """How many steps the run was started for."""
        return self.settings.get("steps", self.steps)

    @property
    def task(self) -> str:
        """What it was trained on: a task of the course, a text, or other data; "" if nothing says so."""
        named = [self.settings.get(name) for name in ("task", "text", "data")]
        return str(next((name for name in named if name is not None), ""))

    def bits_per_byte(self, loss: float | None) -> float | None:
        """A loss of this run, in nats per token, as bits per byte; None if there is none, or it cannot be said."""
        if loss is None or self.bytes_per_token is None:
            return None
        return loss / log(2) / self.bytes_per_token


class Runs(list[RunSummary]):
    """Some runs; printed, a table with a row per run. `unreadable` is name -> why, of run folders that are damaged."""

    def __init__(self, runs: Iterable[RunSummary] = (), unreadable: Mapping[str, str] | None = None):
        super().__init__(runs)
        self.unreadable = dict(unreadable or {})

    def __str__(self) -> str:
        lines = []
        if self:
            rows = [HEADINGS, *(_row(run) for run in self)]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = []
                for heading, width, cell in zip(HEADINGS, widths, row, strict=True):
                    cells.append(cell.ljust(width) if heading in WORDS else cell.rjust(width))
                lines.append("  ".join(cells).rstrip())
        lines += [f"{name}: cannot be read: {why}" for name, why in self.unreadable.items()]
        return "\n".join(lines or ["no run here"])

    __repr__ = __str__


def _row(run: RunSummary) -> tuple[str, ...]:
    """A run's cells, in the order of HEADINGS."""
    return (
        run.name,
        run.memory,
        run.task or "-",
        run.tokenizer,
        f"{run.parameters:,}",
        f"{run.steps:,}" if run.done else f"{run.steps:,} of {run.wanted:,}",
        _loss(run, run.loss),
        _loss(run, run.held_out),
        _number(run.tokens_per_second, ",.0f"),
        "-" if run.memory_bytes is None else readable_bytes(run.memory_bytes),
    )


def _loss(run: RunSummary, loss: float | None) -> str:
    """A loss in bits per byte, or with the unit that it is in."""
    if loss is None or run.bytes_per_token is not None:
        return _number(run.bits_per_byte(loss), ".3f")
    nats = f"{loss:.3f} nats/token"
    return nats if run.tokenizer == NO_TEXT else f"? ({nats})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def read_run(
    folder: str | os.PathLike, name: str | None = None, bytes_per_token: Mapping[str, float] | None = None
) -> RunSummary:
    """The run in a folder. Raises CourseError where there is none, or its files cannot be read.

    `bytes_per_token` is tokenizer's hash -> bytes per token (see `measured`), for runs that did not write it down.
    """
    folder = Path(folder)
    try:
        metrics = read_metrics(folder)
        about = read_json(folder / ABOUT, "run's description")
        done = (folder / MODEL).is_file()
    except OSError as error:
        raise CourseError(f"cannot read {error.filename or folder}: {reason(error)}.") from error
    try:
        return summary(name or folder.name, about, metrics, done, bytes_per_token)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else reason(error)
        raise CourseError(f"the run in {str(folder)!r} is damaged ({what}).") from error


def summary(
    name: str,
    about: dict[str, Any],
    metrics: list[dict[str, Any]],
    done: bool,
    bytes_per_token: Mapping[str, float] | None = None,
) -> RunSummary:
    """A run from the content of its run.json (`about`) and its lines of metrics. `bytes_per_token` as in `read_run`.

    Raises KeyError, TypeError, ValueError or AttributeError for what no run has written.
    """
    model = about["model"]
    # The files of older versions have other names for some settings.
    class_name, config = translate_model(model.get("class"), model["config"])
    _, settings = translate("TrainingConfig", about["asked"])
    # A plan names the kind of model it trains (with clocks or without), `nl-course train` the memory; a run that was
    # started in Python may name neither.
    memory = settings.get("kind") or settings.get("memory") or config.get("memory", class_name or "?")
    _whole(settings, "steps", 0)
    held_out_losses = [_real(line, "held_out_loss") for line in metrics if "held_out_loss" in line]
    loss = None
    tokens_per_second = None
    memory_bytes = None
    seconds = 0.0
    last: dict[str, Any] = {}
    if metrics:
        last = metrics[-1]
        loss = fmean(_real(line, "loss") for line in metrics if line["step"] > last["step"] - LAST)
        memory_bytes = max(_whole(line, "memory_bytes", 0) for line in metrics) or None
        seconds = _real(last, "seconds") if "seconds" in last else nan
    if "tokens_per_second" in last:
        # The median: the first step is slow, and so is one during which the machine did something else.
        tokens_per_second = median(_real(line, "tokens_per_second") for line in metrics)
    tokenizer, of_token = _token(about.get("data"), settings, config)
    if of_token is None:
        of_token = (bytes_per_token or {}).get(str(settings.get("tokenizer_hash")))
    return RunSummary(
        name=name,
        memory=str(memory),
        parameters=_whole(model, "parameters"),
        settings=settings,
        steps=last.get("step", 0),
        loss=loss,
        held_out=held_out_losses[-1] if held_out_losses else None,
        tokens=_whole(last, "tokens", 0),
        seconds=seconds,
        tokens_per_second=tokens_per_second,
        memory_bytes=memory_bytes,
        done=done,
        metrics=metrics,
        tokenizer=tokenizer,
        bytes_per_token=of_token,
    )


def _token(data: Any, settings: dict[str, Any], config: dict[str, Any]) -> tuple[str, float | None]:
    """What a token of a run is, in words, and how many bytes of text it stands for (None if that is not known).

    `data` is what the run wrote down about it; earlier versions wrote nothing, and then the settings tell.
    """
    if isinstance(data, dict) and data.get("tokenizer") is not None:
        of_token = data.get("bytes_per_token")
        if of_token is not None and not _real(data, "bytes_per_token") > 0:
            raise ValueError(f"a token cannot have {shortened(of_token)} bytes")
        return str(data["tokenizer"]), of_token
    known = settings.get("tokenizer_hash")
    if known not in (None, BYTES):
        return f"{_whole(config, 'vocab'):,} subwords, {known}", None
    task = settings.get("task")
    if known == BYTES or task in BYTEWISE_TASKS:
        return BYTES, 1.0
    if task is not None:
        return NO_TEXT, None
    # `nl-course train --text`, before it wrote down a tokenizer. A run from Python may have had any tokens.
    return (BYTES, 1.0) if settings.get("preset") and settings.get("text") else ("?", None)


def _real(values: dict[str, Any], name: str) -> float:
    """A number of a run's files. Raises ValueError if it is none."""
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {shortened(value)}, and no number")
    return value


def _whole(values: dict[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of a run's files, or the default if there is one. Raises ValueError if it is none."""
    value = values[name] if default is None else values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {shortened(value)}, and no whole number")
    return value


def find_runs(folder: str | os.PathLike, bytes_per_token: Mapping[str, float] | None = None) -> Runs:
    """Every run under a folder (or the run that it is), in the order in which they were last written.

    `bytes_per_token` as in `read_run`. A run that cannot be read is named in the result's `unreadable`. Raises
    CourseError if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"there is no folder {str(folder)!r}.")
    logs = []
    for inside, folders, files in os.walk(folder):
        if METRICS in files or METRICS in folders:
            logs.append(Path(inside) / METRICS)
    # Of a link its own time, not that of the file it leads to, which may be gone.
    logs.sort(key=lambda path: (path.lstat().st_mtime_ns, str(path)))
    runs = Runs()
    for log_file in logs:
        name = log_file.parent.relative_to(folder).as_posix()
        name = folder.resolve().name if name == "." else name
        try:
            runs.append(read_run(log_file.parent, name, bytes_per_token))
        except CourseError as error:
            runs.unreadable[name] = str(error)
    return runs


def measured(data: str, tokenizer: str | os.PathLike, column: str = "text") -> dict[str, float]:
    """The hash of a tokenizer in a file, and the bytes per token that it makes of some data, for `find_runs`."""
    from nl_course.tasks.packed import PackedStream
    from nl_course.tasks.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    stream = PackedStream(data, loaded, batch_size=1, length=256, column=column)
    return {loaded.hash: stream.token_unit()["bytes_per_token"]}


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds `runs DIR` to the command line."""
    parser = commands.add_parser("runs", help="compare the runs in a folder: loss, speed, memory")
    parser.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="where to look (default: runs)")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="of runs that did not write down how many bytes a token has; needs --data"
    )
    parser.add_argument("--data", metavar="FILES", help="what these runs read, to count the bytes of its tokens")
    parser.add_argument("--column", default="text", help="the column of --data that holds the text (default: text)")
    parser.set_defaults(run=_command)


def _command(options: argparse.Namespace) -> int:
    if (options.tokenizer is None) != (options.data is None):
        raise CourseError("--tokenizer and --data go together.")
    bytes_per_token = None
    if options.tokenizer is not None:
        bytes_per_token = measured(options.data, options.tokenizer, options.column)
    runs = find_runs(options.folder, bytes_per_token)
    print(runs)
    return FOUND if runs.unreadable else DONE
