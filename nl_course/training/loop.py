"""The outer loop: the slowest memory of all. One step reads a batch and writes what it learned into the weights.

    run = train(model, stream, TrainingConfig(steps=500), held_out=other_stream, folder="runs/first")
    run.losses                                     # one number per step, in nats per token
    evaluate(model, other_stream, length=256).by_position

It trains anything with `forward(tokens, state) -> (logits, state)`. A run with a folder leaves there `run.json` (its
settings), `metrics.jsonl` (a line per step), `checkpoint.safetensors` (to go on) and `model.safetensors` (when done).

What a step draws at random depends only on the seed and the step's number. A run that was stopped and resumed is
therefore the unbroken run, bit for bit on one thread.

One batch: `train` -> `TrainingLoop.run` -> `TrainingLoop._step` -> `gradient` -> `token_losses` -> the model,
whose inner loops run inside its forward pass. Then clipping, the optimizer, the metrics, and at times a checkpoint.
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from nl_course.errors import CourseError, is_out_of_memory
from nl_course.nested.outer import check_outer, inner_rate_scale, outer_step
from nl_course.optimizers import build_optimizer
from nl_course.seeding import seeded
from nl_course.tasks import text
from nl_course.tasks.targets import IGNORED
from nl_course.tasks.tokenizer import token_unit
from nl_course.training.blocks import check_blocks, checkpointed_blocks
from nl_course.training.config import REPORTING, TrainingConfig
from nl_course.training.distributed import SINGLE_PROCESS, Ranks, join
from nl_course.training.evaluation import evaluate, evaluate_windows
from nl_course.training.interrupts import EndAtOnce, Interrupts
from nl_course.training.loss import autocast, token_losses
from nl_course.training.run_folder import RunFolder, memory_in_use
from nl_course.training.schedule import warmup_cosine

Data = Tensor | Callable[[int], tuple[Tensor, Tensor]]  # a stream of tokens, or step -> (inputs, targets)
HeldOut = Tensor | Callable[[nn.Module], dict[str, float]]  # a stream of tokens, or model -> measurements by name
Metrics = dict[str, Any]  # what one step measured, by name: a line of metrics.jsonl
MakeOptimizer = Callable[[nn.Module, TrainingConfig], torch.optim.Optimizer]


@dataclass
class Run:
    """The result of `train`: the metrics of every logged step, one dict each, and why the run ended."""

    config: TrainingConfig
    metrics: list[Metrics] = field(default_factory=list)
    step: int = 0  # whole steps done
    interrupted: bool = False  # by ctrl-C, or a signal that means the same
    stopped: bool = False  # by the `stop` function
    folder: Path | None = None

    @property
    def losses(self) -> list[float]:
        """The training loss of every logged step, in nats per token."""
        return [line["loss"] for line in self.metrics]

    @property
    def held_out(self) -> list[tuple[int, float]]:
        """(step, held-out loss) of every evaluation on the held-out data."""
        return [(line["step"], line["held_out_loss"]) for line in self.metrics if "held_out_loss" in line]

    def __repr__(self) -> str:
        if self.interrupted:
            end = "interrupted"
        elif self.stopped:
            end = "stopped"
        else:
            end = "done"
        last_loss = f", loss {self.losses[-1]:.3f}" if self.metrics else ""
        return f"Run({end} after {self.step:,} of {self.config.steps:,} steps{last_loss})"


class Diverged(CourseError):
    """The loss or the gradients stopped being numbers, at `step`."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def train(
    model: nn.Module,
    data: Data,
    config: TrainingConfig,
    *,
    held_out: HeldOut | None = None,
    folder: str | os.PathLike | None = None,
    resume: bool | str = False,
    trust: bool = False,
    optimizer: MakeOptimizer | None = None,
    on_step: Callable[[Metrics], None] | None = None,
    stop: Callable[[Metrics], bool] | None = None,
    progress: bool = True,
    about: dict[str, Any] | None = None,
    parallel: str = "auto",
) -> Run:
    """Trains `model` in place, on the device where it is, and returns the run.

    `data`: a stream of tokens, or a function from a step's number to (inputs, targets), each (batch_size, t); targets
        that are IGNORED (-100) are not scored.
    `held_out`: a stream of tokens, or a function that measures the model and returns numbers by name.
    `folder`: where the run is kept; None keeps nothing.
    `resume`: True goes on from the folder's checkpoint, "auto" does if there is one, False refuses a folder that holds
        a run.
    `trust`: the folder is known to be one's own. It may then hold a sharded checkpoint of an earlier version, whose
        pickles can run any code, and lines of its metrics may be missing.
    `optimizer`: makes the optimizer of a model; None takes the one that the config names (`default_optimizer`).
    `on_step`: is given the metrics of every whole step. `stop` is given them too, and ends the run by returning True.
    `progress`: whether a progress bar is drawn.
    `about`: anything JSON holds; it is kept with the run, and a resumed run must be about the same.
    `parallel`: "ddp" or "fsdp" divides the rows of each batch between the processes that torchrun started
        (distributed.py); "auto" is "ddp" there, and "none" elsewhere.

    ctrl-C, SIGTERM and SIGHUP end the run after the last whole step, keep that step's checkpoint, and are noted in the
    result; a second one ends it at once. Raises CourseError for settings that cannot be used together, for a folder in
    which another run goes on or where files stand that no run has written, and Diverged when the loss or the gradients
    are not numbers; the last good checkpoint then stays in place.
    """
    ranks = join(parallel, next(model.parameters()).device)
    loop = TrainingLoop(model, data, config, held_out, folder, optimizer or default_optimizer, about or {}, ranks)
    return loop.run(resume, on_step, stop, progress and ranks.is_main, trust)


