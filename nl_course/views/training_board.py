"""The training board: is the outer loop learning?

    board = TrainingBoard(folder="runs")      # without a folder its runs are kept until the kernel ends
    board                                     # choose, press Start; Pause keeps the last whole step; Start goes on

The view only shows. What trains is `nl_course.training.runner.Runner`, in a thread of its own, on a run folder; the
board listens to it and draws at most a few times a second, in the kernel's own thread where there is one, so that
widgets are never touched from two sides. Beside the run stand earlier ones of the same task: those in the folder, and
the recorded."""

import asyncio
import json
import tempfile
import threading
import time
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import ipywidgets as W
import torch

from nl_course.errors import CourseError
from nl_course.files import asset
from nl_course.model import LanguageModel
from nl_course.nested import NestedConfig, NestedLanguageModel
from nl_course.scaling.formats import readable_bytes
from nl_course.training.run_table import RunSummary, find_runs, summary
from nl_course.training.runner import CHOICES, SIZES, TASKS, Plan, Runner
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, pure

MEAN_OVER = 20  # steps of the loss's running mean
STYLES = {  # a choice of the board -> its style's name, where that is another
    "latent-attention": "latent-attention",
    "titans": "titans",
    "self-modifying": "hope",
    "hope-attention": "hope",
}
PANELS = {  # what is drawn: axis number, where it stands, the axis's words
    "loss": (1, (0.0, 0.45), (0.57, 0.97), "loss (nats per token)"),
    "tokens_per_second": (2, (0.57, 1.0), (0.57, 0.97), "tokens per second"),
    "grad_norm": (3, (0.0, 0.45), (0.0, 0.4), "norm of all gradients"),
    "memory_bytes": (4, (0.57, 1.0), (0.0, 0.4), "memory held (GB)"),
}

EVERY = 0.3  # seconds between two drawings
RECORDED = "runs/board.json"


@lru_cache(maxsize=1)
def recorded() -> tuple[tuple[RunSummary, dict], ...]:
    """The recorded runs, each with what was estimated before it (see `nl_course/record/board.py`)."""
    found = json.loads(asset(RECORDED).read_text("utf-8"))
    when = found["about"]["recorded"]
    return tuple(
        (
            summary(f"{run['about']['asked']['kind']}, recorded {when}", run["about"], run["metrics"], True),
            run["before"],
        )
        for run in found["runs"]
    )


@lru_cache(maxsize=64)
def parameters(memory: str, size: str) -> int:
    """Parameters of a choice, from a model that is built without memory."""
    config = Plan(memory, size).model
    with torch.device("meta"):
        return (NestedLanguageModel if isinstance(config, NestedConfig) else LanguageModel)(config).parameter_count()


def off_by(estimated: float | None, actual: float | None) -> float | None:
    """The factor between what was said and what came, 1 or more whichever way; None where either is missing."""
    return max(estimated / actual, actual / estimated) if estimated and actual else None


def style(memory: str) -> theme.Style:
    """The style of a choice of the board."""
    return theme.style(STYLES.get(memory, memory))


def smooth(steps: list[int], values: list[float], over: int = MEAN_OVER) -> list[float]:
    """The mean of each value and of those of the `over` - 1 steps before it, also where not every step was kept."""
    sums = [0.0, *accumulate(values)]
    firsts = [bisect_right(steps, step - over) for step in steps]
    return [(sums[i] - sums[first]) / (i - first) for i, first in enumerate(firsts, 1)]


