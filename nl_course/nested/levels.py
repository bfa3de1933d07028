"""The continuum memory system: MLPs in a row, each with a clock of its own (arXiv 2512.24695, eq. 70 to 74).

    sequential, nested    h = h + MLP_j(norm_j(h))  for j = 1, 2, ...                              eq. 70, 72, 73
    independent           h = h + sum_j w_j MLP_j(norm_j(h))                                       eq. 74

    MLP(x) = act(x W1) W2,  or for "swiglu"  (silu(x W_gate) * (x W_up)) W2  with W1 = [W_gate, W_up] side by side

The paper's equations omit norms and residual paths. Axes: h is (B, T, width), one row per text, and vectors are rows.
W1 is (width, hidden) and W2 is (hidden, width). A level moves if its chunk is not 0: it updates while the model reads.
Such a level has its own weights for each text, which the caller carries: W1 and W2 with the batch in front, (B, in,
out). This file holds the forward pass only; clocks.py says when a level moves, steps.py how.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, State, Trace
from nl_course.model import MixingBlock
from nl_course.nested.config import LevelConfig, Levels, NestedConfig
from nl_course.roles import GAIN, PER_HEAD, RATE, Roles

LevelWeights = tuple[Tensor, Tensor]  # W1 and W2: (B, in, out) each, or (in, out) where all rows share them
FastWeights = dict[str, LevelWeights]  # the weights of the levels that move, by the level's name


class MatrixPass(NamedTuple):
    """What went into one matrix and what came out of it: z = x W."""

    inputs: Tensor  # (B, T, in)
    outputs: Tensor  # (B, T, out)


LevelPass = tuple[MatrixPass, MatrixPass]  # of W1 and of W2


def swiglu(z: Tensor) -> Tensor:
    """silu(gate) * value for z (..., 2 hidden) that holds both side by side -> (..., hidden)."""
    gate, value = z.chunk(2, dim=-1)  # (..., hidden) each
    return silu(gate) * value


def tanh_gelu(z: Tensor) -> Tensor:
    """GELU in its tanh form, element by element."""
    return gelu(z, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": tanh_gelu,
    "silu": silu,
    "relu": relu,
    "swiglu": swiglu,
}


class Level(nn.Module):
    """One MLP with its norm, its clock (`config.chunk`) and its inner step size.

    `first` is W1, (width, hidden), twice as wide with "swiglu"; `last` is W2, (hidden, width). They are the level's
    start, which the outer loop learns. `residual_writes` is how many parts of the model add to the residual stream, and
    `norm_eps` what its norms add to the mean square.

    `rate_scale` multiplies the rate. An outer loop sets it for one step to warm the inner rate up (outer.py); it is no
    weight and is not saved.
    """

    # One matrix each, for rows y = x W.
    param_roles: ClassVar[Roles] = {"first": PER_HEAD, "last": replace(PER_HEAD, into_stream=True), "log_rate": RATE}

    def __init__(
        self, config: LevelConfig, width: int, residual_writes: int, post_norm: bool = False, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.first = nn.Parameter(torch.empty(width, config.first_columns))
        self.last = nn.Parameter(torch.empty(config.hidden, width))
        self.post_norm = nn.RMSNorm(width, eps=norm_eps) if post_norm else None
        # The logarithm is what is learned, so that the rate stays positive.
        learned = config.chunk and config.learn_rate and config.rate > 0
        self.log_rate = nn.Parameter(torch.tensor(math.log(config.rate))) if learned else None
        self.rate_scale = 1.0
        # W2 writes into the residual stream: scaled down so that all writes together keep its size.
        nn.init.normal_(self.first, std=0.02)
        nn.init.normal_(self.last, std=0.02 / residual_writes**0.5)

    @property
    def rate(self) -> Tensor | float:
        """The inner step size, positive: a scalar tensor if it is learned, else a number."""
        full_rate = self.config.rate if self.log_rate is None else self.log_rate.exp()
        if self.rate_scale == 1:
            return full_rate
        return full_rate * self.rate_scale

    def start(self, batch_size: int) -> LevelWeights:
        """The learned start for every row, (B, in, out) each, without a copy."""
        first = self.first.expand(batch_size, *self.first.shape)  # (B, width, hidden)
        last = self.last.expand(batch_size, *self.last.shape)  # (B, hidden, width)
        return first, last

    def forward(self, h: Tensor, weights: LevelWeights | None = None) -> tuple[Tensor, LevelPass]:
        """h (B, T, width) -> what the level adds to h, (B, T, width), and what passed through its two matrices.

        Without `weights` it uses its start.
        """
        first, last = (self.first, self.last) if weights is None else weights
        x = self.norm(h)
        z = x @ first  # (B, T, hidden), or twice that with "swiglu"
        a = _ACTIVATIONS[self.config.activation](z)  # (B, T, hidden)
        y = a @ last  # (B, T, width)
        matrices = (MatrixPass(x, z), MatrixPass(a, y))
        if self.post_norm is None:
            return y, matrices
        return self.post_norm(y), matrices


class NestedBlock(MixingBlock):
    """A memory that mixes tokens, then the levels, which do not. `index` is the block's number in the model.

    `names` are the levels' names in states and traces, `layers.i.levels.j`. `shares` are the w_j of the independent
    variant, one for each level, all 1 at the start.
    """

    param_roles: ClassVar[Roles] = {"shares": GAIN}

    def __init__(self, config: NestedConfig, levels: Levels, index: int, path: str) -> None:
        super().__init__(config, path)
        if config.post_norm:
            self.memory_post_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        residual_writes = config.layers * (1 + len(levels))
        self.levels = nn.ModuleList()
        for level in levels:
            self.levels.append(Level(level, config.width, residual_writes, config.post_norm, config.norm_eps))
        self.names = [f"layers.{index}.levels.{j}" for j in range(len(levels))]
        self.shares = nn.Parameter(torch.ones(len(levels))) if config.variant == "independent" else None

    def forward(
        self, h: Tensor, state: State, trace: Trace | None, fast: FastWeights, passes: dict[str, LevelPass]
    ) -> tuple[Tensor, State]:
        """h (B, T, width) through memory and levels -> the same shape, and the memory's state after the last token.

        `fast` and `passes` are those of `run_levels`.
        """
        h, state = self.mix(h, state, trace)
        return self.run_levels(h, fast, passes), state

    def run_levels(self, h: Tensor, fast: FastWeights, passes: dict[str, LevelPass]) -> Tensor:
        """h (B, T, width) through all levels of the block -> the same shape.

        `fast` holds the weights of the levels that move; the others use their start. What passes through the matrices
        of each level in `fast` is written into `passes`: the gradient needs nothing else.
        """
        total = h
        for j, (name, level) in enumerate(zip(self.names, self.levels, strict=True)):
            y, matrices = level(h, fast.get(name))
            if name in fast:
                passes[name] = matrices
            if self.shares is None:
                total = total + y
                h = total  # a chain: the next level reads what this one has written
            else:
                total = total + self.shares[j] * y  # side by side: every level reads the same h
        return total


def path_under_a_level(memory: str, path: str) -> str:
    """The path for a memory whose block stands behind a moving level, i.e. nearer to the loss. That level's gradient
    comes through the memory's backward pass, and training differentiates it once more.

    Raises CourseError if `path` names one that can be differentiated only once.
    """
    deep = MEMORIES[memory][0].deep_path
    if path not in ("auto", deep) and deep != "auto":
        raise CourseError(
            f"path {path!r} of memory {memory!r} can be differentiated once only, and a level below it learns from a "
            f"loss above it; choose 'auto' or {deep!r}."
        )
    return deep if path == "auto" else path
