"""A shortcut, not the paper's memory: one momentum, one retention and one summed gradient for a whole chunk.

The best-known public implementation pools its gates. With x̄ the mean of the chunk's c inputs (only the step stays a
token's own),

    S_n = eta(x̄) S_{n-1} - sum_{t in chunk n} theta_t grad l(M_{n-1}; k_t, v_t),    M_n = (1 - alpha(x̄)) M_{n-1} + S_n

This saves the two c x c masks. It costs two things. A pooled gate cannot forget at one token and keep at the next. And
since x̄ holds the chunk's last token, no token before it may read M_n: all but the last read M_{n-1}, blind to their own
chunk. What is carried inside a chunk is the sum of gradients and the sum of the gates' logits so far.

Axes: b batch, h heads, t tokens of a piece, f head width, `in` and `out` the widths of a layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nl_course.memories.base import State
from nl_course.memories.common.inner_model import grad_loss
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.lmm import Titans
from nl_course.memories.titans.neural import NeuralMemory
from nl_course.memories.trace import Trace


@dataclass(frozen=True)
class PooledState(State):
    """Weights and momentum at the last chunk's end; and of the open chunk the summed gradients, each times its step
    (`grad_accum`), and the summed logits of momentum and retention (`logits`, (b, h, 2))."""

    memory: dict[str, Tensor]
    momentum: dict[str, Tensor]
    grad_accum: dict[str, Tensor]
    logits: Tensor
    position: int


class PooledMemory(NeuralMemory):
    """`NeuralMemory` with gates pooled over a chunk."""

    def init_state(self, batch_size: int) -> PooledState:
        """M_0 and an empty chunk."""
        start = super().init_state(batch_size)
        logits = self.step.weight.new_zeros(batch_size, self.config.heads, 2).to(self.accum_dtype)
        return PooledState(start.memory, start.momentum, start.memory.map(torch.zeros_like), logits, position=0)

    @property
    def state_numbers(self) -> int:
        """The weights, as many numbers again for momentum, once more for the summed gradients, and two logits per
        head."""
        return self.weight_numbers * (2 + self.config.momentum) + 2 * self.config.heads

    def gates(self, x: Tensor) -> Gates:
        """Each token's step, and momentum and retention as logits, not logarithms: they are averaged first."""
        step = self.config.largest_step * self._logit(self.step, x).sigmoid()  # (b, h, t)
        past = None if self.past is None else self._logit(self.past, x)
        forget = None if self.forget is None else self._logit(self.forget, x)
        return Gates(step, past, forget)

    def learn(self, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: PooledState) -> tuple[Tensor, PooledState]:
        """Writes and reads every token of q, k, v (b, h, t, f): y (b, h, t, f) and the new state."""
        chunk = self.config.chunk
        in_chunk = state.position % chunk
        M, S, grad_accum, logits = state.memory, state.momentum, state.grad_accum, state.logits
        outputs = []
        start = 0
        while start < q.shape[2]:
            # One piece: up to the end of the open chunk, or of the text.
            stop = min(q.shape[2], start + chunk - in_chunk)
            q_p, k_p, v_p = (x[:, :, start:stop] for x in (q, k, v))  # (b, h, t, f)
            own = gates.time_slice(start, stop)
            grad_accum = self._accumulate(M, grad_accum, k_p, v_p, own.step)
            logits = logits + self._summed_logits(own)
            in_chunk += stop - start
            y = self.read(M, q_p)
            if in_chunk == chunk:
                M, S = self._write_chunk(M, S, grad_accum, logits / chunk)
                grad_accum = grad_accum.map(torch.zeros_like)
                logits = torch.zeros_like(logits)
                # Only the chunk's last token knows all of x̄, so it alone reads what the chunk wrote.
                y = torch.cat([y[:, :, :-1], self.read(M, q_p[:, :, -1:])], dim=2)
                in_chunk = 0
            outputs.append(y)
            start = stop
        position = state.position + q.shape[2]
        return torch.cat(outputs, dim=2), PooledState(M, S, grad_accum, logits, position)

    def explain(
        self, trace: Trace, state: PooledState, persistent: int, q: Tensor, k: Tensor, v: Tensor, gates: Gates
    ) -> None:
        """Adds `k`, `v` and `step_size`, (b, t, h, ...): what a token decides by itself."""
        for name, value in {"k": k, "v": v, "step_size": gates.step}.items():
            trace.add(name, value.transpose(1, 2))

    def _accumulate(self, M: Weights, grad_accum: Weights, k: Tensor, v: Tensor, step: Tensor) -> Weights:
        """The chunk's gradients so far, each times its token's step (b, h, t)."""
        second_order = self.config.stop_gradient == "none"
        if self.path == "reference":
            for t in range(k.shape[2]):
                k_t, v_t = k[:, :, t : t + 1], v[:, :, t : t + 1]  # (b, h, 1, f)
                u = grad_loss(self.inner.inner_loss, M, k_t, v_t, self.norm, create_graph=second_order)
                grad_accum = grad_accum + step[:, :, t, None, None] * u
            return grad_accum
        new = Weights()
        for i, (a, e) in enumerate(self.inner.key_side(M, k, v, self.norm), 1):
            if not second_order:
                a, e = a.detach(), e.detach()
            new[f"W{i}"] = (step[..., None] * a).mT @ e  # (b, h, in, out)
            if self.inner.bias:
                new[f"b{i}"] = step[:, :, None, :] @ e  # (b, h, 1, out)
        return grad_accum + new

    def _summed_logits(self, own: Gates) -> Tensor:
        """Those of momentum and retention, summed over the piece: (b, h, 2)."""
        zero = torch.zeros_like(own.step)
        past = zero if own.log_momentum is None else own.log_momentum
        forget = zero if own.log_retention is None else own.log_retention
        return torch.stack([past.sum(-1), forget.sum(-1)], dim=-1)

    def _write_chunk(self, M: Weights, S: Weights, grad_accum: Weights, logits: Tensor) -> tuple[Weights, Weights]:
        """M_n and S_n, from the mean logits (b, h, 2). The logit of a mean input is the mean of the logits."""
        past, forget = logits[..., None, None].unbind(2)  # (b, h, 1, 1)
        step = -1 * grad_accum
        if S:
            step = S = past.sigmoid() * S + step
        if self.forget is not None:
            M = logsigmoid(-forget).exp() * M
        return M + step, S


class PooledTitans(Titans):
    """`Titans` with pooled gates, from the same config and with the same parameters."""

    neural_memory = PooledMemory
