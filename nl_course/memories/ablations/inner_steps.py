"""More inner steps on the same chunk (sceptic.py's `inner_steps` n), for TTT and Titans: slow, and as it is written.

With one step a chunk's write is linear in its gradients, all of them taken at the anchor W^a. As token t sees it,

    W_t = base_t - sum_{j <= t} g_tj grad l(W^a; k_j, v_j)

over the chunk's tokens j so far: TTT has base_t = W^a and g_tj = c_t l_j (ttt_dual.py), Titans what retention leaves of
M_0 and S_0, and g_tj = G[t, j] (titans_chunk.py). More steps repeat it, each from where the last arrived:

    W_t^(0) = W^a,   W_t^(1) = base_t - sum_j g_tj grad l(W_t^(0)),   W_t^(m) = W_t^(m-1) - sum_j g_tj grad l(W_t^(m-1))

So token t reads after n steps of gradient descent on the loss of the chunk as far as it has been read, sum_j g_tj l_j,
every token with its own step size; nothing after t is in it. At the chunk's end these are n steps on the mini-batch's
loss, and W^(n) is the next anchor. A token's surprise is thereby the sum of its n gradients, which is also what
momentum takes up. Every token has weights of its own until the chunk is over, and to go on inside a chunk the state
must hold its pairs (`open`): any split of a text gives the same result. Both papers have n = 1.

Axes: b batch, h heads, j pairs of the open chunk, t tokens that are new, f head width. What each token has for itself
is folded into the batch, (b t, ...).
"""

from dataclasses import replace

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.common.inner_model import InnerModel, Norm, Weights
from nl_course.memories.titans.chunk import Gates, masks
from nl_course.memories.ttt.dual import loss_gradient, moved


def check_open(steps: int, inside: bool, held: dict) -> None:
    """Raises CourseError where a chunk that was begun with one number of inner steps would be gone on with another."""
    if inside and (steps > 1) != bool(held):
        raise CourseError(
            f"the open chunk was {'not ' * (steps > 1)}written with several inner steps: set inner_steps before a text "
            "begins, or where a chunk ends."
        )


def held_pairs(open: dict, new: dict) -> dict:
    """The open chunk's pairs with the new ones behind them: name -> (b, h, j, ...)."""
    return {name: torch.cat([open[name], u], dim=2) if open else u for name, u in new.items()}


def fold(x: Tensor, times: int) -> Tensor:
    """(b, ...) -> (b t, ...), the same for every token."""
    return x.repeat_interleave(times, dim=0)


def folded(x: Tensor) -> Tensor:
    """(b, h, t, ...) -> (b t, h, ...), every token its own."""
    return x.transpose(1, 2).flatten(0, 1)


def gradients(inner: InnerModel, norm: Norm | None, W: Weights, k, v, share: Tensor, plain: bool, stop: bool):
    """sum_j share_j grad l(W; k_j, v_j): W (b t, h, in, out), k, v (b t, h, j, f), share (b t, h, j). `plain`: by
    autograd, pair after pair; with `stop` gradients count as constants. Only weights that move have one."""
    total = {name: torch.zeros_like(w) for name, w in W.items() if inner.moves(name)}
    if plain:
        for j in range(k.shape[2]):
            graph = torch.is_grad_enabled() and not stop
            one = loss_gradient(inner, norm, W, k[:, :, j : j + 1], v[:, :, j : j + 1], graph)
            total = {name: g + share[:, :, j, None, None] * one[name] for name, g in total.items()}
        return total
    for i, (a, e) in enumerate(inner.key_side(W, k, v, norm), 1):
        if stop:
            a, e = a.detach(), e.detach()
        if f"W{i}" in total:
            total[f"W{i}"] = (share[..., None] * a).mT @ e
        if f"b{i}" in total:
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
        W = anchor | {name: base[name] - scale * g for name, g in total.items()}
    return W, total, points


def last_of(x: Tensor, tokens: int) -> Tensor:
    """The last token's, (b t, ...) -> (b, ...)."""
    return x.unflatten(0, (-1, tokens))[:, -1]


def read_each(inner: InnerModel, norm: Norm | None, W: Weights, q: Tensor) -> Tensor:
    """Every token's answer with its own weights: q (b, h, t, f) -> (b, h, t, f)."""
    z = inner.read(W, folded(q)[:, :, None], norm)
    return z[:, :, 0].unflatten(0, (-1, q.shape[2])).transpose(1, 2)


