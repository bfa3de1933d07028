"""TTT-E2E's training step beside that of the same network without its inner loop, and its decoding far into a text.

d = 256, 8 blocks of which the last 2 learn, chunks of 256 tokens, a window of 512, bytes, one text, float32. "The same
network" has the same weights; its fast MLPs stay where they are. A training step is the loss of a text and the gradient
of every parameter. "Again" computes segments twice instead of keeping them (`recompute`). Decoding reads one token per
call for a whole chunk, so that its share of one update is in it.
"""

from collections.abc import Callable
from statistics import median

import torch

from nl_course.benches.measure import in_turn, peak_bytes, ratio, seconds
from nl_course.nested import NestedLanguageModel, NestedState, e2e_config, without_inner_loop
from nl_course.seeding import seeded

CONFIG = e2e_config(width=256, layers=8, heads=4, hidden=560, window=512, chunk=256, suffix=2)
TOKENS, LENGTHS, CONTEXTS = 2048, (1024, 2048, 4096), (2048, 16384)
NAMES = {
    "without": "training step, without inner loop",
    "with": "training step, with inner loop",
    "again": "training step, segments again",
}


@seeded(0)
def build(kind: str) -> NestedLanguageModel:
    """The network "without" its inner loop, "with" it, or with it and every segment computed "again"."""
    config = without_inner_loop(CONFIG) if kind == "without" else CONFIG
    return NestedLanguageModel(config, recompute=kind == "again")


def text(tokens: int) -> torch.Tensor:
    """Random tokens, (1, tokens)."""
    return torch.randint(0, CONFIG.vocab, (1, tokens), generator=torch.Generator().manual_seed(1))


def step(kind: str, tokens: int = TOKENS) -> Callable[[], object]:
    """A training step on a text of that many tokens, without the optimizer, ready to be timed."""
    model = build(kind)
    inputs_and_targets = text(tokens + 1)
    parameters = list(model.parameters())

    def run() -> object:
        """The gradients of the mean token loss, for every weight that it reaches."""
        loss = model.token_losses(inputs_and_targets).mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    return run


def rows() -> list[dict]:
    """The table: training with and without the inner loop, training at growing lengths, decoding at growing lengths."""
    times = in_turn({kind: step(kind) for kind in NAMES}, rounds=5)
    peaks = {kind: peak_bytes(_peak(kind)) for kind in NAMES}
    table = []
    for kind, name in NAMES.items():
        row = _row(
            name,
            1e6 * median(times[kind]) / TOKENS,
            ratio(times, kind, "without"),
            peaks[kind] / 1e6,
            peaks[kind] / peaks["without"],
        )
        table.append(row)

    times = in_turn({str(n): step("with", n) for n in LENGTHS}, rounds=3)
    shortest = LENGTHS[0]
    for n in LENGTHS:
        per_token = ratio(times, str(n), str(shortest)) * shortest / n
        name = f"training, {n:,} tokens beside {shortest:,}"
        table.append(_row(name, 1e6 * median(times[str(n)]) / n, per_token))

    times = decode_seconds()
    nearest = CONTEXTS[0]
    for n in CONTEXTS:
        name = f"decoding at {n:,} beside {nearest:,}"
        table.append(_row(name, 1e6 * median(times[str(n)]), ratio(times, str(n), str(nearest))))
    return table


def _row(
    name: str, microseconds: float, times: float, peak: float | None = None, times_peak: float | None = None
) -> dict:
    return {
        "name": name,
        "us/token": microseconds,
        "times the time": times,
        "peak, MB": peak,
        "times the memory": times_peak,
    }


@torch.no_grad()
def decode_seconds(rounds: int = 3) -> dict[str, list[float]]:
    """Seconds per token, over a chunk read token by token after each of CONTEXTS, in turn."""
    model = build("with")
    ahead = text(CONFIG.levels[-1][0].chunk)  # (1, chunk)
    states = {n: model(text(n))[1] for n in CONTEXTS}

    def decode(state: NestedState) -> None:
        """One chunk of tokens, fed one by one from a state."""
        for t in range(ahead.shape[1]):
            _, state = model(ahead[:, t : t + 1], state)

    times: dict[str, list[float]] = {str(n): [] for n in CONTEXTS}
    for _ in range(rounds):
        for n in CONTEXTS:
            times[str(n)].append(seconds(lambda n=n: decode(states[n])) / ahead.shape[1])
    return times


def _peak(kind: str) -> str:
    """The program whose peak memory is measured, in a process of its own."""
    return f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
from nl_course.benches.e2e import step
main = step({kind!r})
"""
