"""What a self-modifying layer did, token by token, in numbers that can be looked at.

It follows the weights through the text one write at a time, which costs more than the layer itself: it runs only when
a trace is asked for, and only as far as the names that it wants. Traces, (B, T, h, ...):

    key, value, query (.., f), step_size, retention     what the memories said of the token
    read (.., f)                 M_memory's answer, before the norm and the gate
    and for each memory M that moves, key, value, query, step, retention or memory:
    M.target (.., f or 1)        what it is written toward: its own v_hat, or the shared target
    M.prediction (.., f or 1)    what it answered to the key, with its weights at the last boundary
    M.loss_before, M.loss_after  |M(k) - target|^2 / 2 with the weights as they stand before and after the token's write
    M.write_norm, M.drift        how far the write moves its weights; how far they are from their start
"""

import torch
from torch import Tensor

from nl_course.memories.base import Memory, State
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import Bank, FastWeights
from nl_course.memories.trace import Trace

_OF_EACH_MEMORY = ("target", "prediction", "loss_before", "loss_after", "write_norm", "drift")


@torch.no_grad()
def explain(trace: Trace, layer: Memory, state: State, signals: dict[str, Tensor], o: Tensor) -> None:
    """Adds the traces above: given the `SelfModifying` layer, its state before the tokens, what the memories said of
    them, `signals`, and the reads o (b, h, t, f)."""
    values = {
        "key": signals["key"],
        "value": signals["value"],
        "query": signals["query"],
        "read": o,
        "step_size": signals["step"],
        "retention": signals["log_retention"].exp(),
    }
    for (bank, chunk), fast in zip(layer.banks(), (state.others, state.memory)):
        if fast.anchor and _is_wanted(trace, bank):
            values |= _follow(layer, bank, chunk, layer.fast_weights(fast), state.position, signals)
    for name, value in values.items():
        trace.add(name, value.transpose(1, 2))  # (b, t, h, ..)


def _is_wanted(trace: Trace, bank: Bank) -> bool:
    """Whether anything that only `_follow` computes is asked for, of any memory of the bank."""
    followed = [f"{name}.{what}" for name in bank.names for what in _OF_EACH_MEMORY]
    return any(trace.wants(name) for name in followed)


def _follow(
    layer: Memory, bank: Bank, chunk: int, fast: FastWeights, position: int, signals: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The quantities of a bank's memories, (b, h, t, ..) by name, by writing one token after the other."""
    start = bank.spread(layer.start_weights(bank))
    rows = []
    for t in range(signals["key"].shape[2]):
        token = {name: u[:, :, t : t + 1] for name, u in signals.items()}  # (b, h, 1, ..)
        k, v = token["key"], token["value"]
        shared = layer.shared_targets(bank, v)
        targets = bank.unpack(shared) if shared else bank.read(fast.anchor, v)
        after, _ = layer.learn(bank, fast, token, fresh=(position + t) % chunk == 0)
        predictions, before, now = (bank.read(weights, k) for weights in (fast.anchor, fast.running, after.running))
        old, new = bank.spread(fast.running), bank.spread(after.running)
        values = {}
        for name in bank.names:
            values[f"{name}.target"] = targets[name]
            values[f"{name}.prediction"] = predictions[name]
            values[f"{name}.loss_before"] = _loss(before[name], targets[name])
            values[f"{name}.loss_after"] = _loss(now[name], targets[name])
            values[f"{name}.write_norm"] = _distance(old[name], new[name])
            values[f"{name}.drift"] = _distance(start[name], new[name])
        rows.append(values)
        at_boundary = (position + t + 1) % chunk == 0
        fast = after._replace(anchor=after.running) if at_boundary else after
    joined = {}
    for name in rows[0]:
        joined[name] = torch.cat([values[name] for values in rows], dim=2)
    return joined


def _loss(answer: Tensor, target: Tensor) -> Tensor:
    """|answer - target|^2 / 2, (b, h, t)."""
    return (answer - target).square().sum(-1) / 2


def _distance(one: Weights, other: Weights) -> Tensor:
    """Between two sets of weights, all matrices together, (b, h, 1)."""
    return (one - other).norm()[..., None]
