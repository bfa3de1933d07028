"""What a TTT layer did, token by token, in numbers that can be looked at.

It follows the weights through the text one write at a time, which costs more than the layer itself: it runs only when
a trace is asked for, and only as far as the names that it wants.
"""

import math

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import Weights
from nl_course.memories.trace import Trace

_LOSSES = ("prediction", "loss_before", "loss_after", "loss_start", "write_norm", "drift")
_READS = ("weights", "error", "read", "start", "key_features", "read_features")


@torch.no_grad()
def explain(trace: Trace, memory, state, q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> None:
    """Adds the traces that `TTT` names; q, k, v (b, h, t, f) as the inner model meets them, rate (b, h, t)."""
    factor, size = memory.position_factor(), memory.config.mini_batch
    place = torch.arange(state.position, state.position + q.shape[2], device=q.device) % size
    found = {"q": q, "k": k, "v": v, "rate": rate, "step_size": factor[place] * rate}
    if any(trace.wants(name) for name in _LOSSES + _READS):
        found |= _follow(memory, state, q, k, v, rate)
    if trace.wants("weights"):
        features = found["read_features"], found["key_features"]
        found["weights"] = _contributions(memory, state.position, factor, rate, *features)
    for name, value in found.items():
        trace.add(name, value.transpose(1, 2))


def _follow(memory, state, q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> dict[str, Tensor]:
    """Every token's quantities, (b, h, t, ...) each."""
    inner, norm, last = memory.inner, memory.norm, memory.inner.layers
    start = memory._start().map(lambda w: w[None])
    before, rows = memory.weights(state), []
    for t in range(q.shape[2]):
        query, key, value = (u[:, :, t : t + 1] for u in (q, k, v))
        sides = inner.key_side(state.anchor, key, value, norm)
        # The memory itself says what the token's write makes of the weights, so that a trace cannot differ from it.
        _, state = memory.learn(query, key, value, rate[:, :, t : t + 1], state)
        after = memory.weights(state)
        given = query
        for i in range(1, last):
            given = inner.activate(inner.layer(after, i, given))
        rows.append(
            {
                "prediction": inner.read(before, key, norm),
                "loss_before": inner.inner_loss(before, key, value, norm),
                "loss_after": inner.inner_loss(after, key, value, norm),
                "loss_start": inner.inner_loss(start, key, value, norm),
                "write_norm": _distance(before, after),
                "drift": _distance(start, after),
                "error": sides[-1][1],
                "key_features": sides[-1][0],
                "read_features": given,
                "read": inner.layer(after, last, given),
                "start": inner.layer(start, last, given),
            }
        )
        before = after
    return {name: torch.cat([row[name] for row in rows], dim=2) for name in rows[0]}


def _distance(one: Weights, other: Weights) -> Tensor:
    """Between two sets of weights, all matrices and biases together, (b, h, 1)."""
    return sum((one[name] - other[name]).square().sum((-2, -1)) for name in one).sqrt()[..., None]


def _contributions(memory, position: int, factor: Tensor, rate: Tensor, given: Tensor, stored: Tensor) -> Tensor:
    """How much of token s's error is in token t's answer before its norm, (b, h, t, position + t): c_i l_s (x_t . a_s
    + 1), with the last c_i of the mini-batch once it is over. What came before this call is nan."""
    size, tokens = memory.config.mini_batch, given.shape[2]
    at = torch.arange(position, position + tokens, device=given.device)
    same = (at[:, None] // size) == (at[None, :] // size)
    share = torch.where(same, factor[at % size][:, None], factor[-1]).tril() * rate[:, :, None, :]
    products = given @ stored.mT + 1 if memory.inner.bias else given @ stored.mT
    return torch.nn.functional.pad(share * products, (position, 0), value=math.nan)
