"""What does a longer context buy, memory by memory? The loss on real text by the place in a context of many times the
length trained with, of models with as many parameters that read the very same bytes.

Training teaches short windows; then windows of held-out books are read to far beyond. `loss` is the mean at a stretch
of places. `less_attention` is the difference from full attention on the very same windows, from the same seed. With
several seeds the intervals are Student's over the seeds; a single seed has one from resampling the windows, which says
how sure this model's mean is, not how another seed of the same memory would come out.

A part, one model from one seed, is kept as soon as it is done:

    nl-course record long-text                           everything that is missing
    python -m nl_course.record.long_text titans 0        one part
"""

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from nl_course.errors import check_choice
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.seeds import reach
from nl_course.record.sizes import settings
from nl_course.tasks.text import batch, library
from nl_course.training import TrainingConfig, evaluate_windows, token_losses

NAME = "long-text"


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Makes what parts are missing; writes `runs/long-text.json`."""
    config = settings(NAME, device, quick)
    recording, folder = Recording(NAME, config, device), parts.parts_folder(NAME, assets if quick else None)
    models, by_window = {}, {}
    for name in config["models"]:
        found = [part(config, name, seed, folder, device) for seed in config["seeds"]]
        by_window[name] = torch.tensor([one["by_window"] for one in found], dtype=torch.float64)
        models[name] = {
            **{key: found[0][key] for key in ("memory", "options", "levels", "hidden", "parameters", "state")},
            "loss": stretches(by_window[name], config),
            "less_attention": stretches(by_window[name] - by_window["attention"], config),
            "seeds": [
                {
                    **{key: one[key] for key in ("seed", "training_seconds", "made", "curve")},
                    "loss": [round(mean, 4) for mean in row.mean(0).tolist()],
                }
                for one, row in zip(found, by_window[name], strict=True)
            ],
        }
    results = {
        "units": "nats per byte at places of a context, means of the windows and the seeds; intervals of 95 % are "
        "Student's over the seeds, or, of a single seed, from resampling the windows; states in bytes; "
        "`less_attention` is the difference from full attention window by window, from the same seed",
        "trained_length": config["training"]["length"],
        "models": models,
    }
    return [recording.write(assets / "runs" / f"{NAME}.json", results)]


def stretches(by_window: Tensor, config: dict) -> list[dict]:
    """(seeds, windows, bins) -> for each bin its mean over windows and seeds, with an interval."""
    seeds = by_window.double().mean(1)
    means = seeds.mean(0).tolist()
    if len(seeds) > 1:
        halves = [reach(column) for column in seeds.T.tolist()]
        low, high = ([mean + sign * half for mean, half in zip(means, halves, strict=True)] for sign in (-1, 1))
    else:
        low, high = resampled(by_window[0], config["resamples"])
    columns = zip(pairwise(config["bins"]), means, low, high, strict=True)
    return [
        {"from": first, "to": last, "mean": round(mean, 4), "low": round(least, 4), "high": round(most, 4)}
        for (first, last), mean, least, most in columns
    ]


def resampled(rows: Tensor, times: int) -> list[list[float]]:
    """(windows, bins) -> the ends of what 95 of 100 resamplings of the windows give for each bin's mean."""
    picks = torch.randint(len(rows), (times, len(rows)), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return rows.double()[picks].mean(1).quantile(ends, dim=0).tolist()


@torch.no_grad()
def losses_by_window(model: nn.Module, config: dict, device: str = "cpu") -> list[list[float]]:
    """(windows, bins): the mean loss of each stretch of places in each held-out window."""
    stream, length = library(config["corpus"]).stream("held_out"), config["bins"][-1]
    starts, found = evaluate_windows(stream, length, config["windows"]), []
    for first in range(0, len(starts), config["batch"]):
        rows = [stream[s : s + length + 1] for s in starts[first : first + config["batch"]]]
        windows = torch.stack(rows).long().to(device)
        losses = token_losses(model, windows[:, :-1], windows[:, 1:]).double().cpu()
        found.append(torch.stack([losses[:, a:b].mean(1) for a, b in pairwise(config["bins"])], dim=1))
    return [[round(x, 5) for x in row] for row in torch.cat(found).tolist()]


def part(config: dict, name: str, seed: int, folder: Path, device: str = "cpu") -> dict:
    """One model from one seed, trained and asked, or what is kept of it."""
    shape = parts.sized(config, name, config["models"][check_choice("model", name, config["models"])])
    training = TrainingConfig(**config["training"], seed=seed)
    asked = {key: value for key, value in config.items() if key not in ("models", "seeds", "resamples")}
    asked |= {"model": shape.to_dict(), "seed": seed, "device": device}

    def make() -> dict:
        made, stream = Recording(NAME, config, device).about(), library(config["corpus"]).stream("train")
        data = lambda step: batch(stream, step, training.batch_size, training.length, seed)  # noqa: E731
        model, done = parts.trained(shape, data, training, folder / parts.mark(asked), device)
        model.eval()
        by_window = losses_by_window(model, config, device)
        seconds, nested = round(done.metrics[-1]["seconds"], 1), hasattr(shape, "levels")
        means = [round(sum(column) / len(column), 3) for column in zip(*by_window, strict=True)]
        print(f"{name} from seed {seed}: {model.parameter_count():,} parameters, {seconds} s, {means}", flush=True)
        return {
            **parts.described(shape, model, done, config["curve_every"], made),
            "levels": [[level.chunk for level in block] for block in shape.levels] if nested else None,
            "seed": seed,
            "state": [parts.state_after(model, length, device) for length in config["state_lengths"]],
            "by_window": by_window,
        }

    return parts.kept(folder / f"{name}-{seed}.json", asked, make)


if __name__ == "__main__":
    everything = settings(NAME)
    part(everything, sys.argv[1], int(sys.argv[2]), parts.parts_folder(NAME))
