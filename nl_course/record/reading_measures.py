"""What is measured on a small TTT-E2E model and on its twin that was trained with the fast MLPs at rest.

Second reading: a passage is read, then a filler of so many bytes, then the passage again. Each reading is scored on all
its bytes but the first, which no context announces. What comes late in a text is cheaper anyway, so a passage is also
read at the same place after another passage and the same filler: `fresh`. What is left of the first reading is `fresh`
less `second`.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories import Trace
from nl_course.nested import NestedLanguageModel, reconfigured, with_inner_loop, without_inner_loop
from nl_course.nested.steps import next_token_losses
from nl_course.record.seeds import over_seeds
from nl_course.training import evaluate_windows

ROWS = 8  # texts read at a time
# Student's t: 95 of 100 intervals m +- t s / sqrt(n) of n seeds hold the mean, by n.


def at_pace(model: NestedLanguageModel, about: dict, rate: float | None, clip: float | None) -> NestedLanguageModel:
    """The model's weights with the inner loop at that rate and clip; off if `rate` is None."""
    if rate is None:
        return reconfigured(model, without_inner_loop(model.config))
    return reconfigured(model, with_inner_loop(model.config, about["shape"]["chunk"], rate, clip))


def windows(stream: Tensor, length: int, rows: int) -> Tensor:
    """(rows, length + 1) of bytes, spread evenly over a stream."""
    starts = evaluate_windows(stream, length, rows)
    return torch.stack([stream[s : s + length + 1] for s in starts]).long()


@torch.no_grad()
def losses(model: NestedLanguageModel, tokens: Tensor) -> Tensor:
    """The loss of every next token, before its own update: tokens (rows, T + 1) -> (rows, T)."""
    return torch.cat([model.token_losses(part) for part in tokens.split(ROWS)])


def choose_rate(model: NestedLanguageModel, about: dict, stream: Tensor) -> tuple[float, dict[str, float]]:
    """The inner rate with the lowest loss on `stream`, and the loss at each; clip as trained with."""
    tokens = windows(stream, about["choosing_length"], about["choosing_rows"])
    found = {}
    for rate in about["choosing_rates"]:
        there = losses(at_pace(model, about, rate, about["shape"]["clip"]), tokens).mean().item()
        found[rate] = there if there == there else float("inf")
    best = min(found, key=found.get)
    return best, {str(rate): round(loss, 4) for rate, loss in found.items()}


def by_position(model: NestedLanguageModel, about: dict, stream: Tensor) -> list[float]:
    """The mean loss in each bin of positions."""
    means = losses(model, windows(stream, about["length"], about["rows"])).double().mean(0)
    return [round(means[first:last].mean().item(), 4) for first, last in pairwise(about["bins"])]


# -- the second reading ------------------------------------------------------------------------------------------------
@torch.no_grad()
def second_reading(model: NestedLanguageModel, about: dict, stream: Tensor) -> dict[str, float | list[float]]:
    """The loss of the first reading; and for each distance, of the second, and of a first reading at its place."""
    length, distances = about["passage"], about["distances"]
    if list(distances) != sorted(set(distances)):
        raise CourseError(f"distances must grow, not {distances}.")
    rows = windows(stream, 2 * length + max(distances), about["passages"])
    passages, others, fillers = rows[:, :length], rows[:, length : 2 * length].roll(1, 0), rows[:, 2 * length :]
    fillers = fillers.roll(2, 0)  # of other places, so that neither goes on where the passage ends
    found = {"first": [], "second": [], "fresh": []}
    for parts in zip(*(t.split(ROWS) for t in (passages, others, fillers))):
        passage, other, filler = parts
        found["first"].append(_scored(model, passage, None))
        found["second"].append(_at_distances(model, passage, passage, filler, distances))
        found["fresh"].append(_at_distances(model, other, passage, filler, distances))
    means = {name: torch.cat(values).double().mean((0, -1)) for name, values in found.items()}
    return {name: [round(x, 4) for x in m.tolist()] if m.ndim else round(m.item(), 4) for name, m in means.items()}


def _at_distances(
    model: NestedLanguageModel, before: Tensor, passage: Tensor, filler: Tensor, distances: Sequence[int]
) -> Tensor:
    """(rows, distances, length - 1): `before`, then so much of the filler, then the passage, scored."""
    _, state = model(before)
    out, done = [], 0
    for distance in distances:
        if distance > done:
            _, state = model(filler[:, done:distance], state)
            done = distance
        out.append(_scored(model, passage, state))  # from a state that stays as it is
    return torch.stack(out, dim=1)


def _scored(model: NestedLanguageModel, passage: Tensor, state) -> Tensor:
    logits, _ = model(passage, state)
    return next_token_losses(logits[:, :-1], passage[:, 1:])


# -- the clip ----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def share_clipped(model: NestedLanguageModel, tokens: Tensor) -> float:
    """The share of inner steps whose gradient, the mean over the chunk, of all fast MLPs together, was cut."""
    trace = Trace(only=[f"{name}.gradient_norm" for name, _, _ in model.clocked])
    model(tokens, None, trace)
    norms = [trace[f"{name}.gradient_norm"] / level.config.chunk for name, level, _ in model.clocked]
    square = sum(norm.square() for norm in norms)  # one clock, so all close a chunk at the same byte; 0 elsewhere
    steps = square[square > 0].sqrt()
    return round((steps > (model.config.clip or float("inf"))).double().mean().item(), 4)


# -- over seeds --------------------------------------------------------------------------------------------------------
def compared(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> list[dict]:
    """left less right, lists by seed of numbers by place: for each place the difference over seeds."""
    return [over_seeds([a - b for a, b in zip(*pair)]) for pair in zip(zip(*left), zip(*right))]
