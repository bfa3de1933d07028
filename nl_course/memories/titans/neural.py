"""The neural memory that all of Titans' architectures share: what it projects, what it learns, what it carries.

arXiv 2501.00663, sections 3.1 and 4.4. k, v, q are projections of a token, each through a short causal convolution and
SiLU; k and q have length 1. Every head has a small network M (inner.py) and three gates, sigmoids of the token:

    theta = max_step sigmoid(x . w + b),    eta = sigmoid(x . w + b),    alpha = sigmoid(x . w + b)

Where the paper is silent, this is chosen: gates a head, not a channel; half the squared error as the loss; max_step
2 / chunk at most 1, for which a chunk of equal keys cannot overshoot in a linear memory (a deep one with momentum now
and then does: there half of it, or the inner LayerNorm); M plain layers without biases,
LayerNorm or residual path, started with variance 1 / inputs and learned; alpha's bias -6 (a half-life of 280 tokens).

Axes: b batch, h heads, t tokens, f head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid, silu

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories.base import State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.common.inner_model import InnerModel, Norm, Weights, unit
from nl_course.memories.titans.chunk import Gates, chunked, chunked_sequence, masks, reference
from nl_course.memories.titans.trace import explain
from nl_course.memories.trace import Trace

PATHS = ("auto", "reference", "chunked")
STOPS = ("none", "first-order")


@dataclass(frozen=True)
class NeuralConfig:
    """A neural memory: `layers` 1 to 4 of weights a head, hidden `expansion` times the head's width, `activation`
    between; gradients of `chunk` tokens are taken at the weights that the chunk began with. `conv` is the width of the
    convolutions (0: none), `momentum` and `retention` False set eta and alpha to 0, `max_step` bounds theta (None:
    min(1, 2 / chunk)), `persistent` learned tokens stand before every text. `norm`, `residual` and `bias` give the
    inner network those parts. `stop_gradient` "first-order" takes the surprises for constants in the outer loop."""

    width: int
    heads: int
    layers: int = 2
    expansion: int = 4
    activation: str = "silu"
    chunk: int = 16
    conv: int = 4
    persistent: int = 4
    momentum: bool = True
    retention: bool = True
    max_step: float | None = None
    norm: bool = False
    residual: bool = False
    bias: bool = False
    stop_gradient: str = "none"

    def __post_init__(self):
        for name in ("width", "heads", "chunk"):
            check_int(name, getattr(self, name), 1)
        check_int("conv", self.conv, 0)
        check_int("persistent", self.persistent, 0)
        if self.width % self.heads:
            raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}.")
        if check_int("layers", self.layers, 1) > 4:
            raise CourseError(f"layers must be 1 to 4, not {self.layers}.")
        if self.max_step is not None:
            check_min("max_step", self.max_step, 0)
        check_choice("stop_gradient", self.stop_gradient, STOPS)
        _ = self.inner

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def largest_step(self) -> float:
        return min(1.0, 2 / self.chunk) if self.max_step is None else self.max_step

    @property
    def inner(self) -> InnerModel:
        return InnerModel(self.layers, self.expansion, self.activation, self.bias, self.norm, self.residual)


@dataclass(frozen=True)
class NeuralState(State):
    """The network as it stands (`memory`), its past surprise (`momentum`, {} without), the weights that the open chunk
    began with (`anchor`, {} for chunks of one token), and how many tokens were written."""

    memory: dict
    momentum: dict
    anchor: dict
    position: int


class NeuralMemory(nn.Module):
    """Projections, gates and learned start; `learn` writes and reads, `read` only reads.

    Seams, where experiments take hold of one memory: `write_inputs`, what a token asks, writes and how strongly (and
    `read_inputs`, its query alone), and `learn`, the inner loop itself. `remember` and the traces go through them."""

    def __init__(self, config: NeuralConfig, path: str = "auto"):
        super().__init__()
        self.config, self.path, self.inner = config, check_choice("path", path, PATHS), config.inner
        d, h, f = config.width, config.heads, config.head_dim
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        if config.conv:
            self.conv_query, self.conv_key, self.conv_value = (CausalConv(d, config.conv) for _ in range(3))
        self.step = nn.Linear(d, h)
        self.past = nn.Linear(d, h) if config.momentum else None
        self.forget = nn.Linear(d, h) if config.retention else None
        for gate, bias in ((self.step, 0.0), (self.past, 0.0), (self.forget, -6.0)):
            if gate is not None:
                nn.init.normal_(gate.weight, std=0.02)
                nn.init.constant_(gate.bias, bias)
        self.start = nn.ParameterDict(
            {
                name: torch.randn(h, *shape) * shape[0] ** -0.5 if name[0] == "W" else torch.zeros(h, *shape)
                for name, shape in self.inner.shapes(f).items()
            }
        )
        if config.norm:
            self.gain, self.shift = nn.Parameter(torch.ones(h, 1, f)), nn.Parameter(torch.zeros(h, 1, f))

    @property
    def norm(self) -> Norm | None:
        return Norm(self.gain.to(self.wide), self.shift.to(self.wide)) if self.config.norm else None

    @property
    def wide(self) -> torch.dtype:
        """The dtype of the inner loop: a memory is a sum of small steps, which bf16 would lose."""
        return torch.promote_types(self.step.weight.dtype, torch.float32)

    # -- the state ---------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> NeuralState:
        memory = {n: w.to(self.wide)[None].expand(batch_size, -1, -1, -1) for n, w in self.start.items()}
        momentum = {n: torch.zeros_like(w) for n, w in memory.items()} if self.config.momentum else {}
        return NeuralState(memory, momentum, memory if self.config.chunk > 1 else {}, 0)

    @property
    def state_numbers(self) -> int:
        """Numbers (of `wide`) that one row of the batch carries: the weights, as often again for momentum, and once
        more for the anchor."""
        weights = sum(w.numel() for w in self.start.values())
        return weights * (1 + self.config.momentum + (self.config.chunk > 1))

    def init_tails(self, batch_size: int, names: str) -> tuple[Tensor, ...]:
        """What stands before the first token in the convolutions of `names`, some of "q", "k", "v"."""
        return tuple(conv.init_tail(batch_size) for conv in self._convs(names)) if self.config.conv else ()

    def tail_numbers(self, names: str) -> int:
        return sum(conv.tail_size for conv in self._convs(names)) if self.config.conv else 0

    def _convs(self, names: str) -> list[CausalConv]:
        every = {"q": self.conv_query, "k": self.conv_key, "v": self.conv_value}
        return [every[name] for name in names]

    # -- what it sees of a token -------------------------------------------------------------------------------
    def project(self, x: Tensor, tails: tuple, names: str) -> tuple[list[Tensor], tuple]:
        """The projections of `names`, some of "q", "k", "v", of x (b, t, d): (b, h, t, f) each, and the new tails."""
        every = {"q": self.query, "k": self.key, "v": self.value}
        rows, after = [every[name](x) for name in names], ()
        if self.config.conv:
            rows, after = zip(*(conv(u, tail) for conv, u, tail in zip(self._convs(names), rows, tails)))
        rows = [rearrange(silu(u.to(self.wide)), "b t (h f) -> b h t f", h=self.config.heads) for u in rows]
        return [u if name == "v" else unit(u) for name, u in zip(names, rows)], tuple(after)

    def write_inputs(self, x: Tensor, tails: tuple) -> tuple[Tensor, Tensor, Tensor, Gates, tuple]:
        """What rows x (b, t, d) come to for the inner loop: q, k, v (b, h, t, f), each token's gates, and the new tails
        of the three convolutions."""
        (q, k, v), tails = self.project(x, tails, "qkv")
        with torch.autocast(x.device.type, enabled=False):
            gates = self.gates(x)
        return q, k, v, gates, tails

    def read_inputs(self, x: Tensor, tails: tuple) -> tuple[Tensor, tuple]:
        """Where x (b, t, d) reads without a write: q (b, h, t, f) and the new tail of its convolution."""
        (q,), tails = self.project(x, tails, "q")
        return q, tails

    def gates(self, x: Tensor) -> Gates:
        """Each token's own step, momentum and retention."""

        def logit(gate: nn.Linear) -> Tensor:
            return linear(x.to(self.wide), gate.weight.to(self.wide), gate.bias.to(self.wide)).mT

        step = self.config.largest_step * logit(self.step).sigmoid()
        past = None if self.past is None else logsigmoid(logit(self.past))
        return Gates(step, past, None if self.forget is None else logsigmoid(-logit(self.forget)))

    # -- the inner loop ----------------------------------------------------------------------------------------
    def read(self, memory: Weights, q: Tensor) -> Tensor:
        """f(q; M), (b, h, t, f), with one set of weights for all tokens: nothing is written."""
        return self.inner.read(memory, q, self.norm)

    def learn(self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState) -> tuple[Tensor, NeuralState]:
        """Writes and reads every token: y (b, h, t, f), token t's with the weights right after its write."""
        memory, momentum = state.memory, state.momentum
        anchor, answers, size = state.anchor or memory, [], self.config.chunk
        options = dict(first_order=self.config.stop_gradient == "first-order")
        for start, stop in self._pieces(state.position, q.shape[2]):
            part = [u[:, :, start:stop] for u in (q, k, v)]
            own = gates.between(start, stop)
            place = (state.position + start) % size
            if place == 0:
                anchor = memory
            if self.path == "reference":
                y, memory, momentum = self._by_token(anchor, memory, momentum, part, own, options)
            elif stop - start > size:
                y, memory, momentum = chunked_sequence(
                    self.inner, self.norm, memory, momentum, *part, own, size, **options
                )
            else:
                y, memory, momentum = chunked(
                    self.inner, self.norm, anchor, memory, momentum, *part, masks(own), **options
                )
            if (place + stop - start) % size == 0:
                anchor = memory
            answers.append(y)
        position = state.position + q.shape[2]
        return torch.cat(answers, dim=2), NeuralState(memory, momentum, anchor if size > 1 else {}, position)

    def remember(
        self, x: Tensor, state: NeuralState, tails: tuple, trace: Trace | None = None, before: int = 0
    ) -> tuple[Tensor, NeuralState, tuple]:
        """Writes and reads every row of x (b, t, d): what was read, all heads side by side (b, t, d), and the new state
        and tails. `before` persistent tokens were written before the text; traces count without them."""
        q, k, v, gates, tails = self.write_inputs(x, tails)
        with torch.autocast(x.device.type, enabled=False):
            y, after = self.learn(q, k, v, gates, state)
            if trace is not None:
                explain(trace, self, state, before, q, k, v, gates)
        return rearrange(y, "b h t f -> b t (h f)").to(x.dtype), after, tails

    def _by_token(self, anchor, memory, momentum, part, gates: Gates, options) -> tuple[Tensor, Weights, Weights]:
        answers, size = [], self.config.chunk
        for *tokens, own in zip(*(u.split(size, dim=2) for u in part), gates.split(size)):
            y, memory, momentum = reference(self.inner, self.norm, anchor, memory, momentum, *tokens, own, **options)
            anchor = memory
            answers.append(y)
        return torch.cat(answers, dim=2), memory, momentum

    def _pieces(self, position: int, tokens: int) -> Iterator[tuple[int, int]]:
        """The end of the open chunk, the whole chunks, and the beginning of the next."""
        first = min(tokens, -position % self.config.chunk)
        last = first + (tokens - first) // self.config.chunk * self.config.chunk
        for start, stop in ((0, first), (first, last), (last, tokens)):
            if start < stop:
                yield start, stop


def persistent_tokens(config: NeuralConfig) -> nn.Parameter | None:
    """The learned tokens that stand before every text, (n, d), or None for none."""
    return nn.Parameter(torch.randn(config.persistent, config.width)) if config.persistent else None
