"""Memory as a layer: the long-term memory first, then attention over a window of what it made of the tokens.

arXiv 2501.00663, section 4.3 (equations 29 to 31), P the persistent tokens:

    x~ = [P | x],    y = x~ + M(x~),    o = SW-Attn(RMSNorm(y))

M is the memory with its norm, gate and projection (titans.py). The residual path around it follows the paper's "in all
blocks"; the norm is our choice. P's rows of y are the prefix that every query sees: they are made once a text.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.base import State
from nl_course.memories.titans.attention import Prefix, attend_window, attend_window_blocks
from nl_course.memories.titans.hybrid import Hybrid, WindowConfig
from nl_course.memories.titans.neural import NeuralState
from nl_course.memories.trace import Trace


@dataclass(frozen=True)
class MALConfig(WindowConfig):
    """Memory as a layer; see `WindowConfig` and `NeuralConfig`."""


@dataclass(frozen=True)
class MALState(State):
    """The memory's state and tails, the window's turned keys and values, and the prefix's, (B, h, n, f)."""

    neural: NeuralState
    tails: tuple
    key: TokenCache
    value: TokenCache
    prefix_key: Tensor
    prefix_value: Tensor
    position: int


class MAL(Hybrid):
    """Titans' memory as a layer. `path` "reference" runs the inner loop by autograd and attention over all keys at
    once. Traces: the memory's (titans_trace.py), and (B, T, d) `remembered` y and `attended` o before its
    projection's residual."""

    def __init__(self, config: MALConfig, path: str = "auto"):
        super().__init__(config, path, config.rope_theta)
        width = config.width
        self.read_norm, self.between_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.gate, self.output = (nn.Linear(width, width, bias=False) for _ in range(2))

    def init_state(self, batch_size: int) -> MALState:
        neural, tails, persistent = self.neural.init_state(1), self.neural.init_tails(1, "qkv"), self.persistent_rows()
        prefix = self.attention.prefix(persistent)
        if persistent.shape[1]:
            y, neural, tails = self._remember(persistent, neural, tails)
            prefix = self.attention.prefix(y)
        empty = TokenCache.of(persistent.new_empty(1, self.config.heads, 0, self.config.head_dim))
        state = MALState(neural, tails, empty, empty, *prefix, 0)
        return state.map(lambda t: t.expand(batch_size, *t.shape[1:]))

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The memory's 2 |M| (3 with an anchor) numbers, 3 (conv - 1) d for its convolutions, and keys and values, 2 d
        each, of the persistent tokens and of the window: as many as were read, at most `window`."""
        rows = min(tokens, self.config.window) + self.persistent_rows().shape[1]
        held = rows * 2 * self.width + self.neural.tail_numbers("qkv")
        return batch_size * (self.neural.state_numbers * self.neural.wide.itemsize + held * self.dtype.itemsize)

    def advance(self, x: Tensor, state: MALState, trace: Trace | None) -> tuple[Tensor, MALState]:
        if x.shape[1] == 0:
            return x, state
        window, before = self.config.window, state.neural.position - state.position
        y, neural, tails = self._remember(x, state.neural, state.tails, trace, before)
        rows = self.attention.rows(y, state.position)
        key, value = (c.last(window - 1).append(u) for c, u in ((state.key, rows.key), (state.value, rows.value)))
        if "attention" in self.cut:
            o = y
        else:
            attend = attend_window if self.neural.path == "reference" else attend_window_blocks
            prefix = Prefix(state.prefix_key, state.prefix_value)
            o = self.attention.answer(attend(rows, prefix, key.columns, value.columns, window))
        if trace is not None:
            trace.add("remembered", y)
            trace.add("attended", o)
        key, value, position = key.last(window), value.last(window), state.position + x.shape[1]
        return o, MALState(neural, tails, key, value, state.prefix_key, state.prefix_value, position)

    def _remember(self, x: Tensor, neural: NeuralState, tails: tuple, trace: Trace | None = None, before: int = 0):
        """y as attention reads it, (b, t, d)."""
        m, neural, tails = self.neural.remember(x, neural, tails, trace, before)
        if "memory" not in self.cut:
            x = x + self.output(self.read_norm(m) * silu(self.gate(x)))
        return self.between_norm(x), neural, tails
