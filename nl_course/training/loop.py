"""The outer loop: the slowest memory of all. One step reads a batch and writes what it learnt into the weights.

    run = train(model, stream, TrainingConfig(steps=500), held_out=other_stream, folder="runs/first")
    run.losses                                     # one number a step, in nats per token
    evaluate(model, other_stream, length=256).by_position

It trains anything with `forward(tokens, state) -> (logits, state)`. A run with a folder leaves there `run.json` (what
was asked), `metrics.jsonl` (a line a step), `checkpoint.safetensors` (to go on) and `model.safetensors` (when done).
What a step draws at random depends on the seed and its number alone, so a run that was broken off and resumed is the
unbroken run, bit for bit on one thread. Sizes are in tokens, rates per step, losses in nats per token.
"""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.nested.outer import check_outer, inner_share, outer_step
from nl_course.optimizers import OPTIMIZERS, build_optimizer
from nl_course.renamed import translate
from nl_course.tasks import text
from nl_course.training.distributed import ALONE, Ranks, join
from nl_course.training.interrupts import Interrupts
from nl_course.training.run_folder import RunFolder, memory_in_use
from nl_course.training.schedule import warmup_cosine

IGNORED = -100  # a target of this value is not counted in the loss
Data = Tensor | Callable[[int], tuple[Tensor, Tensor]]  # a stream of tokens, or step -> (inputs, targets)


@dataclass(frozen=True)
class TrainingConfig:
    """What decides how a run comes out, and at the end how often it reports, which does not."""

    steps: int = 1000
    batch_size: int = 16  # rows a step, all micro-batches together
    length: int = 256  # tokens a row
    learning_rate: float = 2e-3  # at the peak
    warmup: int = 50  # steps up to the peak
    final_rate: float = 0.1  # share of the peak at the last step
    weight_decay: float = 0.1  # on matrices; not on norms and biases
    betas: tuple[float, float] = (0.9, 0.95)  # of Adam, wherever the optimizer has it
    optimizer: str = "adamw"  # a name of nl_course.optimizers.OPTIMIZERS
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # further arguments of its class
    clip: float = 1.0  # largest norm of all gradients together; 0 for no limit
    accumulate: int = 1  # micro-batches a step
    precision: str = "auto"  # "fp32", "bf16" (autocast), or "auto": bf16 where there is a GPU
    inner_warmup: float = 0.0  # share of the steps in which inner rates grow from a tenth to 1 (nested/outer.py)
    recompute: bool = False  # for levels that learn: segments computed twice, for less memory (nested/recompute.py)
    seed: int = 0
    log_every: int = 1  # steps between lines of metrics.jsonl
    save_every: int = 200  # steps between checkpoints; 0 for one at the end only
    evaluate_every: int = 100  # steps between looks at the held-out data; 0 for one at the end only

    def __post_init__(self):
        for name in ("steps", "batch_size", "length", "accumulate", "log_every"):
            check_int(name, getattr(self, name), 1)
        for name in ("warmup", "save_every", "evaluate_every", "seed"):
            check_int(name, getattr(self, name))
        for name in ("learning_rate", "final_rate", "weight_decay", "clip"):
            if not isfinite(check_min(name, getattr(self, name), 0)):
                raise CourseError(f"{name} must be a finite number.")
        inner_share(0, 1, self.inner_warmup)
        check_choice("precision", self.precision, ("auto", "fp32", "bf16"))
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2 or not all(0 <= check_min("beta", b, 0) < 1 for b in self.betas):
            raise CourseError(f"betas must be two numbers of at least 0 and below 1, not {self.betas}.")
        if self.batch_size % self.accumulate:
            raise CourseError(
                f"batch_size {self.batch_size} does not split into {self.accumulate} equal micro-batches."
            )

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingConfig":
        _, values = translate("TrainingConfig", values)
        for name in values:
            check_choice("training setting", name, [f.name for f in fields(cls)])
        return cls(**values)


