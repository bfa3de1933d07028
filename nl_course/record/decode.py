"""What one more token costs after so many: seconds and bytes of state, for attention and the memories that do not grow.

Models of one width and as many parameters, untrained (a token takes as long whatever the weights), one row, one thread.
Each reads real text up to the longest context; its states at every context on the way are kept. Attention's cache is
filled with random keys and values instead: reading that far would cost the square of the length, and its numbers do not
change what a token costs. Then every model at every context takes its turn for one token, round by round, so that a
machine that is busy for a while slows all of them; a ratio is the median of the rounds' own ratios.

Memories that write once a chunk do most of their work at its last token: beside the median stand the mean and the peak.
"""

import os
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.attention.attention import AttentionState
from nl_course.memories.attention.cache import TokenCache
from nl_course.model import LanguageModel, ModelState
from nl_course.record import parts
from nl_course.record.provenance import Recording
from nl_course.record.sizes import settings
from nl_course.seeding import seeded
from nl_course.tasks.text import library

Case = tuple[str, int]  # (model, context)


def run(assets: Path, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Measures all of it in one go; writes `runs/decode.json`."""
    config = settings("decode", device, quick)
    recording = Recording("decode", config, device)
    load = [os.getloadavg()[0]]
    stream = library("prose").stream("held_out").long().to(device)
    models, states, prefill, about = {}, {}, {}, {}
    for name, spec in config["models"].items():
        shape = parts.sized(config, name, spec)
        with seeded(0):
            models[name] = parts.build(shape).to(device).requires_grad_(False)
        began = time.perf_counter()
        if name in config["filled"]:
            after = {context: filled(models[name], context, device) for context in config["contexts"]}
        else:
            after = read(models[name], stream, config["contexts"], config["piece"])
        states |= {(name, context): state for context, state in after.items()}
        prefill[name] = round(time.perf_counter() - began, 1)
        about[name] = {"model": shape.to_dict(), "parameters": models[name].parameter_count()}
        print(f"{name}: {about[name]['parameters']:,} parameters, states after {prefill[name]} s", flush=True)
    sizes = {case: {"bytes": s.nbytes, "capacity": s.capacity_bytes} for case, s in states.items()}
    rounds = seconds_per_token(models, states, config["warmup_tokens"], config["timed_tokens"], device)
    load.append(os.getloadavg()[0])
    timed = {name: {**about[name], "prefill_seconds": prefill[name], "rows": []} for name in models}
    for (name, context), values in rounds.items():
        row = {
            "tokens": context,
            **sizes[name, context],
            "formula": models[name].state_bytes(context),
            **spread(values),
            "to_shortest": spread(values / rounds[name, config["contexts"][0]], "ratio"),
            "to_attention": spread(values / rounds["attention", context], "ratio"),
        }
        timed[name]["rows"].append(row)
    results = {
        "units": "seconds for one more token after `tokens`, one row: median, quartiles, mean and peak of the timed "
        "tokens; ratios are medians and quartiles of the rounds' own. bytes: of the state, measured on its tensors; "
        "capacity: with the cache's spare room; formula: the memory's own",
        "shared": "other work ran on the machine: `load` is its load average (1 minute) before and after, of "
        f"{os.cpu_count()} processors; compare ratios, not seconds",
        "load": [round(x, 2) for x in load],
        "filled": dict.fromkeys(config["filled"], "random keys and values in the cache"),
        "models": timed,
    }
    return [recording.write(assets / "runs" / "decode.json", results)]


# -- states after so many tokens ---------------------------------------------------------------------------------------
@torch.no_grad()
def read(model: LanguageModel, stream: Tensor, contexts: list[int], piece: int) -> dict[int, Any]:
    """The states after so many tokens of the text, by their number; it is read once."""
    if max(contexts) > len(stream):
        raise CourseError(f"the text has {len(stream):,} tokens, fewer than {max(contexts):,}.")
    state, done = model.init_state(1), 0
    states = {}
    for context in sorted(contexts):
        for text in stream[done:context][None].split(piece, dim=1):
            _, state = model(text, state)
        states[context] = state
        done = context
    return states


def filled(model: LanguageModel, context: int, device: str = "cpu") -> ModelState:
    """A state of attention as after `context` tokens, with random keys and values; convolutions are at their start."""
    rng = torch.Generator().manual_seed(context)
    layers = []
    for layer, start in zip(model.layers, model.init_state(1).layers, strict=True):
        config = layer.memory.config
        shape = (1, config.kv_heads, context, config.head_dim)
        key, value = (TokenCache.of(torch.randn(shape, generator=rng).to(device)) for _ in range(2))
        memory = AttentionState(key, value, context)
        layers.append(memory if layer.conv is None else replace(start, memory=memory))
    return ModelState(tuple(layers))


# -- time --------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def seconds_per_token(
    models: dict[str, LanguageModel], states: dict[Case, Any], warmup: int, timed: int, device: str = "cpu"
) -> dict[Case, Tensor]:
    """(timed,) seconds of each model at each context, every one in its turn, after `warmup` tokens that do not count
    (the first may move a cache to where it has room)."""
    token = torch.full((1, 1), 101, device=device)
    seconds = defaultdict(list)
    states = dict(states)
    for turn in range(warmup + timed):
        for name, context in states:
            wait(device)
            began = time.perf_counter()
            _, states[name, context] = models[name](token, states[name, context])
            wait(device)
            if turn >= warmup:
                seconds[name, context].append(time.perf_counter() - began)
    return {case: torch.tensor(values, dtype=torch.float64) for case, values in seconds.items()}


def wait(device: str) -> None:
    """Waits for a GPU to finish: it works beside the program, and a clock would stop too early."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize(device)


def spread(values: Tensor, name: str = "seconds") -> dict[str, float]:
    """Median and quartiles; of times the mean and the peak too."""
    low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype)).tolist()
    summary = {name: middle, "low": low, "high": high}
    if name == "seconds":
        summary |= {"mean": values.mean().item(), "peak": values.max().item()}
    return {key: float(f"{value:.4g}") for key, value in summary.items()}
