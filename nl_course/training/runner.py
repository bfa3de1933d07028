"""A training run that one can start, pause and go on with: what a choice of memory, size and task means, and a runner.

    plan = Plan("gated-delta", size="small", task="text", steps=120)
    print(plan.estimate())                       # before anything is trained
    runner = Runner(plan, "runs/first")
    runner.start()                               # in a thread of its own; returns at once
    runner.pause()                               # keeps the checkpoint of the last whole step
    runner.start()                               # goes on from it
    runner.step(10)                              # or ten steps here, in this thread

The runner only drives `training.train` on a run folder, so it leaves there what `nl-course train` leaves.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_bool, check_choice, check_int, shortened
from nl_course.memories import MEMORIES
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedConfig, NestedLanguageModel, e2e_config
from nl_course.nested.presets import TOY, levels
from nl_course.presets import PRESETS
from nl_course.renamed import BEFORE, MEMORY_CONFIGS, translate
from nl_course.seeding import seeded
from nl_course.tasks.needle import NeedleTask
from nl_course.tasks.recall import accuracy, mqar, recall_loss
from nl_course.tasks.targets import IGNORED
from nl_course.tasks.text import library
from nl_course.training.config import TrainingConfig
from nl_course.training.estimate import Estimate, estimate, probe
from nl_course.training.loop import Data, HeldOut, train
from nl_course.training.loss import token_losses
from nl_course.training.run_folder import memory_in_use, read_metrics

CLOCKED = ("hope-attention", "hope", "ttt-e2e")  # models whose levels learn by their own clocks
CHOICES = (*MEMORIES, *CLOCKED)
SIZES = {
    "small": ModelConfig(width=64, layers=2, heads=4, hidden=176),
    **{name: PRESETS[name].config for name in ("micro", "tiny")},
}
TASKS = ("text", "recall", "needle")
# Options with which a memory trains well at these sizes (notebooks 05 and 07 say why); the others keep their defaults.
_DEEP = {"norm": True, "residual": True, "bias": True}
OPTIONS: dict[str, dict[str, Any]] = dict.fromkeys(("titans", "mac", "mag", "mal"), _DEEP)
OPTIONS["self-modifying"] = {"kind": "linear", "chunk": 8, "read": "running", "max_step": 1.0}
# Taps of the short convolution that every model here has once: without it linear memories cannot do recall. A memory
# that has its own gets none in front: the models with both are what `nl-course record wirings` compares them with.
CONV = 4
RECALL_PAIRS = 4
RECALL_LENGTH = 64  # tokens per row
RECALL_VOCAB = 256
HELD_OUT_ROWS = 64
HELD_OUT_SEED = 2**31 - 1  # far from the seeds of training steps, which are a million times the plan's and the step


@dataclass(frozen=True)
class Plan:
    """What to train: a memory of the course or a model with clocks, a size, a task, how long, and from which seed.

    `earlier` is true of runs that were begun with the models of before (see `model_config`), so that they can go on.
    Raises CourseError for what cannot be trained.
    """

    memory: str = "attention"
    size: str = "small"
    task: str = "text"
    steps: int = 120
    batch_size: int = 8
    length: int = 128  # tokens per row, for text and needle; recall has its own
    learning_rate: float = 5e-3
    seed: int = 0
    earlier: bool = False

    def __post_init__(self):
        check_choice("memory", self.memory, CHOICES)
        check_choice("size", self.size, SIZES)
        if check_bool("earlier", self.earlier) and self.model == model_config(self.memory, self.size):
            object.__setattr__(self, "earlier", False)  # the models of before were no others
        check_choice("task", self.task, TASKS)
        check_int("steps", self.steps, 1)
        if self.task == "recall":
            object.__setattr__(self, "length", RECALL_LENGTH)
        TrainingConfig.from_dict(self.training.to_dict())  # refuses at once what cannot be trained

    @property
    def name(self) -> str:
        """A name for the run's folder: memory, size and task, and every other setting that differs from its default.
        Different plans therefore have different names. (`earlier` is not in it: those runs have their folders.)"""
        default = Plan(self.memory, self.size, self.task)
        differing = []
        for setting, value in asdict(self).items():
            if setting != "earlier" and value != getattr(default, setting):
                differing.append(f"{setting}-{value:g}")
        return "-".join([self.memory, self.size, self.task, *differing])

    @property
    def model(self) -> ModelConfig | NestedConfig:
        """The config of the model that is trained."""
        return model_config(self.memory, self.size, self.earlier)

    @property
    def training(self) -> TrainingConfig:
        """The settings with which it is trained."""
        return TrainingConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            length=self.length,
            learning_rate=self.learning_rate,
            warmup=min(20, self.steps // 5),
            evaluate_every=max(1, self.steps // 4),
            save_every=0,  # only where it pauses, and at the end
            seed=self.seed,
        )

    def about(self) -> dict[str, Any]:
        """What is kept with the run; `Plan.of` reads it back."""
        return {"kind": self.memory, "size": self.size, "task": self.task, "plan": asdict(self)}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Plan":
        """The plan of a run from its settings (`asked` in its run.json). Raises CourseError if it had none, or one that
        cannot be trained."""
        if "plan" not in settings:
            raise CourseError("this run was not started from a plan; go on with `nl-course train --resume`.")
        if not isinstance(settings["plan"], dict):
            raise CourseError(f"a plan is settings by name, not {shortened(settings['plan'])}.")
        _, plan_settings = translate("Plan", settings["plan"])
        for name in plan_settings:
            check_choice("setting of a plan", name, [setting.name for setting in fields(cls)])
        return cls(**plan_settings)

    def build(self) -> LanguageModel:
        """The model at its start, which the seed decides. Global random numbers are left as they were."""
        config = self.model
        with seeded(self.seed):
            if isinstance(config, NestedConfig):
                return NestedLanguageModel(config)
            return LanguageModel(config)

    def data(self) -> Data:
        """What it is trained on: a stream of bytes, or a function from a step's number to inputs and targets."""
        if self.task == "text":
            return library("prose").stream("train")
        if self.task == "recall":
            return _recall_data(self)
        return _needles(self)

    def held_out(self) -> HeldOut:
        """What it is evaluated on: books that are held out; or rows that no step trains on, with the loss and the share
        of questions that are answered."""
        if self.task == "text":
            return library("prose").stream("held_out")
        if self.task == "recall":
            return _evaluate_recall
        return _needle_evaluation(self)

    def estimate(self, tokens_per_second: float | None = None, **options: Any) -> Estimate:
        """What the run will take; with a speed (see `Plan.probe`) also how long. `options` are those of `estimate`."""
        # The seed changes nothing about it, so plans that differ in nothing else share one count.
        return _estimate(replace(self, seed=0), tokens_per_second, tuple(sorted(options.items())))

    def probe(self, steps: int = 3) -> float:
        """Tokens per second on this machine, over a few real steps that are thrown away."""
        return probe(self.build(), self.data(), self.training, steps)