REPORTING = ("log_every", "save_every", "evaluate_every")  # may change when a run is resumed


@dataclass
class Run:
    """What came of a run: its metrics, one dict a logged step, and why it ended."""

    config: TrainingConfig
    metrics: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0  # whole steps done
    interrupted: bool = False  # by ctrl-C
    stopped: bool = False  # by the `stop` function
    folder: Path | None = None

    @property
    def losses(self) -> list[float]:
        """The training loss of every logged step."""
        return [line["loss"] for line in self.metrics]

    @property
    def held_out(self) -> list[tuple[int, float]]:
        """(step, held-out loss) of every look at the held-out data."""
        return [(line["step"], line["held_out_loss"]) for line in self.metrics if "held_out_loss" in line]

    def __repr__(self) -> str:
        end = "interrupted" if self.interrupted else "stopped" if self.stopped else "done"
        last = f", loss {self.losses[-1]:.3f}" if self.metrics else ""
        return f"Run({end} after {self.step:,} of {self.config.steps:,} steps{last})"


class Diverged(CourseError):
    """The loss or the gradients stopped being numbers."""


# -- the parts of a step ------------------------------------------------------------------------------------
def by_name(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The config's optimizer, decay on matrices only."""
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer in ("adam", "adamw", "muon"):
        options["betas"] = config.betas
    if config.optimizer == "adamw":
        options["fused"] = True
    return build_optimizer(config.optimizer, model, **{**options, **config.optimizer_options})


def autocast(device: torch.device, precision: str):
    """bf16 autocast where `precision` asks for it; "auto" asks on a GPU that has bf16."""
    wanted = precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def token_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of every token, (B, T) float32; 0 where the target is ignored."""
    logits, _ = model(inputs, None)
    losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape)


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor, config: TrainingConfig, ranks: Ranks = ALONE) -> Tensor:
    """Adds the gradient of the mean loss over a batch, micro-batch by micro-batch; returns that loss, a scalar.

    Every micro-batch is divided by the whole batch's count of targets, so that how a batch is split does not matter,
    nor between how many processes.
    """
    device = next(model.parameters()).device
    count = ranks.total((targets != IGNORED).sum().to(device)).clamp(min=1)
    total = torch.zeros((), device=device)
    for part, wanted in zip(inputs.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True):
        with autocast(device, config.precision):
            losses = token_losses(model, part.to(device), wanted.to(device))
        loss = losses.sum() / count
        (loss * ranks.scale).backward()
        total += loss.detach()
    ranks.add_gradients(model)
    return ranks.total(total)


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over windows of held-out tokens, and the mean at each position of a window (T,)."""

    loss: float
    by_position: Tensor
    tokens: int


@torch.no_grad()
def evaluate(
    model: nn.Module, stream: Tensor, length: int, batches: int = 8, batch_size: int = 8, precision: str = "auto"
) -> Evaluation:
    """The loss on windows spread evenly over `stream`: at most `batches` times `batch_size`, fewer where they would
    overlap. The same windows every time. The model's training mode is left as it was."""
    check_int("length", length, 1)
    check_int("batches", batches, 1)
    check_int("batch_size", batch_size, 1)
    starts = evaluate_windows(stream, length, batches * batch_size)
    count = len(starts)
    device, training = next(model.parameters()).device, model.training
    sums = torch.zeros(length, dtype=torch.float64)
    model.eval()
    try:
        for first in range(0, count, batch_size):
            windows = torch.stack([stream[s : s + length + 1] for s in starts[first : first + batch_size]]).long()
            with autocast(device, precision):
                losses = token_losses(model, windows[:, :-1].to(device), windows[:, 1:].to(device))
            sums += losses.double().sum(0).cpu()
    finally:
        model.train(training)
    return Evaluation(float(sums.sum()) / (count * length), (sums / count).float(), count * length)


def evaluate_windows(stream: Tensor, length: int, most: int) -> list[int]:
    """Where the windows of `evaluate` start: even, not overlapping, at most `most`; a short text is refused."""
    places = stream.numel() - length
    if places < 1:
        raise CourseError(f"the held-out text has {stream.numel():,} tokens; windows of {length} need {length + 1:,}.")
    count = max(1, min(most, stream.numel() // (length + 1)))
    return [i * (places - 1) // max(count - 1, 1) for i in range(count)]


# -- the loop -----------------------------------------------------------------------------------------------
def train(
    model: nn.Module,
    data: Data,
    config: TrainingConfig,
    *,
    held_out: Tensor | Callable[[nn.Module], dict[str, float]] | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool | str = False,
    optimizer: Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer] = by_name,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    stop: Callable[[dict[str, Any]], bool] | None = None,
    progress: bool = True,
    about: dict[str, Any] | None = None,
    parallel: str = "auto",
) -> Run:
    """Trains `model` in place, on the device where it is, and returns the run.

    `data` is a stream of tokens, or a function from the step's number to (inputs, targets), whose targets may be -100
    where nothing is asked. `held_out` is a stream, or a function that measures the model. `on_step` sees the metrics of
    every whole step; `stop` sees them too and ends the run by returning True. ctrl-C ends it after the last whole step,
    keeps that step's checkpoint, and says so in the result. `resume`: True goes on from the folder's checkpoint, "auto"
    does if there is one, False refuses a folder that holds one. `about` (anything JSON holds) is kept with the run, and
    a resumed run must be about the same. `parallel`: "ddp" or "fsdp" shares the rows of each
    batch between processes that torchrun started (distributed.py), "auto" is "ddp" there. Raises CourseError for what
    cannot be done, and Diverged, with the last good checkpoint left in place, when loss or gradients are no numbers.
    """
    ranks = join(parallel, next(model.parameters()).device)
    loop = _Loop(model, data, config, held_out, folder, optimizer, about or {}, ranks)
    return loop.run(resume, on_step, stop, progress and ranks.first)


class _Loop:
    """One run while it runs."""

    def __init__(self, model, data, config, held_out, folder, optimizer, about, ranks=ALONE):
        self.model, self.data, self.held_out, self.config, self.ranks = model, data, held_out, config, ranks
        check_outer(model, config.inner_warmup, config.recompute)
        ranks.check(model, config)
        ranks.prepare(model)
        self.optimizer = optimizer(model, config)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.result = Run(config, folder=None if folder is None else Path(folder))
        self.folder = None if folder is None else RunFolder(folder, ranks, lambda twin: optimizer(twin, config))
        self.tokens, self.seconds, self.asked = 0, 0.0, {**about, **config.to_dict()}
        if isinstance(held_out, Tensor):
            evaluate_windows(held_out, config.length, 1)
        if isinstance(data, Tensor):
            text.batch(data, 0, 1, config.length)  # says at once if the stream is too short
            self.asked["text_hash"] = hashlib.sha256(data.cpu().contiguous().numpy()).hexdigest()[:12]

    def run(self, resume, on_step, stop, progress) -> Run:
        result, interrupts = self.result, self.ranks.interrupts()
        self._open(resume)
        saved = result.step
        bar = tqdm(total=self.config.steps, initial=result.step, disable=not progress, unit="step")
        self.model.train()
        with interrupts, bar:
            try:
                while result.step < self.config.steps:
                    interrupts.between_steps()
                    metrics = self._step(interrupts)
                    speed = f"loss {metrics['loss']:.3f}, {metrics['tokens_per_second']:,.0f} tokens/s"
                    bar.set_postfix_str(speed, refresh=False)
                    bar.update()
                    if on_step is not None:
                        on_step(metrics)
                    if stop is not None and self.ranks.any(bool(stop(metrics))):
                        result.stopped = result.step < self.config.steps
                        break
                    if self.config.save_every and result.step % self.config.save_every == 0:
                        self._save()
                        saved = result.step
            except KeyboardInterrupt:
                result.interrupted = True
            finally:
                self.optimizer.zero_grad(set_to_none=True)
                if self.folder is not None:
                    self.folder.close()
            if result.step != saved:
                self._save()
        if self.folder is not None and result.step == self.config.steps:
            self.folder.finish(self.model, {"step": result.step, "asked": self.asked})
        return result

    def _open(self, resume) -> None:
        if self.folder is None:
            if resume is True:
                raise CourseError("there is nothing to resume from: the run was given no folder.")
            return
        progress, self.result.metrics = self.folder.open(resume, self.asked, REPORTING, self.model, self.optimizer)
        if progress:
            self.result.step, self.tokens, self.seconds = (progress[name] for name in ("step", "tokens", "seconds"))

    def _save(self) -> None:
        if self.folder is not None:
            progress = {"step": self.result.step, "tokens": self.tokens, "seconds": self.seconds, "asked": self.asked}
            self.folder.save(self.model, self.optimizer, progress)

    def _step(self, interrupts: Interrupts) -> dict[str, Any]:
        """One whole step. ctrl-C before the weights change leaves the last step whole; while they change it waits."""
        config, start, step = self.config, time.perf_counter(), self.result.step
        torch.manual_seed(text.hashed(f"{config.seed} {step}"))  # dropout and the like, by the step's number alone
        inputs, targets = self._batch(step)
        share = warmup_cosine(step, config.steps, config.warmup, config.final_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        self.optimizer.zero_grad(set_to_none=True)
        with outer_step(self.model, inner_share(step, config.steps, config.inner_warmup), config.recompute):
            loss = gradient(self.model, inputs, targets, config, self.ranks).item()
        norm = self.ranks.clip(self.model, config.clip or float("inf"))
        if not (isfinite(loss) and isfinite(norm)):
            raise Diverged(
                f"training diverged at step {step}: loss {loss}, gradient norm {norm}. Try a smaller learning rate or "
                "a longer warm-up; the weights, and the last checkpoint if one was written, are still good."
            )
        with interrupts.hold():
            self.optimizer.step()
            self.result.step, self.tokens = step + 1, self.tokens + targets.numel() * self.ranks.world
            seconds = time.perf_counter() - start
            self.seconds += seconds
            metrics = {
                "step": step + 1,
                "loss": loss,
                "learning_rate": config.learning_rate * share,
                "grad_norm": norm,
                "tokens": self.tokens,
                "seconds": round(self.seconds, 4),
                "tokens_per_second": round(targets.numel() * self.ranks.world / max(seconds, 1e-9), 1),
                "memory_bytes": memory_in_use(next(self.model.parameters()).device),
                **self._look(step + 1),
            }
            self._record(metrics)
        return metrics

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        if isinstance(self.data, Tensor):
            first, rows = self.ranks.rows(self.config.batch_size)
            return text.batch(self.data, step, rows, self.config.length, self.config.seed, first)
        return self.ranks.share(*self.data(step))

    def _look(self, done: int) -> dict[str, float]:
        """The held-out measurements that are due after `done` steps."""
        every = self.config.evaluate_every
        if self.held_out is None or not (done == self.config.steps or (every and done % every == 0)):
            return {}
        if isinstance(self.held_out, Tensor):
            found = evaluate(self.model, self.held_out, self.config.length, precision=self.config.precision)
            return {"held_out_loss": found.loss}
        return dict(self.held_out(self.model))

    def _record(self, metrics: dict[str, Any]) -> None:
        done = metrics["step"]
        if done % self.config.log_every == 0 or done == self.config.steps or "held_out_loss" in metrics:
            self.result.metrics.append(metrics)
            if self.folder is not None:
                self.folder.record(metrics)