# -- TTT ---------------------------------------------------------------------------------------------------------
def learn_ttt(memory, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state):
    """Writes and reads every token: z (b, h, t, f) and the state after the last (its tails are the old ones)."""
    steps, size, c, answers = memory.doubts.inner_steps, memory.config.mini_batch, memory._factor(), []
    stop, inner, norm = memory.config.stop_gradient, memory.inner, memory.norm
    if stop == "write":
        c, k, v, rate = c.detach(), k.detach(), v.detach(), rate.detach()
    rule = (inner, norm, memory.path == "reference", stop != "none")
    anchor, gathered = ({n: w.to(memory._wide) for n, w in p.items()} for p in (state.anchor, state.gathered))
    open, start, tokens = state.open, 0, q.shape[2]
    while start < tokens:
        place = (state.position + start) % size
        new = slice(start, min(tokens, start + size - place))
        count = new.stop - new.start
        open = held_pairs(open, {"k": k[:, :, new], "v": v[:, :, new], "rate": rate[:, :, new]})
        seen = torch.ones(count, place + count, dtype=torch.bool, device=q.device).tril(place)
        share = folded(open["rate"][:, :, None] * seen)
        scale = c[place : place + count].repeat(q.shape[0])[:, None, None, None]
        own = {name: fold(w, count) for name, w in anchor.items()}
        W, total, _ = descend(steps, rule, own, own, scale, fold(open["k"], count), fold(open["v"], count), share)
        answers.append(read_each(inner, norm, W, q[:, :, new]))
        gathered = {n: last_of(total[n], count) if n in total else torch.zeros_like(w) for n, w in anchor.items()}
        if place + count == size:
            anchor, open = moved(anchor, gathered, c[-1]), {}
            gathered = {name: torch.zeros_like(g) for name, g in gathered.items()}
        start = new.stop
    anchor, gathered = Weights(anchor), Weights(gathered)
    state = replace(state, anchor=anchor, gathered=gathered, open=open, position=state.position + tokens)
    return torch.cat(answers, dim=2), state


# -- Titans ------------------------------------------------------------------------------------------------------
def learn_titans(neural, q: Tensor, k: Tensor, v: Tensor, gates: Gates, state):
    """Writes and reads every token: y (b, h, t, f) and the neural state after the last."""
    steps, size, answers, inner, norm = neural.doubts.inner_steps, neural.config.chunk, [], neural.inner, neural.norm
    rule = (inner, norm, neural.path == "reference", neural.config.stop_gradient != "none")
    memory, momentum, anchor = state.memory, state.momentum, state.anchor or state.memory
    open, start, tokens = state.open, 0, q.shape[2]
    while start < tokens:
        place = (state.position + start) % size
        new = slice(start, min(tokens, start + size - place))
        count = new.stop - new.start
        if place == 0:
            anchor, first, open = memory, momentum, {}
        else:
            first = {name[2:]: w for name, w in open.items() if name.startswith("S.")}
        own = {"k": k[:, :, new], "v": v[:, :, new]} | _named(gates.between(new.start, new.stop))
        pairs = held_pairs({name: u for name, u in open.items() if not name.startswith("S.")}, own)
        mask = masks(Gates(*(pairs.get(name) for name in Gates._fields)))
        rows = slice(place, place + count)
        base = _base(inner, anchor, first, mask, rows, count)
        K, V, A = fold(pairs["k"], count), fold(pairs["v"], count), {n: fold(w, count) for n, w in anchor.items()}
        W, _, points = descend(steps, rule, A, base, 1, K, V, folded(mask.reach[:, :, rows]))
        answers.append(read_each(inner, norm, W, q[:, :, new]))
        memory = {name: last_of(w, count) for name, w in W.items()}
        if first:
            momentum = dict(first)
            at = [{name: last_of(w, count) for name, w in point.items()} for point in points]
            each = [gradients(*rule[:2], w, pairs["k"], pairs["v"], mask.carried[..., 0], *rule[2:]) for w in at]
            for name in each[0]:
                momentum[name] = mask.momentum * first[name] - sum(g[name] for g in each)
        open = pairs | {f"S.{name}": w for name, w in first.items()}
        if place + count == size:
            anchor, open = memory, {}
        start = new.stop
    kept = anchor if size > 1 else {}
    return torch.cat(answers, dim=2), replace(
        state, memory=memory, momentum=momentum, anchor=kept, position=state.position + tokens, open=open
    )


def _named(gates: Gates) -> dict[str, Tensor]:
    return {name: g for name, g in gates._asdict().items() if g is not None}


def _base(inner: InnerModel, anchor: Weights, first: Weights, mask, rows: slice, count: int) -> Weights:
    """What each token has without the chunk's own gradients, folded."""
    base = {}
    for name, w in anchor.items():
        base[name] = folded(mask.kept[:, :, rows, :, None]) * fold(w, count)
        if first:
            base[name] = base[name] + folded(mask.spread[:, :, rows, :, None]) * fold(first[name], count)
        if not inner.moves(name):
            base[name] = fold(w, count)
    return base
