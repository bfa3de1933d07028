"""A memory that keeps copies of what it was: every old state is read again, and a gate mixes what they say.

A text is cut into segments. At the end of segment i the inner memory's state M_i is kept, up to the last `states` of
them. A token is written into the current state M_t alone, and it is read from all of them:

    y_t   = gamma_t M_t(x_t) + sum_i gamma_i M_i(x_t)              eq. 9
    gamma = softmax_i <x_t W_u, mean of the x of segment i>        eq. 10; W_u = 1 for gate "similarity"

Behrouz et al. 2026, "Memory Caching: RNNs with Growing Memory", arXiv 2602.24281. Gate "mean" is their way without
training, an average. `restart` begins every segment with an empty memory (their "independent compressors"), else it
goes on from the last one (their "checkpoints").

How does one read a state that must not change? A branch of it reads the token, and what the branch writes is thrown
away. So its answer has the token's own write in it, as the current state's has. All branches stand side by side as rows
of one batch. We divide the scores by sqrt(d), which the paper does not say.

Axes: b batch, t tokens, n old states, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nl_course.errors import CourseError, check_bool, check_choice, check_int
from nl_course.memories.base import Memory, State
from nl_course.memories.common.weights import Weights
from nl_course.memories.linear.delta import DeltaConfig, DeltaNet, GatedDeltaConfig, GatedDeltaNet
from nl_course.memories.linear.kda import KDA, KDAConfig
from nl_course.memories.linear.layer import MatrixState
from nl_course.memories.linear.linear import LinearAttention, LinearAttentionConfig, Retention, RetentionConfig
from nl_course.memories.titans.lmm import Titans, TitansConfig
from nl_course.memories.trace import Trace
from nl_course.memories.ttt.layer import TTT, TTTLinearConfig, TTTMLPConfig, TTTState

INNER: dict[str, tuple[type[Memory], type]] = {
    "linear": (LinearAttention, LinearAttentionConfig),
    "retnet": (Retention, RetentionConfig),
    "delta": (DeltaNet, DeltaConfig),
    "gated-delta": (GatedDeltaNet, GatedDeltaConfig),
    "kda": (KDA, KDAConfig),
    "ttt-linear": (TTT, TTTLinearConfig),
    "ttt-mlp": (TTT, TTTMLPConfig),
    "titans": (Titans, TitansConfig),
}
GATES = ("learned", "similarity", "mean")


@dataclass(frozen=True)
class CachedConfig:
    """The inner `memory` with its `options`, a copy after every `segment` tokens, the last `states` copies, the `gate`
    that mixes them, and whether a segment begins with an empty memory (`restart`)."""

    width: int
    heads: int
    memory: str = "delta"
    options: Mapping = field(default_factory=dict)
    segment: int = 64
    states: int = 8
    gate: str = "learned"
    restart: bool = False

    def __post_init__(self):
        check_choice("memory", self.memory, INNER)
        check_int("segment", self.segment, 1)
        check_int("states", self.states, 0)
        check_choice("gate", self.gate, GATES)
        check_bool("restart", self.restart)
        if not isinstance(self.options, Mapping):
            raise CourseError(f"options must be a dict of the inner memory's options, not {self.options!r}.")


@dataclass(frozen=True)
class CachedState(State):
    """The inner memory's state (`online`), the weights of the `old` ones, oldest first, (b, n, ...) each, the mean
    input of each of their segments (`keys`, b, n, d), the open segment's sum of inputs (`total`, b, d), and how many
    tokens were read."""

    online: State
    old: dict[str, Tensor]
    keys: Tensor
    total: Tensor
    position: int


# -- what of a state is read, and a state that reads with it -----------------------------------------------------------
def weights_of(memory: Memory, state: State) -> Weights:
    """All that a read needs of a state, (b, ...) each: the matrix, or the inner network after the last token."""
    if isinstance(state, MatrixState):
        return Weights(matrix=state.matrix)
    return Weights(memory.weights(state))


def with_weights(state: State, weights: Weights) -> State:
    """`state`, with its position and its convolutions, but with other weights and nothing written since."""
    if isinstance(state, MatrixState):
        return replace(state, matrix=weights["matrix"])
    if isinstance(state, TTTState):
        return replace(state, anchor=weights, grad_accum=weights.map(torch.zeros_like))
    neural = state.neural
    anchor = weights if neural.anchor else neural.anchor
    momentum = Weights(neural.momentum).map(torch.zeros_like)
    return replace(state, neural=replace(neural, memory=weights, anchor=anchor, momentum=momentum))


class Cached(Memory):
    """A memory and up to `states` copies of what it was. `path` is the inner memory's; around it there is one path,
    token by token.

    Traces, (B, T, states + 1): `gate`, each old state's share in the answer, oldest first, and last the current one's.
    Where there are fewer old states the first shares are 0."""

    def __init__(self, config: CachedConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config
        memory, memory_config = INNER[config.memory]
        try:
            self.memory = memory(memory_config(width=config.width, heads=config.heads, **config.options), path=path)
        except TypeError as error:
            raise CourseError(f"the cached memory {config.memory!r}: {error}.") from error
        # W_u
        self.connect = nn.Linear(config.width, config.width, bias=False) if config.gate == "learned" else None

    # -- the state -----------------------------------------------------------------------------------------------------
    @property
    def accum_dtype(self) -> torch.dtype:
        """Of the segments' means, which are sums over many tokens."""
        return torch.promote_types(self.dtype, torch.float32)

    def init_state(self, batch_size: int) -> CachedState:
        """The inner memory's start, and no old state."""
        online = self.memory.init_state(batch_size)
        old = weights_of(self.memory, online).map(lambda w: w[:, None][:, :0])  # (b, 0, ...)
        total = torch.zeros(batch_size, self.width, dtype=self.accum_dtype, device=self.device)
        return CachedState(online, old, total[:, None][:, :0], total, 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """The inner memory's bytes, and for each segment that has ended, up to `states`, those of its weights and d
        numbers for its mean; d more for the open one's."""
        with torch.no_grad():
            weights = weights_of(self.memory, self.memory.init_state(1))
        kept = sum(w.numel() * w.element_size() for w in weights.values())
        mean = self.width * self.accum_dtype.itemsize
        old = min(tokens // self.config.segment, self.config.states)
        return self.memory.state_bytes(tokens, batch_size) + batch_size * (old * (kept + mean) + mean)

    # -- a text, token by token ----------------------------------------------------------------------------------------
    def advance(self, x: Tensor, state: CachedState, trace: Trace | None) -> tuple[Tensor, CachedState]:
        """See `Memory.advance`: x (b, t, d) -> y (b, t, d) and the new state."""
        outputs = [x[:, :0]]
        for t in range(x.shape[1]):
            x_t = x[:, t : t + 1]  # (b, 1, d)
            total = state.total + x_t[:, 0]
            answers, online = self.ask(x_t, state)  # (b, n + 1, d)
            gamma = self.gate(x_t[:, 0], state, total)  # (b, n + 1)
            outputs.append((gamma[:, None] @ answers.to(gamma.dtype)).to(x.dtype))  # (b, 1, d)
            state = self.turn(replace(state, online=online, total=total, position=state.position + 1))
            if trace is not None:
                missing = self.config.states + 1 - gamma.shape[1]
                trace.add("gate", pad(gamma, (missing, 0))[:, None].detach())  # (b, 1, states + 1)
        return torch.cat(outputs, dim=1), state

    def ask(self, x_t: Tensor, state: CachedState) -> tuple[Tensor, State]:
        """What every old state and, last, the current one answer to x_t (b, 1, d), (b, n + 1, d); and the current one
        after its write."""
        y, online = self.memory.advance(x_t, state.online, None)  # (b, 1, d)
        rows, count = state.keys.shape[:2]
        if count == 0:
            return y, online
        # Each old state is a row of a larger batch. What the tokens just before were, all of them know alike.
        branches = state.online.map(lambda z: z.repeat_interleave(count, dim=0))  # (b n, ...)
        branches = with_weights(branches, Weights(state.old).map(lambda w: w.flatten(0, 1)))  # (b n, ...)
        answers, _ = self.memory.advance(x_t.repeat_interleave(count, dim=0), branches, None)  # (b n, 1, d)
        return torch.cat([answers.view(rows, count, -1), y], dim=1), online

    def gate(self, x_t: Tensor, state: CachedState, total: Tensor) -> Tensor:
        """The share of each old state and of the current one in the answer to x_t (b, d), (b, n + 1); `total` (b, d)
        is the open segment's sum with x_t in it."""
        mean = total / (state.position % self.config.segment + 1)
        keys = torch.cat([state.keys, mean[:, None]], dim=1)  # (b, n + 1, d)
        if self.config.gate == "mean":
            return torch.full_like(keys[..., 0], 1 / keys.shape[1])
        u = x_t if self.connect is None else self.connect(x_t)
        scores = keys @ u.to(keys.dtype)[..., None] / self.width**0.5  # (b, n + 1, 1)
        return scores[..., 0].softmax(dim=-1)

    def turn(self, state: CachedState) -> CachedState:
        """At a segment's end the current state is kept, and the oldest one goes if there are too many."""
        segment, states = self.config.segment, self.config.states
        if state.position % segment:
            return state
        weights = weights_of(self.memory, state.online)
        online = state.online
        if self.config.restart:
            online = with_weights(online, weights_of(self.memory, self.memory.init_state(len(state.total))))
        newest = max(0, state.keys.shape[1] + 1 - states)  # how many of the oldest go
        old = {name: torch.cat([w, weights[name][:, None]], dim=1)[:, newest:] for name, w in state.old.items()}
        keys = torch.cat([state.keys, state.total[:, None] / segment], dim=1)[:, newest:]
        return CachedState(online, Weights(old), keys, torch.zeros_like(state.total), state.position)
