"""What the memories whose state is one matrix per head have in common: everything around their recurrence.

    q, k, v = x W_q, x W_k, x W_v        (some: a short causal convolution over each, SiLU, q and k of length 1)
    S, o    = the recurrence, per head   (linear.py, delta.py)
    y       = (RMSNorm(o) * SiLU(x W_g)) W_o     (the gate where the paper has one)

The state is S (b, h, d_k, d_v), in float32 at least, and the last inputs of the convolution: the same size for ever.
No read is scaled by d_k^(-1/2): normalizing it makes a scale meaningless. (Other code scales; mind it when
comparing.)
Axes: b batch, h heads, g heads of queries and keys (mostly h too), t time, d_k head width of queries and keys, d_v of
values.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nl_course.errors import CourseError, check_bool, check_choice, check_int
from nl_course.memories.base import Memory, State
from nl_course.memories.common.conv import CausalConv
from nl_course.memories.common.inner_model import unit
from nl_course.memories.linear.chunks import decay_between, hebb_chunked
from nl_course.memories.trace import Trace

MATRIX_PATHS = ("auto", "reference", "chunked")


@dataclass(frozen=True)
class MatrixConfig:
    """Sizes of one layer: `heads` matrices of `head_dim` x `value_dim` (both width / heads if not given).
    `chunk` tokens are read at once (a matter of speed only), `conv` is the width of the convolution on q, k
    and v (0: none), `gate` multiplies what is read by SiLU(x W_g). With `key_heads`, a divisor of `heads`, there are
    only so many heads of queries and keys, and each serves heads / key_heads matrices, one after another, as in
    Qwen3-Next. Raises CourseError for sizes that do not fit."""

    width: int
    heads: int
    head_dim: int | None = None
    value_dim: int | None = None
    chunk: int = 64
    conv: int = 0
    gate: bool = False
    key_heads: int | None = None

    def __post_init__(self):
        check_int("width", self.width, 1)
        check_int("heads", self.heads, 1)
        check_int("chunk", self.chunk, 1)
        check_int("conv", self.conv, 0)
        check_bool("gate", self.gate)
        if self.head_dim is None:
            if self.width % self.heads:
                raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}; give head_dim too.")
            object.__setattr__(self, "head_dim", self.width // self.heads)
        if self.value_dim is None:
            object.__setattr__(self, "value_dim", self.head_dim)
        check_int("head_dim", self.head_dim, 1)
        check_int("value_dim", self.value_dim, 1)
        if self.key_heads is None:
            object.__setattr__(self, "key_heads", self.heads)
        check_int("key_heads", self.key_heads, 1)
        if self.heads % self.key_heads:
            raise CourseError(f"key_heads must divide heads ({self.heads}): {self.key_heads} does not.")


@dataclass(frozen=True)
class MatrixState(State):
    """The matrices S (B, h, d_k, d_v), the convolution's last inputs (B, taps - 1, features) or None without one, and
    how many tokens were read."""

    matrix: Tensor
    conv_state: Tensor | None
    position: int


class MatrixMemory(Memory):
    """Projections in, recurrence, projection out. Subclasses define the recurrence twice, `token_by_token`
    (path "reference") and `by_chunks` (path "chunked"; "auto" is this, and token by token for a single token).

    Traces per token and head: `step_size`, `retention`, `loss_before` and `loss_after` (|k S - v|^2 with the
    matrix before and after the token's own write), `write_norm`, all (B, T, h); `key` (B, T, h, d_k), `value`
    and `read` (B, T, h, d_v); and `weights` (B, T, h, positions), the share of each past value in each read.
    Weights of tokens that an earlier call read are not a number: the state keeps no token apart. From an empty
    state, `weights` @ `value` is `read`. A memory with a gate for every channel traces `retention` (B, T, h, d_k).
    """

    outside_state = ("chunk",)  # a matter of speed
    activation = "none"  # of q, k and v, after the convolution
    unit_keys = False  # whether q and k are scaled to length 1

    def __init__(self, config: MatrixConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config
        self.path = check_choice("path", path, MATRIX_PATHS)
        keys, values = config.key_heads * config.head_dim, config.heads * config.value_dim
        self.query = nn.Linear(config.width, keys, bias=False)
        self.key = nn.Linear(config.width, keys, bias=False)
        self.value = nn.Linear(config.width, values, bias=False)
        # One convolution over q, k and v side by side is three, since every feature has its own taps.
        taps = dict(kernel=config.conv, bias=False, activation=self.activation)
        self.conv = CausalConv(2 * keys + values, **taps) if config.conv else None
        self.gate = nn.Linear(config.width, values, bias=False) if config.gate else None
        self.norm = nn.RMSNorm(config.value_dim, eps=1e-6)
        self.output = nn.Linear(values, config.width, bias=False)

    @property
    def accum_dtype(self) -> torch.dtype:
        """Of the matrix: the recurrence adds up a whole past, which needs float32 at least."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def position_period(self) -> int | None:
        """1: a matrix and its gates know nothing of positions."""
        return 1

    # -- what a subclass is asked for ----------------------------------------------------------------------------
    def queries_and_keys(self, q: Tensor, k: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """q, k (b, h, t, d_k) as the memory uses them; the first of these tokens stands at `position`."""
        return (unit(q), unit(k)) if self.unit_keys else (q, k)

    def gates(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """x (b, t, width) -> step size and log retention of each token and head, (b, h, t), float32 at least; None for
        a step of 1, and for a log of 0."""
        return None, None

    def token_by_token(
        self, q: Tensor, k: Tensor, v: Tensor, step: Tensor | None, log_a: Tensor | None, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The recurrence as the paper writes it: q, k (b, h, t, d_k), v (b, h, t, d_v), gates as `gates` gives them,
        S (b, h, d_k, d_v) -> o (b, h, t, d_v) and the last S."""
        raise NotImplementedError

    def by_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, step: Tensor | None, log_a: Tensor | None, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same numbers from a few large products: see `token_by_token`."""
        raise NotImplementedError

    def writes(self, k: Tensor, v: Tensor, step: Tensor | None, log_a: Tensor | None, S: Tensor) -> Tensor:
        """What each token ties to its key, (b, h, t, d_v): in Hebb's rule the value itself."""
        return v

    def weights(self, q: Tensor, k: Tensor, step: Tensor | None, log_a: Tensor | None) -> Tensor:
        """The share of each value in each read, (b, h, t, t)."""
        return self.scores(q, k, log_a)

    def scores(self, q: Tensor, k: Tensor, log_a: Tensor | None) -> Tensor:
        """How much of each write each read meets, 0 for later ones: q, k (b, h, t, d_k) -> (b, h, t, t)."""
        scores = q @ k.mT  # (b, h, t, t)
        return scores.tril() if log_a is None else scores * decay_between(log_a)

    def hebb(self, q: Tensor, k: Tensor, w: Tensor, log_a: Tensor | None, S: Tensor) -> Tensor:
        """What q reads, (b, h, t, d_v), where each token ties w (b, h, t, d_v) to its key and looks up nothing."""
        return hebb_chunked(q, k, w, log_a, S, self.config.chunk)[0]

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """What was read, y (b, t, h d_v), times SiLU(x W_g), where there is a gate."""
        return y if self.gate is None else y * silu(self.gate(x))

    # -- the memory ----------------------------------------------------------------------------------------------
    def init_state(self, batch_size: int) -> MatrixState:
        """Empty matrices (B, h, d_k, d_v), and zeros before the convolution's first token."""
        c = self.config
        matrix = torch.zeros(batch_size, c.heads, c.head_dim, c.value_dim, dtype=self.accum_dtype, device=self.device)
        return MatrixState(matrix, None if self.conv is None else self.conv.init_state(batch_size), 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """h d_k d_v numbers of float32 at least, and (taps - 1) (2 g d_k + h d_v) for the convolution."""
        c = self.config
        matrix = c.heads * c.head_dim * c.value_dim * self.accum_dtype.itemsize
        conv_state = 0 if self.conv is None else self.conv.state_size * self.dtype.itemsize
        return batch_size * (matrix + conv_state)

    def advance(self, x: Tensor, state: MatrixState, trace: Trace | None) -> tuple[Tensor, MatrixState]:
        """x (b, t, width) -> y (b, t, width), and the state after the last token."""
        tokens = x.shape[1]
        if tokens == 0:
            return x, state
        q, k, v, conv_state = self.project(x, state)
        step, log_a = self.gates(x)  # (b, h, t) each, or None
        # Autocast would multiply in bf16, and a sum over a whole past would lose what is small in it.
        with torch.autocast(x.device.type, enabled=False):
            S = state.matrix.to(self.accum_dtype)
            q, k, v = q.to(S.dtype), k.to(S.dtype), v.to(S.dtype)
            # For one token the chunked form is the same step with more overhead.
            by_token = self.path == "reference" or (self.path == "auto" and tokens == 1)
            recurrence = self.token_by_token if by_token else self.by_chunks
            o, S = recurrence(q, k, v, step, log_a, S)  # (b, h, t, d_v), (b, h, d_k, d_v)
            if trace is not None:
                self._explain(trace, q, k, v, step, log_a, state, o)
        # Each head is normalized by itself, before the heads stand side by side.
        y = rearrange(self.norm(o.to(x.dtype)), "b h t d -> b t (h d)")  # (b, t, h d_v)
        y = self.gated(y, x)
        return self.output(y), MatrixState(S, conv_state, state.position + tokens)

    def project(self, x: Tensor, state: MatrixState) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (b, t, width) -> q, k (b, h, t, d_k), v (b, h, t, d_v) as the recurrence takes them, and the last inputs
        of the convolution for the next call (b, taps - 1, 2 g d_k + h d_v)."""
        c, conv_state = self.config, state.conv_state
        qkv = torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)  # (b, t, 2 g d_k + h d_v)
        if self.conv is not None:
            qkv, conv_state = self.conv(qkv, conv_state)  # its activation is applied inside
        elif self.activation == "silu":
            qkv = silu(qkv)
        keys = c.key_heads * c.head_dim
        q, k, v = qkv.split([keys, keys, c.heads * c.value_dim], dim=-1)  # (b, t, g d_k) twice, (b, t, h d_v)
        q, k = (rearrange(z, "b t (g d) -> b g t d", g=c.key_heads) for z in (q, k))  # (b, g, t, d_k)
        v = rearrange(v, "b t (h d) -> b h t d", h=c.heads)  # (b, h, t, d_v)
        q, k = self.queries_and_keys(q, k, state.position)
        if c.key_heads < c.heads:
            # Neighboring matrices share a head of keys: key head 0 serves matrices 0 to heads / key_heads - 1.
            q, k = (z.repeat_interleave(c.heads // c.key_heads, dim=1) for z in (q, k))  # (b, h, t, d_k)
        return q, k, v, conv_state

    @torch.no_grad()
    def _explain(
        self,
        trace: Trace,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        step: Tensor | None,
        log_a: Tensor | None,
        state: MatrixState,
        o: Tensor,
    ) -> None:
        """All traces follow from the writes w, since any of these memories is Hebb's rule on (k, w)."""
        S = state.matrix

        def add(name: str, value: Tensor) -> None:
            """A trace has time on axis 1: (b, h, t, ...) -> (b, t, h, ...)."""
            trace.add(name, value.transpose(1, 2))

        one = torch.ones_like(k[..., 0])  # (b, h, t)
        add("step_size", one if step is None else step)
        add("retention", one if log_a is None else log_a.exp())
        add("key", k)
        add("value", v)
        add("read", o)
        if trace.wants("write_norm") or trace.wants("loss_before") or trace.wants("loss_after"):
            w = self.writes(k, v, step, log_a, S)  # (b, h, t, d_v)
            # A read with the token's own key is what the memory says under it after the write.
            after = self.hebb(k, k, w, log_a, S)  # (b, h, t, d_v)
            # Reading with the next token's key is the look-up before that token's write.
            older = None if log_a is None else log_a[:, :, :-1]
            before = k[:, :, :1] @ S  # (b, h, 1, d_v)
            if k.shape[2] > 1:
                later = self.hebb(k[:, :, 1:], k[:, :, :-1], w[:, :, :-1], older, S)
                before = torch.cat([before, later], dim=2)  # (b, h, t, d_v)
            # The change k^T w of the matrix has this norm: it is an outer product.
            add("write_norm", k.norm(dim=-1) * w.norm(dim=-1))
            add("loss_before", (before - v).square().sum(-1))
            add("loss_after", (after - v).square().sum(-1))
        if trace.wants("weights"):
            unknown = (state.position, 0)  # columns before the first, for tokens of earlier calls
            weights = self.weights(q, k, step, log_a)  # (b, h, t, t)
            add("weights", pad(weights, unknown, value=torch.nan))  # (b, h, t, positions)
