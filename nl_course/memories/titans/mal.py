"""Memory as a layer: the memory first, then attention over a window of what the memory made of the tokens.

arXiv 2501.00663, section 4.3 (equations 29 to 31), P the persistent tokens:

    x~ = [P | x],    y = x~ + M(x~),    o = SW-Attn(RMSNorm(y))

M is the memory with its norm, gate and projection (lmm.py). The residual path around it follows the paper's "in all
blocks"; the norm is our choice. P's rows of y are the prefix that every query sees. They are made once per text.

Axes: b batch, h heads, t tokens, s tokens in the window's cache, n persistent tokens, f head width, d model width.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.base import State
from nl_course.memories.titans.attention import Prefix, Projected, attend_window, attend_window_blocks
from nl_course.memories.titans.hybrid import Hybrid, WindowConfig
from nl_course.memories.titans.neural import NeuralState
from nl_course.memories.trace import Trace
from nl_course.roles import INTO_STREAM, MATRIX, Roles


@dataclass(frozen=True)
class MALConfig(WindowConfig):
    """Memory as a layer; see `WindowConfig` and `NeuralConfig`."""


@dataclass(frozen=True)
class MALState(State):
    """The memory's state, the states of its convolutions, the window's rotated keys and values, (b, h, s, f), and those
    of the prefix, (b, h, n, f)."""

    neural: NeuralState
    conv_states: tuple[Tensor, ...]
    key: TokenCache
    value: TokenCache
    prefix_key: Tensor
    prefix_value: Tensor
    position: int


class MAL(Hybrid):
    """Titans' memory as a layer. `path` "reference" runs the inner loop by autograd, and attention over all keys at
    once.

    Traces: those of trace.py, and (b, t, d) `remembered`, RMSNorm(y), which attention reads, and `attended` o."""

    # The memory's own `output` stays inside the layer, where y is normalized before attention reads it.
    param_roles: ClassVar[Roles] = {"output.weight": MATRIX, "attention.output.weight": INTO_STREAM}

    def __init__(self, config: MALConfig, path: str = "auto"):
        super().__init__(config, path, config.rope_theta)
        self.read_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.between_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.gate = nn.Linear(config.width, config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def init_state(self, batch_size: int) -> MALState:
        """M_0 after the persistent tokens were written into it, their keys and values, and an empty window."""
        neural = self.neural.init_state(1)
        conv_states = self.neural.init_conv_states(1, "qkv")
        persistent = self.persistent_rows()  # (1, n, d)
        prefix = self.attention.prefix(persistent)
        # P stands before every text and does not depend on it: its rows of y are made once, for one row of the batch.
        if persistent.shape[1]:
            y, neural, conv_states = self.remember(persistent, neural, conv_states)  # eq. 29: P before x
            prefix = self.attention.prefix(y)
        no_tokens = TokenCache.of(persistent.new_empty(1, self.config.heads, 0, self.config.head_dim))
        state = MALState(
            neural,
            conv_states,
            key=no_tokens,
            value=no_tokens,
            prefix_key=prefix.key,
            prefix_value=prefix.value,
            position=0,
        )
        return state.map(lambda t: t.expand(batch_size, *t.shape[1:]))

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The memory's 2 |M| numbers (3 |M| with an anchor), 3 (conv - 1) d for its convolutions, and keys and values,
        2 d each, of the persistent tokens and of the window: as many as were read, at most `window`."""
        neural = self.neural.state_numbers * self.neural.accum_dtype.itemsize
        cached = (min(tokens, self.config.window) + self.persistent_rows().shape[1]) * 2 * self.width
        conv = self.neural.conv_state_numbers("qkv")
        return batch_size * (neural + (cached + conv) * self.dtype.itemsize)

    def advance(self, x: Tensor, state: MALState, trace: Trace | None) -> tuple[Tensor, MALState]:
        """See `Memory.advance`: x (b, t, d) -> o (b, t, d) and the new state."""
        if x.shape[1] == 0:
            return x, state
        window = self.config.window
        persistent = state.neural.position - state.position
        y, neural, conv_states = self.remember(x, state.neural, state.conv_states, trace, persistent)  # eq. 30

        own = self.attention.project(y, state.position)
        key = state.key.last(window - 1).append(own.key)  # (b, h, s, f)
        value = state.value.last(window - 1).append(own.value)
        prefix = Prefix(state.prefix_key, state.prefix_value)
        o = self.attend(own, key.columns, value.columns, prefix)  # eq. 31, (b, t, d)
        if trace is not None:
            trace.add("remembered", y)
            trace.add("attended", o)
        state = MALState(
            neural,
            conv_states,
            key=key.last(window),
            value=value.last(window),
            prefix_key=state.prefix_key,
            prefix_value=state.prefix_value,
            position=state.position + x.shape[1],
        )
        return o, state

    def remember(
        self, x: Tensor, neural: NeuralState, conv_states: tuple, trace: Trace | None = None, persistent: int = 0
    ) -> tuple[Tensor, NeuralState, tuple]:
        """RMSNorm(y) (b, t, d), as attention reads it, and the memory's new states."""
        m, neural, conv_states = self.neural.remember(x, neural, conv_states, trace, persistent)
        y = x + self.output(self.read_norm(m) * silu(self.gate(x)))
        return self.between_norm(y), neural, conv_states

    def attend(self, own: Projected, key: Tensor, value: Tensor, prefix: Prefix) -> Tensor:
        """o (b, t, d): each row of `own` reads the window before it, key and value (b, h, s, f), and the prefix."""
        read_window = attend_window if self.neural.path == "reference" else attend_window_blocks
        o = read_window(own, prefix, key, value, self.config.window)  # (b, h, t, f)
        return self.attention.join_heads(o)
