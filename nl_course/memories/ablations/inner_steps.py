"""More inner steps on the same chunk (the ablation `inner_steps` n), for TTT and Titans: slow, and as it is written.

With one step a chunk's write is linear in its gradients, all of them taken at the anchor W^a. As token t sees it,

    W_t = base_t - sum_{j <= t} g_tj grad l(W^a; k_j, v_j)

over the chunk's tokens j so far: TTT has base_t = W^a and g_tj = c_t l_j (ttt/dual.py), Titans what retention leaves of
M_0 and S_0, and g_tj = G[t, j] (titans/chunk.py). More steps repeat it, each from where the last arrived:

    W_t^(0) = W^a,   W_t^(1) = base_t - sum_j g_tj grad l(W_t^(0)),   W_t^(m) = W_t^(m-1) - sum_j g_tj grad l(W_t^(m-1))

So token t reads after n steps of gradient descent on the loss of the chunk as far as it has been read, sum_j g_tj l_j,
every token with its own step size; nothing after t is in it. At the chunk's end these are n steps on the mini-batch's
loss, and W^(n) is the next anchor. A token's surprise is thereby the sum of its n gradients, which is also what
momentum takes up. Both papers have n = 1.

Every token has weights of its own, made from all pairs of its chunk so far. A state does not keep pairs: a text is
given whole, or cut where a chunk ends.

Axes: b batch, h heads, j pairs of a chunk, t its tokens, f head width. What each token has for itself is folded into
the batch, (b t, ...).
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.common.inner_model import InnerModel, Norm, Weights, grad_loss
from nl_course.memories.titans.chunk import Gates, chunk_masks
from nl_course.memories.titans.neural import NeuralMemory, NeuralState
from nl_course.memories.ttt.layer import TTT, TTTState


def check_chunk_begins(inside: bool) -> None:
    """Raises CourseError inside a chunk, whose earlier pairs no state keeps."""
    if inside:
        raise CourseError(
            "with several inner steps a text is given whole or cut where a chunk ends, since a step needs all pairs of "
            "its chunk: there are no traces that follow it by token, and persistent tokens must fill whole chunks."
        )


# -- every token its own row of the batch -----------------------------------------------------------------------------
def fold(x: Tensor, times: int) -> Tensor:
    """(b, ...) -> (b t, ...), the same for every token."""
    return x.repeat_interleave(times, dim=0)


def folded(x: Tensor) -> Tensor:
    """(b, h, t, ...) -> (b t, h, ...), every token its own."""
    return x.transpose(1, 2).flatten(0, 1)


def last_of(x: Tensor, tokens: int) -> Tensor:
    """The last token's, (b t, ...) -> (b, ...)."""
    return x.unflatten(0, (-1, tokens))[:, -1]


def read_each(inner: InnerModel, norm: Norm | None, W: Weights, q: Tensor) -> Tensor:
    """Every token's answer with its own weights: q (b, h, t, f) -> (b, h, t, f)."""
    y = inner.read(W, folded(q)[:, :, None], norm)  # (b t, h, 1, f)
    return y[:, :, 0].unflatten(0, (-1, q.shape[2])).transpose(1, 2)


def chunks(position: int, tokens: int, size: int) -> list[slice]:
    """The chunks of a text that begins at `position`; the last may stay open. Raises CourseError inside a chunk."""
    check_chunk_begins(position % size > 0)
    return [slice(start, min(tokens, start + size)) for start in range(0, tokens, size)]


# -- steps of gradient descent ----------------------------------------------------------------------------------------
class InnerLoss(NamedTuple):
    """The loss of pairs, and how its gradient is taken: `by_pair` by autograd, pair after pair, as the reference path
    has it, else with matmuls; with `constant` the outer loop takes gradients for constants."""

    inner: InnerModel
    norm: Norm | None
    by_pair: bool
    constant: bool

    def gradient(self, W: Weights, k: Tensor, v: Tensor, share: Tensor) -> Weights:
        """sum_j share_j grad l(W; k_j, v_j): W (b t, h, in, out), k, v (b t, h, j, f), share (b t, h, j)."""
        if self.by_pair:
            return self._by_pair(W, k, v, share)
        total = Weights()
        for i, (a, e) in enumerate(self.inner.key_side(W, k, v, self.norm), 1):
            if self.constant:
                a, e = a.detach(), e.detach()
            total[f"W{i}"] = (share[..., None] * a).mT @ e
            if self.inner.bias:
                total[f"b{i}"] = share[:, :, None, :] @ e
        return total

    def _by_pair(self, W: Weights, k: Tensor, v: Tensor, share: Tensor) -> Weights:
        total = W.map(torch.zeros_like)
        for j in range(k.shape[2]):
            pair = slice(j, j + 1)
            loss, create_graph = self.inner.inner_loss, not self.constant
            gradient = grad_loss(loss, W, k[:, :, pair], v[:, :, pair], self.norm, create_graph=create_graph)
            total = total + share[:, :, j, None, None] * gradient
        return total


