"""TTT-Linear and TTT-MLP: the hidden state is a model, and to read a token is to train it on that token.

Sun et al. 2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden States", arXiv 2407.04620; its equations
stand in reference.py. Each head has a small network f (inner_model.py). Token t writes by one gradient step on the loss
l = |f(k_t; W) - v_t|^2 / 2, and then it is read:

    W_t = W^a - c_i sum_{j <= i} l_j grad l(W^a; k_j, v_j),     z_t = f(q_t; W_t)     i the position in the mini-batch
    l_j = (base / f) sigmoid(x_j . theta + beta),               c_i = max(0, 1 / i + delta_i)

W^a are the weights at the mini-batch's start. At the start of a text they are W_0, which the outer loop learns through
all these steps: gradients flow through the gradients. It learns theta, beta and delta too. c_i and the division by f
are in the authors' code, not in the paper; `position_factor="sum"` is the paper's plain sum, c_i = 1.

Around it: the backbone "mamba" shares one projection between q and k, which differ by a causal convolution each, and it
gates the output. The backbone "transformer" has three projections and no gate. Both rotate q and k by the token's
position in its mini-batch, and normalize all heads together before the output projection (the paper's figure 16).

Axes: b batch, h heads, t tokens, f head width, d width.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nl_course.errors import CourseError, check_bool, check_choice, check_int, check_min
from nl_course.memories.attention.rope import Rotary, check_theta
from nl_course.memories.base import Memory, State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.common.gate import gated_norm
from nl_course.memories.common.inner_model import InnerModel, Norm
from nl_course.memories.common.weights import Weights
from nl_course.memories.trace import Trace
from nl_course.memories.ttt import dual, fused, reference
from nl_course.memories.ttt.trace import explain
from nl_course.roles import BIAS, GAIN, PER_HEAD, RATE, Roles

PATHS = ("auto", "reference", "chunked")
STOPS = ("none", "first-order", "write")
KINDS = {"linear": 1, "mlp": 2}  # layers of the inner model
BASE_RATES = {"linear": 1.0, "mlp": 0.1}  # the paper's, section 2.7


@dataclass(frozen=True)
class TTTConfig:
    """One TTT layer.

    `kind` is "linear" or "mlp", `backbone` "mamba" or "transformer"; `share_qk` and `gate` may differ from the
    backbone's. `base_rate` None is the paper's (1 linear, 0.1 MLP). `position_factor` is "learned" or "sum". `norm`,
    `residual` and `bias` False leave these out of the inner model, for the lesson. `stop_gradient` "first-order" makes
    the inner gradients constants of the outer loop, and "write" the whole step. `recompute` n computes groups of n
    mini-batches again in the backward pass instead of keeping what they need (0: keep all).
    """

    width: int
    heads: int
    kind: str = "linear"
    backbone: str = "mamba"
    mini_batch: int = 16
    base_rate: float | None = None
    position_factor: str = "learned"
    rope_theta: float | None = 10_000.0
    conv: int = 4
    share_qk: bool | None = None
    gate: bool | None = None
    norm: bool = True
    residual: bool = True
    bias: bool = True
    stop_gradient: str = "none"
    recompute: int = 0

    def __post_init__(self):
        for name in ("width", "heads", "mini_batch", "conv"):
            check_int(name, getattr(self, name), 1)
        check_int("recompute", self.recompute, 0)
        check_choice("kind", self.kind, KINDS)
        check_choice("backbone", self.backbone, ("mamba", "transformer"))
        check_choice("position_factor", self.position_factor, ("learned", "sum"))
        check_choice("stop_gradient", self.stop_gradient, STOPS)
        if self.width % self.heads:
            raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}.")
        if self.base_rate is None:
            object.__setattr__(self, "base_rate", BASE_RATES[self.kind])
        check_min("base_rate", self.base_rate, 0)
        check_theta(self.rope_theta)
        for name in ("share_qk", "gate"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.backbone == "mamba")
            check_bool(name, getattr(self, name))
        _ = self.inner  # which checks the rest

    @property
    def head_dim(self) -> int:
        """f, the width of one head."""
        return self.width // self.heads

    @property
    def inner(self) -> InnerModel:
        """The network that each head trains."""
        return InnerModel(KINDS[self.kind], bias=self.bias, norm=self.norm, residual=self.residual)


@dataclass(frozen=True)
class TTTLinearConfig(TTTConfig):
    """`TTTConfig` of kind "linear"."""


@dataclass(frozen=True)
class TTTMLPConfig(TTTConfig):
    """`TTTConfig` of kind "mlp"."""

    kind: str = "mlp"


@dataclass(frozen=True)
class TTTState(State):
    """What the layer carries: the anchor W^a and the sum of the open mini-batch's steps, l_j grad l(W^a; k_j, v_j),
    both (b, h, in, out) by name and at least in float32; the states of the convolutions on q and k, (b, conv - 1, d)
    each, where it has them; and the next token's position in the text."""

    anchor: Weights
    grad_accum: Weights
    conv_states: tuple[Tensor, ...]
    position: int


