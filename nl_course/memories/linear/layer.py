"""What the memories whose state is one matrix a head have in common: everything around their recurrence.

    q, k, v = x W_q, x W_k, x W_v        (some: a short causal convolution over each, SiLU, q and k of length 1)
    S, o    = the recurrence, per head   (linear.py, delta.py)
    y       = (RMSNorm(o) * SiLU(x W_g)) W_o     (the gate where the paper has one)

The state is S (b, h, d_k, d_v), in float32 at least, and the convolution's tail: the same size for ever.
No read is scaled by d_k^(-1/2): normalising it makes a scale meaningless. (Other code scales; mind it when
comparing.)
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.memories.base import Memory, State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.linear.chunks import decay_between, hebb_chunked
from nl_course.memories.trace import Trace

PATHS = ("auto", "reference", "chunked")


@dataclass(frozen=True)
class MatrixConfig:
    """Sizes of one layer: `heads` matrices of `head_dim` x `value_dim` (both width / heads if not given).
    `chunk` tokens are read at once (a matter of speed only), `conv` is the width of the convolution on q, k
    and v (0: none), `gate` multiplies what is read by SiLU(x W_g)."""

    width: int
    heads: int
    head_dim: int | None = None
    value_dim: int | None = None
    chunk: int = 64
    conv: int = 0
    gate: bool = False

    def __post_init__(self):
        check_int("width", self.width, 1)
        check_int("heads", self.heads, 1)
        check_int("chunk", self.chunk, 1)
        check_int("conv", self.conv, 0)
        if self.head_dim is None:
            if self.width % self.heads:
                raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}; give head_dim too.")
            object.__setattr__(self, "head_dim", self.width // self.heads)
        if self.value_dim is None:
            object.__setattr__(self, "value_dim", self.head_dim)
        check_int("head_dim", self.head_dim, 1)
        check_int("value_dim", self.value_dim, 1)


@dataclass(frozen=True)
class MatrixState(State):
    """The matrices S (B, h, d_k, d_v), the convolution's tail (B, taps - 1, features) or None, and how many
    tokens were read."""

    matrix: Tensor
    tail: Tensor | None
    position: int


class MatrixMemory(Memory):
    """Projections in, recurrence, projection out. Subclasses define the recurrence twice, `token_by_token`
    (path "reference") and `by_chunks` (path "chunked"; "auto" is this, and token by token for a single token).

    Traces per token and head: `step_size`, `retention`, `loss_before` and `loss_after` (|k S - v|^2 with the
    matrix before and after the token's own write), `write_norm`, all (B, T, h); `value` and `read` (B, T, h,
    d_v); and `weights` (B, T, h, positions), the share of each past value in each read. Weights of tokens
    that an earlier call read are not a number: the state keeps no token apart. From an empty state, `weights`
    @ `value` is `read`.
    """

    activation = "none"  # of q, k and v, after the convolution
    unit_keys = False  # whether q and k are scaled to length 1

    def __init__(self, config: MatrixConfig, path: str = "auto"):
        super().__init__(config.width)
        c, self.config, self.path = config, config, check_choice("path", path, PATHS)
        keys, values = c.heads * c.head_dim, c.heads * c.value_dim
        self.query = nn.Linear(c.width, keys, bias=False)
        self.key = nn.Linear(c.width, keys, bias=False)
        self.value = nn.Linear(c.width, values, bias=False)
        # One convolution over q, k and v side by side is three, since every feature has its own taps.
        taps = dict(kernel=c.conv, bias=False, activation=self.activation)
        self.conv = CausalConv(2 * keys + values, **taps) if c.conv else None
        self.gate = nn.Linear(c.width, values, bias=False) if c.gate else None
        self.norm = nn.RMSNorm(c.value_dim, eps=1e-6)
        self.output = nn.Linear(values, c.width, bias=False)

    # -- what a subclass is asked for ----------------------------------------------------------------------------
    def queries_and_keys(self, q: Tensor, k: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """q, k (b, h, t, d_k) as the memory uses them."""
        return (unit(q), unit(k)) if self.unit_keys else (q, k)

    def gates(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Step size and log retention of each token and head, (b, h, t), float32 at least; None for 1 and for 0."""
        return None, None

    def token_by_token(self, q, k, v, step, log_a, S) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def by_chunks(self, q, k, v, step, log_a, S) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def writes(self, k, v, step, log_a, S) -> Tensor:
        """What each token ties to its key, (b, h, t, d_v): in Hebb's rule the value itself."""
        return v

    def weights(self, q, k, step, log_a) -> Tensor:
        """The share of each value in each read, (b, h, t, t)."""
        return (q @ k.mT).tril() if log_a is None else q @ k.mT * decay_between(log_a)

    # -- the memory ----------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> MatrixState:
        c = self.config
        dtype = torch.promote_types(self.dtype, torch.float32)
        matrix = torch.zeros(batch_size, c.heads, c.head_dim, c.value_dim, dtype=dtype, device=self.device)
        return MatrixState(matrix, None if self.conv is None else self.conv.init_tail(batch_size), 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """h d_k d_v numbers of float32 at least, and (taps - 1) (2 h d_k + h d_v) for the convolution."""
        c, wide = self.config, torch.promote_types(self.dtype, torch.float32)
        tail = 0 if self.conv is None else self.conv.tail_size * self.dtype.itemsize
        return batch_size * (c.heads * c.head_dim * c.value_dim * wide.itemsize + tail)

    def advance(self, x: Tensor, state: MatrixState, trace: Trace | None) -> tuple[Tensor, MatrixState]:
        tokens = x.shape[1]
        if tokens == 0:
            return x, state
        q, k, v, tail = self.project(x, state)
        step, log_a = self.gates(x)
        # The recurrence adds up a whole past: at least float32 in here, autocast or not.
        with torch.autocast(x.device.type, enabled=False):
            S = state.matrix.to(torch.promote_types(self.dtype, torch.float32))
            q, k, v = q.to(S.dtype), k.to(S.dtype), v.to(S.dtype)
            slow = self.path == "reference" or (self.path == "auto" and tokens == 1)
            o, S = (self.token_by_token if slow else self.by_chunks)(q, k, v, step, log_a, S)
            if trace is not None:
                self._explain(trace, q, k, v, step, log_a, state, o)
        y = rearrange(self.norm(o.to(x.dtype)), "b h t d -> b t (h d)")
        if self.gate is not None:
            y = y * silu(self.gate(x))
        return self.output(y), MatrixState(S, tail, state.position + tokens)

    def project(self, x: Tensor, state: MatrixState) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (b, t, width) -> q, k (b, h, t, d_k), v (b, h, t, d_v) as the recurrence takes them, and the next
        tail."""
        c, tail = self.config, state.tail
        qkv = torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)
        if self.conv is not None:
            qkv, tail = self.conv(qkv, tail)
        elif self.activation == "silu":
            qkv = silu(qkv)
        keys = c.heads * c.head_dim
        q, k, v = qkv.split([keys, keys, c.heads * c.value_dim], dim=-1)
        q, k, v = (rearrange(z, "b t (h d) -> b h t d", h=c.heads) for z in (q, k, v))
        return *self.queries_and_keys(q, k, state.position), v, tail

    @torch.no_grad()
    def _explain(self, trace: Trace, q, k, v, step, log_a, state: MatrixState, o: Tensor) -> None:
        """All traces follow from the writes w, since any of these memories is Hebb's rule on (k, w)."""
        S, chunk = state.matrix, self.config.chunk

        def add(name: str, value: Tensor) -> None:
            trace.add(name, value.transpose(1, 2))

        one = torch.ones_like(k[..., 0])
        add("step_size", one if step is None else step)
        add("retention", one if log_a is None else log_a.exp())
        add("value", v)
        add("read", o)
        if trace.wants("write_norm") or trace.wants("loss_before") or trace.wants("loss_after"):
            w = self.writes(k, v, step, log_a, S)
            after = hebb_chunked(k, k, w, log_a, S, chunk)[0]
            # Reading with the next token's key is the look-up before that token's write.
            older = None if log_a is None else log_a[:, :, :-1]
            before = k[:, :, :1] @ S
            if k.shape[2] > 1:
                later = hebb_chunked(k[:, :, 1:], k[:, :, :-1], w[:, :, :-1], older, S, chunk)[0]
                before = torch.cat([before, later], dim=2)
            add("write_norm", k.norm(dim=-1) * w.norm(dim=-1))
            add("loss_before", (before - v).square().sum(-1))
            add("loss_after", (after - v).square().sum(-1))
        if trace.wants("weights"):
            unknown = (state.position, 0)
            add("weights", pad(self.weights(q, k, step, log_a), unknown, value=torch.nan))


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last axis. A small constant under the root keeps a zero vector zero, with a finite
    gradient."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)
