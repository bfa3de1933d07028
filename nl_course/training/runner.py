"""A training run that one can start, pause and go on with: what a choice of memory, size and task means, and a runner.

    plan = Plan("gated-delta", size="small", task="text", steps=120)
    print(plan.estimate())                       # before anything is trained
    runner = Runner(plan, "runs/first")
    runner.start()                               # in a thread of its own; returns at once
    runner.pause(), runner.start()               # the checkpoint of the last whole step, and on from it
    runner.step(10)                              # or here, in this thread: ten steps

The runner only drives `training.train` on a run folder, so that what it leaves there is what `nl-course train` leaves.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.memories import MEMORIES
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedConfig, NestedLanguageModel, e2e_config
from nl_course.nested.presets import TOY, levels
from nl_course.presets import PRESETS
from nl_course.renamed import translate
from nl_course.tasks.needle import NeedleTask
from nl_course.tasks.recall import accuracy, mqar, recall_loss
from nl_course.tasks.text import library
from nl_course.training.estimate import Estimate, estimate, probe
from nl_course.training.loop import IGNORED, Data, TrainingConfig, token_losses, train
from nl_course.training.run_folder import memory_in_use, read_metrics

CLOCKED = ("hope-attention", "hope", "ttt-e2e")  # models whose levels learn by their own clocks
CHOICES = (*MEMORIES, *CLOCKED)
SIZES = {
    "small": ModelConfig(width=64, layers=2, heads=4, hidden=176),
    **{name: PRESETS[name].config for name in ("micro", "tiny")},
}
TASKS = ("text", "recall", "needle")
# What trains well at these sizes (notebooks 05 and 07 say why); all else as the memory has it.
_DEEP = {"norm": True, "residual": True, "bias": True}
OPTIONS: dict[str, dict] = dict.fromkeys(("titans", "mac", "mag", "mal"), _DEEP)
OPTIONS["self-modifying"] = {"kind": "linear", "chunk": 8, "read": "running", "max_step": 1.0}
PAIRS, RECALL_LENGTH = 4, 64
HELD_OUT_ROWS = 64


@dataclass(frozen=True)
class Plan:
    """A choice: a memory of the course or a model with clocks, a size, a task, how long and from which seed."""

    memory: str = "attention"
    size: str = "small"
    task: str = "text"
    steps: int = 120
    batch_size: int = 8
    length: int = 128  # tokens a row, for text and needle; recall has its own
    learning_rate: float = 5e-3
    seed: int = 0

    def __post_init__(self):
        check_choice("memory", self.memory, CHOICES)
        check_choice("size", self.size, SIZES)
        check_choice("task", self.task, TASKS)
        check_int("steps", self.steps, 1)
        if self.task == "recall":
            object.__setattr__(self, "length", RECALL_LENGTH)
        TrainingConfig.from_dict(self.training.to_dict())  # says at once what cannot be trained

    @property
    def name(self) -> str:
        """A folder's name for it, which says the choice and tells plans apart that differ in anything else."""
        usual = Plan(self.memory, self.size, self.task)
        more = [f"{key}-{value:g}" for key, value in asdict(self).items() if value != getattr(usual, key)]
        return "-".join([self.memory, self.size, self.task, *more])

    @property
    def model(self) -> ModelConfig | NestedConfig:
        return shape(self.memory, self.size)

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            length=self.length,
            learning_rate=self.learning_rate,
            warmup=min(20, self.steps // 5),
            evaluate_every=max(1, self.steps // 4),
            save_every=0,  # where it pauses, and at the end
            seed=self.seed,
        )

    def about(self) -> dict[str, Any]:
        """What is kept with the run; `Plan.of` reads it back."""
        return {"kind": self.memory, "size": self.size, "task": self.task, "plan": asdict(self)}

    @classmethod
    def of(cls, asked: dict[str, Any]) -> "Plan":
        """The plan of a run from what its run.json says was asked."""
        if "plan" not in asked:
            raise CourseError("this run was not started from a plan; go on with `nl-course train --resume`.")
        _, settings = translate("Plan", asked["plan"])
        return cls(**settings)

    def build(self) -> LanguageModel:
        """The model at its start, which the seed decides."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            config = self.model
            return (NestedLanguageModel if isinstance(config, NestedConfig) else LanguageModel)(config)

    def data(self) -> Data:
        """What is trained on: a stream of bytes, or a function from the step's number to inputs and targets."""
        if self.task == "text":
            return library("prose").stream("train")
        return _recall_rows(self) if self.task == "recall" else _needles(self)

    def held_out(self) -> Callable[[nn.Module], dict[str, float]] | torch.Tensor:
        """What is looked at now and then: books held out, or rows never trained on, loss and share answered."""
        if self.task == "text":
            return library("prose").stream("held_out")
        return _on_recall if self.task == "recall" else _on_needles(self)

    def estimate(self, tokens_per_second: float | None = None, **options) -> Estimate:
        """What it will take; with a speed (see `Plan.probe`) also for how long."""
        return _estimate(replace(self, seed=0), tokens_per_second, tuple(sorted(options.items())))

    def probe(self, steps: int = 3) -> float:
        """Tokens a second, here, over a few real steps that are thrown away."""
        return probe(self.build(), self.data(), self.training, steps)


def shape(memory: str, size: str) -> ModelConfig | NestedConfig:
    """The model of a size around a memory, reading bytes, with the short convolution, which recall needs, in all."""
    base, sizes = SIZES[size], {}
    if memory == "latent-attention":
        latent = {"kv_rank": base.width // 2, "rope_dim": 8, "head_dim": base.width // base.heads}
        return replace(base, memory=memory, options=latent, conv=4)
    if memory in CLOCKED:
        sizes = dict(vocab=base.vocab, width=base.width, layers=base.layers, heads=base.heads)
    if memory == "ttt-e2e":
        return e2e_config(**sizes, hidden=4 * base.hidden // 5, window=32, chunk=16)
    if memory in CLOCKED:
        inner = "self-modifying" if memory == "hope" else "attention"
        return NestedConfig(
            **sizes, levels=levels(TOY, base.hidden), memory=inner, options=OPTIONS.get(inner, {}), conv=4
        )
    return replace(base, memory=memory, options=OPTIONS.get(memory, {}), conv=4)


@lru_cache(maxsize=64)
def _estimate(plan: Plan, tokens_per_second: float | None, options: tuple) -> Estimate:
    return estimate(plan.model, plan.training, tokens_per_second=tokens_per_second, **dict(options))


# -- the tasks ---------------------------------------------------------------------------------------------------------
def _recall_rows(plan: Plan):
    def rows(step: int):
        found = mqar(plan.batch_size, RECALL_LENGTH, PAIRS, 256, seed=plan.seed * 10**6 + step)
        return found.tokens, found.targets.masked_fill(~found.mask, IGNORED)

    return rows


@torch.no_grad()
def _on_recall(model: nn.Module) -> dict[str, float]:
    rows, device = mqar(HELD_OUT_ROWS, RECALL_LENGTH, PAIRS, 256, seed=-1 % 2**31), next(model.parameters()).device
    (share,) = accuracy(model, rows, device=device)
    loss = recall_loss(model(rows.tokens.to(device))[0].cpu(), rows)
    return {"held_out_loss": float(loss), "answered": share.accuracy}


def _needles(plan: Plan, split: str = "train", rows: int | None = None) -> NeedleTask:
    return NeedleTask("number", plan.length, hay="noise", answer=1, split=split, rows=rows or plan.batch_size)


def _on_needles(plan: Plan):
    inputs, targets = _needles(plan, "held_out", HELD_OUT_ROWS)(0)

    @torch.no_grad()
    def look(model: nn.Module) -> dict[str, float]:
        device, asked = next(model.parameters()).device, targets != IGNORED
        losses = token_losses(model, inputs.to(device), targets.to(device)).cpu()
        right = model(inputs.to(device))[0].argmax(-1).cpu() == targets
        return {"held_out_loss": float(losses[asked].mean()), "answered": float(right[asked].float().mean())}

    return look


# -- the runner --------------------------------------------------------------------------------------------------------
STATUSES = ("ready", "running", "paused", "done", "failed")


class Runner:
    """One run of a plan in a folder of its own. A folder that holds the same run already is gone on with.

    `status` is one of STATUSES, `metrics` the lines so far, `error` what went wrong in words. Each function in
    `listeners` is called without arguments after every step and whenever the status changes, in the thread that trains.
    """

    def __init__(self, plan: Plan, folder: str | os.PathLike, device: str = "cpu"):
        self.plan, self.folder, self.device = plan, Path(folder), device
        self.metrics: list[dict[str, Any]] = []
        self.status, self.error, self.model = "ready", "", None
        self.speed: float | None = None  # tokens a second of a probe
        self.held_before: int | None = None  # bytes that the process held before the model was there
        self.listeners: list[Callable[[], None]] = []
        self._stop, self._thread = threading.Event(), None
        if (self.folder / "checkpoint.safetensors").exists():
            self.metrics = read_metrics(self.folder)
            self.status = "done" if (self.folder / "model.safetensors").exists() else "paused"

    @property
    def done(self) -> int:
        """Whole steps taken."""
        return self.metrics[-1]["step"] if self.metrics else 0

    def estimate(self) -> Estimate:
        """What was said beforehand; with times once `measure_speed` has been called."""
        return self.plan.estimate(self.speed)

    def measure_speed(self, steps: int = 3) -> float:
        """A few steps on a copy: what the time is estimated from."""
        self.speed = self.plan.probe(steps)
        self._tell()
        return self.speed

    def start(self) -> None:
        """Starts, or goes on, in a thread; does nothing while it runs or when it is done."""
        if self.status in ("running", "done"):
            return
        self._begin()
        self._thread = threading.Thread(target=self._train, name=f"training {self.plan.name}", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Asks for a stop after the present step, whose checkpoint is kept. Returns at once; see `wait`."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> str:
        """Waits until the thread has stopped (or so many seconds), and returns the status."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.status

    def step(self, steps: int = 1) -> str:
        """Takes so many steps here and now, and returns the status: for tests, and for those who want to look."""
        check_int("steps", steps, 1)
        if self.status == "running":
            raise CourseError("the run is going on in its thread; pause it first.")
        if self.status != "done":
            self._begin()
            self._train(self.done + steps)
        return self.status

    # -- how it works --------------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        self._stop.clear()
        self.error, self.status = "", "running"
        self._tell()

    def _train(self, until: int | None = None) -> None:
        try:
            if self.held_before is None:
                self.held_before = memory_in_use(self.device)
            self.model = self.plan.build().to(self.device)
            run = train(
                self.model,
                self.plan.data(),
                self.plan.training,
                held_out=self.plan.held_out(),
                folder=self.folder,
                resume="auto",
                progress=False,
                about=self.plan.about(),
                on_step=self._took,
                stop=lambda line: self._stop.is_set() or line["step"] == until,
            )
            self.status = "done" if run.step == self.plan.steps else "paused"
        except CourseError as error:
            self.status, self.error = "failed", str(error)
        except Exception as error:  # said in the view: nobody sees what a thread raises
            self.status, self.error = "failed", f"{type(error).__name__}: {error}"
        finally:
            self._tell()

    def _took(self, line: dict[str, Any]) -> None:
        del self.metrics[line["step"] - 1 :]  # a run whose last steps were not kept does them again
        self.metrics.append(line)
        self._tell()

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener()
