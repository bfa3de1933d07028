"""A shortcut, not the paper's memory: one momentum, one retention and one summed gradient for a whole chunk.

The best-known public implementation pools its gates: with x̄ the mean of the chunk's c inputs (only the step stays a
token's own),

    S_n = eta(x̄) S_{n-1} - sum_{t in chunk n} theta_t grad l(M_{n-1}; k_t, v_t),    M_n = (1 - alpha(x̄)) M_{n-1} + S_n

It saves the two c x c masks. It costs: a pooled gate cannot forget at one token and keep at the next, and since x̄ holds
the chunk's last token, no token before it may read M_n: all but the last read M_{n-1}, blind to their own chunk. What
is carried inside a chunk is the sum of gradients and the sum of the gates' logits so far.

Axes: b batch, h heads, t tokens, f head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from nl_course.memories.base import State
from nl_course.memories.common.inner_model import Weights
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.neural import NeuralMemory
from nl_course.memories.ttt.dual import loss_gradient


@dataclass(frozen=True)
class PooledState(State):
    """Weights and momentum at the last boundary, and of the open chunk: the summed gradients (`gathered`) and the
    summed logits of momentum and retention (`logits`, (b, h, 2))."""

    memory: dict
    momentum: dict
    gathered: dict
    logits: Tensor
    position: int


class PooledMemory(NeuralMemory):
    """`NeuralMemory` with gates pooled over a chunk. `gates` gives momentum and retention as logits, not logarithms:
    they are averaged first."""

    def init_state(self, batch_size: int) -> PooledState:
        whole = super().init_state(batch_size)
        gathered = {name: torch.zeros_like(w) for name, w in whole.memory.items()}
        logits = self.step.weight.new_zeros(batch_size, self.config.heads, 2).to(self.wide)
        return PooledState(whole.memory, whole.momentum, gathered, logits, 0)

    @property
    def state_numbers(self) -> int:
        """The weights, as often again for momentum, once more for the gathered gradients, and two logits a head."""
        weights = sum(w.numel() for w in self.start.values())
        return weights * (2 + self.config.momentum) + 2 * self.config.heads

    def gates(self, x: Tensor) -> Gates:
        def logit(gate) -> Tensor | None:
            return (
                None if gate is None else linear(x.to(self.wide), gate.weight.to(self.wide), gate.bias.to(self.wide)).mT
            )

        step = self.config.largest_step * logit(self.step).sigmoid()
        return Gates(step, logit(self.past), logit(self.forget))

    def learn(self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: PooledState) -> tuple[Tensor, PooledState]:
        size, place, answers = self.config.chunk, state.position % self.config.chunk, []
        memory, momentum, gathered, logits = state.memory, state.momentum, state.gathered, state.logits
        start = 0
        while start < q.shape[2]:
            stop = min(q.shape[2], start + size - place)
            part, own = [u[:, :, start:stop] for u in (q, k, v)], gates.between(start, stop)
            gathered = self._gather(memory, gathered, *part[1:], own.step)
            logits = logits + self._summed(own)
            place += stop - start
            y = self.read(memory, part[0])
            if place == size:
                memory, momentum = self._close(memory, momentum, gathered, logits / size)
                gathered, logits = {n: torch.zeros_like(g) for n, g in gathered.items()}, torch.zeros_like(logits)
                y, place = torch.cat([y[:, :, :-1], self.read(memory, part[0][:, :, -1:])], dim=2), 0
            answers.append(y)
            start = stop
        position = state.position + q.shape[2]
        return torch.cat(answers, dim=2), PooledState(memory, momentum, gathered, logits, position)

    def _gather(self, memory: Weights, gathered: Weights, k: Tensor, v: Tensor, step: Tensor) -> Weights:
        """The chunk's gradients so far, each times its token's step."""
        if self.path == "reference":
            for t in range(k.shape[2]):
                token = slice(t, t + 1)
                graph = torch.is_grad_enabled() and self.config.stop_gradient == "none"
                surprise = loss_gradient(self.inner, self.norm, memory, k[:, :, token], v[:, :, token], graph)
                gathered = {n: g + step[:, :, token, None] * surprise[n] for n, g in gathered.items()}
            return gathered
        after = dict(gathered)
        for i, (a, e) in enumerate(self.inner.key_side(memory, k, v, self.norm), 1):
            if self.config.stop_gradient != "none":
                a, e = a.detach(), e.detach()
            after[f"W{i}"] = after[f"W{i}"] + (step[..., None] * a).mT @ e
            if self.inner.bias:
                after[f"b{i}"] = after[f"b{i}"] + step[:, :, None, :] @ e
        return after

    def _summed(self, own: Gates) -> Tensor:
        zero = torch.zeros_like(own.step)
        past, forget = (zero if g is None else g for g in own[1:])
        return torch.stack([past.sum(-1), forget.sum(-1)], dim=-1)

    def _close(self, memory: Weights, momentum: Weights, gathered: Weights, logits: Tensor) -> tuple[Weights, Weights]:
        past, forget = logits[..., None, None].unbind(2)
        S = {name: -g for name, g in gathered.items()}
        if momentum:
            S = momentum = {name: past.sigmoid() * momentum[name] + s for name, s in S.items()}
        keep = 1.0 if self.forget is None else logsigmoid(-forget).exp()
        return {name: keep * memory[name] + s for name, s in S.items()}, momentum
