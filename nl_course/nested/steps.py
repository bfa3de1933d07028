"""The inner step: what a boundary does to the weights of the levels that move.

    G = sum over the chunk of d l_t / d W, for each row of the batch                       arXiv 2512.24695, eq. 71
    W <- W - eta clip(G)          with reduction "sum"                                                      eq. 71
    W <- W - eta clip(G / C)      with reduction "mean"                       TTT-E2E, arXiv 2512.23675, section 2

l_t is the loss of the next token, in nats, through everything above the level. clip(g) = g min(1, c / |g|), where |g|
is over all matrices that move at this boundary, of all blocks, for one row. `boundary_step` writes; nothing else does.

The gradient is a partial one. A segment (clocks.py) is differentiated by the weights it was read with; whatever was
carried into it is a constant.

A matrix with inputs a (B, n, in) and outputs z = a W has the gradient a^T e, with e = d loss / d z (B, n, out). So a
segment is differentiated by the z's, not by the weights. The rows a and e are kept until the level's boundary, where
one product makes the step: a matrix of its own for each text is then made once per chunk, not once per segment.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.nested.clocks import at_boundary, reset_period
from nl_course.nested.config import NestedConfig
from nl_course.nested.levels import FastWeights, Level, LevelPass, LevelWeights, NestedBlock


class GradFactors(NamedTuple):
    """The gradient of one matrix as two factors: inputs^T errors, summed over the n tokens."""

    inputs: Tensor  # a (B, n, in)
    errors: Tensor  # e = d loss / d z (B, n, out)


LevelGrad = tuple[GradFactors, GradFactors]  # of W1 and of W2
SegmentGrads = dict[str, LevelGrad]  # by the level's name


class ClockedLevel(NamedTuple):
    """A level that moves: its name in states and traces, and its module.

    `reset` is, in the nested variant, after how many tokens it goes back to its start, again and again; else None.
    """

    name: str
    level: Level
    reset: int | None

    @property
    def chunk(self) -> int:
        """How many tokens lie between two of its steps."""
        return self.level.config.chunk


def clocked_levels(config: NestedConfig, blocks: Sequence[NestedBlock]) -> list[ClockedLevel]:
    """Every level that moves, block by block."""
    clocked = []
    for block in blocks:
        block_chunks = [level.config.chunk for level in block.levels if level.config.chunk]
        for name, level in zip(block.names, block.levels, strict=True):
            if not level.config.chunk:
                continue
            reset = reset_period(level.config.chunk, block_chunks) if config.variant == "nested" else None
            clocked.append(ClockedLevel(name, level, reset))
    return clocked


# -- the gradient of a segment -----------------------------------------------------------------------------------------
def next_token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats: logits (B, n, V), targets (B, n) -> (B, n), in float32 at least."""
    loss_dtype = torch.promote_types(logits.dtype, torch.float32)
    flat = cross_entropy(logits.flatten(0, 1).to(loss_dtype), targets.flatten(), reduction="none")  # (B n,)
    return flat.view(targets.shape)  # (B, n)


def segment_gradients(
    run: Callable[[Tensor, dict[str, LevelPass]], tuple[Tensor, object]],
    h: Tensor,
    targets: Tensor,
    second_order: bool,
    keep_graph: bool,
) -> tuple[SegmentGrads, Tensor, object]:
    """The gradients of a segment's summed loss for every matrix that moves, as factors; then both results of `run`.

    `h` (B, n, width) is what goes into the lowest moving level, `targets` (B, n) are the tokens that followed.
    `run(h, passes)` -> (logits (B, n, V), anything) fills `passes` with what passed through those matrices.
    `second_order`: the factors can be differentiated, else they are constants. `keep_graph`: what `run` gave can be.
    """
    passes: dict[str, LevelPass] = {}
    with torch.enable_grad():
        # Even if nothing below asks for a gradient, h must, so that every z has a graph back to it.
        if not (keep_graph and h.requires_grad):
            h = h.detach().requires_grad_()
        logits, rest = run(h, passes)
        loss = next_token_losses(logits, targets).sum()  # every row owns its weights, so the sum mixes nothing
        outputs = []  # (B, n, out) each, W1's and W2's of one level after the other
        for first, last in passes.values():
            outputs += [first.outputs, last.outputs]
        errors = torch.autograd.grad(loss, outputs, create_graph=second_order, retain_graph=second_order or keep_graph)
    remaining = iter(errors)  # in the order of `outputs`
    grads: SegmentGrads = {}
    for name, (first, last) in passes.items():
        level_grad = (GradFactors(first.inputs, next(remaining)), GradFactors(last.inputs, next(remaining)))
        grads[name] = level_grad if second_order else detached(level_grad)
    return grads, logits, rest


def detached(level_grad: LevelGrad) -> LevelGrad:
    """The same factors as constants."""
    first, last = level_grad
    return (
        GradFactors(first.inputs.detach(), first.errors.detach()),
        GradFactors(last.inputs.detach(), last.errors.detach()),
    )


