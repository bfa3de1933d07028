"""Memory as a gate: attention over a window and the memory read the same tokens, and one gates the other.

arXiv 2501.00663, section 4.2 (equations 26 to 28), P the persistent tokens:

    x~ = [P | x],    y = x + SW-Attn*(x~),    m = M(x~),    o = y (x) m = (RMSNorm(m) * SiLU(W_g RMSNorm(y))) W_O

Every query sees all of P and the last `window` tokens; the memory has no window. P is written into the memory before
the text. The residual path around attention follows the paper's "in all blocks", and the gate has the layer of its
section 4.4: both are readings of ours, the same as in MAC.

Axes: b batch, h heads, t tokens, s tokens in the window's cache, n persistent tokens, f head width, d model width.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nl_course.errors import check_choice
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.base import State
from nl_course.memories.titans.hybrid import GATES, Gated, WindowConfig, WindowHybrid
from nl_course.memories.titans.neural import NeuralState
from nl_course.memories.trace import Trace
from nl_course.roles import INTO_STREAM, Roles


@dataclass(frozen=True)
class MAGConfig(WindowConfig):
    """Memory as a gate, whose form is `gate`, see `Gated`. See also `WindowConfig` and `NeuralConfig`."""

    gate: str = "linear"

    def __post_init__(self):
        super().__post_init__()
        check_choice("gate", self.gate, GATES)


@dataclass(frozen=True)
class MAGState(State):
    """The memory's state, the states of its convolutions, and the window's rotated keys and values, (b, h, s, f)."""

    neural: NeuralState
    conv_states: tuple[Tensor, ...]
    key: TokenCache
    value: TokenCache
    position: int


class MAG(WindowHybrid):
    """Titans' memory as a gate. `path` "reference" runs the inner loop by autograd, and attention over all keys at
    once.

    Traces: those of trace.py, and (b, t, d) `attended` y and `remembered` m."""

    param_roles: ClassVar[Roles] = {"merge.output.weight": INTO_STREAM}

    def __init__(self, config: MAGConfig, path: str = "auto"):
        super().__init__(config, path)
        self.merge = Gated(config.width, config.gate)

    def init_state(self, batch_size: int) -> MAGState:
        """M_0 after the persistent tokens were written into it, and an empty window."""
        neural = self.neural.init_state(1)
        conv_states = self.neural.init_conv_states(1, "qkv")
        persistent = self.persistent_rows()  # (1, n, d)
        # P does not depend on the text, so it is written once, for one row.
        if persistent.shape[1]:
            _, neural, conv_states = self.neural.remember(persistent, neural, conv_states)  # eq. 26: P before x
        no_tokens = TokenCache.of(persistent.new_empty(1, self.config.heads, 0, self.config.head_dim))
        state = MAGState(neural, conv_states, key=no_tokens, value=no_tokens, position=0)
        return state.map(lambda t: t.expand(batch_size, *t.shape[1:]))

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The memory's 2 |M| numbers (3 |M| with an anchor), 3 (conv - 1) d for its convolutions, and the window's keys
        and values, 2 d for each token in it: as many as were read, at most `window`."""
        neural = self.neural.state_numbers * self.neural.accum_dtype.itemsize
        cached = min(tokens, self.config.window) * 2 * self.width
        conv = self.neural.conv_state_numbers("qkv")
        return batch_size * (neural + (cached + conv) * self.dtype.itemsize)

    def advance(self, x: Tensor, state: MAGState, trace: Trace | None) -> tuple[Tensor, MAGState]:
        """See `Memory.advance`: x (b, t, d) -> o (b, t, d) and the new state."""
        if x.shape[1] == 0:
            return x, state
        window = self.config.window
        persistent = state.neural.position - state.position

        # The first of the new queries reads itself and the window - 1 tokens before it: more is not needed.
        own = self.attention.project(x, state.position)
        key = state.key.last(window - 1).append(own.key)  # (b, h, s, f)
        value = state.value.last(window - 1).append(own.value)
        y = self.attend(own, key.columns, value.columns, self.prefix())  # eq. 27, (b, t, d)
        if self.config.attention_residual:
            y = x + y

        m, neural, conv_states = self.neural.remember(x, state.neural, state.conv_states, trace, persistent)
        o = self.merge(y, m)  # eq. 28, (b, t, d)
        if trace is not None:
            trace.add("attended", y)
            trace.add("remembered", m)
        position = state.position + x.shape[1]
        return o, MAGState(neural, conv_states, key.last(window), value.last(window), position)
