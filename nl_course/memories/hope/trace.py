"""What a self-modifying layer did, token by token, in numbers that can be looked at.

It follows the weights through the text one write at a time, which costs more than the layer itself: it runs only when
a trace is asked for, and only as far as the names that it wants. Traces, (B, T, h, ...):

    key, value, query (.., f), step_size, retention     what the memories said of the token
    read (.., f)                 M_memory's answer, before the norm and the gate
    and for each memory M that moves, key, value, query, step, retention or memory:
    M.target (.., f or 1)        what it told itself to answer, v^ (or the shared target)
    M.prediction (.., f or 1)    what it answered to the key at the last boundary
    M.loss_before, M.loss_after  |M(k) - v^|^2 / 2 with the weights as they stand before and after the token's write
    M.write_norm, M.drift        how far the write moves its weights; how far they are from their start
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import Weights
from nl_course.memories.hope.bank import Fast
from nl_course.memories.trace import Trace

_FOLLOWED = ("target", "prediction", "loss_before", "loss_after", "write_norm", "drift")


@torch.no_grad()
def explain(trace: Trace, memory, state, signals: dict[str, Tensor], o: Tensor) -> None:
    """Adds the traces above, given what the memories said, `signals`, and the reads o (b, h, t, f)."""
    found = {"key": signals["key"], "value": signals["value"], "query": signals["query"], "read": o}
    found |= {"step_size": signals["step"], "retention": signals["log_retention"].exp()}
    for (bank, chunk), fast in zip(memory._banks(), (state.others, state.memory)):
        wanted = [name for name in bank.names if any(trace.wants(f"{name}.{what}") for what in _FOLLOWED)]
        if wanted and fast.anchor:
            found |= _follow(memory, bank, chunk, memory._fast(fast), state.position, signals)
    for name, value in found.items():
        trace.add(name, value.transpose(1, 2))


def _follow(memory, bank, chunk: int, fast: Fast, position: int, signals: dict[str, Tensor]) -> dict[str, Tensor]:
    """A bank's quantities, (b, h, t, ..) each."""
    start, rows = bank.spread(memory._begun(bank)), []
    for t in range(signals["key"].shape[2]):
        token = {name: u[:, :, t : t + 1] for name, u in signals.items()}
        k, v, shared = token["key"], token["value"], memory.shared_targets(bank, token["value"])
        target = bank.named(shared) if shared else bank.read(fast.anchor, v)
        after, _ = memory.learn(bank, fast, token, (position + t) % chunk == 0)
        answers = [bank.read(weights, k) for weights in (fast.anchor, fast.running, after.running)]
        old, new = bank.spread(fast.running), bank.spread(after.running)
        row = {}
        for name in bank.names:
            said, before, now = (answer[name] for answer in answers)
            row |= {
                f"{name}.target": target[name],
                f"{name}.prediction": said,
                f"{name}.loss_before": _loss(before, target[name]),
                f"{name}.loss_after": _loss(now, target[name]),
                f"{name}.write_norm": _distance(old[name], new[name]),
                f"{name}.drift": _distance(start[name], new[name]),
            }
        rows.append(row)
        fast = after._replace(anchor=after.running) if (position + t + 1) % chunk == 0 else after
    return {name: torch.cat([row[name] for row in rows], dim=2) for name in rows[0]}


def _loss(answer: Tensor, target: Tensor) -> Tensor:
    return (answer - target).square().sum(-1) / 2


def _distance(one: Weights, other: Weights) -> Tensor:
    """Between two sets of weights, all matrices together, (b, h, 1)."""
    return sum((one[part] - other[part]).square().sum((-2, -1)) for part in one).sqrt()[..., None]