class GradAccumulator:
    """A level's gradient since its last boundary: a sum of products a^T e, and factors whose product is not made yet.

    `total` (None for 0) holds W1's and W2's part, (B, in, out) each; `factors` holds the rest, one entry per segment.
    All is added up in the weights' `dtype`: under autocast a and e have fewer digits, and the step must not lose more.
    """

    def __init__(self, total: LevelWeights | None, dtype: torch.dtype) -> None:
        self.total = total
        self.dtype = dtype
        self.factors: list[LevelGrad] = []

    def add(self, level_grad: LevelGrad) -> None:
        """Adds a segment's gradient."""
        self.factors.append(level_grad)
        # n tokens of factors hold n (in + out) numbers for each matrix, the product only in * out. At this many tokens
        # the factors are at least four times as large as the products, so the products are made.
        first, last = level_grad
        tokens = sum(part[0].inputs.shape[1] for part in self.factors)
        if tokens >= first.inputs.shape[-1] + last.inputs.shape[-1]:
            self.multiply()

    def detach(self) -> "GradAccumulator":
        """The same numbers as constants."""
        total = None if self.total is None else tuple(g.detach() for g in self.total)
        constant = GradAccumulator(total, self.dtype)
        constant.factors = [detached(level_grad) for level_grad in self.factors]
        return constant

    def _joined(self, matrix: int) -> GradFactors:
        """All factors of W1 (`matrix` 0) or W2 (1), joined along the tokens; there must be some."""
        parts = [level_grad[matrix] for level_grad in self.factors]
        inputs = torch.cat([part.inputs for part in parts], dim=1)  # (B, n, in)
        errors = torch.cat([part.errors for part in parts], dim=1)  # (B, n, out)
        return GradFactors(inputs.to(self.dtype), errors.to(self.dtype))

    def gradient(self) -> LevelWeights | None:
        """The whole gradient, W1's and W2's part (B, in, out); None for 0."""
        if not self.factors:
            return self.total
        gradients = []
        for matrix in (0, 1):
            a, e = self._joined(matrix)
            with torch.autocast(a.device.type, enabled=False):
                if self.total is None:
                    gradients.append(a.mT @ e)  # (B, in, out)
                else:
                    gradients.append(torch.baddbmm(self.total[matrix], a.mT, e))
        return tuple(gradients)

    def multiply(self) -> None:
        """Makes the products now."""
        self.total = self.gradient()
        self.factors = []

    def step(self, weights: LevelWeights, factor: Tensor | float) -> LevelWeights:
        """weights - factor * gradient, with `factor` a number or (B, 1, 1). The gradient itself is not made for it."""
        stepped = []
        for matrix, w in enumerate(weights):
            if self.total is not None:
                w = w - (factor * self.total[matrix]).to(w.dtype)
            if self.factors:
                a, e = self._joined(matrix)
                with torch.autocast(w.device.type, enabled=False):
                    w = torch.baddbmm(w, a.mT, (-factor * e).to(w.dtype))  # (B, in, out)
            stepped.append(w)
        return tuple(stepped)


# -- the step at a boundary --------------------------------------------------------------------------------------------
def boundary_step(
    config: NestedConfig,
    levels: Sequence[ClockedLevel],
    fast: FastWeights,
    accumulators: Mapping[str, GradAccumulator],
    position: int,
) -> FastWeights:
    """The weights after the boundary at `position` tokens: new ones for levels whose chunk ends there, else the old.

    `accumulators` hold every level's gradient since its last boundary; the caller empties those that were used.
    """
    ending = [clocked for clocked in levels if at_boundary(position, clocked.chunk)]
    divisors = {clocked.name: clocked.chunk if config.reduction == "mean" else 1 for clocked in ending}

    # The clip looks at all matrices of a row together, so it comes before any step.
    factor: Tensor | float = 1.0
    if config.clip is not None and ending:
        gradients = []
        for clocked in ending:
            accumulator = accumulators[clocked.name]
            accumulator.multiply()  # once, for the norm here and for the step below
            for g in accumulator.gradient():
                gradients.append(g / divisors[clocked.name])
        factor = clip_factor(gradients, config.clip)  # (B, 1, 1)

    after = dict(fast)
    for clocked in ending:
        name = clocked.name
        level = clocked.level
        if clocked.reset and position % clocked.reset == 0:
            after[name] = (level.first, level.last)  # nested variant: the slower level's context is over
        else:
            after[name] = accumulators[name].step(fast[name], level.rate * factor / divisors[name])
    return after


def clip_factor(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """min(1, limit / |g|) for each row, (B, 1, 1), with |g| over all `gradients` (B, in, out) together.

    It can be differentiated also at g = 0, where |g| itself cannot.
    """
    square = sum(g.square().sum((1, 2), keepdim=True) for g in gradients)  # (B, 1, 1)
    return limit * square.clamp(min=limit**2).rsqrt()


def as_constants(levels: Sequence[ClockedLevel], fast: FastWeights) -> FastWeights:
    """The same numbers with every update so far a constant: what remains differentiable is the way to the start."""
    constants = {}
    for clocked in levels:
        first, last = fast[clocked.name]
        first_start, last_start = clocked.level.first, clocked.level.last
        constants[clocked.name] = (
            first.detach() + (first_start - first_start.detach()),
            last.detach() + (last_start - last_start.detach()),
        )
    return constants


# -- norms, for traces -------------------------------------------------------------------------------------------------
@torch.no_grad()
def pair_norm(pair: LevelWeights) -> Tensor:
    """The norm of two matrices together, for each row: (B,), or () if all rows share them."""
    return sum(w.square().sum((-2, -1)) for w in pair).sqrt()


@torch.no_grad()
def gradient_norm(level_grad: LevelGrad) -> Tensor:
    """The norm of a level's gradient, both matrices together, (B,), without making the products a^T e.

    |a^T e|^2 is the sum of all entries of (a a^T) * (e e^T), two matrices (n, n).
    """
    square = 0.0
    for a, e in level_grad:
        square = square + ((a @ a.mT) * (e @ e.mT)).sum((1, 2))  # (B,)
    return square.clamp(min=0).sqrt()  # rounding may leave the sum just below 0
