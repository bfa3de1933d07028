"""What a neural memory did, token by token, in numbers that can be looked at.

It follows the weights through the text one write at a time, which costs more than the layer itself. So it runs only
when a trace is asked for, and only as far as the names that the trace wants. Traces, (b, t, h, ...):

* `q`, `k`, `v` (.., f), and the gates `step_size` theta, `momentum` eta, `retention` 1 - alpha;
* `prediction` M(k) before the write (.., f); `loss_before` and `loss_after` the write;
* `surprise`, the norm of the gradient at the chunk's anchor, and `past_surprise`, that of S;
* `write_norm`, how far the weights moved, and `drift`, how far they are from the learned start;
* who reads whom: `weights` (.., positions), the share of each earlier token's `error` (.., f) in this token's `read`
  (.., f), and `start` (.., f), what the text's beginning alone would say: read = start - weights @ error;
* `key_features` and `read_features` (.., m): what the last layer is given for k, at the anchor, and for q, after the
  write.

A call knows only its own tokens: the weights of earlier positions are nan, and so is `start` unless the call began the
text.

Axes: b batch, h heads, t tokens, f head width, m the width of what the last layer is given.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nl_course.memories.base import State
from nl_course.memories.common.inner_model import InnerModel
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.chunk import Gates, chunk_masks
from nl_course.memories.trace import Trace

_READS = ("weights", "error", "read", "start", "key_features", "read_features")
_FOLLOWED = ("prediction", "loss_before", "loss_after", "surprise", "past_surprise", "write_norm", "drift", *_READS)


@torch.no_grad()
def explain(
    trace: Trace,
    neural: nn.Module,
    state: State,
    persistent: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
) -> None:
    """Adds the traces to `trace`: what `neural`, a `NeuralMemory`, did with q, k, v (b, h, t, f) and gates (b, h, t)
    from `state`, its `NeuralState`, on.
    `persistent` tokens were written before the text."""
    alpha, eta, theta = gates.plain()
    retention = 1 - alpha if gates.log_retention is None else gates.log_retention.exp()
    columns = {"q": q, "k": k, "v": v, "step_size": theta, "momentum": eta, "retention": retention}
    if any(trace.wants(name) for name in _FOLLOWED):
        columns |= _follow(neural, state, q, k, v, gates)
        columns |= _who_reads_whom(neural, state, persistent, gates, columns)
    for name, value in columns.items():
        trace.add(name, value.transpose(1, 2))  # (b, t, h, ...)


def _who_reads_whom(
    neural: nn.Module, state: State, persistent: int, gates: Gates, columns: dict[str, Tensor]
) -> dict[str, Tensor]:
    """`start` (b, h, t, f) and `weights` (b, h, t, positions), by the formula of chunk.py for the last layer. Errors
    are known here, so one mask serves all tokens of the call, whatever their chunk."""
    inner = neural.inner
    masks = chunk_masks(gates)
    read_features = columns["read_features"]  # (b, h, t, m)
    start = masks.beta * inner.layer(state.memory, inner.layers, read_features)
    if state.momentum:
        start = start + masks.phi * inner.layer(state.momentum, inner.layers, read_features)
    if state.position != persistent:
        start = torch.full_like(start, math.nan)  # earlier calls wrote too, and this one does not know what
    fits = read_features @ columns["key_features"].mT  # (b, h, t, t)
    if inner.bias:
        fits = fits + 1
    weights = pad(fits * masks.G, (state.position - persistent, 0), value=math.nan)  # (b, h, t, positions)
    return {"start": start, "weights": weights}


def _follow(neural: nn.Module, state: State, q: Tensor, k: Tensor, v: Tensor, gates: Gates) -> dict[str, Tensor]:
    """The quantities of every token that need its own weights, (b, h, t, ...) each."""
    inner, norm = neural.inner, neural.norm
    learned = Weights({name: w.to(neural.accum_dtype)[None] for name, w in neural.start.items()})  # (1, h, in, out)
    tokens = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t = (x[:, :, t : t + 1] for x in (q, k, v))  # (b, h, 1, f)
        own = gates.time_slice(t, t + 1)
        before = Weights(state.memory)
        sides = inner.key_side(state.anchor or before, k_t, v_t, norm)
        u = _gradient(inner, sides)
        # The memory itself says what this token's write makes of the weights, so that a trace cannot differ from it.
        _, state = neural.learn(q_t, k_t, v_t, own, state)
        after, S = Weights(state.memory), Weights(state.momentum)
        u = Weights({name: g for name, g in u.items() if after[name] is not before[name]})  # of what was written
        if own.log_momentum is None:
            S = -own.step[..., None] * u  # without momentum past surprise is the token's own step alone

        features = q_t
        for i in range(1, inner.layers):
            features = inner.activate(inner.layer(after, i, features))  # (b, h, 1, m)
        tokens.append(
            {
                "prediction": inner.read(before, k_t, norm),
                "loss_before": inner.inner_loss(before, k_t, v_t, norm),
                "loss_after": inner.inner_loss(after, k_t, v_t, norm),
                "surprise": u.norm()[..., None],
                "past_surprise": S.norm()[..., None],
                "write_norm": (after - before).norm()[..., None],
                "drift": (after - learned).norm()[..., None],
                "error": sides[-1][1],
                "key_features": sides[-1][0],
                "read_features": features,
                "read": inner.layer(after, inner.layers, features),
            }
        )
    return _joined(tokens)


def _joined(tokens: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Quantities of one token each, (b, h, 1, ...) by name -> of all tokens, (b, h, t, ...)."""
    joined = {}
    for name in tokens[0]:
        joined[name] = torch.cat([token[name] for token in tokens], dim=2)
    return joined


def _gradient(inner: InnerModel, sides: list[tuple[Tensor, Tensor]]) -> Weights:
    """One token's gradient, from each layer's input (b, h, 1, in) and error (b, h, 1, out)."""
    u = Weights()
    for i, (a, e) in enumerate(sides, 1):
        u[f"W{i}"] = a.mT @ e  # (b, h, in, out)
        if inner.bias:
            u[f"b{i}"] = e
    return u