class TTT(Memory):
    """A layer whose state learns. `path` "reference" differentiates the inner loss by autograd, one token at a time;
    "chunked" ("auto") works through whole mini-batches with matmuls.

    Two methods are seams, where experiments take hold of one memory: `write_inputs`, what a token asks, writes and how
    strongly, and `learn`, the inner loop itself. All that the layer and its traces do goes through these two.

    Traces, (B, T, h, ...): `q`, `k`, `v`, `prediction` f(k) before the write, `loss_before`, `loss_after` the write and
    `loss_start` with W_0, `rate` l_i and `step_size` c_i l_i, `write_norm` the distance that the weights move and
    `drift` their distance from W_0. Who reads whom, per head: `weights` (.., positions) is the share of each earlier
    token's `error` (.., f) in this token's `read` (.., f), and `start` (.., f) what the learned weights alone would
    answer, so that read = start - weights @ error. `key_features` and `read_features` (.., m) are what the inner
    network's last layer is given for k, at the anchor, and for q, after the write
    (`as_attention` needs both). Positions before this call are not known any more and are nan.
    """

    param_roles: ClassVar[Roles] = {
        "start.W*": PER_HEAD,
        "start.b*": BIAS,
        "gain": GAIN,
        "shift": BIAS,
        "position_offset": RATE,
    }
    outside_state = ("stop_gradient", "recompute")  # of the outer loop alone

    def __init__(self, config: TTTConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config
        self.owner_name = f"ttt-{config.kind}"
        self.path = check_choice("path", path, PATHS)
        self.inner = config.inner
        d, h, f = config.width, config.heads, config.head_dim
        if config.share_qk:
            self.query_key = nn.Linear(d, d, bias=False)
            self.conv_query = CausalConv(d, config.conv)
            self.conv_key = CausalConv(d, config.conv)
        else:
            self.query = nn.Linear(d, d, bias=False)
            self.key = nn.Linear(d, d, bias=False)
        self.gate = nn.Linear(d, d, bias=False) if config.gate else None
        self.value = nn.Linear(d, d, bias=False)
        self.output = nn.Linear(d, d, bias=False)
        self.rotary = None if config.rope_theta is None else Rotary(f, config.rope_theta)
        # One row of theta and one beta per head.
        self.rate = nn.Linear(d, h)
        nn.init.normal_(self.rate.weight, std=0.02)
        nn.init.zeros_(self.rate.bias)
        if config.position_factor == "learned":
            self.position_offset = nn.Parameter(torch.zeros(config.mini_batch))  # delta
        # W_0. From all zeros the inner LayerNorm would make gradients a thousand times larger (inner_model.py).
        start = {}
        for name, shape in self.inner.shapes(f).items():
            start[name] = torch.randn(h, *shape) * 0.02 if name.startswith("W") else torch.zeros(h, *shape)
        self.start = nn.ParameterDict(start)  # which sorts the names
        if config.norm:
            self.gain = nn.Parameter(torch.ones(h, 1, f))
            self.shift = nn.Parameter(torch.zeros(h, 1, f))
        self.post_norm = nn.LayerNorm(d, eps=1e-6)

    @property
    def position_period(self) -> int:
        """The mini-batch: within it a token's position counts, for its rotation and for its step."""
        return self.config.mini_batch

    # -- the state ---------------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> TTTState:
        """W_0 in every row of the batch, and nothing written yet."""
        anchor = self.start_weights().map(lambda w: w[None].expand(batch_size, -1, -1, -1))  # (b, h, in, out)
        conv_states = ()
        if self.config.share_qk:
            conv_states = (self.conv_query.init_state(batch_size), self.conv_key.init_state(batch_size))
        return TTTState(anchor, anchor.map(torch.zeros_like), conv_states, 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """2 (anchor and sum) x the inner model's weights, and conv - 1 inputs of d numbers for each convolution:
        2 s (d f + d) for the linear kind, 2 s (8 d f + 5 d) for the MLP, whatever the number of tokens."""
        weights = sum(w.numel() for w in self.start.values())
        conv_states = 0
        if self.config.share_qk:
            conv_states = self.conv_query.state_size + self.conv_key.state_size
        return batch_size * (2 * weights * self.accum_dtype.itemsize + conv_states * self.dtype.itemsize)

    def weights(self, state: TTTState) -> Weights:
        """The inner model as it stands after the last token read: W1 (B, h, in, out), b1, ..."""
        position_in_chunk = state.position % self.config.mini_batch
        if position_in_chunk == 0:
            return Weights(state.anchor)
        return state.anchor - self.position_factor()[position_in_chunk - 1] * state.grad_accum

    # -- what the inner loop is given --------------------------------------------------------------------------------
    @property
    def norm(self) -> Norm | None:
        """Gain and shift of the inner LayerNorm, where there is one."""
        if not self.config.norm:
            return None
        return Norm(self.gain.to(self.accum_dtype), self.shift.to(self.accum_dtype))

    @property
    def accum_dtype(self) -> torch.dtype:
        """The dtype of the inner loop: its weights are sums of many small steps, which bf16 would lose."""
        return torch.promote_types(self.dtype, torch.float32)

    def start_weights(self) -> Weights:
        """W_0, (h, in, out) each."""
        return Weights({name: w.to(self.accum_dtype) for name, w in self.start.items()})

    def position_factor(self) -> Tensor:
        """c_i for i = 1 .. the mini-batch's size, (mini_batch,)."""
        size = self.config.mini_batch
        if self.config.position_factor == "sum":
            return torch.ones(size, dtype=self.accum_dtype, device=self.device)
        i = torch.arange(1, size + 1, dtype=self.accum_dtype, device=self.device)
        return (1 / i + self.position_offset.to(self.accum_dtype)).clamp_min(0)

    # -- a text, or a piece of one -----------------------------------------------------------------------------------
    def advance(self, x: Tensor, state: TTTState, trace: Trace | None) -> tuple[Tensor, TTTState]:
        """As `Memory.advance`: x (b, t, d) -> y (b, t, d) and the state after the last token."""
        if x.shape[1] == 0:
            return x, state
        q, k, v, rate, conv_states = self.write_inputs(x, state)
        with torch.autocast(x.device.type, enabled=False):
            z, after = self.learn(q, k, v, rate, state)
            if trace is not None:
                explain(trace, self, state, q, k, v, rate)
        z = rearrange(z, "b h t f -> b t (h f)").to(x.dtype)  # (b, t, d)
        if self.gate is None:
            y = self.post_norm(z)
        else:
            y = gated_norm(self.post_norm, z, self.gate(x), "gelu")
        return self.output(y), replace(after, conv_states=conv_states)

    def write_inputs(self, x: Tensor, state: TTTState) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple]:
        """What x (b, t, d) comes to for the inner loop: q, k, v (b, h, t, f) rotated by their positions, each token's
        rate l (b, h, t), all in the dtype of the inner loop; and the convolutions' new states."""
        q, k, v, conv_states = self._project(x, state)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = (self._split_heads(u) for u in (q, k, v))  # (b, h, t, f)
            if self.rotary is not None:
                # By the position in the mini-batch: the inner model meets the same few positions in any long text.
                q = self.rotary(q, state.position, self.config.mini_batch)
                k = self.rotary(k, state.position, self.config.mini_batch)
            theta = self.rate.weight.to(self.accum_dtype)
            beta = self.rate.bias.to(self.accum_dtype)
            rate = nn.functional.linear(x.to(self.accum_dtype), theta, beta).mT.sigmoid()  # (b, h, t)
            rate = self.config.base_rate / self.config.head_dim * rate
        return q, k, v, rate, conv_states

    def _project(self, x: Tensor, state: TTTState) -> tuple[Tensor, Tensor, Tensor, tuple]:
        """q, k, v (b, t, d), not yet rotated, and the convolutions' new states."""
        if not self.config.share_qk:
            return self.query(x), self.key(x), self.value(x), ()
        shared = self.query_key(x)
        q, query_state = self.conv_query(shared, state.conv_states[0])
        k, key_state = self.conv_key(shared, state.conv_states[1])
        return q, k, self.value(x), (query_state, key_state)

    def _split_heads(self, u: Tensor) -> Tensor:
        """(b, t, d) -> (b, h, t, f), in the dtype of the inner loop."""
        return rearrange(u, "b t (h f) -> b h t f", h=self.config.heads).to(self.accum_dtype)

    # -- the inner loop ----------------------------------------------------------------------------------------------
    def learn(self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        """Writes and reads every token: z (b, h, t, f) for q, k, v (b, h, t, f) and rate (b, h, t), and the state
        after the last, with the old states of the convolutions."""
        tokens, size = q.shape[2], self.config.mini_batch
        anchor = state.anchor.map(lambda w: w.to(self.accum_dtype))
        grad_accum = state.grad_accum.map(lambda w: w.to(self.accum_dtype))
        # The rest of the open mini-batch, the whole ones, and a beginning: only whole ones take the fused path.
        rest = min(tokens, -state.position % size)
        beginning = (tokens - rest) % size
        sizes = [count for count in (rest, tokens - rest - beginning, beginning) if count > 0]
        position = state.position
        outputs = []
        for part in zip(*(u.split(sizes, dim=2) for u in (q, k, v, rate))):
            z, anchor, grad_accum = self._learn_recomputed(*part, anchor, grad_accum, position)
            position += z.shape[2]
            outputs.append(z)
        return torch.cat(outputs, dim=2), TTTState(anchor, grad_accum, state.conv_states, position)

    def _learn_recomputed(
        self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, anchor: Weights, grad_accum: Weights, position: int
    ) -> tuple[Tensor, Weights, Weights]:
        """`_learn_part`, and in groups of mini-batches that the backward pass computes again, if the config says so."""
        group = self.config.recompute * self.config.mini_batch
        if group == 0 or q.shape[2] <= group or not torch.is_grad_enabled():
            return self._learn_part(q, k, v, rate, anchor, grad_accum, position)
        outputs = []
        for part in zip(*(u.split(group, dim=2) for u in (q, k, v, rate))):
            z, anchor, grad_accum = checkpoint(
                self._learn_part, *part, anchor, grad_accum, position, use_reentrant=False
            )
            position += z.shape[2]
            outputs.append(z)
        return torch.cat(outputs, dim=2), anchor, grad_accum

    def _learn_part(
        self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, anchor: Weights, grad_accum: Weights, position: int
    ) -> tuple[Tensor, Weights, Weights]:
        """Whole mini-batches, or a piece of one, from token number `position` of the text on: z, the anchor and the sum
        after the last. Three paths to the same numbers."""
        factor = self.position_factor()
        first_order = self.config.stop_gradient != "none"
        if self.config.stop_gradient == "write":
            k, v, rate, factor = k.detach(), v.detach(), rate.detach(), factor.detach()
        starts_and_ends = position % len(factor) == 0 and q.shape[2] % len(factor) == 0
        if self.path != "reference" and starts_and_ends and fused.can_run(self.inner, first_order):
            z, anchor = fused.learn(self.inner, self.norm, anchor, q, k, v, rate, factor)
            return z, anchor, anchor.map(torch.zeros_like)
        learn = reference.learn if self.path == "reference" else dual.learn
        return learn(self.inner, self.norm, anchor, grad_accum, q, k, v, rate, factor, position, first_order)
