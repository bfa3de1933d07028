"""Memory as a layer: the memory first, then attention over a window of what the memory made of the tokens.

arXiv 2501.00663, section 4.3 (equations 29 to 31), P the persistent tokens:

    x~ = [P | x],    y = x~ + M(x~),    o = M(x) + SW-Attn(RMSNorm(y))

M is the memory with its norm, gate and projection (lmm.py). The residual paths around it and around attention follow
the paper's "in all blocks", and the norm is our choice. The path around attention carries M(x) alone, since the block
itself adds x to what the layer returns. (Without the path MAL does not learn to recall: notebook 05.) P's rows of y
are the prefix that every query sees. They are made once per text.

Axes: b batch, h heads, t tokens, s tokens in the window's cache, n persistent tokens, f head width, d model width.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.base import State
from nl_course.memories.titans.attention import Prefix
from nl_course.memories.titans.hybrid import WindowConfig, WindowHybrid
from nl_course.memories.titans.neural import NeuralState
from nl_course.memories.trace import Trace
from nl_course.roles import INTO_STREAM, Roles


@dataclass(frozen=True)
class MALConfig(WindowConfig):
    """Memory as a layer; see `WindowConfig`, `HybridConfig` and `NeuralConfig`."""


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


class MAL(WindowHybrid):
    """Titans' memory as a layer. `path` "reference" runs the inner loop by autograd, and attention over all keys at
    once.

    Traces: those of trace.py, and (b, t, d) `remembered`, RMSNorm(y), which attention reads, and `attended` o."""

    # Both end in the residual stream, unless the path around attention is left out.
    param_roles: ClassVar[Roles] = {"output.weight": INTO_STREAM, "attention.output.weight": INTO_STREAM}

    def __init__(self, config: MALConfig, path: str = "auto"):
        super().__init__(config, path)
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
            _, y, neural, conv_states = self.remember(persistent, neural, conv_states)  # eq. 29: P before x
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
        m, y, neural, conv_states = self.remember(x, state.neural, state.conv_states, trace, persistent)  # eq. 30

        own = self.attention.project(y, state.position)
        key = state.key.last(window - 1).append(own.key)  # (b, h, s, f)
        value = state.value.last(window - 1).append(own.value)
        prefix = Prefix(state.prefix_key, state.prefix_value)
        o = self.attend(own, key.columns, value.columns, prefix)  # eq. 31, (b, t, d)
        if self.config.attention_residual:
            o = m + o
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
    ) -> tuple[Tensor, Tensor, NeuralState, tuple]:
        """M(x) and RMSNorm(y), as attention reads it, (b, t, d) each, and the memory's new states."""
        m, neural, conv_states = self.neural.remember(x, neural, conv_states, trace, persistent)
        m = self.output(self.read_norm(m) * silu(self.gate(x)))
        return m, self.between_norm(x + m), neural, conv_states
