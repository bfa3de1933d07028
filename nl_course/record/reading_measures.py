"""What is measured on a small TTT-E2E model and on its twin that was trained with the fast MLPs at rest.

Second reading: a passage is read, then a filler of so many bytes, then the passage again. Each reading is scored on all
its bytes but the first, which no context announces. What comes late in a text is cheaper anyway, so a passage is also
read at the same place after another passage and the same filler: `fresh`. What is left of the first reading is `fresh`
less `second`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories import Trace
from nl_course.nested import NestedLanguageModel, NestedState, reconfigured, with_inner_loop, without_inner_loop
from nl_course.nested.steps import next_token_losses
from nl_course.record.seeds import over_seeds
from nl_course.training import evaluate_windows

ROWS = 8  # texts read at a time


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
    loss_at = {}
    for rate in about["choosing_rates"]:
        loss = losses(at_pace(model, about, rate, about["shape"]["clip"]), tokens).mean().item()
        loss_at[rate] = math.inf if math.isnan(loss) else loss  # a rate that blows up is never the best
    best = min(loss_at, key=loss_at.get)
    return best, {str(rate): round(loss, 4) for rate, loss in loss_at.items()}


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
    # The other passage and the filler come from other rows, so that neither continues where the passage ends.
    passages = rows[:, :length]
    others = rows[:, length : 2 * length].roll(1, 0)
    fillers = rows[:, 2 * length :].roll(2, 0)
    first, second, fresh = [], [], []
    for passage, other, filler in zip(passages.split(ROWS), others.split(ROWS), fillers.split(ROWS)):
        first.append(_scored(model, passage, None))
        second.append(_at_distances(model, passage, passage, filler, distances))
        fresh.append(_at_distances(model, other, passage, filler, distances))

    def by_distance(losses: list[Tensor]) -> list[float]:
        """The mean loss at each distance, in nats per byte."""
        means = torch.cat(losses).double().mean((0, -1))  # over rows and bytes
        return [round(mean, 4) for mean in means.tolist()]

    return {
        "first": round(torch.cat(first).double().mean().item(), 4),
        "second": by_distance(second),
        "fresh": by_distance(fresh),
    }


def _at_distances(
    model: NestedLanguageModel, before: Tensor, passage: Tensor, filler: Tensor, distances: Sequence[int]
) -> Tensor:
    """(rows, distances, length - 1): `before`, then so much of the filler, then the passage, scored."""
    _, state = model(before)
    scores, done = [], 0
    for distance in distances:
        if distance > done:
            _, state = model(filler[:, done:distance], state)
            done = distance
        scores.append(_scored(model, passage, state))  # from a state that stays as it is
    return torch.stack(scores, dim=1)


def _scored(model: NestedLanguageModel, passage: Tensor, state: NestedState | None) -> Tensor:
    """The loss of each byte of the passage but the first, (rows, length - 1)."""
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
    """left less right, lists by seed of numbers by position: for each position the difference over seeds."""
    rows = []
    for left_seeds, right_seeds in zip(zip(*left), zip(*right)):
        rows.append(over_seeds([a - b for a, b in zip(left_seeds, right_seeds)]))
    return rows
