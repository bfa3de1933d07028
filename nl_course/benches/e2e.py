"""TTT-E2E's training step beside the same network without its inner loop, and its decoding far into a text.

d = 256, 8 blocks of which the last 2 learn, chunks of 256 tokens, a window of 512, bytes, one text, float32. "The same
network" has the same weights; its fast MLPs stay where they are. A training step is the loss of a text and the gradient
of every parameter. "Again" computes segments twice instead of keeping them (`recompute`). Decoding reads one token a
call for a whole chunk, so that the share of one update is in it.
"""

from collections.abc import Callable
from statistics import median

import torch

from nl_course.benches.measure import in_turn, peak_bytes, ratio, seconds
from nl_course.nested import NestedLanguageModel, e2e_config, without_inner_loop

CONFIG = e2e_config(width=256, layers=8, heads=4, hidden=560, window=512, chunk=256, suffix=2)
TOKENS, LENGTHS, CONTEXTS = 2048, (1024, 2048, 4096), (2048, 16384)
KINDS = ("without", "with", "again")


def build(kind: str) -> NestedLanguageModel:
    """The network "without" its inner loop, "with" it, or with it and every segment computed "again"."""
    torch.manual_seed(0)
    return NestedLanguageModel(without_inner_loop(CONFIG) if kind == "without" else CONFIG, recompute=kind == "again")


def text(tokens: int) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab, (1, tokens), generator=torch.Generator().manual_seed(1))


def step(kind: str, tokens: int = TOKENS) -> Callable[[], object]:
    model, read = build(kind), text(tokens + 1)
    wanted = list(model.parameters())
    return lambda: torch.autograd.grad(model.token_losses(read).mean(), wanted, allow_unused=True)


def rows() -> list[dict]:
    times = in_turn({kind: step(kind) for kind in KINDS}, rounds=5)
    peaks = {kind: peak_bytes(_peak(kind)) for kind in KINDS}
    found = [
        _row(
            f"training step, {kind} inner loop" if kind != "again" else "training step, segments again",
            1e6 * median(times[kind]) / TOKENS,
            ratio(times, kind, "without"),
            peaks[kind] / 1e6,
            peaks[kind] / peaks["without"],
        )
        for kind in KINDS
    ]
    steps = {str(n): step("with", n) for n in LENGTHS}
    times = in_turn(steps, rounds=3)
    for n in LENGTHS:
        share = ratio(times, str(n), str(LENGTHS[0])) * LENGTHS[0] / n
        found.append(_row(f"training, {n:,} tokens beside {LENGTHS[0]:,}", 1e6 * median(times[str(n)]) / n, share))
    tokens = decode_seconds()
    for n in CONTEXTS:
        share = ratio(tokens, str(n), str(CONTEXTS[0]))
        found.append(_row(f"decoding at {n:,} beside {CONTEXTS[0]:,}", 1e6 * median(tokens[str(n)]), share))
    return found


def _row(name: str, microseconds: float, times: float, peak: float | None = None, more: float | None = None) -> dict:
    keys = ("name", "us/token", "times the time", "peak, MB", "times the memory")
    return dict(zip(keys, (name, microseconds, times, peak, more), strict=True))


@torch.no_grad()
def decode_seconds(rounds: int = 3) -> dict[str, list[float]]:
    """Seconds a token, over a chunk read token by token after each of CONTEXTS, in turn."""
    model, ahead = build("with"), text(CONFIG.levels[-1][0].chunk)
    states = {n: model(text(n))[1] for n in CONTEXTS}

    def decode(state) -> None:
        for t in range(ahead.shape[1]):
            _, state = model(ahead[:, t : t + 1], state)

    found: dict[str, list[float]] = {str(n): [] for n in CONTEXTS}
    for _ in range(rounds):
        for n in CONTEXTS:
            found[str(n)].append(seconds(lambda n=n: decode(states[n])) / ahead.shape[1])
    return found


def _peak(kind: str) -> str:
    return f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
from nl_course.benches.e2e import step
main = step({kind!r})
"""
