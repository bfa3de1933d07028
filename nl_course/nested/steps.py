"""The inner step: what a boundary does to the weights of the levels that move.

    G = sum over the chunk of d l_t / d W,  for each row of the batch        (l_t the next-token loss, in nats)
    W <- W - eta clip(G)          with reduction "sum"
    W <- W - eta clip(G / C)      with reduction "mean"                      clip(g) = g min(1, c / |g|)

|g| is over all matrices that move at this boundary, of all blocks, for one row (TTT-E2E, arXiv 2512.23675). A segment's
gradient is partial: weights within the segment are one variable, and what was carried into it is a constant.

A matrix with inputs a (n, in) and outputs z = a W has the gradient a^T e, e = d loss / d z (n, out). So a segment is
differentiated by the z's, and a and e are kept until the level's boundary, where one product makes the step: a matrix
for each row is made once a chunk, not once a segment.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.nested.clocks import reset_period
from nl_course.nested.config import NestedConfig
from nl_course.nested.levels import Level, NestedBlock, Notes, Pair

Weights = dict[str, Pair]  # by level: W1 and W2, (B, in, out) each, or (in, out) as long as all rows have the same
Learnt = dict[str, Notes]  # by level: (a, e) of W1 and of W2, (B, n, in) and (B, n, out)


class Clocked(NamedTuple):
    """A level that moves: its name in states and traces, its module, and in the nested variant after how many tokens it
    goes back to its start."""

    name: str
    level: Level
    reset: int | None

    @property
    def chunk(self) -> int:
        return self.level.config.chunk


def clocked_levels(config: NestedConfig, blocks: Sequence[NestedBlock]) -> list[Clocked]:
    """Every level that moves, block by block."""
    found = []
    for block in blocks:
        chunks = [level.config.chunk for level in block.levels if level.config.chunk]
        for name, level in zip(block.names, block.levels, strict=True):
            if level.config.chunk:
                reset = reset_period(level.config.chunk, chunks) if config.variant == "nested" else None
                found.append(Clocked(name, level, reset))
    return found


def next_token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target): logits (B, n, V), targets (B, n) -> (B, n), at least in float32."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return cross_entropy(logits.flatten(0, 1).to(wide), targets.flatten(), reduction="none").view(targets.shape)


def segment_errors(
    run: Callable[[Tensor, dict[str, Notes]], tuple[Tensor, object]],
    h: Tensor,
    targets: Tensor,
    graph: bool,
    keep: bool,
) -> tuple[Learnt, Tensor, object]:
    """What a segment with inputs h (B, n, width) has to teach: (a, e) for every matrix that moves, and what `run` gave.

    `run(h, notes)` -> (logits (B, n, V), anything) writes (a, z) of every such matrix into `notes`. `graph`: a and e
    can be differentiated, else they are constants; `keep`: what `run` gave can."""
    notes: dict[str, Notes] = {}
    with torch.enable_grad():
        h = h if keep and h.requires_grad else h.detach().requires_grad_()  # so that every z has a graph
        logits, rest = run(h, notes)
        loss = next_token_losses(logits, targets).sum()  # every row owns its weights: the sum mixes nothing
        outputs = [z for pair in notes.values() for _, z in pair]
        errors = iter(torch.autograd.grad(loss, outputs, create_graph=graph, retain_graph=graph or keep))
    learnt = {name: tuple((a, next(errors)) for a, _ in pair) for name, pair in notes.items()}
    if not graph:
        learnt = {name: tuple((a.detach(), e.detach()) for a, e in pair) for name, pair in learnt.items()}
    return learnt, logits, rest


class Gathered:
    """A level's gradients since its last boundary: products a^T e still to be made, and a sum (None for 0) of those
    that were. All in the weights' `dtype`: under autocast a and e come in fewer digits, but no step is lost in them."""

    def __init__(self, total: Pair | None, dtype: torch.dtype):
        self.total, self.dtype, self.notes = total, dtype, []

    def add(self, notes: Notes) -> None:
        self.notes.append(notes)
        (a, _), (b, _) = notes
        held = sum(part[0][0].shape[1] for part in self.notes)
        if held >= a.shape[-1] + b.shape[-1]:  # then the rows weigh some times what their products do
            self.multiply()

    def detach(self) -> "Gathered":
        """The same numbers as constants."""
        cut = Gathered(self.total and tuple(g.detach() for g in self.total), self.dtype)
        cut.notes = [tuple((a.detach(), e.detach()) for a, e in notes) for notes in self.notes]
        return cut

    def rows(self) -> Notes | None:
        """All a and all e that are still to be multiplied."""
        if not self.notes:
            return None
        joined = [[torch.cat(parts, dim=1) for parts in zip(*matrix)] for matrix in zip(*self.notes)]
        return tuple((a.to(self.dtype), e.to(self.dtype)) for a, e in joined)

    def gradient(self) -> Pair | None:
        """The sum of gradients, W1's and W2's (B, in, out); None for 0."""
        rows = self.rows()
        if rows is None:
            return self.total
        with torch.autocast(rows[0][0].device.type, enabled=False):
            if self.total is None:
                return tuple(a.mT @ e for a, e in rows)
            return tuple(torch.baddbmm(g, a.mT, e) for g, (a, e) in zip(self.total, rows, strict=True))

    def multiply(self) -> None:
        """Makes the products now."""
        self.total, self.notes = self.gradient(), []

    def step(self, weights: Pair, factor: Tensor | float) -> Pair:
        """The weights less `factor` (a number, or (B, 1, 1)) times the gradient, which need not be made for it."""
        total, rows = self.total, self.rows() or ((None, None),) * len(weights)
        after = []
        for i, (w, (a, e)) in enumerate(zip(weights, rows, strict=True)):
            if total is not None:
                w = w - (factor * total[i]).to(w.dtype)
            if a is not None:
                with torch.autocast(w.device.type, enabled=False):
                    w = torch.baddbmm(w, a.mT, (-factor * e).to(w.dtype))
            after.append(w)
        return tuple(after)


