"""The neural memory that all of Titans' layers share: what it makes of a token, what it learns, what it carries.

arXiv 2501.00663, sections 3.1 and 4.4. k, v and q are projections of a token, each through a short causal convolution
and SiLU; k and q get length 1. Every head has a small network M (common/inner_model.py) and three gates, each a number
per token:

    theta = max_step sigmoid(x . w + b),    eta = sigmoid(x . w + b),    alpha = sigmoid(x . w + b)

Where the paper is silent, this is our choice:

* a gate is one number per head, not one per feature;
* max_step is 2 / chunk, at most 1. With that a chunk of equal keys cannot overshoot in a linear memory. A deep memory
  with momentum now and then does: give it half of that, or the inner LayerNorm;
* M is plain layers without biases, LayerNorm or residual path. M_0 starts with variance 1 / inputs and is learned;
* the bias of alpha starts at -6, which forgets half in 280 tokens.

Axes: b batch, h heads, t tokens, f head width, d = h f model width.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid, silu

from nl_course.errors import CourseError, check_bool, check_choice, check_int, check_min
from nl_course.memories.base import State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.common.inner_model import InnerModel, Norm, unit
from nl_course.memories.common.weights import Weights
from nl_course.memories.owner import StateOwner
from nl_course.memories.titans.chunk import Gates, chunked
from nl_course.memories.titans.reference import reference
from nl_course.memories.titans.trace import explain
from nl_course.memories.trace import Trace
from nl_course.roles import BIAS, GAIN, PER_HEAD, Roles

PATHS = ("auto", "reference", "chunked")
STOPS = ("none", "first-order")


@dataclass(frozen=True)
class NeuralConfig:
    """The settings of a neural memory. Raises CourseError for values that make no sense.

    * `layers` of weights per head, 1 to 4, with `activation` between them; the hidden width is `expansion` times the
      head's;
    * gradients of `chunk` tokens are taken at the weights that the chunk began with;
    * `conv` is the width of the convolutions (0: none); `persistent` learned tokens stand before every text;
    * `momentum` False sets eta to 0, `retention` False sets alpha to 0; `max_step` bounds theta (None: 2 / chunk, at
      most 1);
    * `norm`, `residual` and `bias` give the inner network those parts;
    * `stop_gradient` "first-order" makes surprises constants for the outer loop.
    """

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
        check_bool("momentum", self.momentum)
        check_bool("retention", self.retention)
        check_choice("stop_gradient", self.stop_gradient, STOPS)
        _ = self.inner  # which checks the rest

    @property
    def head_dim(self) -> int:
        """The width of a head, f."""
        return self.width // self.heads

    @property
    def largest_step(self) -> float:
        """The bound of theta."""
        return min(1.0, 2 / self.chunk) if self.max_step is None else self.max_step

    @property
    def inner(self) -> InnerModel:
        """The network of one head."""
        return InnerModel(self.layers, self.expansion, self.activation, self.bias, self.norm, self.residual)


@dataclass(frozen=True)
class NeuralState(State):
    """The network as it stands (`memory`, M), its past surprise (`momentum`, S; {} without), the weights that the open
    chunk began with (`anchor`; {} for chunks of one token), and how many tokens were written (`position`)."""

    memory: dict[str, Tensor]
    momentum: dict[str, Tensor]
    anchor: dict[str, Tensor]
    position: int


class NeuralMemory(StateOwner):
    """Projections, gates and the learned start M_0. `learn` writes and reads, `read` only reads, `remember` does all of
    it for a stream of tokens.

    Seams, where experiments take hold of one memory: `write_inputs`, what a token asks, what it writes and how strongly
    (and `read_inputs`, its query alone), and `learn`, the inner loop itself. `remember` and the traces go through them.
    """

    param_roles: ClassVar[Roles] = {"start.W*": PER_HEAD, "start.b*": BIAS, "gain": GAIN, "shift": BIAS}
    owner_name = "a neural memory"

    def __init__(self, config: NeuralConfig, path: str = "auto"):
        super().__init__()
        self.config = config
        self.path = check_choice("path", path, PATHS)
        self.inner = config.inner
        width, heads = config.width, config.heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        if config.conv:
            self.conv_query = CausalConv(width, config.conv)
            self.conv_key = CausalConv(width, config.conv)
            self.conv_value = CausalConv(width, config.conv)
        # The gates of theta, eta and alpha.
        self.step = nn.Linear(width, heads)
        self.past = nn.Linear(width, heads) if config.momentum else None
        self.forget = nn.Linear(width, heads) if config.retention else None
        for gate, bias in ((self.step, 0.0), (self.past, 0.0), (self.forget, -6.0)):
            if gate is not None:
                nn.init.normal_(gate.weight, std=0.02)
                nn.init.constant_(gate.bias, bias)
        start = {}
        for name, (inputs, outputs) in self.inner.shapes(config.head_dim).items():
            # Never zeros for the matrices: in a deep memory of zeros every gradient is zero.
            if name.startswith("W"):
                start[name] = torch.randn(heads, inputs, outputs) * inputs**-0.5
            else:
                start[name] = torch.zeros(heads, inputs, outputs)
        self.start = nn.ParameterDict(start)
        if config.norm:
            self.gain = nn.Parameter(torch.ones(heads, 1, config.head_dim))
            self.shift = nn.Parameter(torch.zeros(heads, 1, config.head_dim))

    def state_settings(self) -> dict[str, Any]:
        """Those of `NeuralConfig`: what a layer has beside its neural memory does not change what that one holds."""
        own = {f.name for f in fields(NeuralConfig)} - {"persistent", "stop_gradient"}
        return {name: value for name, value in super().state_settings().items() if name in own}

    @property
    def norm(self) -> Norm | None:
        """The inner network's LayerNorm, (h, 1, f) each, or None."""
        if not self.config.norm:
            return None
        return Norm(self.gain.to(self.accum_dtype), self.shift.to(self.accum_dtype))

    @property
    def accum_dtype(self) -> torch.dtype:
        """The dtype of the inner loop: a memory is a sum of small steps, which bf16 would lose."""
        return torch.promote_types(self.step.weight.dtype, torch.float32)

    # -- the state -----------------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> NeuralState:
        """M_0 for every row of the batch, without momentum: the paper leaves S_0 open, 0 is our choice."""
        memory = Weights({name: w.to(self.accum_dtype) for name, w in self.start.items()})  # (h, in, out)
        memory = memory.map(lambda w: w[None].expand(batch_size, -1, -1, -1))  # (b, h, in, out)
        momentum = memory.map(torch.zeros_like) if self.config.momentum else Weights()
        anchor = memory if self.config.chunk > 1 else Weights()
        return NeuralState(memory, momentum, anchor, position=0)

    @property
    def weight_numbers(self) -> int:
        """|M|: the numbers of one row's network, all heads together."""
        return sum(w.numel() for w in self.start.values())

    @property
    def state_numbers(self) -> int:
        """Numbers of `accum_dtype` that one row of the batch carries: |M|, as many again for momentum, and once more
        for the anchor."""
        return self.weight_numbers * (1 + self.config.momentum + (self.config.chunk > 1))

    def init_conv_states(self, batch_size: int, names: str) -> tuple[Tensor, ...]:
        """What stands before the first token in the convolutions of `names`, some of "q", "k", "v": zeros
        (b, conv - 1, d) each."""
        return tuple(conv.init_state(batch_size) for conv in self._convs(names))

    def conv_state_numbers(self, names: str) -> int:
        """Numbers that those of one row hold."""
        return sum(conv.state_size for conv in self._convs(names))

    def _convs(self, names: str) -> list[CausalConv]:
        if not self.config.conv:
            return []
        every = {"q": self.conv_query, "k": self.conv_key, "v": self.conv_value}
        return [every[name] for name in names]

    # -- what it makes of a token --------------------------------------------------------------------------------------
    def project(self, x: Tensor, conv_states: tuple, names: str) -> tuple[list[Tensor], tuple]:
        """The projections of `names`, some of "q", "k", "v", of x (b, t, d): (b, h, t, f) each, and the new states of
        their convolutions."""
        projections = {"q": self.query, "k": self.key, "v": self.value}
        rows = [projections[name](x) for name in names]  # eq. 11, (b, t, d)
        if self.config.conv:
            convolved = [conv(u, before) for conv, u, before in zip(self._convs(names), rows, conv_states)]
            rows = [u for u, _ in convolved]
            conv_states = tuple(after for _, after in convolved)
        projected = []
        for name, u in zip(names, rows):
            u = silu(u.to(self.accum_dtype))
            u = rearrange(u, "b t (h f) -> b h t f", h=self.config.heads)
            # Keys of length 1 bound the step at which a linear memory is stable: theta |k|^2 < 2.
            projected.append(u if name == "v" else unit(u))
        return projected, conv_states

    def write_inputs(self, x: Tensor, conv_states: tuple) -> tuple[Tensor, Tensor, Tensor, Gates, tuple]:
        """What rows x (b, t, d) come to for the inner loop: q, k, v (b, h, t, f), each token's gates (b, h, t), and the
        new states of the three convolutions."""
        (q, k, v), conv_states = self.project(x, conv_states, "qkv")
        with torch.autocast(x.device.type, enabled=False):
            gates = self.gates(x)
        return q, k, v, gates, conv_states

    def read_inputs(self, x: Tensor, conv_states: tuple) -> tuple[Tensor, tuple]:
        """Where x (b, t, d) reads without a write: q (b, h, t, f), and the new state of its convolution."""
        (q,), conv_states = self.project(x, conv_states, "q")
        return q, conv_states

    def gates(self, x: Tensor) -> Gates:
        """Each token's own step, momentum and retention, from x (b, t, d)."""
        step = self.config.largest_step * self._logit(self.step, x).sigmoid()
        log_momentum = None if self.past is None else logsigmoid(self._logit(self.past, x))
        # 1 - sigmoid(u) = sigmoid(-u), which keeps its digits where nearly everything is kept or forgotten.
        log_retention = None if self.forget is None else logsigmoid(-self._logit(self.forget, x))
        return Gates(step, log_momentum, log_retention)

    def _logit(self, gate: nn.Linear, x: Tensor) -> Tensor:
        dtype = self.accum_dtype
        logit = linear(x.to(dtype), gate.weight.to(dtype), gate.bias.to(dtype))  # (b, t, h)
        return logit.mT  # (b, h, t)

    # -- the inner loop ------------------------------------------------------------------------------------------------
    def read(self, memory: Weights, q: Tensor) -> Tensor:
        """f(q; M), (b, h, t, f), with one set of weights for all tokens: nothing is written."""
        return self.inner.read(memory, q, self.norm)

    def learn(self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState) -> tuple[Tensor, NeuralState]:
        """Writes and reads every token of q, k, v (b, h, t, f): y (b, h, t, f), token t's with the weights right after
        its write, and the new state."""
        chunk = self.config.chunk
        M, S = Weights(state.memory), Weights(state.momentum)
        M_a = Weights(state.anchor) or M
        cut = dict(position=state.position, chunk=chunk, create_graph=self.config.stop_gradient == "none")
        if self.path == "reference":
            alpha, eta, theta = gates.plain()
            # The equations have S in any case; without momentum eta is 0.
            S = S or M.map(torch.zeros_like)
            y, M, S, M_a = reference(self.inner, self.norm, M, S, M_a, q, k, v, alpha, eta, theta, **cut)
        else:
            y, M, S, M_a = chunked(self.inner, self.norm, M, S, M_a, q, k, v, gates, **cut)
        position = state.position + q.shape[2]
        # Between two chunks the anchor to come is the memory as it stands. With chunks of one it always is.
        if position % chunk == 0:
            M_a = M
        momentum = S if state.momentum else Weights()
        anchor = M_a if chunk > 1 else Weights()
        return y, NeuralState(M, momentum, anchor, position)

    def remember(
        self, x: Tensor, state: NeuralState, conv_states: tuple, trace: Trace | None = None, persistent: int = 0
    ) -> tuple[Tensor, NeuralState, tuple]:
        """Writes and reads every row of x (b, t, d): what was read, all heads side by side (b, t, d), the new state and
        the new states of the convolutions. `persistent` tokens were written before the text; traces do not count
        them."""
        self.check_owner(state)
        q, k, v, gates, conv_states = self.write_inputs(x, conv_states)
        with torch.autocast(x.device.type, enabled=False):
            y, after = self.learn(q, k, v, gates, state)  # (b, h, t, f)
            if trace is not None:
                self.explain(trace, state, persistent, q, k, v, gates)
        return rearrange(y, "b h t f -> b t (h f)").to(x.dtype), self.owned(after), conv_states

    def explain(
        self, trace: Trace, state: NeuralState, persistent: int, q: Tensor, k: Tensor, v: Tensor, gates: Gates
    ) -> None:
        """Adds to `trace` what the memory did; see trace.py."""
        explain(trace, self, state, persistent, q, k, v, gates)


def persistent_tokens(config: NeuralConfig) -> nn.Parameter | None:
    """The learned tokens that stand before every text, (n, d), or None for none."""
    return nn.Parameter(torch.randn(config.persistent, config.width)) if config.persistent else None