def descend(
    steps: int,
    loss: InnerLoss,
    anchor: Weights,
    base: Weights,
    scale: Tensor | float,
    k: Tensor,
    v: Tensor,
    share: Tensor,
) -> tuple[Weights, Weights, list[Weights]]:
    """W^(n) from W^(0) = anchor, the sum of all gradients, and the points W^(0) .. W^(n-1) that they were taken at, all
    folded. A step is `scale` times the gradient."""
    W, total, points = anchor, None, []
    for _ in range(steps):
        points.append(W)
        gradient = loss.gradient(W, k, v, share)
        total = gradient if total is None else total + gradient
        # What the chunk began with fades once, however many steps are taken on it.
        W = base - scale * total
    return W, total, points


# -- TTT ---------------------------------------------------------------------------------------------------------------
def learn_ttt(
    memory: TTT, steps: int, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: TTTState
) -> tuple[Tensor, TTTState]:
    """`TTT.learn` with `steps` inner steps."""
    size, stop = memory.config.mini_batch, memory.config.stop_gradient
    loss = InnerLoss(memory.inner, memory.norm, by_pair=memory.path == "reference", constant=stop != "none")
    factor = memory.position_factor()
    if stop == "write":
        factor, k, v, rate = factor.detach(), k.detach(), v.detach(), rate.detach()
    anchor = state.anchor.map(lambda w: w.to(k.dtype))
    outputs = []
    for chunk in chunks(state.position, q.shape[2], size):
        count = chunk.stop - chunk.start
        # Token t takes its steps on the pairs up to its own, and on none behind it.
        seen = torch.ones(count, count, dtype=torch.bool, device=q.device).tril()  # (t, j)
        share = folded(rate[:, :, None, chunk] * seen)  # (b, h, t, j) -> (b t, h, j)
        scale = factor[:count].repeat(q.shape[0])[:, None, None, None]  # (b t, 1, 1, 1)
        own = anchor.map(lambda w, count=count: fold(w, count))
        pairs = fold(k[:, :, chunk], count), fold(v[:, :, chunk], count)  # (b t, h, j, f)
        W, total, _ = descend(steps, loss, own, own, scale, *pairs, share)
        outputs.append(read_each(memory.inner, memory.norm, W, q[:, :, chunk]))
        grad_accum = total.map(lambda g, count=count: last_of(g, count))
        if count == size:
            anchor = anchor - factor[-1] * grad_accum
            grad_accum = grad_accum.map(torch.zeros_like)
    position = state.position + q.shape[2]
    return torch.cat(outputs, dim=2), replace(state, anchor=anchor, grad_accum=grad_accum, position=position)


# -- Titans ------------------------------------------------------------------------------------------------------------
def learn_titans(
    neural: NeuralMemory, steps: int, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState
) -> tuple[Tensor, NeuralState]:
    """`NeuralMemory.learn` with `steps` inner steps."""
    size, constant = neural.config.chunk, neural.config.stop_gradient != "none"
    loss = InnerLoss(neural.inner, neural.norm, by_pair=neural.path == "reference", constant=constant)
    M, S = Weights(state.memory), Weights(state.momentum)
    outputs = []
    for chunk in chunks(state.position, q.shape[2], size):
        count = chunk.stop - chunk.start
        anchor = M
        masks = chunk_masks(gates.time_slice(chunk.start, chunk.stop))
        own = anchor.map(lambda w, count=count: fold(w, count))
        base = folded(masks.beta[..., None]) * own
        if S:
            base = base + folded(masks.phi[..., None]) * S.map(lambda s, count=count: fold(s, count))
        pairs = k[:, :, chunk], v[:, :, chunk]  # (b, h, j, f)
        W, _, points = descend(steps, loss, own, base, 1, *(fold(u, count) for u in pairs), folded(masks.G))
        outputs.append(read_each(neural.inner, neural.norm, W, q[:, :, chunk]))
        M = W.map(lambda w, count=count: last_of(w, count))
        if S:
            S = masks.eta_product * S
            for point in points:
                at_last = point.map(lambda w, count=count: last_of(w, count))
                S = S - loss.gradient(at_last, *pairs, masks.P_last[..., 0])
        if count == size:
            anchor = M
    position = state.position + q.shape[2]
    anchor = anchor if size > 1 else Weights()
    return torch.cat(outputs, dim=2), replace(state, memory=M, momentum=S, anchor=anchor, position=position)
