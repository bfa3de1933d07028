"""TTT-Linear and TTT-MLP: the hidden state is a model, and to read a token is to train it on that token.

Sun et al. 2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden States", arXiv 2407.04620. Each head has
a small network f (inner.py). Token t writes by one gradient step on l = |f(k_t; W) - v_t|^2 / 2 and then reads:

    W_t = W^a - c_i sum_{j <= i} l_j grad l(W^a; k_j, v_j),     z_t = f(q_t; W_t)          i the place in the mini-batch
    l_j = (base / f) sigmoid(x_j . theta + beta),               c_i = max(0, 1 / i + delta_i)

W^a are the weights at the mini-batch's start; at the start of a text they are W_0, which the outer loop learns through
all these steps (gradients flow through the gradients). theta, beta and delta are learned too. c_i and the division by f
are in the authors' code, not in the paper: `position_factor="sum"` has the paper's plain sum, c_i = 1.

Around it: backbone "mamba" shares one projection between q and k, which differ by a causal convolution each, and gates
the output; backbone "transformer" has three projections and no gate. Both turn q and k by the token's place in its
mini-batch and normalise all heads together before the output projection (the paper's figure 16).

Axes: b batch, h heads, t tokens, f head width.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories.attention.rope import Rotary
from nl_course.memories.base import Memory, State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.common.gate import gated_norm
from nl_course.memories.common.inner_model import InnerModel, Norm, Weights
from nl_course.memories.trace import Trace
from nl_course.memories.ttt import fused as ttt_fast
from nl_course.memories.ttt.dual import STOPS, dual, moved, reference
from nl_course.memories.ttt.trace import explain

PATHS = ("auto", "reference", "chunked")
KINDS = {"linear": 1, "mlp": 2}  # layers of the inner model
BASE_RATES = {"linear": 1.0, "mlp": 0.1}  # the paper's, section 2.7


@dataclass(frozen=True)
class TTTConfig:
    """One TTT layer. `kind` "linear" or "mlp"; `backbone` "mamba" or "transformer", of which `share_qk` and `gate`
    may differ; `base_rate` None is the paper's (1 linear, 0.1 MLP). `position_factor` "learned" or "sum"; `norm`,
    `residual` and `bias` False bare the inner model, for the lesson; `stop_gradient` "first-order" takes the inner
    gradients for constants and "write" the whole step; `checkpoint` n recomputes groups of n mini-batches in the
    backward pass instead of keeping what they need (0: keep all)."""

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
    checkpoint: int = 0

    def __post_init__(self):
        for name in ("width", "heads", "mini_batch", "conv"):
            check_int(name, getattr(self, name), 1)
        check_int("checkpoint", self.checkpoint, 0)
        check_choice("kind", self.kind, KINDS)
        check_choice("backbone", self.backbone, ("mamba", "transformer"))
        check_choice("position_factor", self.position_factor, ("learned", "sum"))
        check_choice("stop_gradient", self.stop_gradient, STOPS)
        if self.width % self.heads:
            raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}.")
        if self.base_rate is None:
            object.__setattr__(self, "base_rate", BASE_RATES[self.kind])
        check_min("base_rate", self.base_rate, 0)
        for name in ("share_qk", "gate"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.backbone == "mamba")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def inner(self) -> InnerModel:
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
    """The anchor W^a and the gradients gathered since, both (b, h, in, out) by name, at least in float32; the tails of
    the convolutions on q and k, (b, conv - 1, d) each; and the next token's position in the text."""

    anchor: dict
    gathered: dict
    tails: tuple
    position: int


