"""What does a longer context buy, memory by memory? The loss on real text by position, in contexts many times longer
than those trained with, for models with as many parameters that read the very same bytes.

Training teaches short windows; then windows of held-out text are read to far beyond. `loss` is the mean over a stretch
of positions. `less_attention` is the difference from full attention on the very same windows, from the same seed. With
several seeds the intervals are Student's over the seeds. A single seed has one from resampling the windows, which says
how sure this model's mean is, not how another seed of the same memory would come out.

The protocol is that of protocol.py: each model at the rate that its own search found, the same steps for all, three
seeds. The loss on text has not settled in these steps, as `settled` says of each run: it is a budget.

A part, one model from one seed, is kept as soon as it is done:

    nl-course record long-text                           everything that is missing, the searches first
    python -m nl_course.record.long_text titans 0        one part
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import check_choice
from nl_course.record import parts
from nl_course.record.protocol import Comparison, Trial
from nl_course.record.recipe import Part, make_part, selected
from nl_course.record.seeds import reach
from nl_course.record.texts import recording_library, split_of
from nl_course.tasks.text import batch, library
from nl_course.training import TrainingConfig, evaluate_windows, token_losses

UNITS = (
    "nats per byte at places of a context, means of the windows and the seeds; intervals of 95 % are "
    "Student's over the seeds, or, of a single seed, from resampling the windows; states in bytes; "
    "`less_attention` is the difference from full attention window by window, from the same seed"
)


class LongText(Comparison):
    """Loss by position in a long context. A part is (model, seed)."""

    name = "long-text"

    def shape_of(self, name: str) -> parts.Shape:
        """The model called `name`."""
        return parts.sized(self.config, name, self.config["models"][check_choice("model", name, self.config["models"])])

    def trial(self, rate: float, seed: int, name: str) -> Trial:
        """A model, taught short windows of text at a rate from a seed."""
        training = TrainingConfig(**self.config["training"], learning_rate=rate, seed=seed)
        stream = recording_library(self.config, self.config["corpus"]).stream("train")

        def data(step: int) -> tuple[Tensor, Tensor]:
            """The rows of one step, (batch, T) inputs and targets."""
            return batch(stream, step, training.batch_size, training.length, seed)

        taught = {"corpus": self.config["corpus"], "split": split_of(self.config)}
        return Trial(self.shape_of(name), training, data, taught)

    def identity(self, name: str, seed: int) -> dict[str, Any]:
        """The training, what is measured, and the device."""
        asked = selected(self.config, "curve_every", "windows", "bins", "batch", "state_lengths")
        return {**self.reported(name, seed).identity(), **asked, "device": self.device}

    def make(self, folder: Path, name: str, seed: int) -> Part:
        """Trains a model on short windows and measures its loss in long ones."""
        config, shape = self.config, self.shape_of(name)
        made = self.provenance("commit", "recorded")
        model, run = self.trained(folder, name, seed)
        model.eval()
        by_window = losses_by_window(model, config, self.device)
        means = [round(sum(column) / len(column), 3) for column in zip(*by_window, strict=True)]
        seconds = round(run.metrics[-1]["seconds"], 1)
        print(f"{name} from seed {seed}: {model.parameter_count():,} parameters, {seconds} s, {means}", flush=True)
        levels = None
        if hasattr(shape, "levels"):
            levels = []
            for block in shape.levels:
                levels.append([level.chunk for level in block])
        return {
            **parts.described(shape, model, run, config["curve_every"], made),
            "levels": levels,
            "seed": seed,
            "state": [parts.state_after(model, length, self.device) for length in config["state_lengths"]],
            "by_window": by_window,
        }

    def run(self, assets: Path) -> list[Path]:
        """Makes the parts that are missing; writes `runs/long-text.json`."""
        keys = []
        for seed in self.config["seeds"]:  # first seeds first
            keys += [(name, seed) for name in self.config["models"]]
        parts_made = self.searched_and_made(keys)
        models, by_window = {}, {}
        for name in self.config["models"]:
            made = [parts_made[name, seed] for seed in self.config["seeds"]]
            losses = torch.tensor([part["by_window"] for part in made], dtype=torch.float64)  # (seeds, windows, bins)
            by_window[name] = losses
            by_seed = []
            for part, means in zip(made, losses.mean(dim=1).tolist(), strict=True):
                own = selected(part, *parts.OF_A_RUN)
                by_seed.append({**own, "loss": [round(mean, 4) for mean in means]})
            models[name] = {
                **selected(made[0], "memory", "options", "path", "levels", "hidden", "parameters", "state"),
                "search": self.search(name),
                "loss": stretches(losses, self.config),
                "less_attention": stretches(losses - by_window["attention"], self.config),
                "seeds": by_seed,
            }
        results = {"units": UNITS, "trained_length": self.config["training"]["length"], "models": models}
        return [self.recording.write(assets / "runs" / "long-text.json", results)]


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes the parts that are missing; writes `runs/long-text.json`."""
    return LongText(device, quick, assets).run(assets)


def stretches(by_window: Tensor, config: dict[str, Any]) -> list[dict[str, float]]:
    """(seeds, windows, bins) -> for each bin its mean over windows and seeds, with an interval."""
    by_seed = by_window.double().mean(dim=1)  # (seeds, bins)
    means = by_seed.mean(dim=0).tolist()
    if len(by_seed) > 1:
        half_widths = [reach(column) for column in by_seed.T.tolist()]
        low = [mean - half for mean, half in zip(means, half_widths, strict=True)]
        high = [mean + half for mean, half in zip(means, half_widths, strict=True)]
    else:
        low, high = resampled(by_window[0], config["resamples"])
    rows = []
    for (first, last), mean, least, most in zip(pairwise(config["bins"]), means, low, high, strict=True):
        rows.append({"from": first, "to": last, "mean": round(mean, 4), "low": round(least, 4), "high": round(most, 4)})
    return rows


def resampled(rows: Tensor, times: int) -> list[list[float]]:
    """(windows, bins) -> the ends of what 95 of 100 resamplings of the windows give for each bin's mean."""
    picks = torch.randint(len(rows), (times, len(rows)), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return rows.double()[picks].mean(dim=1).quantile(ends, dim=0).tolist()  # (2, bins)


@torch.no_grad()
def losses_by_window(model: nn.Module, config: dict[str, Any], device: str = "cpu") -> list[list[float]]:
    """(windows, bins): the mean loss of each stretch of positions in each held-out window, nats per byte."""
    length = config["bins"][-1]
    stream = library(config["corpus"]).stream("held_out")
    starts = evaluate_windows(stream, length, config["windows"])
    means = []
    for first in range(0, len(starts), config["batch"]):
        rows = [stream[start : start + length + 1] for start in starts[first : first + config["batch"]]]
        windows = torch.stack(rows).long().to(device)  # (rows, length + 1)
        losses = token_losses(model, windows[:, :-1], windows[:, 1:]).double().cpu()  # (rows, length)
        by_bin = [losses[:, begin:end].mean(dim=1) for begin, end in pairwise(config["bins"])]
        means += torch.stack(by_bin, dim=1).tolist()
    return [_rounded(row) for row in means]


def _rounded(losses: list[float]) -> list[float]:
    return [round(loss, 5) for loss in losses]


if __name__ == "__main__":
    make_part(LongText)
