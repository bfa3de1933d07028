"""What MAC, MAG and MAL share: a neural memory beside attention, persistent tokens, and how MAC and MAG merge.

Axes: b batch, h heads, t tokens, n persistent tokens, f head width, d = h f model width.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.errors import check_bool, check_int
from nl_course.memories.attention.rope import check_theta
from nl_course.memories.base import Memory, State
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.attention import Prefix, PrefixAttention, Projected, attend_window, attend_window_blocks
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory, persistent_tokens
from nl_course.roles import TOKENS, Roles

GATES = ("linear", "vectors")


@dataclass(frozen=True)
class HybridConfig(NeuralConfig):
    """A neural memory and attention. `rope_theta` None leaves positions out; `attention_residual` False leaves out the
    residual path around attention."""

    rope_theta: float | None = 10_000.0
    attention_residual: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_theta(self.rope_theta)
        check_bool("attention_residual", self.attention_residual)


@dataclass(frozen=True)
class WindowConfig(HybridConfig):
    """A neural memory and attention over the last `window` tokens; see `HybridConfig`."""

    window: int = 64

    def __post_init__(self):
        super().__post_init__()
        check_int("window", self.window, 1)


class Hybrid(Memory):
    """A layer of a neural memory, attention and persistent tokens."""

    param_roles: ClassVar[Roles] = {"persistent": TOKENS}
    outside_state = ("stop_gradient",)  # of the outer loop alone

    def __init__(self, config: HybridConfig, path: str):
        super().__init__(config.width)
        self.config = config
        self.neural = NeuralMemory(config, path)
        self.attention = PrefixAttention(config.width, config.heads, config.rope_theta)
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


class WindowHybrid(Hybrid):
    """A hybrid whose attention reads the last `window` tokens and the persistent ones: MAG and MAL."""

    config: WindowConfig

    def attend(self, own: Projected, key: Tensor, value: Tensor, prefix: Prefix) -> Tensor:
        """Each row of `own` reads the window before it, key and value (b, h, s, f), and the prefix: (b, t, d)."""
        read_window = attend_window if self.neural.path == "reference" else attend_window_blocks
        y = read_window(own, prefix, key, value, self.config.window)  # (b, h, t, f)
        return self.attention.join_heads(y)


class Gated(nn.Module):
    """The merging of MAC and MAG, written (x) in the paper's equations 25 and 28. Section 4.2 asks for two learned
    scales and a nonlinear gate, section 4.4 for "gating with a linear layer". The rest is not said; SiLU is our choice.

        gate "linear"     o = (RMSNorm(m) * SiLU(W_g RMSNorm(y))) W_O     the memory's output passes the gate, as in LMM
        gate "vectors"    o = (RMSNorm(y) * SiLU(RMSNorm(m))) W_O         the two scales alone
    """

    def __init__(self, width: int, gate: str = "linear"):
        super().__init__()
        self.y_norm = nn.RMSNorm(width, eps=1e-6)
        self.m_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate = nn.Linear(width, width, bias=False) if gate == "linear" else None
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        """o (b, t, d) from y and m (b, t, d), what attention and what the memory read."""
        y = self.y_norm(y)
        m = self.m_norm(m)
        if self.gate is None:
            return self.output(y * silu(m))
        return self.output(m * silu(self.gate(y)))