def model_config(memory: str, size: str, earlier: bool = False) -> ModelConfig | NestedConfig:
    """The config of a model of that size around a memory, or with clocks. All read bytes.

    `earlier`: as it was until November 2026, with a convolution in front of every memory, also of those that have their
    own, and MAC, MAG and MAL with the options of then.
    """
    base = SIZES[size]
    if memory == "latent-attention":
        latent = {"kv_rank": base.width // 2, "rope_dim": 8, "head_dim": base.width // base.heads}
        return replace(base, memory=memory, options=latent, conv=CONV)
    inner = {"hope": "self-modifying", "hope-attention": "attention"}.get(memory, memory)
    options = OPTIONS.get(inner, {})
    if earlier and inner in MEMORY_CONFIGS:
        options = {**options, **BEFORE.get(MEMORY_CONFIGS[inner], {})}
    conv = CONV if earlier or not _has_convolution(inner) else 0
    if memory not in CLOCKED:
        return replace(base, memory=memory, options=options, conv=conv)
    sizes = {"vocab": base.vocab, "width": base.width, "layers": base.layers, "heads": base.heads}
    if memory == "ttt-e2e":
        return e2e_config(**sizes, hidden=4 * base.hidden // 5, window=32, chunk=16)
    return NestedConfig(**sizes, levels=levels(TOY, base.hidden), memory=inner, options=options, conv=conv)


def _has_convolution(memory: str) -> bool:
    """Whether a memory of that name has short convolutions of its own by default."""
    if memory not in MEMORIES:
        return False
    _, config = MEMORIES[memory]
    return any(field.name == "conv" and field.default > 0 for field in fields(config))


@lru_cache(maxsize=64)
def _estimate(plan: Plan, tokens_per_second: float | None, options: tuple[tuple[str, Any], ...]) -> Estimate:
    return estimate(plan.model, plan.training, tokens_per_second=tokens_per_second, **dict(options))


# -- the tasks ---------------------------------------------------------------------------------------------------------
def _recall_data(plan: Plan) -> Data:
    def batch(step: int) -> tuple[Tensor, Tensor]:
        seed = plan.seed * 10**6 + step  # by the step's number alone, so that a resumed run reads the same rows
        recall = mqar(plan.batch_size, RECALL_LENGTH, RECALL_PAIRS, RECALL_VOCAB, seed=seed)
        return recall.tokens, recall.targets.masked_fill(~recall.mask, IGNORED)  # (b, t) each

    return batch


@torch.no_grad()
def _evaluate_recall(model: nn.Module) -> dict[str, float]:
    recall = mqar(HELD_OUT_ROWS, RECALL_LENGTH, RECALL_PAIRS, RECALL_VOCAB, seed=HELD_OUT_SEED)
    device = next(model.parameters()).device
    (score,) = accuracy(model, recall, device=device)
    logits, _ = model(recall.tokens.to(device))  # (b, t, vocab)
    return {"held_out_loss": float(recall_loss(logits.cpu(), recall)), "answered": score.accuracy}


def _needles(plan: Plan, split: str = "train", rows: int | None = None) -> NeedleTask:
    return NeedleTask("number", plan.length, hay="noise", answer=1, split=split, rows=rows or plan.batch_size)


def _needle_evaluation(plan: Plan) -> HeldOut:
    inputs, targets = _needles(plan, "held_out", HELD_OUT_ROWS)(0)  # (b, t) each
    scored = targets != IGNORED  # (b, t)

    @torch.no_grad()
    def evaluate_needles(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        losses = token_losses(model, inputs.to(device), targets.to(device)).cpu()  # (b, t)
        right = model(inputs.to(device))[0].argmax(-1).cpu() == targets  # (b, t)
        return {"held_out_loss": float(losses[scored].mean()), "answered": float(right[scored].float().mean())}

    return evaluate_needles


# -- the runner --------------------------------------------------------------------------------------------------------
class Runner:
    """One run of a plan in a folder of its own. A folder that already holds the same run is gone on with.

    `status` is "ready", "running", "paused", "done" or "failed"; `metrics` holds the lines so far; `error` says what
    went wrong. Each function in `listeners` is called without arguments after every step and whenever the status
    changes, in the thread that trains.
    """

    def __init__(self, plan: Plan, folder: str | os.PathLike, device: str = "cpu"):
        self.plan = plan
        self.folder = Path(folder)
        self.device = device
        self.metrics: list[dict[str, Any]] = []
        self.status = "ready"
        self.error = ""
        self.model: nn.Module | None = None
        self.speed: float | None = None  # tokens per second of a probe
        self.held_before: int | None = None  # bytes that the process held before the model was there
        self.listeners: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if (self.folder / "checkpoint.safetensors").exists():
            with suppress(CourseError):  # what is wrong there is said by `train`, when it is started
                self.metrics = read_metrics(self.folder)
                self.status = "done" if (self.folder / "model.safetensors").exists() else "paused"

    @property
    def done(self) -> int:
        """Whole steps taken."""
        return self.metrics[-1]["step"] if self.metrics else 0

    def estimate(self) -> Estimate:
        """What the run will take; with times once `measure_speed` has been called."""
        return self.plan.estimate(self.speed)

    def measure_speed(self, steps: int = 3) -> float:
        """Takes a few steps on a copy and returns tokens per second, from which the time is estimated."""
        self.speed = self.plan.probe(steps)
        self._notify()
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
        """Waits until the thread has stopped, at most so many seconds if given, and returns the status."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.status

    def step(self, steps: int = 1) -> str:
        """Takes so many steps in this thread and returns the status. Raises CourseError while the run is going on."""
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
        self.error = ""
        self.status = "running"
        self._notify()

    def _train(self, until: int | None = None) -> None:
        """Trains to the end, to step `until`, or until `pause`; leaves the outcome in `status` and `error`."""
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
                on_step=self._step_taken,
                stop=lambda line: self._stop.is_set() or line["step"] == until,
            )
            self.status = "done" if run.step == self.plan.steps else "paused"
        except CourseError as error:
            self.error = str(error)
            self.status = "failed"
        except Exception as error:  # nobody sees what a thread raises, so the view shows it
            self.error = f"{type(error).__name__}: {error}"
            self.status = "failed"
        finally:
            self._notify()

    def _step_taken(self, line: dict[str, Any]) -> None:
        # A run whose last steps were not saved does them again: their new lines replace the old ones.
        del self.metrics[line["step"] - 1 :]
        self.metrics.append(line)
        self._notify()

    def _notify(self) -> None:
        # A copy: a listener may take itself off the list.
        for listener in list(self.listeners):
            listener()
