"""Memory as a gate: attention over a window and the long-term memory read the same tokens, and one gates the other.

arXiv 2501.00663, section 4.2 (equations 26 to 28), P the persistent tokens:

    x~ = [P | x],    y = SW-Attn*(x~),    m = M(x~),    o = y (x) m = (RMSNorm(y) * SiLU(RMSNorm(m))) W_O

Every query sees all of P and the last `window` tokens; the memory has no window. P is written into it before the text.
"""

from dataclasses import dataclass

from torch import Tensor

from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.base import State
from nl_course.memories.titans.attention import attend_window, attend_window_blocks
from nl_course.memories.titans.hybrid import Gated, Hybrid, WindowConfig
from nl_course.memories.titans.neural import NeuralState
from nl_course.memories.trace import Trace


@dataclass(frozen=True)
class MAGConfig(WindowConfig):
    """Memory as a gate; see `WindowConfig` and `NeuralConfig`."""


@dataclass(frozen=True)
class MAGState(State):
    """The memory's state, the tails of its convolutions, and the window's turned keys and values."""

    neural: NeuralState
    tails: tuple
    key: TokenCache
    value: TokenCache
    position: int


class MAG(Hybrid):
    """Titans' memory as a gate. `path` "reference" runs the inner loop by autograd and attention over all keys at
    once. Traces: the memory's (titans_trace.py), and (B, T, d) `attended` y and `remembered` m."""

    def __init__(self, config: MAGConfig, path: str = "auto"):
        super().__init__(config, path, config.rope_theta)
        self.merge = Gated(config.width)

    def init_state(self, batch_size: int) -> MAGState:
        neural, tails = self.neural.init_state(1), self.neural.init_tails(1, "qkv")
        persistent = self.persistent_rows()
        if persistent.shape[1]:
            _, neural, tails = self.neural.remember(persistent, neural, tails)
        empty = TokenCache.of(persistent.new_empty(1, self.config.heads, 0, self.config.head_dim))
        return MAGState(neural, tails, empty, empty, 0).map(lambda t: t.expand(batch_size, *t.shape[1:]))

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The memory's 2 |M| (3 with an anchor) numbers, 3 (conv - 1) d for its convolutions, and the window's keys
        and values, 2 d for each token held: as many as were read, at most `window`."""
        held = min(tokens, self.config.window) * 2 * self.width + self.neural.tail_numbers("qkv")
        return batch_size * (self.neural.state_numbers * self.neural.wide.itemsize + held * self.dtype.itemsize)

    def advance(self, x: Tensor, state: MAGState, trace: Trace | None) -> tuple[Tensor, MAGState]:
        if x.shape[1] == 0:
            return x, state
        window, before = self.config.window, state.neural.position - state.position
        rows = self.attention.rows(x, state.position)
        key, value = (c.last(window - 1).append(u) for c, u in ((state.key, rows.key), (state.value, rows.value)))
        attend = attend_window if self.neural.path == "reference" else attend_window_blocks
        y = self.attention.answer(attend(rows, self.prefix(), key.columns, value.columns, window))
        m, neural, tails = self.neural.remember(x, state.neural, state.tails, trace, before)
        if trace is not None:
            trace.add("attended", y)
            trace.add("remembered", m)
        state = MAGState(neural, tails, key.last(window), value.last(window), state.position + x.shape[1])
        return self.merge(y, m, self.cut), state
