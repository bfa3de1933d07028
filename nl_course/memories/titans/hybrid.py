"""What MAC, MAG and MAL share: a neural memory beside attention, their merging, and parts that can be left out.

Axes: b batch, h heads, t tokens, n persistent tokens, f head width, d = h f model width.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nl_course.errors import check_choice, check_int
from nl_course.memories.base import Memory, State
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.attention import Prefix, PrefixAttention
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory, persistent_tokens

PARTS = ("memory", "attention", "persistent")


@dataclass(frozen=True)
class WindowConfig(NeuralConfig):
    """A neural memory and attention over the last `window` tokens; `rope_theta` None leaves positions out."""

    window: int = 64
    rope_theta: float | None = 10_000.0

    def __post_init__(self):
        super().__post_init__()
        check_int("window", self.window, 1)


class Hybrid(Memory):
    """A layer of a neural memory, attention and persistent tokens."""

    def __init__(self, config: NeuralConfig, path: str, rope_theta: float | None):
        super().__init__(config.width)
        self.config = config
        self._without = frozenset()
        self.neural = NeuralMemory(config, path)
        self.attention = PrefixAttention(config.width, config.heads, rope_theta)
        self.persistent = persistent_tokens(config)

    @property
    def without(self) -> frozenset[str]:
        """The parts that are left out, of "memory", "attention", "persistent", to ask what each of them is worth.

        Set it before a text begins. Shapes and the size of the state stay as they are. Raises CourseError for a part
        that is not among the three."""
        return self._without

    @without.setter
    def without(self, parts: Iterable[str]) -> None:
        self._without = frozenset(check_choice("part", part, PARTS) for part in parts)

    def persistent_rows(self) -> Tensor:
        """The persistent tokens, (1, n, d); n is 0 if there are none or they are left out."""
        if self.persistent is None or "persistent" in self.without:
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

    def forward(self, y: Tensor, m: Tensor, without: frozenset[str]) -> Tensor:
        """o (b, t, d) from y and m (b, t, d), what attention and what the memory read. A part that is left out counts
        as 1."""
        gate = torch.ones_like(m) if "memory" in without else nn.functional.silu(self.m_norm(m))
        gated = gate if "attention" in without else self.y_norm(y) * gate
        return self.output(gated)