def default_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer that the config names, in groups that `build_optimizer` makes of the parameters' roles."""
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer in ("adam", "adamw", "muon"):
        options["betas"] = config.betas
    if config.optimizer == "adamw":
        options["fused"] = True  # torch's own fast form: one kernel for all parameters
    # Options that the config names come last, so that they win.
    options.update(config.optimizer_options)
    return build_optimizer(config.optimizer, model, **options)


def gradient(
    model: nn.Module, inputs: Tensor, targets: Tensor, config: TrainingConfig, ranks: Ranks = SINGLE_PROCESS
) -> Tensor:
    """Adds the gradient of the mean loss over a batch to the parameters' `.grad`; returns that loss, a scalar in nats.

    `inputs` and `targets` are (b, t), the rows of this process. The batch is read in `config.accumulate` micro-batches.
    """
    device = next(model.parameters()).device
    # Every micro-batch is divided by the scored targets of the *whole* batch. A mean per micro-batch would weigh a
    # target more where few are scored; this way neither the number of micro-batches nor that of processes matters.
    scored = ranks.all_reduce_sum((targets != IGNORED).sum().to(device)).clamp(min=1)
    batch_loss = torch.zeros((), device=device)
    micro_batches = zip(inputs.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True)
    for micro_inputs, micro_targets in micro_batches:
        # The forward pass. Inner loops run here: a memory's writes are part of the graph, so that the backward pass
        # goes through them and the outer loop learns what is worth writing.
        with autocast(device, config.precision):
            inputs_there, targets_there = micro_inputs.to(device), micro_targets.to(device)  # (b, t) each
            losses = token_losses(model, inputs_there, targets_there, config.reset_at)  # (b, t)
        loss = losses.sum() / scored
        (loss * ranks.loss_scale).backward()
        batch_loss += loss.detach()
    # Only now do the processes add up their gradients, once per step and not once per micro-batch.
    ranks.all_reduce_gradients(model)
    return ranks.all_reduce_sum(batch_loss)


