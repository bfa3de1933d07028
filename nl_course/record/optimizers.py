"""Optimizers as memories, asked for what they are for: one small language model, equal steps, each at its best rate.

The protocol is that of protocol.py: each arm has rates of its own to choose from, is tried at each from a seed that is
not reported, and then trained from all seeds at the best. The steps are a budget, the same for all; `settled` says of
each run whether its loss still fell. Weight decay is 0 for all, since its strength would follow the rate. Gradients are
clipped alike. `dgd` erases as the paper has it; `dgd, weak erase` a hundredth of that, and plain gradient descent,
`sgd`, is the same with no erase at all.

A part, one arm from one seed, is kept as soon as it is done: `nl-course record optimizers` goes on.
"""

import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import check_choice
from nl_course.model import ModelConfig
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial
from nl_course.record.recipe import Part, selected
from nl_course.record.seeds import over_seeds
from nl_course.record.texts import recording_library, split_of
from nl_course.seeding import seeded
from nl_course.tasks.text import batch, library
from nl_course.training import Data, Diverged, TrainingConfig, default_optimizer, evaluate, gradient, train
from nl_course.training.estimate import parameter_count

BASE = "adamw"  # whose time is the unit
UNITS = (
    "losses in nats per byte of held-out text, `loss` the mean of the seeds, `low` and `high` Student's 95 % interval "
    "over them and `spread` their standard deviation; `search`: the loss of the last tenth of training at each rate, "
    "from `search_seed`; a loss of null is a run that stopped being numbers; seconds of a whole step, forward pass to "
    "update, the median of rounds in which all took turns"
)


