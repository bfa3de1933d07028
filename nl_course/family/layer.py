"""A composition of the family as a memory like the others: what a token becomes, what is carried, what is read.

    q, k, v = x W_q, x W_k, x W_v        q and k of length 1
    step = max_step sigmoid(x . w + b), momentum = sigmoid(x . w + b), keep = sigmoid(x . w + b)
    y = RMSNorm(M_t(q_t)) W_o

It is small on purpose: no convolution, no output gate, and the reference path only. Axes: b batch, h heads, t tokens,
f head width, d = h f model width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear

from nl_course.errors import check_choice
from nl_course.family.reference import ComposedConfig, Recent, composed
from nl_course.memories.base import Memory, State
from nl_course.memories.common.inner_model import unit
from nl_course.memories.common.weights import Weights
from nl_course.memories.trace import Trace
from nl_course.roles import PER_HEAD, Roles


@dataclass(frozen=True)
class ComposedState(State):
    """The weights as they stand (`memory`), the memory of gradients (`momentum`; {} without), the last window - 1 pairs
    with their steps (`recent`; () for a window of one pair; steps of 0 before the text), and how many tokens were
    read."""

    memory: dict[str, Tensor]
    momentum: dict[str, Tensor]
    recent: tuple[Tensor, ...]
    position: int


class Composed(Memory):
    """Any composition of the family's four choices; see `ComposedConfig`.

    A matrix starts from zeros and an MLP from random weights of variance 1 / inputs; both starts are learned.
    Traces, (B, T, h, ...): `step_size`; `retention` (mean over channels); `loss_before` and `loss_after` the write,
    |M(k) - v|^2 / 2 whatever the inner loss; `write_norm`; `read` (.., f).
    """

    param_roles: ClassVar[Roles] = {"start.W*": PER_HEAD}

    def __init__(self, config: ComposedConfig, path: str = "auto"):
        super().__init__(config.width)
        check_choice("path", path, ("auto", "reference"))
        self.config = config
        width, heads = config.width, config.heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.step = nn.Linear(width, heads)
        self.past = nn.Linear(width, heads) if config.has_momentum else None
        gates = width if config.retention == "channel" else heads
        self.keep = None if config.retention == "none" else nn.Linear(width, gates)
        # sigmoid(5) keeps 99.3 % of everything per token: half is left after about 100 tokens.
        for gate, bias in ((self.step, 0.0), (self.past, 0.0), (self.keep, 5.0)):
            if gate is not None:
                nn.init.normal_(gate.weight, std=0.02)
                nn.init.constant_(gate.bias, bias)
        start = {}
        for name, (inputs, outputs) in config.network.shapes(config.head_dim).items():
            # In an MLP of zeros every gradient is zero.
            spread = 0.0 if config.memory == "matrix" else inputs**-0.5
            start[name] = torch.randn(heads, inputs, outputs) * spread
        self.start = nn.ParameterDict(start)
        self.norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.output = nn.Linear(width, width, bias=False)

    @property
    def accum_dtype(self) -> torch.dtype:
        """The dtype of the inner loop: a memory is a sum of small steps, which bf16 would lose."""
        return torch.promote_types(self.dtype, torch.float32)

    def learned_start(self) -> Weights:
        """M_0 for one row: W1 (1, h, in, out), W2."""
        return Weights({name: w.to(self.accum_dtype)[None] for name, w in self.start.items()})

    def init_state(self, batch_size: int) -> ComposedState:
        """The learned start for every row, nothing past, and pairs of zeros that weigh nothing."""
        c = self.config
        memory = self.learned_start().map(lambda w: w.expand(batch_size, -1, -1, -1))
        momentum = memory.map(torch.zeros_like) if c.has_momentum else Weights()
        recent: Recent = ()
        if c.window > 1:
            zeros = torch.zeros(batch_size, c.heads, c.window - 1, dtype=self.accum_dtype, device=self.device)
            pairs = zeros[..., None].expand(-1, -1, -1, c.head_dim)  # (b, h, c - 1, f)
            recent = (pairs, pairs, zeros)
        return ComposedState(memory, momentum, recent, 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """|M| numbers, as many again for momentum, and (window - 1) (2 f + 1) per head, however many tokens."""
        c = self.config
        weights = sum(w.numel() for w in self.start.values()) * (1 + c.has_momentum)
        recent = c.heads * (c.window - 1) * (2 * c.head_dim + 1)
        return batch_size * (weights + recent) * self.accum_dtype.itemsize

    def advance(self, x: Tensor, state: ComposedState, trace: Trace | None) -> tuple[Tensor, ComposedState]:
        """x (b, t, d) -> y (b, t, d), and the state after the last token."""
        if x.shape[1] == 0:
            return x, state
        inputs = self.inputs(x)
        with torch.autocast(x.device.type, enabled=False):
            o, after = self.learn(state, inputs)  # (b, h, t, f)
            if trace is not None:
                self._explain(trace, state, inputs, o)
        y = rearrange(self.norm(o.to(x.dtype)), "b h t f -> b t (h f)")  # (b, t, d)
        return self.output(y), after

    def inputs(self, x: Tensor) -> dict[str, Tensor | None]:
        """What x (b, t, d) is to the inner loop: q, k, v (b, h, t, f) and the gates, as `composed` takes them."""
        q, k, v = self.query(x), self.key(x), self.value(x)  # (b, t, d)
        with torch.autocast(x.device.type, enabled=False):
            rows = [u.to(self.accum_dtype) for u in (q, k, v)]
            q, k, v = (rearrange(u, "b t (h f) -> b h t f", h=self.config.heads) for u in rows)  # (b, h, t, f)
            return dict(q=unit(q), k=unit(k), v=v, **self.gates(x))

    def gates(self, x: Tensor) -> dict[str, Tensor | None]:
        """x (b, t, d) -> step (b, h, t), momentum (b, h, t) or None, keep (b, h, t, 1 or f) or None."""
        step = self.config.largest_step * self._sigmoid(self.step, x).mT  # (b, h, t)
        momentum = None if self.past is None else self._sigmoid(self.past, x).mT
        keep = None
        if self.keep is not None:
            keep = rearrange(self._sigmoid(self.keep, x), "b t (h n) -> b h t n", h=self.config.heads)
        return dict(step=step, momentum=momentum, keep=keep)

    def _sigmoid(self, gate: nn.Linear, x: Tensor) -> Tensor:
        dtype = self.accum_dtype
        return linear(x.to(dtype), gate.weight.to(dtype), gate.bias.to(dtype)).sigmoid()

    def learn(self, state: ComposedState, inputs: dict[str, Tensor | None]) -> tuple[Tensor, ComposedState]:
        """Writes and reads every token of `inputs` (q, k, v and the gates, as `composed` takes them): what was read
        (b, h, t, f), and the new state."""
        M, S = Weights(state.memory), Weights(state.momentum)
        y, M, S, recent = composed(self.config, M, S, self.learned_start(), state.recent, **inputs)
        return y, ComposedState(M, S, recent, state.position + y.shape[2])

    @torch.no_grad()
    def _explain(self, trace: Trace, state: ComposedState, inputs: dict[str, Tensor | None], o: Tensor) -> None:
        """Follows the weights through the text once more, one write at a time."""
        f, seen = self.config.network, []
        for t in range(o.shape[2]):
            one = {name: None if x is None else x[:, :, t : t + 1] for name, x in inputs.items()}
            before = Weights(state.memory)
            _, state = self.learn(state, one)
            after = Weights(state.memory)
            losses = [f.inner_loss(M, one["k"], one["v"], None) for M in (before, after)]  # (b, h, 1)
            seen.append(torch.stack([*losses, (after - before).norm()[..., None]], dim=-1))  # (b, h, 1, 3)
        before, after, moved = torch.cat(seen, dim=2).unbind(-1)  # (b, h, t)
        keep = inputs["keep"]
        retention = torch.ones_like(before) if keep is None else keep.mean(-1)
        columns = dict(step_size=inputs["step"], retention=retention, loss_before=before, loss_after=after)
        for name, value in {**columns, "write_norm": moved, "read": o}.items():
            trace.add(name, value.transpose(1, 2))  # (b, t, h, ...)
