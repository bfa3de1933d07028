"""What MAC, MAG and MAL share: a neural memory beside attention, persistent tokens, and how MAC and MAG merge.

Axes: b batch, h heads, t tokens, n persistent tokens, f head width, d = h f model width.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nl_course.errors import check_int
from nl_course.memories.attention.rope import check_theta
from nl_course.memories.base import Memory, State
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.attention import Prefix, PrefixAttention
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory, persistent_tokens
from nl_course.roles import TOKENS, Roles


@dataclass(frozen=True)
class WindowConfig(NeuralConfig):
    """A neural memory and attention over the last `window` tokens; `rope_theta` None leaves positions out."""

    window: int = 64
    rope_theta: float | None = 10_000.0

    def __post_init__(self):
        super().__post_init__()
        check_int("window", self.window, 1)
        check_theta(self.rope_theta)


class Hybrid(Memory):
    """A layer of a neural memory, attention and persistent tokens."""

    param_roles: ClassVar[Roles] = {"persistent": TOKENS}
    outside_state = ("stop_gradient",)  # of the outer loop alone

    def __init__(self, config: NeuralConfig, path: str, rope_theta: float | None):
        super().__init__(config.width)
        self.config = config
        self.neural = NeuralMemory(config, path)
        self.attention = PrefixAttention(config.width, config.heads, rope_theta)
        self.persistent = persistent_tokens(config)

    def persistent_rows(self) -> Tensor:
        """The persistent tokens, (1, n, d); n is 0 if there are none."""
        if self.persistent is None:
            return self.attention.query.weight.new_zeros(1, 0, self.width)
        return self.persistent[None]

    def prefix(self) -> Prefix:
        """Keys and values of the persistent tokens."""
        return self.attention.prefix(self.persistent_rows())

    def weights(self, state: State) -> Weights:
        """The memory's network as it stands after the last token read: W1 (b, h, in, out), W2, ..."""
        return state.neural.memory


class Gated(nn.Module):
    """The merging of MAC and MAG, written (x) in the paper's equations 25 and 28: two learned scales and a nonlinear
    gate (section 4.2). The paper leaves the nonlinearity open; SiLU is our choice.

        o = (RMSNorm(y) * SiLU(RMSNorm(m))) W_O
    """

    def __init__(self, width: int):
        super().__init__()
        self.y_norm = nn.RMSNorm(width, eps=1e-6)
        self.m_norm = nn.RMSNorm(width, eps=1e-6)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        """o (b, t, d) from y and m (b, t, d), what attention and what the memory read."""
        return self.output(self.y_norm(y) * nn.functional.silu(self.m_norm(m)))