class Optimizers(Comparison):
    """Optimizers on one small model. A part is (arm, seed)."""

    name = "optimizers"

    def rates(self, arm: str) -> list[float]:
        """The rates that are tried for an arm: what a rate means differs from optimizer to optimizer."""
        return self.config["arms"][check_choice("arm", arm, self.config["arms"])]["rates"]

    def trial(self, rate: float, seed: int, arm: str) -> Trial:
        """The model, trained with an arm's optimizer at a rate from a seed."""
        training = training_of(self.config, arm, rate, seed)
        taught = {"corpus": self.config["corpus"], "split": split_of(self.config)}
        return Trial(ModelConfig(**self.config["model"]), training, data_of(self.config, training), taught)

    def identity(self, arm: str, seed: int) -> dict[str, Any]:
        """The training, what is measured, and the device."""
        trial = self.reported(arm, seed).identity()
        return {**trial, **selected(self.config, "windows", "curve_every"), "device": self.device}

    def file_name(self, arm: str, *rest: Any) -> str:
        """The arm without commas and blanks, and the seed, or of a searched run the rate."""
        return super().file_name(arm.replace(", ", "-").replace(" ", "-"), *rest)

    def make(self, folder: Path, arm: str, seed: int) -> Part:
        """Trains the model with an arm's optimizer and measures it. A run that diverged has losses of None."""
        config, trial = self.config, self.reported(arm, seed)
        training, report = trial.training, library(config["corpus"]).stream("held_out")
        rate = training.learning_rate
        about = {"rate": rate, "seed": seed, "made": self.provenance("commit", "recorded")}
        with seeded(seed):
            model = parts.build(ModelConfig(**config["model"]))
            parts.begin(model)
        model.to(self.device)
        built: list[torch.optim.Optimizer] = []

        def optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
            """The usual optimizer, noted down in `built`."""
            built.append(default_optimizer(model, training))  # kept, so that its state can be measured afterwards
            return built[-1]

        try:
            run = train(model, trial.data, training, held_out=report, optimizer=optimizer, progress=False)
        except Diverged:
            nothing = {"loss": None, "settled": None, "held_out": [], "curve": [], "state_bytes": None}
            return {**about, **nothing}
        if run.step < training.steps:
            raise KeyboardInterrupt
        windows = {"length": training.length, "batches": config["windows"] // 8, "batch_size": 8}
        return {
            **about,
            "loss": round(evaluate(model, report, **windows).loss, 4),
            "held_out": [{"step": step, "loss": round(loss, 4)} for step, loss in run.held_out],
            "settled": parts.settled(run.metrics),
            "curve": parts.curve(run, config["curve_every"]),
            "state_bytes": state_bytes(built[-1]),
        }

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `runs/optimizers.json`."""
        times = step_times(self.config, self.device)
        keys = []
        for seed in self.config["seeds"]:
            keys += [(arm, seed) for arm in self.config["arms"]]
        self.searched_and_made(keys)
        arms = {}
        for arm, about in self.config["arms"].items():
            arms[arm] = self.arm(arm, about, times)
            loss, rate, times_adamw = (arms[arm][key] for key in ("loss", "rate", "times_adamw"))
            print(f"{arm}: {loss} at {rate:g}, {times_adamw} times AdamW's step", flush=True)
        results = {
            "units": UNITS,
            "parameters": parameter_count(ModelConfig(**self.config["model"])),
            "arms": arms,
        }
        return [self.recording.write(assets / "runs" / "optimizers.json", results)]

    def arm(self, arm: str, about: dict[str, Any], times: dict[str, float]) -> dict[str, Any]:
        """An arm at the rate that its search found: every seed."""
        search = self.search(arm)
        made = [self.part(arm, seed) for seed in self.config["seeds"]]
        losses = [part["loss"] for part in made]
        all_numbers = None not in losses
        return {
            "optimizer": about["optimizer"],
            "options": about.get("options", {}),
            "search": search["tried"],
            "search_seed": search["seed"],
            "rate": search["rate"],
            "at_edge": search["at_edge"],
            "loss": round(mean(losses), 4) if all_numbers else None,
            **(ends_of(losses) if all_numbers else {}),
            "spread": round(stdev(losses), 4) if all_numbers and len(losses) > 1 else None,
            "step_seconds": round(times[arm], 5),
            "times_adamw": round(times[arm] / times[BASE], 2),
            "state_bytes": made[0]["state_bytes"],
            "seeds": [selected(part, "seed", "loss", "settled", "held_out", "curve", "made") for part in made],
        }


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `runs/optimizers.json`."""
    return Optimizers(device, quick, assets).run(assets)


def ends_of(losses: list[float]) -> dict[str, float]:
    """The ends of Student's 95 % interval, `low` and `high`; nothing of a single seed."""
    return {key: value for key, value in over_seeds(losses).items() if key in ("low", "high")}


def training_of(config: dict, arm: str, rate: float, seed: int) -> TrainingConfig:
    """How an arm is trained at one rate."""
    about = config["arms"][check_choice("arm", arm, config["arms"])]
    return TrainingConfig(
        **config["training"],
        learning_rate=rate,
        optimizer=about["optimizer"],
        optimizer_options=about.get("options", {}),
        seed=seed,
    )


def data_of(config: dict, training: TrainingConfig) -> Data:
    """step -> (inputs, targets), the same for every arm of a seed."""
    stream = recording_library(config, config["corpus"]).stream("train")
    return lambda step: batch(stream, step, training.batch_size, training.length, training.seed)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimizer keeps from one step to the next, counters of a single number aside."""
    tensors = (t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor))
    return sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1)


def step_times(config: dict, device: str = "cpu") -> dict[str, float]:
    """Seconds of a whole step of every arm. Arms take turns, a round of steps each, so that a machine that is busy for
    a while slows all of them; the median of the rounds, after one that is not counted."""
    steppers = {}
    for arm, about in config["arms"].items():
        training = training_of(config, arm, about["rates"][0], config["seeds"][0])
        with seeded(training.seed):
            model = parts.build(ModelConfig(**config["model"])).to(device)
        steppers[arm] = (model, training, default_optimizer(model, training), data_of(config, training)(0))
    seconds: dict[str, list[float]] = {arm: [] for arm in steppers}
    for _ in range(1 + config["timed_rounds"]):
        for arm, (model, training, optimizer, (inputs, targets)) in steppers.items():
            start = time.perf_counter()
            for _ in range(config["timed_steps"]):
                gradient(model, inputs, targets, training)
                optimizer.step()
                optimizer.zero_grad()
            if str(device).startswith("cuda"):
                torch.cuda.synchronize()
            seconds[arm].append((time.perf_counter() - start) / config["timed_steps"])
    return {arm: median(values[1:]) for arm, values in seconds.items()}
