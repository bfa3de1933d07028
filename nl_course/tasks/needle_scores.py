"""How well needles are found: exact answers by greedy choice, by depth, with the interval that so many trials allow.

A text is read in pieces with a state, as a stream is. The answer stands in the text, and a model that is right at each
of its bytes would have said it on its own: greedy generation up to the first mistake reads the very same bytes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_int
from nl_course.tasks.needle import NeedleTask


def wilson(right: int, asked: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share (Wilson 1927, JASA 22:158): 95 of 100 for the default z; never outside 0 .. 1."""
    if not 0 <= check_int("right", right) <= check_int("asked", asked, 1):
        raise CourseError(f"right ({right}) must be at most asked ({asked}).")
    share, spread = right / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / asked + spread / (4 * asked))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Found:
    """Of `asked` questions about needles at depths from `low` to `high`, `right` were answered exactly, and
    `right_bytes` of `bytes` byte by byte."""

    length: int
    low: float
    high: float
    asked: int
    right: int
    bytes: int
    right_bytes: int

    @property
    def accuracy(self) -> float:
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """95 of 100 such intervals hold the true accuracy."""
        return wilson(self.right, self.asked)


@torch.no_grad()
def choices(model: nn.Module, inputs: Tensor, piece: int = 1024) -> Tensor:
    """The likeliest next byte at every place of inputs (rows, T), read `piece` bytes at a time with a state."""
    state, found = None, []
    for part in inputs.split(check_int("piece", piece, 1), dim=1):
        logits, state = model(part, state)
        found.append(logits.argmax(-1))
    return torch.cat(found, dim=1)


@torch.no_grad()
def needle_accuracy(
    model: nn.Module,
    task: NeedleTask,
    lengths: Iterable[int] | int | None = None,
    rows: int = 64,
    batch: int = 16,
    piece: int = 1024,
    depths: int = 1,
    split: str = "held_out",
) -> list[Found]:
    """Exact answers at each of `lengths` (the task's own by default), `depths` equal stretches of depth each.

    `rows` texts a length, from held-out hay with held-out words; unless the task fixes the depth, theirs are spread
    evenly over 0 .. 1. Reading goes on with a state, so no more than `piece` bytes are in work at once. The model's
    training mode is left as it was.
    """
    check_int("rows", rows, 1)
    check_int("batch", batch, 1)
    check_int("depths", depths, 1)
    lengths = [task.length] if lengths is None else [lengths] if isinstance(lengths, int) else list(lengths)
    device, training, found = next(model.parameters()).device, model.training, []
    model.eval()
    try:
        for length in lengths:
            asking = replace(task, length=length, split=split)
            found += _by_depth(length, depths, *_ask(model, asking, rows, batch, piece, device))
    finally:
        model.train(training)
    return found


def _ask(model, task: NeedleTask, rows: int, batch: int, piece: int, device) -> tuple[Tensor, Tensor]:
    """Depth of every question (n,) and which bytes of its answer were right (n, answer)."""
    depth, right = [], []
    for first in range(0, rows, batch):
        these = range(first, min(first + batch, rows))
        spread = [(i + 0.5) / rows for i in these] if task.depth is None else [task.depth] * len(these)
        asked = task.rows_at(these, spread)
        chosen = choices(model, asked.inputs.to(device), piece).cpu()
        hit = chosen == asked.targets
        depth.append(asked.depth.flatten())
        right.append(hit[asked.mask].view(-1, task.answer))
    return torch.cat(depth), torch.cat(right)


def _by_depth(length: int, depths: int, depth: Tensor, right: Tensor) -> list[Found]:
    found = []
    for low, high in pairwise(i / depths for i in range(depths + 1)):
        inside = (depth >= low) & ((depth < high) if high < 1 else (depth <= 1))
        if inside.any():
            hits = right[inside]
            counts = (len(hits), int(hits.all(1).sum()), hits.numel(), int(hits.sum()))
            found.append(Found(length, low, high, *counts))
    return found