class TTT(Memory):
    """A layer whose state learns. `path` "reference" differentiates the inner loss by autograd, a token at a time;
    "chunked" ("auto") works through a mini-batch at once with matmuls.

    Two methods are seams, where experiments take hold of one memory: `write_inputs`, what a token asks, writes and how
    strongly, and `learn`, the inner loop itself. All that the layer and its traces do goes through these two.

    Traces, (B, T, h, ...): `q`, `k`, `v`, `prediction` f(k) before the write, `loss_before`, `loss_after` the write and
    `loss_start` with W_0, `rate` l_i and `step_size` c_i l_i, `write_norm` the distance that the weights move and
    `drift` their distance from W_0; and who reads whom, per head: `weights` (.., positions), the share of each earlier
    token's `error` (.., f) in this token's `read` (.., f), with `start` (.., f) what the learned weights alone would
    say: read = start - weights @ error; `key_features` and `read_features` (.., m) are what the inner network's last
    layer is given for k, at the anchor, and for q, after the write (as_attention.py). Positions before this call are
    not known any more and are nan."""

    def __init__(self, config: TTTConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config, self.path = config, check_choice("path", path, PATHS)
        self.inner = config.inner
        d, h, f = config.width, config.heads, config.head_dim
        if config.share_qk:
            self.query_key = nn.Linear(d, d, bias=False)
            self.conv_query, self.conv_key = CausalConv(d, config.conv), CausalConv(d, config.conv)
        else:
            self.query, self.key = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.gate = nn.Linear(d, d, bias=False) if config.gate else None
        self.value, self.output = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.rotary = None if config.rope_theta is None else Rotary(f, config.rope_theta)
        self.rate = nn.Linear(d, h)  # one row of theta and one beta a head
        nn.init.normal_(self.rate.weight, std=0.02)
        nn.init.zeros_(self.rate.bias)
        if config.position_factor == "learned":
            self.place = nn.Parameter(torch.zeros(config.mini_batch))  # delta
        self.start = nn.ParameterDict(
            {
                name: torch.randn(h, *shape) * 0.02 if name[0] == "W" else torch.zeros(h, *shape)
                for name, shape in self.inner.shapes(f).items()
            }
        )
        if config.norm:
            self.gain, self.shift = nn.Parameter(torch.ones(h, 1, f)), nn.Parameter(torch.zeros(h, 1, f))
        self.post_norm = nn.LayerNorm(d, eps=1e-6)

    def init_state(self, batch_size: int) -> TTTState:
        anchor = self._start().map(lambda w: w[None].expand(batch_size, -1, -1, -1))
        tails = ()
        if self.config.share_qk:
            tails = (self.conv_query.init_tail(batch_size), self.conv_key.init_tail(batch_size))
        return TTTState(anchor, anchor.map(torch.zeros_like), tails, 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """2 (anchor and gathered) x the inner model's weights, and conv - 1 columns of d for each convolution:
        2 s (d f + d) for the linear kind, 2 s (8 d f + 5 d) for the MLP, whatever the number of tokens."""
        weights = sum(w.numel() for w in self.start.values())
        tails = self.conv_query.tail_size + self.conv_key.tail_size if self.config.share_qk else 0
        return batch_size * (2 * weights * self._wide.itemsize + tails * self.dtype.itemsize)

    def weights(self, state: TTTState) -> Weights:
        """The inner model as it stands after the last token read: W1 (B, h, in, out), b1, ..."""
        place = state.position % self.config.mini_batch
        return (
            moved(state.anchor, state.gathered, self.position_factor()[place - 1]) if place else Weights(state.anchor)
        )

    @property
    def norm(self) -> Norm | None:
        return Norm(self.gain.to(self._wide), self.shift.to(self._wide)) if self.config.norm else None

    @property
    def _wide(self) -> torch.dtype:
        """The dtype of the inner loop: gathered gradients are sums of small steps, which bf16 would lose."""
        return torch.promote_types(self.dtype, torch.float32)

    def _start(self) -> Weights:
        return Weights({name: w.to(self._wide) for name, w in self.start.items()})

    def position_factor(self) -> Tensor:
        """c_i for i = 1 .. the mini-batch's size."""
        if self.config.position_factor == "sum":
            return torch.ones(self.config.mini_batch, dtype=self._wide, device=self.device)
        place = torch.arange(1, self.config.mini_batch + 1, dtype=self._wide, device=self.device)
        return (1 / place + self.place.to(self._wide)).clamp_min(0)

    def advance(self, x: Tensor, state: TTTState, trace: Trace | None) -> tuple[Tensor, TTTState]:
        if x.shape[1] == 0:
            return x, state
        q, k, v, rate, tails = self.write_inputs(x, state)
        with torch.autocast(x.device.type, enabled=False):
            z, after = self.learn(q, k, v, rate, state)
            if trace is not None:
                explain(trace, self, state, q, k, v, rate)
        z = rearrange(z, "b h t f -> b t (h f)").to(x.dtype)
        y = self.post_norm(z) if self.gate is None else gated_norm(self.post_norm, z, self.gate(x), "gelu")
        return self.output(y), replace(after, tails=tails)

    def write_inputs(self, x: Tensor, state: TTTState) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple]:
        """What x (b, t, d) comes to for the inner loop: q, k, v (b, h, t, f) turned by their places, each token's rate
        l (b, h, t), and the convolutions' new tails. All but the tails in the dtype of the inner loop."""
        q, k, v, tails = self._project(x, state)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = (rearrange(u, "b t (h f) -> b h t f", h=self.config.heads).to(self._wide) for u in (q, k, v))
            if self.rotary is not None:
                q, k = (self.rotary(u, state.position, self.config.mini_batch) for u in (q, k))
            theta, beta = self.rate.weight.to(self._wide), self.rate.bias.to(self._wide)
            rate = nn.functional.linear(x.to(self._wide), theta, beta).mT.sigmoid()  # (b, h, t)
            rate = self.config.base_rate / self.config.head_dim * rate
        return q, k, v, rate, tails

    def _project(self, x: Tensor, state: TTTState) -> tuple[Tensor, Tensor, Tensor, tuple]:
        """q, k, v (b, t, d), not yet turned, and the new tails."""
        if not self.config.share_qk:
            return self.query(x), self.key(x), self.value(x), ()
        shared = self.query_key(x)
        q, query_tail = self.conv_query(shared, state.tails[0])
        k, key_tail = self.conv_key(shared, state.tails[1])
        return q, k, self.value(x), (query_tail, key_tail)

    def learn(self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        """Writes and reads every token: z (b, h, t, f) for q, k, v (b, h, t, f) and rate (b, h, t), and the state
        after the last, with the old tails."""
        tokens, size = q.shape[2], self.config.mini_batch
        anchor, gathered = (part.map(lambda w: w.to(self._wide)) for part in (state.anchor, state.gathered))
        first = min(tokens, -state.position % size)  # what is missing to the end of the open mini-batch
        last = first + (tokens - first) // size * size
        answers = []
        for start, stop in ((0, first), (first, last), (last, tokens)):
            if start < stop:
                part = (u[:, :, start:stop] for u in (q, k, v, rate))
                place = (state.position + start) % size
                z, anchor, gathered = self._read_pieces(*part, anchor, gathered, place)
                answers.append(z)
        return torch.cat(answers, dim=2), TTTState(anchor, gathered, state.tails, state.position + tokens)

    def _read_pieces(self, q, k, v, rate, anchor: Weights, gathered: Weights, place: int):
        """Tokens that begin at `place` of a mini-batch: whole mini-batches from 0, or a piece of one."""
        group = self.config.checkpoint * self.config.mini_batch
        if not group or q.shape[2] <= group or not torch.is_grad_enabled():
            return self._sequence(q, k, v, rate, anchor, gathered, place)
        answers = []
        for part in zip(*(u.split(group, dim=2) for u in (q, k, v, rate))):
            z, anchor, gathered = checkpoint(self._sequence, *part, anchor, gathered, place, use_reentrant=False)
            answers.append(z)
        return torch.cat(answers, dim=2), anchor, gathered

    def _sequence(self, q, k, v, rate, anchor: Weights, gathered: Weights, place: int):
        whole = place == 0 and q.shape[2] % self.config.mini_batch == 0
        if self.path != "reference" and whole and ttt_fast.can_run(self.inner, self.config.stop_gradient):
            z, anchor = ttt_fast.run(self.inner, self.norm, anchor, q, k, v, rate, self.position_factor())
            return z, anchor, anchor.map(torch.zeros_like)
        size, factor, answers = self.config.mini_batch, self.position_factor(), []
        if self.config.stop_gradient == "write":
            factor, k, v, rate = factor.detach(), k.detach(), v.detach(), rate.detach()
        piece = reference if self.path == "reference" else dual
        piece = partial(piece, self.inner, self.norm, stop=self.config.stop_gradient)
        for part in zip(*(u.split(size, dim=2) for u in (q, k, v, rate))):
            stop = place + part[0].shape[2]
            z, gathered = piece(anchor, gathered if place else None, *part, factor[place:stop])
            answers.append(z)
            if stop == size:
                anchor, place = moved(anchor, gathered, factor[-1]), 0
        if stop == size:
            gathered = gathered.map(torch.zeros_like)
        return torch.cat(answers, dim=2), anchor, gathered
