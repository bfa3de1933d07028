"""Titans' long-term memory: a deep network that is written by surprise, carried on by momentum, worn by forgetting.

Behrouz, Zhong and Mirrokni 2024, "Titans: Learning to Memorize at Test Time", arXiv 2501.00663. A token writes by one
gradient step on l = |M(k_t) - v_t|^2 / 2 and is read with what it wrote (section 3.1, equations 9 to 15):

    S_t = eta_t S_{t-1} - theta_t grad l(M^a; k_t, v_t),    M_t = (1 - alpha_t) M_{t-1} + S_t,    y_t = M_t(q_t)

M^a are the weights as the chunk began; at the start of a text they are M_0, which the outer loop learns. The learned
persistent tokens stand before every text and are written like any other (equations 19 and 26 to 31). This is the memory
alone, the paper's LMM; titans_mac.py, titans_mag.py and titans_mal.py put attention beside it.

    y = (RMSNorm(M_t(q_t)) * SiLU(x_t W_g)) W_O          (section 4.4; the form of the gate is our choice)

`gates="pooled"` is not the paper's: it is the shortcut of a widespread implementation (titans_pooled.py).

Axes: b batch, h heads, t tokens, f head width. The state has one size for ever.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import silu

from nl_course.errors import check_choice
from nl_course.memories.ablations.pooled import PooledMemory
from nl_course.memories.base import Memory, State
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory, NeuralState, persistent_tokens
from nl_course.memories.trace import Trace

GATES = ("per-token", "pooled")


@dataclass(frozen=True)
class TitansConfig(NeuralConfig):
    """A neural memory by itself: see `NeuralConfig`. `gates` "per-token" is the paper's; "pooled" takes one momentum,
    one retention and one summed gradient a chunk."""

    gates: str = "per-token"

    def __post_init__(self):
        super().__post_init__()
        check_choice("gates", self.gates, GATES)


@dataclass(frozen=True)
class TitansState(State):
    """The neural memory's own state and the last conv - 1 inputs of the convolutions on q, k, v, (b, conv - 1, d)."""

    neural: State
    tails: tuple


class Titans(Memory):
    """The paper's LMM. `path` "reference" differentiates the inner loss by autograd, a token at a time; "chunked"
    ("auto") works through a chunk at once with matmuls.

    Traces, (B, T, h, ...): see titans_trace.py; `read` is M_t(q_t) before the norm and the gate."""

    def __init__(self, config: TitansConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config
        self.neural = (NeuralMemory if config.gates == "per-token" else PooledMemory)(config, path)
        self.persistent = persistent_tokens(config)
        self.read_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.gate, self.output = (nn.Linear(config.width, config.width, bias=False) for _ in range(2))

    def init_state(self, batch_size: int) -> TitansState:
        """M_0, after the persistent tokens were written into it."""
        neural, tails = self.neural.init_state(1), self.neural.init_tails(1, "qkv")
        if self.persistent is not None:
            _, neural, tails = self.neural.remember(self.persistent[None], neural, tails)
        return TitansState(neural, tails).map(lambda t: t.expand(batch_size, *t.shape[1:]))

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """2 |M| numbers, weights and momentum, |M| more for the anchor where a chunk has more than one token, and
        3 (conv - 1) d for the convolutions, whatever the number of tokens. |M| is f^2 a head for one layer,
        2 r f^2 + (layers - 2) r^2 f^2 for more (r the expansion)."""
        tails = self.neural.tail_numbers("qkv") * self.dtype.itemsize
        return batch_size * (self.neural.state_numbers * self.neural.wide.itemsize + tails)

    def weights(self, state: TitansState) -> dict[str, Tensor]:
        """The network as it stands after the last token read: W1 (B, h, in, out), W2, ..."""
        return state.neural.memory

    def recall(self, state: TitansState, k: Tensor) -> Tensor:
        """What the memory answers to keys k (B, h, n, f) as it stands: (B, h, n, f). Nothing is written."""
        return self.neural.read(state.neural.memory, k)

    def advance(self, x: Tensor, state: TitansState, trace: Trace | None) -> tuple[Tensor, TitansState]:
        if x.shape[1] == 0:
            return x, state
        neural, tails = state.neural, state.tails
        y, neural, tails = self.neural.remember(x, neural, tails, trace, self.config.persistent)
        return self.output(self.read_norm(y) * silu(self.gate(x))), TitansState(neural, tails)


__all__ = ["NeuralState", "Titans", "TitansConfig", "TitansState"]