def column(metrics: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one measurement, where it was made; bytes in GB, losses as a running mean."""
    lines = [line for line in metrics if name in line]
    values = [line[name] / (1e9 if name == "memory_bytes" else 1) for line in lines]
    steps = [line["step"] for line in lines]
    return steps, smooth(steps, values) if name == "loss" else values


def draw(arrays: dict, figure) -> None:
    """Four panels over the steps: earlier runs thin in their memory's color and dash, this one thick, estimates
    dotted."""
    plan, metrics = arrays["plan"], arrays["metrics"]
    for run in arrays["earlier"]:
        same = run.memory == plan.memory  # what this run may be compared with
        _lines(figure, run.metrics, run.name, style(run.memory), width=2.4 if same else 1.2, opacity=0.75)
    _lines(figure, metrics, f"this run: {plan.memory}", style(plan.memory), width=3.2, opacity=1.0)
    looks = [line for line in metrics if "held_out_loss" in line]
    figure.add_scatter(
        x=[line["step"] for line in looks], y=[line["held_out_loss"] for line in looks], mode="markers",
        name="this run, held out", cliponaxis=False,
        marker=dict(color=theme.style("outer").color, symbol="diamond", size=9),
    )  # fmt: skip
    _arrange(arrays, figure)


def _lines(figure, metrics, name: str, look: theme.Style, width: float, opacity: float) -> None:
    """One run in all four panels."""
    for what, (axis, *_) in PANELS.items():
        steps, values = column(metrics, what)
        number = "" if axis == 1 else str(axis)
        figure.add_scatter(
            x=steps, y=values, name=name, mode="lines", legendgroup=name, showlegend=axis == 1, opacity=opacity,
            line=dict(color=look.color, dash=look.dash, width=width), xaxis=f"x{number}", yaxis=f"y{number}",
        )  # fmt: skip


def _arrange(arrays: dict, figure) -> None:
    """Axes, and what was estimated as dotted lines."""
    layout, shapes, words = {}, [], []
    for what, (axis, across, up, title) in PANELS.items():
        number = "" if axis == 1 else str(axis)
        titled = dict(title="steps") if axis in (3, 4) else dict(showticklabels=axis == 1 or None)
        layout[f"xaxis{number}"] = dict(domain=across, anchor=f"y{number}", range=[0, arrays["plan"].steps], **titled)
        layout[f"yaxis{number}"] = dict(domain=up, anchor=f"x{number}", title=title, rangemode="tozero")
        level = expected(arrays, what)
        if level is not None:
            line = dict(color=theme.style("outer").color, dash="dot", width=2)
            place = dict(xref=f"x{number} domain", yref=f"y{number}", y0=level, y1=level, x0=0, x1=1)
            shapes.append(dict(type="line", line=line, **place))
            words.append(
                dict(text="estimated", x=1, y=level, xref=f"x{number} domain", yref=f"y{number}", xanchor="right",
                     yanchor="bottom", showarrow=False)
            )  # fmt: skip
    figure.update_layout(
        **layout, shapes=shapes, annotations=words, margin=dict(l=64, r=16, t=84, b=46),
        legend=dict(x=1, y=1.02, xanchor="right", yanchor="bottom", orientation="h", font=dict(size=12)),
    )  # fmt: skip


def expected(arrays: dict, what: str) -> float | None:
    """What was estimated for a panel, in its unit; None where nothing was."""
    said = arrays["estimate"]
    if said is None:
        return None
    if what == "tokens_per_second":
        return said.tokens_per_second
    if what == "memory_bytes" and arrays["held_before"]:
        return (arrays["held_before"] + said.memory[1]) / 1e9
    return None


def read_out(arrays: dict) -> str:
    """What the board says, in sentences."""
    plan, metrics, said = arrays["plan"], arrays["metrics"], arrays["estimate"]
    tokens = plan.steps * plan.batch_size * plan.length
    words = [
        f"{plan.memory}, {plan.size}, on {plan.task}, seed {plan.seed}: {arrays['parameters']:,} parameters, "
        f"{plan.steps:,} steps, {tokens:,} tokens, "
        f"{6.0 * arrays['parameters'] * tokens:.1e} operations by the rule 6 N D"
    ]
    if said is not None:
        least, most = said.seconds
        words.append(f"estimated {least:.0f} to {most:.0f} s and {readable_bytes(said.memory[1])} beyond what is held")
    if metrics:
        last, (_, losses) = metrics[-1], column(metrics, "loss")
        words.append(
            f"{arrays['status']} at step {last['step']:,} after {arrays['seconds']:.0f} s: loss {losses[-1]:.2f}, "
            f"{losses[0]:.2f} at the start, gradient norm {last['grad_norm']:.2f}, "
            f"{last['tokens_per_second']:,.0f} tokens per second"
        )
    else:
        words.append("no step has been taken yet: press Start")
    if arrays["off"]:
        words.append(f"the middle of the estimate missed the time by a factor of {arrays['off']:.2f}")
    if arrays["earlier"]:
        best = min(arrays["earlier"], key=lambda run: run.loss)
        words.append(f"the lowest of {len(arrays['earlier'])} earlier runs is {best.name}, loss {best.loss:.2f}")
    return ". ".join(word[0].upper() + word[1:] for word in words) + "."


class TrainingBoard(View):
    """A run that you choose, estimate, start, pause and continue, beside earlier ones."""

    name = "training-board"
    title = "Is the outer loop learning?"
    prediction = Prediction(
        "Estimate first, then start. By what factor will the time that the steps take miss the middle of the estimate?",
        lambda arrays: arrays["off"],
        until="Press Estimate, then Start, and wait for the last step.",
        why="The estimate takes the machine's speed as it was just before the run. It does not know what else will run "
        "during the training.",
    )
    width, height = 900, 420
    stays = "it trains a model, for which there is no kernel."

    def __init__(self, folder=None, strict: bool | None = None, **settings):
        """Runs are kept in `folder`; without one, until the kernel ends."""
        self._kept = tempfile.TemporaryDirectory(prefix="nl-course-runs-") if folder is None else None
        self.folder = Path(self._kept.name if folder is None else folder)
        self._runners: dict[Plan, Runner] = {}
        self._drawing, self._drawn = threading.Lock(), 0.0
        try:
            self._loop = asyncio.get_running_loop()  # the kernel's: what is asked for there is drawn there
        except RuntimeError:
            self._loop = None
        super().__init__(strict, **settings)

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: memory, size, task, steps, estimate, start, pause."""
        self.estimate_button = W.Button(description="Estimate", icon="clock-o")
        self.start_button = W.Button(description="Start", icon="play")
        self.pause_button = W.Button(description="Pause", icon="pause", disabled=True)
        self.estimate_button.on_click(lambda _: self._pressed(self.estimate))
        self.start_button.on_click(lambda _: self._pressed(self.start))
        self.pause_button.on_click(lambda _: self._pressed(self.pause))
        return {
            "memory": W.Dropdown(options=list(CHOICES), value="attention", description="Memory"),
            "size": W.Dropdown(options=list(SIZES), value="small", description="Size"),
            "task": W.Dropdown(options=list(TASKS), value="text", description="Task"),
            "steps": W.IntSlider(value=120, min=20, max=1000, step=20, description="Steps"),
            "estimate": self.estimate_button,
            "start": self.start_button,
            "pause": self.pause_button,
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: earlier, seed."""
        return {
            "earlier": W.Checkbox(value=True, description="Earlier runs beside it"),
            "seed": W.IntSlider(value=0, min=0, max=9, description="Seed"),
        }

    # what the buttons do, and code may do too

    @property
    def plan(self) -> Plan:
        """What the controls say."""
        chosen = self.settings
        return Plan(*(chosen[name] for name in ("memory", "size", "task", "steps")), seed=chosen["seed"])

    @property
    def runner(self) -> Runner:
        """The run of the present choice; a folder that holds it already is gone on with."""
        plan = self.plan
        if plan not in self._runners:
            runner = self._runners[plan] = Runner(plan, self.folder / plan.name)
            runner.listeners.append(self._heard)
        return self._runners[plan]

    def estimate(self) -> None:
        """A few steps on a copy, and what follows from their speed."""
        self.runner.measure_speed()
        self.runner.estimate()
        self.refresh()

    def start(self) -> None:
        """Starts the run of the present choice, or goes on with it."""
        others = [r.plan.name for r in self._runners.values() if r.status == "running" and r is not self.runner]
        if others:
            raise CourseError(f"{others[0]} is still running; pause it first.")
        self.runner.start()
        self.refresh()

    def pause(self) -> None:
        """Stops after the present step and keeps it."""
        self.runner.pause()

    async def finished(self) -> str:
        """`await board.finished()` in a cell waits for the run while the board goes on drawing; returns the status."""
        while self.runner.status == "running":
            await asyncio.sleep(EVERY)
        self.refresh()
        return self.runner.status

    def _pressed(self, action) -> None:
        """Does what a button asks; what goes wrong is said in the view."""
        with self._words():
            action()

    # how it follows a run

    def _heard(self) -> None:
        """Called by the runner, in whichever thread it trains."""
        due = time.monotonic() - self._drawn > EVERY or self.runner.status != "running"
        if not due:
            return
        self._drawn = time.monotonic()
        if (
            self._loop is not None
            and self._loop.is_running()
            and threading.current_thread() is not threading.main_thread()
        ):
            self._loop.call_soon_threadsafe(self.refresh)
        else:
            self.refresh()

    def refresh(self, *_) -> None:
        """Draws, one thread at a time, and sets the buttons."""
        with self._drawing:
            super().refresh()
            self._buttons()

    def _changed(self, name: str) -> None:
        """A control changed: as in every view, and the buttons follow."""
        with self._drawing:
            super()._changed(name)
            self._buttons()

    def _buttons(self) -> None:
        """Sets which buttons may be pressed, and what they say."""
        runner = self.runner
        running = runner.status == "running"
        self.start_button.disabled, self.pause_button.disabled = running or runner.status == "done", not running
        self.estimate_button.disabled = running
        self.start_button.description = "Go on" if runner.status == "paused" else "Start"
        for name in ("memory", "size", "task", "steps", "seed"):  # they choose the next run, not the one that runs
            self.controls_by_name[name].disabled = running
        if runner.error:
            self._error.text = f"The run stopped: {runner.error}"

    def _computed(self, settings: dict):
        """Never remembered: a run goes on while the settings stay."""
        return self.compute(settings)  # never remembered: a run goes on while the settings stay

    def compute(self, settings: dict) -> dict[str, Any]:
        """The present run, its estimate, and earlier runs beside it."""
        runner, plan = self.runner, self.plan
        said = runner.estimate() if runner.speed else None
        metrics = list(runner.metrics)
        seconds = metrics[-1]["seconds"] if metrics else None
        over = runner.status == "done"
        middle = None if said is None or said.seconds is None else sum(said.seconds) / 2
        return {
            "plan": plan,
            "status": runner.status,
            "metrics": metrics,
            "estimate": said,
            "held_before": runner.held_before,
            "parameters": parameters(plan.memory, plan.size),
            "earlier": self._earlier(runner) if settings["earlier"] else [],
            "seconds": seconds,
            "off": off_by(middle, seconds) if over else None,
        }

    def _earlier(self, runner: Runner) -> list[RunSummary]:
        """The last eight runs of the same task and size, recorded or in the folder."""
        own = find_runs(self.folder) if self.folder.is_dir() else []
        found = [run for run, _ in recorded()] + [run for run in own if run.metrics and run.name != runner.plan.name]
        alike = [run for run in found if run.task == runner.plan.task and run.settings.get("size") == runner.plan.size]
        return alike[-8:]

    draw, read_out = pure(draw, read_out)
