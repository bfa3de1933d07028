"""Optimisers as memories, asked for what they are for: one small language model, equal steps, each at its best rate.

Every arm first tries three rates from the first seed. The rate whose loss on one half of the held-out text is lowest is
taken, and all seeds are then run at it; what is reported is the loss on the other half. `at_edge` says that the best
rate was the least or the largest tried, so that a better one may lie beyond. Weight decay is 0 for all, since its
strength would follow the rate. Gradients are clipped alike. `dgd` erases as the paper has it; `dgd, weak erase` a
hundredth of that, and plain gradient descent, `sgd`, is the same with no erase at all.

A part, one arm at one rate from one seed, is kept as soon as it is done: `nl-course record optimizers` goes on.
"""

import time
from pathlib import Path
from statistics import mean, median, stdev

import torch
from torch import Tensor

from nl_course.errors import check_choice
from nl_course.model import ModelConfig
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings
from nl_course.tasks.text import batch, library
from nl_course.training import Diverged, TrainingConfig, default_optimizer, evaluate, gradient

NAME = "optimizers"
BASE = "adamw"  # whose time is the unit


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `runs/optimizers.json`."""
    config = settings(NAME, device, quick)
    recording, folder = Recording(NAME, config, device), parts.parts_folder(NAME, assets if quick else None)
    times, arms = step_times(config, device), {}
    for arm, about in config["arms"].items():
        seeds, rates = config["seeds"], about["rates"]
        search = [part(config, arm, rate, seeds[0], folder, device) for rate in rates]
        best = min((one for one in search if one["search_loss"] is not None), key=lambda one: one["search_loss"])
        found = [best, *(part(config, arm, best["rate"], seed, folder, device) for seed in seeds[1:])]
        losses = [one["loss"] for one in found]
        whole = None not in losses
        arms[arm] = {
            "optimizer": about["optimizer"],
            "options": about.get("options", {}),
            "search": [{"rate": one["rate"], "loss": one["search_loss"]} for one in search],
            "rate": best["rate"],
            "at_edge": best["rate"] in (min(rates), max(rates)),
            "loss": round(mean(losses), 4) if whole else None,
            "spread": round(stdev(losses), 4) if whole and len(losses) > 1 else None,
            "step_seconds": round(times[arm], 5),
            "times_adamw": round(times[arm] / times[BASE], 2),
            "state_bytes": best["state_bytes"],
            "seeds": [{key: one[key] for key in ("seed", "loss", "held_out", "curve", "made")} for one in found],
        }
        print(
            f"{arm}: {arms[arm]['loss']} at {best['rate']:g}, {arms[arm]['times_adamw']} times AdamW's step", flush=True
        )
    results = {
        "units": "losses in nats per byte of held-out text that served for nothing else, `loss` the mean of the seeds "
        "and `spread` their standard deviation; a loss of null is a run that stopped being numbers; seconds of a whole "
        "step, forward pass to update, the median of rounds in which all took turns",
        "parameters": parts.build(ModelConfig(**config["model"])).parameter_count(),
        "arms": arms,
    }
    return [recording.write(assets / "runs" / f"{NAME}.json", results)]


def halves(config: dict) -> tuple[Tensor, Tensor]:
    """Held-out text to choose rates by, and held-out text to report."""
    stream = library(config["corpus"]).stream("held_out")
    return stream[: len(stream) // 2], stream[len(stream) // 2 :]


def training_of(config: dict, arm: str, rate: float, seed: int) -> TrainingConfig:
    about = config["arms"][check_choice("arm", arm, config["arms"])]
    return TrainingConfig(
        **config["training"],
        learning_rate=rate,
        optimizer=about["optimizer"],
        optimizer_options=about.get("options", {}),
        seed=seed,
    )


def data_of(config: dict, training: TrainingConfig):
    """step -> (inputs, targets), the same for every arm of a seed."""
    stream = library(config["corpus"]).stream("train")
    return lambda step: batch(stream, step, training.batch_size, training.length, training.seed)


def part(config: dict, arm: str, rate: float, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One arm at one rate from one seed, trained and asked, or what is kept of it."""
    training, shape = training_of(config, arm, rate, seed), ModelConfig(**config["model"])
    asked = {"training": training.to_dict(), "model": shape.to_dict(), "corpus": config["corpus"], "device": device}
    asked |= {"windows": config["windows"], "curve_every": config["curve_every"]}

    def make() -> dict:
        search, report = halves(config)
        found = {"rate": rate, "seed": seed, "made": made(config, device)}
        torch.manual_seed(seed)
        model = parts.build(shape)
        parts.begin(model)
        model.to(device)
        kept: list[torch.optim.Optimizer] = []

        def optimizer(*arguments):
            kept.append(default_optimizer(*arguments))
            return kept[-1]

        try:
            done = parts.train(
                model, data_of(config, training), training, held_out=search, optimizer=optimizer, progress=False
            )
        except Diverged:
            return {**found, "search_loss": None, "loss": None, "held_out": [], "curve": [], "state_bytes": None}
        if done.step < training.steps:
            raise KeyboardInterrupt
        ask = {"length": training.length, "batches": config["windows"] // 8, "batch_size": 8}
        return {
            **found,
            "search_loss": round(evaluate(model, search, **ask).loss, 4),
            "loss": round(evaluate(model, report, **ask).loss, 4),
            "held_out": [{"step": step, "loss": round(loss, 4)} for step, loss in done.held_out],
            "curve": parts.curve(done, config["curve_every"]),
            "state_bytes": state_bytes(kept[-1]),
        }

    return parts.kept(folder / f"{arm.replace(', ', '-').replace(' ', '-')}-{rate:g}-{seed}.json", asked, make)


def made(config: dict, device: str) -> dict:
    about = Recording(NAME, config, device).about()
    return {key: about[key] for key in ("commit", "recorded")}


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimiser keeps from one step to the next, counters of a single number aside."""
    tensors = (t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor))
    return sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1)


def step_times(config: dict, device: str = "cpu") -> dict[str, float]:
    """Seconds of a whole step of every arm. Arms take turns, a round of steps each, so that a machine that is busy for
    a while slows all of them; the median of the rounds, after one that is not counted."""
    steppers = {}
    for arm, about in config["arms"].items():
        training = training_of(config, arm, about["rates"][0], config["seeds"][0])
        torch.manual_seed(training.seed)
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
