"""What a TTT layer did, token by token, in numbers that can be looked at.

It follows the weights through the text one write at a time, which costs more than the layer itself. So it runs only
when a trace is asked for, and only as far as the names that the trace wants.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from nl_course.memories.base import Memory, State
from nl_course.memories.trace import Trace

_LOSSES = ("prediction", "loss_before", "loss_after", "loss_start", "write_norm", "drift")
_READS = ("weights", "error", "read", "start", "key_features", "read_features")


@torch.no_grad()
def explain(trace: Trace, memory: Memory, state: State, q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> None:
    """Adds the traces that `TTT` names, of a `memory` that read from `state` on: q, k, v (b, h, t, f) and rate
    (b, h, t) are what its inner model was given."""
    factor = memory.position_factor()
    position = torch.arange(state.position, state.position + q.shape[2], device=q.device)
    position_in_chunk = position % memory.config.mini_batch
    quantities = {"q": q, "k": k, "v": v, "rate": rate, "step_size": factor[position_in_chunk] * rate}
    if any(trace.wants(name) for name in _LOSSES + _READS):
        quantities |= _follow(memory, state, q, k, v, rate)
    if trace.wants("weights"):
        quantities["weights"] = _contributions(
            memory, position, factor, rate, quantities["read_features"], quantities["key_features"]
        )
    for name, value in quantities.items():
        trace.add(name, value.transpose(1, 2))  # (b, t, h, ...)


def _follow(memory: Memory, state: State, q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> dict[str, Tensor]:
    """Every token's quantities, (b, h, t, ...) each."""
    inner, norm, last = memory.inner, memory.norm, memory.inner.layers
    start = memory.start_weights().map(lambda w: w[None])  # (1, h, in, out)
    before = memory.weights(state)
    rows = []
    for t in range(q.shape[2]):
        query, key, value = (u[:, :, t : t + 1] for u in (q, k, v))  # (b, h, 1, f)
        features, error = inner.key_side(state.anchor, key, value, norm)[-1]
        # The memory itself says what the token's write makes of the weights, so that a trace cannot differ from it.
        _, state = memory.learn(query, key, value, rate[:, :, t : t + 1], state)
        after = memory.weights(state)
        read_features = query
        for i in range(1, last):
            read_features = inner.activate(inner.layer(after, i, read_features))  # (b, h, 1, m)
        rows.append(
            {
                "prediction": inner.read(before, key, norm),
                "loss_before": inner.inner_loss(before, key, value, norm),
                "loss_after": inner.inner_loss(after, key, value, norm),
                "loss_start": inner.inner_loss(start, key, value, norm),
                "write_norm": (after - before).norm()[..., None],  # (b, h, 1)
                "drift": (after - start).norm()[..., None],  # (b, h, 1)
                "error": error,
                "key_features": features,
                "read_features": read_features,
                "read": inner.layer(after, last, read_features),
                "start": inner.layer(start, last, read_features),
            }
        )
        before = after
    joined = {}
    for name in rows[0]:
        joined[name] = torch.cat([row[name] for row in rows], dim=2)  # (b, h, t, ...)
    return joined


def _contributions(
    memory: Memory, position: Tensor, factor: Tensor, rate: Tensor, read_features: Tensor, key_features: Tensor
) -> Tensor:
    """How much of token s's error is in token t's answer before its norm, (b, h, t, positions): c_i l_s (x_t . a_s +
    1), with the last c_i of the mini-batch once it is over. What came before this call is nan."""
    size = memory.config.mini_batch
    chunk = position // size
    same_chunk = chunk[:, None] == chunk[None, :]  # (t, t)
    scale = torch.where(same_chunk, factor[position % size][:, None], factor[-1]).tril()  # (t, t)
    products = read_features @ key_features.mT  # (b, h, t, t)
    if memory.inner.bias:
        products = products + 1
    share = scale * rate[:, :, None, :] * products  # (b, h, t, t)
    return pad(share, (int(position[0]), 0), value=math.nan)
