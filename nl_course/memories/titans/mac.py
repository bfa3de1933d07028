"""Memory as a context: what the memory recalls stands before each segment, and attention reads both.

arXiv 2501.00663, section 4.1 (equations 21 to 25). For the segment s_1 .. s_C, M the memory as the segment began and P
the persistent tokens, in this order:

    1.  h_i = RMSNorm(M(q(s_i)))                       retrieve one row per token; nothing is written     (eq. 21)
    2.  y_i = s_i + Attn(s_i;  P, h_1 .. h_i, s_1 .. s_i)   attend, inside this segment only         (eqs. 22, 23)
    3.  M_i = M_{i-1} after writing y_i                write; keys, values and gates are those of y       (eq. 24)
    4.  m_i = M_i(q(y_i))                              read again                                         (eq. 25)
    5.  o_i = (RMSNorm(m_i) * SiLU(W_g RMSNorm(y_i))) W_O                                                 (eq. 25)

Equations 22 and 23 print no residual path around attention, but the paper says that there are some "in all blocks", and
equation 25 leaves the form of its gate to the reader. The path and the gate's linear layer W_g are our readings;
`attention_residual` and `gate` choose. Without the path y_i is a mixture of tokens, random at first, so that the
memory's keys and values do not belong to one token. With both, and with an attention that starts from zero
(`begin_in_model`), MAC learns to recall from every seed (notebook 09); the course's earlier wiring had none of them and
did not. Notebook 05 shows the layer with each of them taken back (`nl-course record wirings`).

Two traps. On paper the attention reads [P | h | s]. In plain causal order s_1 would see the row h_C, which was
retrieved with the query of token C: a look into the future. So here s_i sees h only up to its own. And step 4 must not
read the memory as the segment left it, which has seen later tokens: it reads M_i, right after its own write. Both reads
use the same W_Q. The second has a convolution state of its own, since it follows another stream of rows. The paper
says nothing about these points, or only draws them.

Axes: b batch, h heads, t tokens, s tokens of the segment so far, f head width, d = h f model width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from nl_course.errors import check_choice, check_int
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.base import State
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.attention import Prefix, Projected, Readable, attend
from nl_course.memories.titans.hybrid import GATES, Gated, Hybrid, HybridConfig
from nl_course.memories.titans.neural import NeuralState
from nl_course.memories.trace import Trace
from nl_course.roles import INTO_STREAM, Roles


@dataclass(frozen=True)
class MACConfig(HybridConfig):
    """Memory as a context: attention inside segments of `segment` tokens, and the `gate` of step 5, see `Gated`."""

    segment: int = 64
    gate: str = "linear"

    def __post_init__(self):
        super().__post_init__()
        check_int("segment", self.segment, 1)
        check_choice("gate", self.gate, GATES)


@dataclass(frozen=True)
class MACState(State):
    """The memory's state; the weights with which this segment retrieves (`segment_memory`, the memory as the segment
    began); the convolution states of the retrieving query, and of q, k, v of the rows that are written; and what
    attention reads of the open segment (`segment_cache`): keys and values of h and of s, (b, h, s, 4 f)."""

    neural: NeuralState
    segment_memory: dict[str, Tensor]
    query_conv_state: tuple[Tensor, ...]
    conv_states: tuple[Tensor, ...]
    segment_cache: TokenCache
    position: int


class MAC(Hybrid):
    """Titans' memory as a context. `path` as for `Titans`.

    Traces: those of trace.py (their tokens are the rows y that are written), and (b, t, d) `retrieved` h, `attended` y
    and `remembered` m."""

    param_roles: ClassVar[Roles] = {"merge.output.weight": INTO_STREAM}

    def __init__(self, config: MACConfig, path: str = "auto"):
        super().__init__(config, path)
        self.recall_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.merge = Gated(config.width, config.gate)

    def begin_in_model(self) -> None:
        """With a residual path, attention starts from zero: y = s, so that the memory first learns what tokens are
        worth remembering, and attention joins in."""
        if self.config.attention_residual:
            nn.init.zeros_(self.attention.output.weight)

    def init_state(self, batch_size: int) -> MACState:
        """M_0 for writing and for retrieving, and an empty segment. (In MAC persistent tokens are read by attention,
        never written.)"""
        neural = self.neural.init_state(batch_size)
        no_tokens = self.attention.query.weight.new_empty(batch_size, self.config.heads, 0, 4 * self.config.head_dim)
        return MACState(
            neural,
            segment_memory=neural.memory,
            query_conv_state=self.neural.init_conv_states(batch_size, "q"),
            conv_states=self.neural.init_conv_states(batch_size, "qkv"),
            segment_cache=TokenCache.of(no_tokens),
            position=0,
        )

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The memory's 2 |M| numbers (3 |M| with an anchor), |M| for the weights that retrieve, 4 (conv - 1) d for the
        convolutions, and 4 d for each token of the open segment."""
        neural = self.neural.state_numbers + self.neural.weight_numbers
        cached = tokens % self.config.segment * 4 * self.width
        conv = self.neural.conv_state_numbers("qqkv")
        return batch_size * (neural * self.neural.accum_dtype.itemsize + (cached + conv) * self.dtype.itemsize)

    def advance(self, x: Tensor, state: MACState, trace: Trace | None) -> tuple[Tensor, MACState]:
        """See `Memory.advance`: x (b, t, d) -> o (b, t, d) and the new state."""
        if x.shape[1] == 0:
            return x, state
        segment = self.config.segment
        prefix = self.prefix()
        # Queries, keys and values of s need no memory, so they are made for all segments at once.
        q, query_conv_state = self.neural.read_inputs(x, state.query_conv_state)  # (b, h, t, f)
        projected = self.attention.project(x, state.position, period=segment)

        neural = state.neural
        segment_memory = state.segment_memory
        conv_states = state.conv_states
        cache = state.segment_cache
        outputs = []
        start = 0
        while start < x.shape[1]:
            # One piece: the rest of the open segment, a whole one, or the beginning of the last.
            in_segment = (state.position + start) % segment
            stop = min(x.shape[1], start + segment - in_segment)

            h = self._retrieve(segment_memory, q[:, :, start:stop])  # eq. 21, (b, t, d)
            own = projected.time_slice(start, stop)
            # A piece never crosses a segment, so its positions simply count on from `in_segment`.
            projected_h = self.attention.project(h, in_segment)
            cache = cache.append(_side_by_side(own, projected_h))  # eq. 22, (b, h, s, 4 f)
            y = self.attend(own, cache, prefix)  # eq. 23, (b, t, d)
            if self.config.attention_residual:
                y = x[:, start:stop] + y
            # Writes y (eq. 24) and reads it back with its own query, M_i(q(y_i)) in eq. 25.
            m, neural, conv_states = self.neural.remember(y, neural, conv_states, trace)
            outputs.append(self.merge(y, m))  # eq. 25, (b, t, d)

            if trace is not None:
                trace.add("retrieved", h)
                trace.add("attended", y)
                trace.add("remembered", m)
            # The next segment retrieves from what this one has written, and attention forgets this one.
            if len(cache) == segment:
                segment_memory = neural.memory
                cache = cache.last(0)
            start = stop
        position = state.position + x.shape[1]
        state = MACState(neural, segment_memory, query_conv_state, conv_states, cache, position)
        return torch.cat(outputs, dim=1), state

    def _retrieve(self, memory: Weights, q: Tensor) -> Tensor:
        """Step 1: h (b, t, d), read with q (b, h, t, f) from the memory as the segment began."""
        with torch.autocast(q.device.type, enabled=False):
            h = self.neural.read(memory, q)  # (b, h, t, f)
        h = rearrange(h, "b h t f -> b t (h f)")
        return self.recall_norm(h.to(self.dtype))

    def attend(self, own: Projected, cache: TokenCache, prefix: Prefix) -> Tensor:
        """Step 2: y (b, t, d). The cache ends with the tokens of `own`."""
        h_key, h_value, key, value = cache.columns.chunk(4, dim=-1)  # (b, h, s, f)
        tokens = own.query.shape[2]
        earlier = len(cache) - tokens
        # One mask for both: s_i sees neither a later token, nor a row that was retrieved with a later token's query.
        allowed = torch.ones(tokens, len(cache), dtype=torch.bool, device=key.device).tril(earlier)  # (t, s)
        groups = [Readable(key, value, allowed), Readable(h_key, h_value, allowed)]
        return self.attention.join_heads(attend(own, prefix, groups))


def _side_by_side(own: Projected, retrieved: Projected) -> Tensor:
    """What later tokens of the segment read of these tokens: (b, h, t, 4 f)."""
    return torch.cat([retrieved.key, retrieved.value, own.key, own.value], dim=-1)