class TrainingLoop:
    """One run while it goes on: `train` makes it and calls `run` once."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        config: TrainingConfig,
        held_out: HeldOut | None,
        folder: str | os.PathLike | None,
        make_optimizer: MakeOptimizer,
        about: dict[str, Any],
        ranks: Ranks = SINGLE_PROCESS,
    ):
        self.model = model
        self.data = data
        self.config = config
        self.held_out = held_out
        self.ranks = ranks
        # What cannot work is refused before anything is computed or written.
        check_outer(model, config.inner_warmup, config.recompute)
        check_blocks(model, config.checkpoint_blocks)
        ranks.check(model, config)
        # fsdp replaces the parameters by shards. The optimizer is made afterwards, so that it holds the shards.
        ranks.prepare(model)
        self.optimizer = make_optimizer(model, config)
        for group in self.optimizer.param_groups:
            # The schedule multiplies each group's own peak rate, which `_step` overwrites in `lr`.
            group.setdefault("initial_lr", group["lr"])
        self.result = Run(config, folder=None if folder is None else Path(folder))
        self.folder: RunFolder | None = None
        if folder is not None:
            self.folder = RunFolder(folder, ranks)
        self.tokens = 0  # read so far, by all processes
        self.seconds = 0.0  # spent in whole steps so far, in all sessions of the run
        self._resumed_at: int | None = None  # the step of the checkpoint that the run goes on from
        self._saved_step = 0  # whose checkpoint is on disk
        self._step_is_whole = True  # whether all weights are of the same step
        # All that a resumed run must agree on. A hash stands for the text itself.
        self.settings = {**about, **config.to_dict()}
        if isinstance(held_out, Tensor):
            evaluate_windows(held_out, config.length, 1)  # refuses a held-out text that is too short
        if isinstance(data, Tensor):
            text.batch(data, 0, 1, config.length)  # refuses a stream that is too short
            self.settings["text_hash"] = hashlib.sha256(data.cpu().contiguous().numpy()).hexdigest()[:12]

    def run(
        self,
        resume: bool | str,
        on_step: Callable[[Metrics], None] | None,
        stop: Callable[[Metrics], bool] | None,
        progress: bool,
        trust: bool = False,
    ) -> Run:
        """All steps that are left, with checkpoints on the way; the arguments are those of `train`."""
        try:
            self._open(resume, trust)
            self._train(on_step, stop, progress)
            if self.folder is not None and self.result.step == self.config.steps:
                self.folder.finish(self.model, {"step": self.result.step, "asked": self.settings})
        finally:
            if self.folder is not None:
                self.folder.release()
        return self.result

    def _train(
        self, on_step: Callable[[Metrics], None] | None, stop: Callable[[Metrics], bool] | None, progress: bool
    ) -> None:
        """The steps themselves, and the checkpoints. However the loop ends, its last whole step is saved if it can be,
        but for an error in the computing itself: then the last checkpoint that was known to be good stays on disk."""
        result = self.result
        interrupts = self.ranks.interrupts()
        failure: Exception | None = None
        bar = tqdm(total=self.config.steps, initial=result.step, disable=not progress, unit="step")
        self.model.train()
        with interrupts, bar:
            try:
                while result.step < self.config.steps:
                    interrupts.between_steps()
                    # Dropout and all else that draws at random depends on the run's seed and the step's number only:
                    # step 1,000 is the same whether the 999 before it ran in this process or in another one. The
                    # caller's random numbers, between steps and afterwards, know nothing of it.
                    with seeded(text.hashed(f"{self.config.seed} {result.step}")):
                        metrics = self._step(interrupts)
                    speed = f"loss {metrics['loss']:.3f}, {metrics['tokens_per_second']:,.0f} tokens/s"
                    bar.set_postfix_str(speed, refresh=False)
                    bar.update()
                    if on_step is not None:
                        on_step(metrics)
                    # If one process wants to stop, all do: a process left alone would wait forever for the others.
                    if stop is not None and self.ranks.any(bool(stop(metrics))):
                        result.stopped = result.step < self.config.steps
                        break
                    if self.config.save_every and result.step % self.config.save_every == 0:
                        with interrupts.hold():
                            self._save()
            except EndAtOnce:
                raise
            except KeyboardInterrupt:
                result.interrupted = True
            except Exception as error:
                if not self._may_save_after(error):
                    raise
                failure = error
            finally:
                # Also after an error: gradients are as large as the model, and the log must be whole on disk.
                self.optimizer.zero_grad(set_to_none=True)
                if self.folder is not None:
                    self.folder.close()
            # Still inside `with interrupts`: a second signal must not end one of several processes in the middle of
            # their common save.
            try:
                with interrupts.hold():
                    self._end(failure)
            except KeyboardInterrupt:
                if self._saved_step != result.step:
                    raise
                result.interrupted = True

    def _may_save_after(self, error: Exception) -> bool:
        """Whether the weights are those of a whole step after this error. What the machine lacks (a disk, a pipe, a
        network, memory) says nothing against them; any other error may. Several processes could not save together."""
        if self.ranks.mode != "none" or not self._step_is_whole:
            return False
        return isinstance(error, OSError) or is_out_of_memory(error)

    def _end(self, failure: Exception | None) -> None:
        """Saves the last whole step, unless it was saved already, and raises what ended the run, if anything did."""
        unwritten = None if self.folder is None else self.folder.failure
        try:
            if self.result.step != self._saved_step:
                self._save()
        except CourseError as error:
            if failure is not None:
                raise failure from error
            if unwritten is not None:
                raise CourseError(f"{unwritten} The run ended at step {self.result.step}, and {error}") from error
            raise
        if failure is not None:
            raise failure
        if unwritten is not None:
            unwritten = CourseError(
                f"{unwritten} The run ended at step {self.result.step}, which is saved; resume it once there is room."
            )
        # Only the main process writes metrics. The others end as it does.
        self.ranks.agree(unwritten)

    def _open(self, resume: bool | str, trust: bool) -> None:
        """Starts the folder, or fills model, optimizer and counters from its checkpoint."""
        if self.folder is None:
            if resume is True:
                raise CourseError("there is nothing to resume from: the run was given no folder.")
            return
        progress, self.result.metrics = self.folder.open(
            resume, self.settings, REPORTING, self.model, self.optimizer, trust, lambda: token_unit(self.data)
        )
        if progress:
            self.result.step = self._resumed_at = progress["step"]
            self.tokens = progress["tokens"]
            self.seconds = progress["seconds"]
            self._saved_step = self.result.step

    def _save(self) -> None:
        """Writes the checkpoint of the last whole step. No random state is kept: the step's number decides it.

        Raises CourseError, which says what was saved before, if it cannot be written.
        """
        step = self.result.step
        if self.folder is not None:
            progress = {"step": step, "tokens": self.tokens, "seconds": self.seconds, "asked": self.settings}
            if self.folder.unwritten:
                progress["unwritten"] = self.folder.unwritten
            try:
                self.folder.save(self.model, self.optimizer, progress)
            except (CourseError, OSError) as error:
                last = f"step {self._saved_step} is the last one saved" if self._saved_step else "no step was saved"
                raise CourseError(f"{str(error).rstrip('.')}; {last}.") from error
        self._saved_step = step

    def _step(self, interrupts: Interrupts) -> Metrics:
        """One whole step; returns its metrics. A ctrl-C before the weights change leaves the last step as it was; one
        that arrives while they change waits until the step is complete."""
        config = self.config
        step = self.result.step
        started = time.perf_counter()

        # 1. The batch.
        inputs, targets = self._batch(step)  # (rows of this process, t) each
        batch_tokens = targets.numel() * self.ranks.world_size

        # 2. The learning rate, again by the step's number: the schedule has no state that could be lost.
        rate_scale = warmup_cosine(step, config.steps, config.warmup, config.final_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_scale

        # 3. Forward and backward. `outer_step` sets how fast inner loops learn during this step (nested/outer.py).
        self.optimizer.zero_grad(set_to_none=True)
        inner_rate = inner_rate_scale(step, config.steps, config.inner_warmup)
        blocks_twice = checkpointed_blocks(self.model, config.checkpoint_blocks)
        with outer_step(self.model, inner_rate, config.recompute), blocks_twice:
            loss = gradient(self.model, inputs, targets, config, self.ranks).item()

        # 4. Clipping. The norm is measured even without a limit, because it shows trouble before the loss does.
        grad_norm = self.ranks.clip(self.model, config.clip or float("inf"))
        # One step with a NaN would spoil every weight and the optimizer's state; so it is not taken.
        if not (isfinite(loss) and isfinite(grad_norm)):
            advice = (
                "Try a smaller learning rate or a longer warm-up; the weights, and the last checkpoint if one was "
                "written, are still good."
            )
            if step == self._resumed_at:
                advice = (
                    "It is the first step after resuming, so the checkpoint, if it is of a version that kept no "
                    "checksums, or the data may not be what they were; go on from another copy of them."
                )
            found = f"loss {loss}, gradient norm {grad_norm}"
            raise Diverged(f"training diverged at step {step}: {found}. {advice}", step)

        # 5. The write into the weights. From here to the metrics all changes belong together: a ctrl-C in between
        #    would leave weights of one step with the counters of another.
        with interrupts.hold():
            self._step_is_whole = False
            self.optimizer.step()
            self._step_is_whole = True
            self.result.step = step + 1
            self.tokens += batch_tokens
            seconds = time.perf_counter() - started
            self.seconds += seconds
            metrics = {
                "step": step + 1,
                "loss": loss,
                "learning_rate": config.learning_rate * rate_scale,
                "grad_norm": grad_norm,
                "tokens": self.tokens,
                "seconds": round(self.seconds, 4),
                "tokens_per_second": round(batch_tokens / max(seconds, 1e-9), 1),
                "memory_bytes": memory_in_use(next(self.model.parameters()).device),
                **self._evaluate(step + 1),
            }
            self._record(metrics)
            if self.folder is not None and self.folder.failure is not None:
                interrupts.request()  # without its metrics the run ends, and keeps this step
        return metrics

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, (rows, t) int64 each: those rows of the batch that this process reads."""
        if isinstance(self.data, Tensor):
            first, rows = self.ranks.rows(self.config.batch_size)
            return text.batch(self.data, step, rows, self.config.length, self.config.seed, first)
        # A function gives the whole batch in every process, which then keeps its own rows.
        return self.ranks.share(*self.data(step))

    def _evaluate(self, steps_done: int) -> dict[str, float]:
        """The held-out measurements by name, where they are due after so many steps; else nothing."""
        every = self.config.evaluate_every
        due = steps_done == self.config.steps or (every and steps_done % every == 0)
        if self.held_out is None or not due:
            return {}
        if isinstance(self.held_out, Tensor):
            precision, reset_at = self.config.precision, self.config.reset_at
            evaluation = evaluate(self.model, self.held_out, self.config.length, precision=precision, reset_at=reset_at)
            return {"held_out_loss": evaluation.loss}
        return dict(self.held_out(self.model))

    def _record(self, metrics: Metrics) -> None:
        """Keeps a step's metrics if they are due. The last step and every evaluation are kept whatever `log_every`."""
        steps_done = metrics["step"]
        due = steps_done % self.config.log_every == 0 or steps_done == self.config.steps
        if due or "held_out_loss" in metrics:
            self.result.metrics.append(metrics)
            if self.folder is not None:
                self.folder.record(metrics)
