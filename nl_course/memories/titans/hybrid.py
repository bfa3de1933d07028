"""What MAC, MAG and MAL have in common: a neural memory beside attention, and parts that can be left out.

Axes: b batch, h heads, t tokens, n persistent tokens, f head width, d width.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nl_course.errors import check_choice, check_int
from nl_course.memories.base import Memory
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
    """A layer of a neural memory, attention and persistent tokens. `cut` names parts that are left out, for the
    lesson that asks what each is worth: set it before a text begins. Nothing else changes, shapes and state least."""

    def __init__(self, config: NeuralConfig, path: str, rope_theta: float | None):
        super().__init__(config.width)
        self.config, self._cut = config, frozenset()
        self.neural = NeuralMemory(config, path)
        self.attention = PrefixAttention(config.width, config.heads, rope_theta)
        self.persistent = persistent_tokens(config)

    @property
    def cut(self) -> frozenset[str]:
        """The parts left out, of "memory", "attention", "persistent"."""
        return self._cut

    @cut.setter
    def cut(self, parts: Iterable[str]) -> None:
        self._cut = frozenset(check_choice("part", part, PARTS) for part in parts)

    def persistent_rows(self) -> Tensor:
        """(1, n, d); none if there are none or they are cut."""
        if self.persistent is None or "persistent" in self.cut:
            return self.attention.query.weight.new_zeros(1, 0, self.width)
        return self.persistent[None]

    def prefix(self) -> Prefix:
        return self.attention.prefix(self.persistent_rows())

    def weights(self, state) -> dict[str, Tensor]:
        """The memory's network as it stands after the last token read: W1 (B, h, in, out), W2, ..."""
        return state.neural.memory


class Gated(nn.Module):
    """o = (RMSNorm(y) * SiLU(RMSNorm(m))) W_O: two learned scales and a non-linear gate (section 4.2; SiLU is
    our choice). A part that is cut counts as 1."""

    def __init__(self, width: int):
        super().__init__()
        self.y_norm, self.m_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, y: Tensor, m: Tensor, cut: frozenset[str]) -> Tensor:
        """y, m (b, t, d): what attention and what the memory say."""
        gate = torch.ones_like(m) if "memory" in cut else nn.functional.silu(self.m_norm(m))
        return self.output(gate if "attention" in cut else self.y_norm(y) * gate)
