"""The neural memory by itself, which the paper calls LMM: a layer without attention.

arXiv 2501.00663. The learned persistent tokens P stand before every text and are written like any other token. What the
memory reads is normalized, gated and projected (section 4.4; the paper leaves the form of the gate open, this is our
choice):

    x~ = [P | x],    m_t = M_t(q_t),    y_t = (RMSNorm(m_t) * SiLU(x_t W_g)) W_O

How M_t is made from M_{t-1} stands in reference.py; mac.py, mag.py and mal.py put attention beside it.

Axes: b batch, h heads, t tokens, n persistent tokens, f head width, d = h f model width.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.memories.base import Memory, State
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory, persistent_tokens
from nl_course.memories.trace import Trace
from nl_course.roles import TOKENS, Roles


@dataclass(frozen=True)
class TitansConfig(NeuralConfig):
    """A neural memory by itself; see `NeuralConfig`."""


@dataclass(frozen=True)
class TitansState(State):
    """The neural memory's own state, and the last conv - 1 inputs of the convolutions on q, k, v, (b, conv - 1, d)
    each."""

    neural: State
    conv_states: tuple[Tensor, ...]

    @property
    def tokens_read(self) -> None:
        """Not known here: the neural memory counts its persistent tokens too."""
        return None


class Titans(Memory):
    """The paper's LMM. `path` "reference" differentiates the inner loss by autograd, one token at a time; "chunked"
    (and "auto") reads and writes a chunk at once with matrix products.

    Traces, (b, t, h, ...): those of trace.py, where `read` is M_t(q_t) before the norm and the gate."""

    param_roles: ClassVar[Roles] = {"persistent": TOKENS}
    outside_state = ("stop_gradient",)  # of the outer loop alone
    neural_memory = NeuralMemory  # a subclass may put another inner loop in its place

    def __init__(self, config: TitansConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config
        self.neural = self.neural_memory(config, path)
        self.persistent = persistent_tokens(config)
        self.read_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.gate = nn.Linear(config.width, config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    @property
    def position_period(self) -> int:
        """The chunk, which says when the anchor moves."""
        return self.config.chunk

    def init_state(self, batch_size: int) -> TitansState:
        """M_0, after the persistent tokens were written into it."""
        neural = self.neural.init_state(1)
        conv_states = self.neural.init_conv_states(1, "qkv")
        # P does not depend on the text, so it is written once, for one row, and not once per row of the batch.
        if self.persistent is not None:
            _, neural, conv_states = self.neural.remember(self.persistent[None], neural, conv_states)  # eq. 19
        return TitansState(neural, conv_states).map(lambda t: t.expand(batch_size, *t.shape[1:]))

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """2 |M| numbers for weights and momentum, |M| more for the anchor where a chunk has more than one token, and
        3 (conv - 1) d for the convolutions, however many tokens were read. |M| per head is f^2 for one layer and
        2 r f^2 + (layers - 2) r^2 f^2 for more, r being the expansion."""
        neural = self.neural.state_numbers * self.neural.accum_dtype.itemsize
        conv = self.neural.conv_state_numbers("qkv") * self.dtype.itemsize
        return batch_size * (neural + conv)

    def weights(self, state: TitansState) -> Weights:
        """The network as it stands after the last token read: W1 (b, h, in, out), W2, ..."""
        return state.neural.memory

    def recall(self, state: TitansState, k: Tensor) -> Tensor:
        """What the memory as it stands answers to keys k (b, h, n, f): (b, h, n, f). Nothing is written."""
        return self.neural.read(state.neural.memory, k)

    def advance(self, x: Tensor, state: TitansState, trace: Trace | None) -> tuple[Tensor, TitansState]:
        """See `Memory.advance`: x (b, t, d) -> y (b, t, d) and the new state."""
        if x.shape[1] == 0:
            return x, state
        persistent = self.config.persistent
        m, neural, conv_states = self.neural.remember(x, state.neural, state.conv_states, trace, persistent)
        y = self.output(self.read_norm(m) * silu(self.gate(x)))  # section 4.4, (b, t, d)
        return y, TitansState(neural, conv_states)
