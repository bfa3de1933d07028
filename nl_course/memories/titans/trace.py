"""What a neural memory did, token by token, in numbers that can be looked at.

It follows the weights through the text one write at a time, which costs more than the layer itself: it runs only when
a trace is asked for, and only as far as the names that it wants. Traces, (B, T, h, ...):

`q`, `k`, `v`, `step_size` theta, `momentum` eta, `retention` 1 - alpha; `prediction` M(k) before the write,
`loss_before` and `loss_after` it; `surprise` the norm of the gradient at the chunk's first weights, `past_surprise`
that of S, `write_norm` how far the weights moved and `drift` how far they are from the learned start; and who reads
whom: `weights` (.., positions), the share of each earlier token's `error` (.., f) in this token's `read` (.., f), and
`start` (.., f), what the text's beginning alone would say: read = start - weights @ error; `key_features` and
`read_features` (.., m) are what the last layer is given for k, at the anchor, and for q, after the write. Positions
before this call are not known any more: their weights are nan, and so is `start` unless the call began the text.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from nl_course.memories.common.inner_model import Weights
from nl_course.memories.titans.chunk import Gates, masks

_FOLLOWED = ("prediction", "loss_before", "loss_after", "surprise", "past_surprise", "write_norm", "drift")
_READS = ("weights", "error", "read", "start", "key_features", "read_features")


@torch.no_grad()
def explain(trace, neural, state, before: int, q: Tensor, k: Tensor, v: Tensor, gates: Gates) -> None:
    """Adds the traces to `trace`; q, k, v (b, h, t, f) and gates (b, h, t) as the memory meets them. `before` is how
    many persistent tokens were written before the text."""
    if not hasattr(state, "anchor"):
        _shortly(trace, neural, state, k, v, gates)
        return
    one = torch.ones_like(gates.step)
    found = {"q": q, "k": k, "v": v, "step_size": gates.step}
    found["momentum"] = 0 * one if gates.log_momentum is None else gates.log_momentum.exp()
    found["retention"] = one if gates.log_retention is None else gates.log_retention.exp()
    if any(trace.wants(name) for name in _FOLLOWED + _READS):
        found |= _follow(neural, state, q, k, v, gates)
    if "key_features" in found:
        stored, given = found["key_features"], found["read_features"]
        mask, last = masks(gates), neural.inner.layers
        start = mask.kept * neural.inner.layer(state.memory, last, given)
        if mask.spread is not None:
            start = start + mask.spread * neural.inner.layer(state.momentum, last, given)
        found["start"] = start if state.position == before else torch.full_like(start, math.nan)
        products = given @ stored.mT + 1 if neural.inner.bias else given @ stored.mT
        found["weights"] = pad(products * mask.reach, (state.position - before, 0), value=math.nan)
    for name, value in found.items():
        trace.add(name, value.transpose(1, 2))


def _shortly(trace, neural, state, k: Tensor, v: Tensor, gates: Gates) -> None:
    """For pooled gates: only what a token itself decides."""
    for name, value in {"k": k, "v": v, "step_size": gates.step}.items():
        trace.add(name, value.transpose(1, 2))


def _follow(neural, state, q: Tensor, k: Tensor, v: Tensor, gates: Gates) -> dict[str, Tensor]:
    """Every token's quantities, (b, h, t, ...) each."""
    inner, norm = neural.inner, neural.norm
    learned = {name: w.to(neural.wide)[None] for name, w in neural.start.items()}
    rows = []
    for t in range(q.shape[2]):
        query, key, value = (u[:, :, t : t + 1] for u in (q, k, v))
        own, memory = gates.between(t, t + 1), state.memory
        sides = inner.key_side(state.anchor or memory, key, value, norm)
        u = {f"W{i}": a.mT @ e for i, (a, e) in enumerate(sides, 1)}
        if inner.bias:
            u |= {f"b{i}": e for i, (_, e) in enumerate(sides, 1)}
        # The memory itself says what the token's write makes of the weights, so that a trace cannot differ from it.
        _, state = neural.learn(query, key, value, own, state)
        after, S = state.memory, state.momentum
        if own.log_momentum is None:  # then past surprise is the token's own step alone
            S = {name: -own.step[..., None] * g for name, g in u.items()}
        given = query
        for i in range(1, inner.layers):
            given = inner.activate(inner.layer(after, i, given))
        rows.append(
            {
                "prediction": inner.read(memory, key, norm),
                "loss_before": inner.inner_loss(memory, key, value, norm),
                "loss_after": inner.inner_loss(after, key, value, norm),
                "surprise": _size(u),
                "past_surprise": _size(S),
                "write_norm": _size({name: after[name] - w for name, w in memory.items()}),
                "drift": _size({name: w - learned[name] for name, w in after.items()}),
                "error": sides[-1][1],
                "key_features": sides[-1][0],
                "read_features": given,
                "read": inner.layer(after, inner.layers, given),
            }
        )
    return {name: torch.cat([row[name] for row in rows], dim=2) for name in rows[0]}


def _size(weights: Weights) -> Tensor:
    """The norm of all matrices and biases together, (b, h, 1)."""
    return sum(w.square().sum((-2, -1)) for w in weights.values()).sqrt()[..., None]
