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

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.common.inner_model import InnerModel, Norm, Weights, grad_loss
from nl_course.memories.titans.chunk import ChunkMasks, Gates, chunk_masks
from nl_course.memories.titans.neural import NeuralMemory, NeuralState
from nl_course.memories.ttt.layer import TTT, TTTState


def check_chunk_begins(inside: bool) -> None:
    """Raises CourseError inside a chunk, whose earlier pairs no state keeps."""
    if inside:
        raise CourseError(
            "with several inner steps a text is given whole or cut where a chunk ends, since a step needs all pairs of "
            "its chunk: there are no traces that follow it by token, and persistent tokens must fill whole chunks."
        )


def fold(x: Tensor, times: int) -> Tensor:
    """(b, ...) -> (b t, ...), the same for every token."""
    return x.repeat_interleave(times, dim=0)


def folded(x: Tensor) -> Tensor:
    """(b, h, t, ...) -> (b t, h, ...), every token its own."""
    return x.transpose(1, 2).flatten(0, 1)


def gradients(inner: InnerModel, norm: Norm | None, W: Weights, k, v, share: Tensor, plain: bool, stop: bool):
    """sum_j share_j grad l(W; k_j, v_j): W (b t, h, in, out), k, v (b t, h, j, f), share (b t, h, j). `plain`: by
    autograd, pair after pair; with `stop` gradients count as constants."""
    if plain:
        total = {name: torch.zeros_like(w) for name, w in W.items()}
        for j in range(k.shape[2]):
            one = grad_loss(inner.inner_loss, W, k[:, :, j : j + 1], v[:, :, j : j + 1], norm, create_graph=not stop)
            total = {name: g + share[:, :, j, None, None] * one[name] for name, g in total.items()}
        return total
    total = {}
    for i, (a, e) in enumerate(inner.key_side(W, k, v, norm), 1):
        if stop:
            a, e = a.detach(), e.detach()
        total[f"W{i}"] = (share[..., None] * a).mT @ e
        if inner.bias:
            total[f"b{i}"] = share[:, :, None, :] @ e
    return total


def descend(
    steps: int, rule: tuple, anchor: Weights, base: Weights, scale, k, v, share
) -> tuple[Weights, Weights, list]:
    """W^(n) from W^(0) = anchor, the sum of all gradients, and the points W^(0) .. W^(n-1) that they were taken at, all
    folded. A step is `scale` times the gradient."""
    W, total, points = anchor, {}, []
    for _ in range(steps):
        points.append(W)
        new = gradients(*rule[:2], W, k, v, share, *rule[2:])
        total = {name: total[name] + g if total else g for name, g in new.items()}
        W = {name: base[name] - scale * g for name, g in total.items()}
    return W, total, points


def last_of(x: Tensor, tokens: int) -> Tensor:
    """The last token's, (b t, ...) -> (b, ...)."""
    return x.unflatten(0, (-1, tokens))[:, -1]


def read_each(inner: InnerModel, norm: Norm | None, W: Weights, q: Tensor) -> Tensor:
    """Every token's answer with its own weights: q (b, h, t, f) -> (b, h, t, f)."""
    z = inner.read(W, folded(q)[:, :, None], norm)
    return z[:, :, 0].unflatten(0, (-1, q.shape[2])).transpose(1, 2)


def chunks(position: int, tokens: int, size: int) -> list[slice]:
    """The chunks of a text that begins at `position`; the last may stay open. Raises CourseError inside a chunk."""
    check_chunk_begins(position % size > 0)
    return [slice(start, min(tokens, start + size)) for start in range(0, tokens, size)]


# -- TTT ---------------------------------------------------------------------------------------------------------
def learn_ttt(
    memory: TTT, steps: int, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: TTTState
) -> tuple[Tensor, TTTState]:
    """`TTT.learn` with `steps` inner steps."""
    size, factor, stop = memory.config.mini_batch, memory.position_factor(), memory.config.stop_gradient
    inner, norm, outputs = memory.inner, memory.norm, []
    if stop == "write":
        factor, k, v, rate = factor.detach(), k.detach(), v.detach(), rate.detach()
    rule = (inner, norm, memory.path == "reference", stop != "none")
    anchor = state.anchor.map(lambda w: w.to(k.dtype))
    for chunk in chunks(state.position, q.shape[2], size):
        count = chunk.stop - chunk.start
        pairs_k, pairs_v = k[:, :, chunk], v[:, :, chunk]
        seen = torch.ones(count, count, dtype=torch.bool, device=q.device).tril()
        share = folded(rate[:, :, None, chunk] * seen)  # (b, h, t, j) -> (b t, h, j)
        scale = factor[:count].repeat(q.shape[0])[:, None, None, None]  # (b t, 1, 1, 1)
        own = {name: fold(w, count) for name, w in anchor.items()}
        W, total, _ = descend(steps, rule, own, own, scale, fold(pairs_k, count), fold(pairs_v, count), share)
        outputs.append(read_each(inner, norm, W, q[:, :, chunk]))
        grad_accum = Weights({name: last_of(g, count) for name, g in total.items()})
        if count == size:
            anchor = anchor - factor[-1] * grad_accum
            grad_accum = grad_accum.map(torch.zeros_like)
    position = state.position + q.shape[2]
    return torch.cat(outputs, dim=2), replace(state, anchor=anchor, grad_accum=grad_accum, position=position)


# -- Titans ------------------------------------------------------------------------------------------------------
def learn_titans(
    neural: NeuralMemory, steps: int, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state: NeuralState
) -> tuple[Tensor, NeuralState]:
    """`NeuralMemory.learn` with `steps` inner steps."""
    size, inner, norm, outputs = neural.config.chunk, neural.inner, neural.norm, []
    rule = (inner, norm, neural.path == "reference", neural.config.stop_gradient != "none")
    memory, momentum = state.memory, state.momentum
    for chunk in chunks(state.position, q.shape[2], size):
        count = chunk.stop - chunk.start
        anchor, first, pairs = memory, momentum, (k[:, :, chunk], v[:, :, chunk])
        masks = chunk_masks(gates.time_slice(chunk.start, chunk.stop))
        own = {name: fold(w, count) for name, w in anchor.items()}
        base = _base(anchor, first, masks, count)
        K, V = (fold(u, count) for u in pairs)
        W, _, points = descend(steps, rule, own, base, 1, K, V, folded(masks.G))
        outputs.append(read_each(inner, norm, W, q[:, :, chunk]))
        memory = {name: last_of(w, count) for name, w in W.items()}
        if first:
            at = [{name: last_of(w, count) for name, w in point.items()} for point in points]
            each = [gradients(*rule[:2], w, *pairs, masks.P_last[..., 0], *rule[2:]) for w in at]
            momentum = {name: masks.eta_product * S - sum(g[name] for g in each) for name, S in first.items()}
        if count == size:
            anchor = memory
    position = state.position + q.shape[2]
    after = replace(state, memory=memory, momentum=momentum, anchor=anchor if size > 1 else {}, position=position)
    return torch.cat(outputs, dim=2), after


def _base(anchor: Weights, first: Weights, masks: ChunkMasks, count: int) -> Weights:
    """What each token has without the chunk's own gradients, folded."""
    base = {}
    for name, w in anchor.items():
        base[name] = folded(masks.beta[..., None]) * fold(w, count)
        if first:
            base[name] = base[name] + folded(masks.phi[..., None]) * fold(first[name], count)
    return base