def move(
    config: NestedConfig, levels: Sequence[Clocked], fast: Weights, gathered: dict[str, Gathered], position: int
) -> Weights:
    """The new weights of the levels whose chunk ends after `position` tokens; of the others, the old ones."""
    ending = [clocked for clocked in levels if position % clocked.chunk == 0]
    divide = {name: level.config.chunk if config.reduction == "mean" else 1 for name, level, _ in ending}
    share = 1.0
    if config.clip is not None and ending:
        for name, _, _ in ending:
            gathered[name].multiply()  # once, for the norm and for the step
        gradients = [g / divide[name] for name, _, _ in ending for g in gathered[name].gradient()]
        share = clip_share(gradients, config.clip)
    after = dict(fast)
    for name, level, reset in ending:
        if reset and position % reset == 0:
            after[name] = (level.first, level.last)
        else:
            after[name] = gathered[name].step(fast[name], level.rate * share / divide[name])
    return after


def clip_share(gradients: Sequence[Tensor], most: float) -> Tensor:
    """min(1, c / |g|) for each row, (B, 1, 1), |g| over all the gradients (B, in, out) together. Also at g = 0 it can
    be differentiated, where |g| itself cannot."""
    square = sum(g.square().sum((1, 2), keepdim=True) for g in gradients)
    return most * square.clamp(min=most**2).rsqrt()


def constant(levels: Sequence[Clocked], fast: Weights) -> Weights:
    """The same numbers with every update so far a constant: what remains is the way to the start itself."""
    starts = {name: (level.first, level.last) for name, level, _ in levels}
    return {n: tuple(w.detach() + (s - s.detach()) for w, s in zip(pair, starts[n])) for n, pair in fast.items()}


@torch.no_grad()
def norm(pair: Pair) -> Tensor:
    """The norm of two matrices together, for each row: (B,), or () if all rows have the same."""
    return sum(w.square().sum((-2, -1)) for w in pair).sqrt()


@torch.no_grad()
def norm_of_products(notes: Notes) -> Tensor:
    """The norm of a^T e for both matrices together, (B,), without making them: |a^T e|^2 = sum (a a^T) * (e e^T)."""
    return sum(((a @ a.mT) * (e @ e.mT)).sum((1, 2)) for a, e in notes).clamp(min=0).sqrt()
