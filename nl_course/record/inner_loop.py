"""A language model whose state learns beside one that attends: equal in size, trained on the very same bytes.

Both read batch after batch of the same windows, half prose and half code, with the same optimizer and the same rates.
Everything below is measured on the checkpoints as shipped (weights rounded to bf16), on books that were held out: the
loss at each place of the context, to four times the length trained with; what the state keeps; and how long one more
token takes after so many.
"""

import time
from itertools import pairwise, product
from pathlib import Path

import torch
from torch import Tensor

from nl_course.model import LanguageModel
from nl_course.presets import preset
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings_replaced
from nl_course.record.texts import recording_libraries
from nl_course.seeding import seeded
from nl_course.tasks.text import batch, library
from nl_course.training import Data, TrainingConfig, evaluate_windows, token_losses, train
from nl_course.training.checkpoint import load_model, save_model


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Trains both; writes `checkpoints/inner-loop-*.safetensors` and `runs/inner-loop.json`."""
    config = settings_replaced("inner-loop", quick)
    training = TrainingConfig.from_dict(config["training"])
    recording = Recording("inner-loop", config, device)
    streams = [text.stream("train") for text in recording_libraries(config, config["corpora"])]
    data = halves(streams, training)

    models, results_of, written = {}, {}, []
    for name, size in config["models"].items():
        with seeded(training.seed):
            model = LanguageModel(preset(size)).to(device)
        result = train(model, data, training)
        about = {"trained_as": name, "held_out": "never trained on", **recording.about()}
        written.append(assets / "checkpoints" / f"{filename(name, size)}.safetensors")
        save_model(model, written[-1], info=about)
        models[name] = load_model(written[-1], device)
        curve = parts.curve(result, config["curve_every"])
        results_of[name] = {
            "preset": size,
            "checkpoint": written[-1].name,
            "parameters": model.parameter_count(),
            "training_seconds": round(result.metrics[-1]["seconds"], 1),
            "curve": curve,
        }
        print(f"{name}: trained, last loss {curve[-1]['loss']}", flush=True)

    losses = {name: held_out_losses(model, config, device) for name, model in models.items()}
    for name, values in losses.items():
        results_of[name]["loss"] = by_bin(values, config["bins"], config["resamples"])
    difference = losses["ttt-linear"] - losses["attention"]  # (corpus, windows, positions)
    by_corpus = {}
    for corpus, of_corpus in zip(config["corpora"], difference, strict=True):
        by_corpus[corpus] = by_bin(of_corpus, config["bins"], config["resamples"])
    for name, model in models.items():
        results_of[name]["state"] = [parts.state_after(model, tokens, device) for tokens in config["contexts"]]
    decode = decode_times(models, config["contexts"], config["timed_tokens"], device)
    for name, rows in decode.items():
        results_of[name]["decode"] = rows
    results = {
        "units": "losses in nats per byte; intervals hold 95 of 100 resamplings of the windows; seconds per token, "
        "one row, median and quartiles of the timed tokens",
        "bins": config["bins"],
        "models": results_of,
        "ttt_less_attention": {
            "all": by_bin(difference, config["bins"], config["resamples"]),
            **by_corpus,
        },
    }
    return [*written, recording.write(assets / "runs" / "inner-loop.json", results)]


def filename(name: str, size: str) -> str:
    """The checkpoint of a model: `ttt-linear-micro`, and `attention-micro-twin` beside 01's `attention-micro`."""
    return "attention-micro-twin" if name == "attention" else size


def halves(streams: list[Tensor], training: TrainingConfig) -> Data:
    """step -> (inputs, targets) of that step: equal shares of every stream, the same for whoever asks."""

    def at(step: int) -> tuple[Tensor, Tensor]:
        """The rows of one step, (batch, T) inputs and targets, one stream after the other."""
        share = training.batch_size // len(streams)
        rows = [batch(s, step, share, training.length, training.seed + i) for i, s in enumerate(streams)]
        inputs, targets = zip(*rows)
        return torch.cat(inputs), torch.cat(targets)

    return at


@torch.no_grad()
def held_out_losses(model: LanguageModel, config: dict, device: str) -> Tensor:
    """(corpus, windows, positions): the loss at every position of windows that are spread over each held-out stream."""
    by_corpus = []
    for corpus in config["corpora"]:
        stream = library(corpus).stream("held_out")
        starts = evaluate_windows(stream, config["window"], config["windows"])
        windows = torch.stack([stream[s : s + config["window"] + 1] for s in starts]).long().to(device)
        pieces = [token_losses(model, w[:, :-1], w[:, 1:]) for w in windows.split(8)]
        by_corpus.append(torch.cat(pieces).cpu())  # (windows, positions)
    fewest = min(len(losses) for losses in by_corpus)
    return torch.stack([losses[:fewest] for losses in by_corpus])


def by_bin(losses: Tensor, edges: list[int], resamples: int) -> list[dict[str, float]]:
    """The mean over each stretch of positions, with an interval from resampling whole windows."""
    rows = losses.flatten(0, -2).double()
    picks = torch.randint(len(rows), (resamples, len(rows)), generator=torch.Generator().manual_seed(0))
    bins = []
    for first, last in pairwise(edges):
        means = rows[:, first:last].mean(1)
        low, high = means[picks].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        numbers = {"mean": means.mean().item(), "low": low, "high": high}
        bins.append({"from": first, "to": last, **{name: round(value, 4) for name, value in numbers.items()}})
    return bins


@torch.no_grad()
def decode_times(models: dict, contexts: list[int], timed: int, device: str) -> dict[str, list[dict]]:
    """Seconds for one more token after so many. Every model at every context takes its turn, round by round, so that
    a machine that is busy for a while slows all of them."""
    token = torch.full((1, 1), 101, device=device)
    stream = library("prose").stream("held_out").long().to(device)
    states = {}
    for name, context in product(models, contexts):
        states[name, context] = models[name].init_state(1)
        for piece in stream[:context][None].split(1024, dim=1):
            _, states[name, context] = models[name](piece, states[name, context])
    seconds = {key: [] for key in states}
    for _ in range(timed):
        for name, context in states:
            start = time.perf_counter()
            _, states[name, context] = models[name](token, states[name, context])
            seconds[name, context].append(time.perf_counter() - start)
    rows = {name: [] for name in models}
    for (name, context), values in seconds.items():
        low, middle, high = torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        row = {"tokens": context, "seconds": round(middle, 6), "low": round(low, 6), "high": round(high, 6)}
        rows[name].append(row)
    return rows
