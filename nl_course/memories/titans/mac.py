"""Memory as a context: what the long-term memory recalls stands before each segment, and attention reads both.

arXiv 2501.00663, section 4.1 (equations 21 to 25). For the segment s_1 .. s_C, M the memory as the segment began and P
the persistent tokens, in this order:

    1.  h_i = RMSNorm(M(q(s_i)))                       retrieve, one row a token, nothing is written
    2.  y_i = Attn(s_i;  P, h_1 .. h_i, s_1 .. s_i)    attend, in this segment only
    3.  M_i = M_{i-1} after writing y_i                write (keys, values and gates are y's)
    4.  m_i = M_i(q(y_i))                              read again
    5.  o_i = (RMSNorm(y_i) * SiLU(RMSNorm(m_i))) W_O

Two traps. Written on paper as [P | h | S], plain causal order would show s_1 the row h_C, which was asked with token
C's query: here s_i sees h up to its own. And step 4 may not read the memory as the segment left it, which has seen
later tokens: it reads M_i, right after its own write. Both reads use the same W_Q; the second has convolution tails of
its own, since it follows another stream of rows. In the paper all of this is silent or drawn.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from nl_course.errors import check_int
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.base import State
from nl_course.memories.titans.attention import Prefix, Rows, attend
from nl_course.memories.titans.hybrid import Gated, Hybrid
from nl_course.memories.titans.neural import NeuralConfig, NeuralState
from nl_course.memories.trace import Trace


@dataclass(frozen=True)
class MACConfig(NeuralConfig):
    """Memory as a context: attention inside segments of `segment` tokens; `rope_theta` None leaves positions out."""

    segment: int = 64
    rope_theta: float | None = 10_000.0

    def __post_init__(self):
        super().__post_init__()
        check_int("segment", self.segment, 1)


@dataclass(frozen=True)
class MACState(State):
    """The memory's state; the weights that this segment retrieves with; the tails of the retrieving query, and of q, k,
    v of the rows written; and the open segment's rows: keys and values of h and of s, (B, h, tokens, 4 f)."""

    neural: NeuralState
    recalled: dict
    query_tail: tuple
    tails: tuple
    held: TokenCache
    position: int


class MAC(Hybrid):
    """Titans' memory as a context. `path` as for `Titans`. Traces: the memory's (titans_trace.py; its tokens are the
    rows y), and (B, T, d) `retrieved` h, `attended` y and `remembered` m."""

    def __init__(self, config: MACConfig, path: str = "auto"):
        super().__init__(config, path, config.rope_theta)
        self.recall_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.merge = Gated(config.width)

    def init_state(self, batch_size: int) -> MACState:
        neural = self.neural.init_state(batch_size)
        empty = self.attention.query.weight.new_empty(batch_size, self.config.heads, 0, 4 * self.config.head_dim)
        tails = (self.neural.init_tails(batch_size, names) for names in ("q", "qkv"))
        return MACState(neural, neural.memory, *tails, TokenCache.of(empty), 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The memory's 2 |M| (3 with an anchor) numbers and |M| for the weights that retrieve, 4 (conv - 1) d for
        convolutions, and 4 d for each token of the open segment."""
        neural = self.neural.state_numbers + sum(w.numel() for w in self.neural.start.values())
        held = tokens % self.config.segment * 4 * self.width + self.neural.tail_numbers("qqkv")
        return batch_size * (neural * self.neural.wide.itemsize + held * self.dtype.itemsize)

    def advance(self, x: Tensor, state: MACState, trace: Trace | None) -> tuple[Tensor, MACState]:
        if x.shape[1] == 0:
            return x, state
        size, prefix, answers = self.config.segment, self.prefix(), []
        asked, query_tail = self.neural.read_inputs(x, state.query_tail)
        own = self.attention.rows(x, state.position, size)
        neural, recalled, tails, held, start = state.neural, state.recalled, state.tails, state.held, 0
        while start < x.shape[1]:
            stop = min(x.shape[1], start + size - (state.position + start) % size)
            h = self._retrieve(recalled, asked[:, :, start:stop])
            rows, place = own.between(start, stop), (state.position + start) % size
            held = held.append(self._kept(rows, self.attention.rows(h, place)))
            y = x[:, start:stop] if "attention" in self.cut else self._attend(rows, held, prefix)
            m, neural, tails = self.neural.remember(y, neural, tails, trace)
            if trace is not None:
                trace.add("retrieved", h)
                trace.add("attended", y)
                trace.add("remembered", m)
            answers.append(self.merge(y, m, self.cut))
            if len(held) == size:
                recalled, held = neural.memory, held.last(0)
            start = stop
        state = MACState(neural, recalled, query_tail, tails, held, state.position + x.shape[1])
        return torch.cat(answers, dim=1), state

    def _retrieve(self, recalled: dict, asked: Tensor) -> Tensor:
        """Step 1: (b, t, d)."""
        with torch.autocast(asked.device.type, enabled=False):
            h = rearrange(self.neural.read(recalled, asked), "b h t f -> b t (h f)")
        return self.recall_norm(h.to(self.dtype))

    def _kept(self, own: Rows, retrieved: Rows) -> Tensor:
        """What later tokens of the segment read of these: (b, h, t, 4 f)."""
        return torch.cat([retrieved.key, retrieved.value, own.key, own.value], dim=-1)

    def _attend(self, rows: Rows, held: TokenCache, prefix: Prefix) -> Tensor:
        """Step 2: (b, t, d)."""
        h_key, h_value, key, value = held.columns.chunk(4, dim=-1)
        tokens = rows.query.shape[2]
        allowed = torch.ones(tokens, len(held), dtype=torch.bool, device=key.device).tril(len(held) - tokens)
        groups = [(key, value, allowed)]
        if "memory" not in self.cut:
            groups.append((h_key, h_value, allowed))
        return self.attention.answer(attend(rows, prefix, groups))
