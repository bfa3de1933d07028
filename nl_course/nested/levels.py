"""The continuum memory system: MLPs in a row, each with a clock of its own (arXiv 2512.24695, eq. 70-74).

    sequential, nested    h = h + MLP_j(norm_j(h))  for j = 1, 2, ...        (the paper omits norm and residual path)
    independent           h = h + sum_j w_j MLP_j(norm_j(h))

    MLP(x) = act(x W1) W2,  or for "swiglu"  (silu(x W_gate) * x W_up) W2  with W1 = [W_gate, W_up] side by side

A level that moves is used with weights of the caller's, one pair a row of the batch: (B, in, out). Rows are vectors.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES, State, Trace
from nl_course.model import MixingBlock
from nl_course.nested.config import LevelConfig, Levels, NestedConfig

Pair = tuple[Tensor, Tensor]  # W1 and W2, (in, out) each, or (B, in, out)
Notes = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]  # for W1 and for W2: what went in, what came out


def swiglu(z: Tensor) -> Tensor:
    gate, value = z.chunk(2, dim=-1)
    return silu(gate) * value


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda z: gelu(z, approximate="tanh"),
    "silu": silu,
    "relu": relu,
    "swiglu": swiglu,
}


class Level(nn.Module):
    """One MLP with its norm, its clock and its rate. `first` (width, hidden, or twice that for "swiglu") and `last`
    (hidden, width) are its start, which the outer loop learns."""

    def __init__(self, config: LevelConfig, width: int, writes: int, post_norm: bool = False):
        super().__init__()
        self.config = config
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.first = nn.Parameter(torch.empty(width, config.first_columns))
        self.last = nn.Parameter(torch.empty(config.hidden, width))
        self.post_norm = nn.RMSNorm(width, eps=1e-6) if post_norm else None
        learnt = config.chunk and config.learn_rate and config.rate > 0
        self.log_rate = nn.Parameter(torch.tensor(math.log(config.rate))) if learnt else None
        self.rate_share = 1.0  # of the rate, that it moves by now; no part of the weights
        nn.init.normal_(self.first, std=0.02)
        nn.init.normal_(self.last, std=0.02 / writes**0.5)  # it writes into the residual stream, as `writes` do

    @property
    def rate(self) -> Tensor | float:
        """The inner step size, positive: a scalar tensor if it is learnt."""
        whole = self.config.rate if self.log_rate is None else self.log_rate.exp()
        return whole if self.rate_share == 1 else whole * self.rate_share

    def start(self, batch_size: int) -> Pair:
        """The learnt start for every row, (B, in, out) each."""
        return tuple(w.expand(batch_size, *w.shape) for w in (self.first, self.last))

    def forward(self, h: Tensor, weights: Pair | None = None) -> tuple[Tensor, Notes]:
        """h (B, T, width) -> what the level adds to it, and the inputs and outputs of its matrices; with the start, or
        with other weights, such as a set for each row."""
        first, last = (self.first, self.last) if weights is None else weights
        x = self.norm(h)
        z = x @ first
        a = _ACTIVATIONS[self.config.activation](z)
        y = a @ last
        return y if self.post_norm is None else self.post_norm(y), ((x, z), (a, y))


class NestedBlock(MixingBlock):
    """A memory that mixes tokens, then the levels. `index` is the block's number in the model."""

    def __init__(self, config: NestedConfig, levels: Levels, index: int, path: str):
        super().__init__(config, path)
        if config.post_norm:
            self.memory_post_norm = nn.RMSNorm(config.width, eps=1e-6)
        writes = config.layers * (1 + len(levels))
        self.levels = nn.ModuleList(Level(level, config.width, writes, config.post_norm) for level in levels)
        self.names = [f"layers.{index}.levels.{j}" for j in range(len(levels))]
        self.shares = nn.Parameter(torch.ones(len(levels))) if config.variant == "independent" else None

    def forward(
        self, h: Tensor, state: State, trace: Trace | None, fast: Mapping[str, Pair], notes: dict[str, Notes]
    ) -> tuple[Tensor, State]:
        h, state = self.mix(h, state, trace)
        return self.learn(h, fast, notes), state

    def learn(self, h: Tensor, fast: Mapping[str, Pair], notes: dict[str, Notes]) -> Tensor:
        """h through the levels; `fast` holds the weights of those that move, by the level's name, and their inputs and
        outputs are written into `notes`."""
        total = h
        for j, (name, level) in enumerate(zip(self.names, self.levels, strict=True)):
            y, note = level(h, fast.get(name))
            if name in fast:
                notes[name] = note
            total = total + (y if self.shares is None else self.shares[j] * y)
            h = total if self.shares is None else h
        return total


def path_under_a_level(memory: str, path: str) -> str:
    """The memory's path where its backward pass is differentiated again; refuses one that cannot be."""
    deep = MEMORIES[memory][0].deep_path
    if path not in ("auto", deep) and deep != "auto":
        raise CourseError(
            f"path {path!r} of memory {memory!r} can be differentiated once only, and a level below it learns from a "
            f"loss above it; choose 'auto' or {deep!r}."
        )
    return deep if path == "auto" else path
