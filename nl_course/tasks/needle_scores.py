"""How well needles are found: exact answers by greedy choice, by depth, each share with its confidence interval.

A text is read in pieces with a state, as a stream is. The answer is part of the text that is read. A model that
predicts each of its bytes would also have generated it: up to the first mistake, greedy generation reads the very same
bytes. So one pass over the text replaces generation.

RULER does generate: the model reads up to the question's end and writes 128 tokens, and the answer must stand somewhere
in them (`scoring="contains"`). Its share is at least as high as that of exact answers, and takes longer to measure.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.tasks import ruler
from nl_course.tasks.needle import NeedleTask
from nl_course.tasks.text import decode

SCORINGS = ("exact", "contains")


def wilson(right: int, asked: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson interval of a share, 95 % for the default z (Wilson 1927, JASA 22:158); never outside 0 .. 1.
    Raises CourseError if more are right than asked."""
    if not 0 <= check_int("right", right) <= check_int("asked", asked, 1):
        raise CourseError(f"right ({right}) must be at most asked ({asked}).")
    share = right / asked
    spread = z * z / asked
    center = (share + spread / 2) / (1 + spread)
    half_width = z / (1 + spread) * math.sqrt(share * (1 - share) / asked + spread / (4 * asked))
    return max(0.0, center - half_width), min(1.0, center + half_width)


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
        """The share of exact answers."""
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """95 of 100 such intervals contain the true accuracy."""
        return wilson(self.right, self.asked)


@torch.no_grad()
def choices(model: nn.Module, inputs: Tensor, piece: int = 1024) -> Tensor:
    """The most likely next byte at every position of inputs (rows, T), read `piece` bytes at a time with a state."""
    state, chosen = None, []
    for part in inputs.split(check_int("piece", piece, 1), dim=1):
        logits, state = model(part, state)
        chosen.append(logits.argmax(-1))
    return torch.cat(chosen, dim=1)  # (rows, T)


@torch.no_grad()
def continuation(model: nn.Module, prompt: Tensor, tokens: int, piece: int = 1024) -> Tensor:
    """The `tokens` bytes (rows, tokens) that greedy choice writes after prompt (rows, T), read in pieces."""
    state, written = None, []
    for part in prompt.split(check_int("piece", piece, 1), dim=1):
        logits, state = model(part, state)
    for _ in range(tokens):
        written.append(logits[:, -1].argmax(-1))  # (rows,)
        logits, state = model(written[-1][:, None], state)
    return torch.stack(written, dim=1)  # (rows, tokens)


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
    scoring: str = "exact",
) -> list[Found]:
    """Right answers at each of `lengths` (the task's own by default), `depths` equal stretches of depth each.

    `rows` texts per length, from held-out hay with held-out words. Unless the task fixes the depth, theirs are spread
    evenly over 0 .. 1. The text is read `piece` bytes at a time, so memory does not grow with its length. The model's
    training mode is left as it was.

    `scoring` "exact" wants every byte of the answer in its place. "contains" is RULER's: the answer stands in what the
    model writes after the question; all bytes of an answer then count as right, or none does. It asks one question per
    text, and raises CourseError for a task with more.
    """
    check_choice("scoring", scoring, SCORINGS)
    if scoring == "contains" and task.questions > 1:
        raise CourseError(f"scoring 'contains' asks one question per text, not {task.questions}.")
    check_int("rows", rows, 1)
    check_int("batch", batch, 1)
    check_int("depths", depths, 1)
    if lengths is None:
        lengths = [task.length]
    elif isinstance(lengths, int):
        lengths = [lengths]
    device, training = next(model.parameters()).device, model.training
    results = []
    model.eval()
    try:
        for length in lengths:
            questions = replace(task, length=length, split=split)
            depth, right = _ask(model, questions, rows, batch, piece, device, scoring)
            results += _by_depth(length, depths, depth, right)
    finally:
        model.train(training)
    return results


def _ask(
    model: nn.Module, task: NeedleTask, rows: int, batch: int, piece: int, device: torch.device, scoring: str
) -> tuple[Tensor, Tensor]:
    """Depth of every question (n,) and which bytes of its answer were right (n, answer)."""
    depths, rights = [], []
    for first in range(0, rows, batch):
        numbers = range(first, min(first + batch, rows))
        if task.depth is None:
            spread = [(i + 0.5) / rows for i in numbers]  # the middles of `rows` equal stretches
        else:
            spread = [task.depth] * len(numbers)
        texts = task.rows_at(numbers, spread)
        if scoring == "exact":
            chosen = choices(model, texts.inputs.to(device), piece).cpu()  # (rows, length)
            right = (chosen == texts.targets)[texts.mask].view(-1, task.answer)  # (questions, answer)
        else:
            end = task.length + 1 - task.answer  # of the question, the same in every row
            written = continuation(model, texts.inputs[:, :end].to(device), ruler.NEW_TOKENS, piece).cpu()
            answers = [text.asked[0].answer for text in map(task.text, numbers, spread)]
            contained = [ruler.contains(a, decode(w)) for a, w in zip(answers, written, strict=True)]
            right = torch.tensor(contained)[:, None].expand(-1, task.answer)  # (rows, answer)
        depths.append(texts.depth.flatten())
        rights.append(right)
    return torch.cat(depths), torch.cat(rights)


def _by_depth(length: int, depths: int, depth: Tensor, right: Tensor) -> list[Found]:
    results = []
    for low, high in pairwise(i / depths for i in range(depths + 1)):
        below = depth < high if high < 1 else depth <= 1  # the last stretch has its end
        inside = (depth >= low) & below
        if not inside.any():
            continue
        hits = right[inside]  # (questions, answer)
        counts = Found(
            length,
            low,
            high,
            asked=len(hits),
            right=int(hits.all(dim=1).sum()),
            bytes=hits.numel(),
            right_bytes=int(hits.sum()),
        )
        results.append(counts)
    return results
