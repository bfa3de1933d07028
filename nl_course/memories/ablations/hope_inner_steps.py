"""More inner steps on the same chunk (sceptic.py's `inner_steps` n), for self-modifying Titans: slow, as it is written.

As in more_steps.py: where one step has a token's gradient at the anchor, n steps have the sum of its gradients at
W_t^(0) = W^a, W_t^(1), .. W_t^(n-1), W_t^(m) being what the layer's own rule makes of the chunk so far with m of them:

    W_s = (alpha_s I - eps_s a_s^T a_s) W_{s-1} - eta_s sum_{p < m} grad l(W_t^(p); k_s, v^_s)      s = 1 .. t, from W_0

Targets v^, keys, gates and what is erased, a, are the anchor's in every step: the same loss, trained harder. Memories
that are read at boundaries only need this for the last token; read after each write, every token has weights of its
own. The state holds the open chunk's pairs and the momentum that the chunk began with.

Axes as in hope_core.py; j pairs of the open chunk, r reads. Each read's own weights are folded into the batch, (b r).
"""

import torch
from torch import Tensor

from nl_course.memories.ablations.inner_steps import fold, folded, held_pairs, last_of
from nl_course.memories.common.inner_model import Weights
from nl_course.memories.hope.bank import TINY, Bank, Fast, Rule
from nl_course.memories.hope.reference import inner_gradient


def learn(bank: Bank, rule: Rule, plain: bool, fast: Fast, signals: dict, shared, q=None) -> tuple[Fast, Tensor | None]:
    """A piece of a chunk: `signals` key, value (b, h, c, f), step and log_retention (b, h, c). `shared` makes values'
    common targets, or None; `plain` takes gradients by autograd. Given q, reads each token after its own write."""
    first = {name[2:]: w for name, w in fast.open.items() if name.startswith("S.")} if fast.open else fast.momentum
    pairs = {name: u for name, u in fast.open.items() if not name.startswith("S.")}
    new = signals["key"].shape[2]
    pairs = held_pairs(pairs, {name: signals[name] for name in ("key", "value", "step", "log_retention")})
    reads = 1 if q is None else new
    many, count = {name: fold(u, reads) for name, u in pairs.items()}, pairs["key"].shape[2]
    stopped = rule.stop in ("first-order", "write")
    anchor, S = ({name: fold(w, reads) for name, w in part.items()} for part in (fast.anchor, first))
    target = shared(many["value"]) or bank.answers(anchor, many["value"])
    if rule.stop == "targets":
        target = {part: y.detach() for part, y in target.items()}
    last = torch.arange(count - reads, count, device=many["key"].device).repeat(pairs["key"].shape[0])
    W, momentum, sums, inputs = anchor, S, None, bank.inputs(anchor, many["key"])
    for _ in range(rule.steps):
        found = gradients(bank, W, many["key"], target, plain, stopped)
        sums = found if sums is None else {name: sums[name] + g for name, g in found.items()}
        W, momentum = rolled(rule, anchor, S, inputs, sums, many, last)
    o = None
    if q is not None:
        o = bank.read(W, folded(q)[:, :, None])["memory"][:, :, 0].unflatten(0, (-1, reads)).transpose(1, 2)
    running, momentum = ({name: last_of(w, reads) for name, w in part.items()} for part in (W, momentum))
    return Fast(fast.anchor, running, momentum, pairs | {f"S.{name}": w for name, w in first.items()}), o


def gradients(bank: Bank, W: Weights, k: Tensor, target: Weights, plain: bool, stop: bool) -> Weights:
    """Every pair's own, name -> (b r, h, .., j, in, out)."""
    if plain:
        graph, each = torch.is_grad_enabled() and not stop, []
        for j in range(k.shape[2]):
            pair = slice(j, j + 1)
            goal = {part: y[..., pair, :] for part, y in target.items()}
            each.append(inner_gradient(bank, W, k[:, :, pair], goal, graph))
        return {name: torch.stack([g[name] for g in each], dim=-3) for name in W}
    found = {}
    for name, (a, error, _) in bank.sides(W, k, None, target, False).items():
        if stop:
            a, error = a.detach(), error.detach()
        found[name] = a[..., :, None] * error[..., None, :]
    return found


def rolled(rule: Rule, start: Weights, S: Weights, inputs: Weights, sums: Weights, pairs: dict, last: Tensor):
    """The chunk's recurrence over its pairs, each row of the batch up to its pair number `last` (b r,)."""
    W, momentum = dict(start), dict(S)
    steps, keeps = pairs["step"][..., None, None], pairs["log_retention"].exp()[..., None, None]
    if rule.stop == "write":
        steps, keeps = steps.detach(), keeps.detach()
    for j in range(pairs["key"].shape[2]):
        for name in [name for name in start if rule.moves(name)]:
            keyed = name in ("into", "out")
            a = inputs[name][..., j : j + 1, :]
            if rule.stop in ("first-order", "write"):
                a = a.detach()
            eta, keep = (u[:, :, j] if keyed else u[:, :, None, j] for u in (steps, keeps))
            eps = eta if keyed else eta / (a.square().sum(-1, keepdim=True) + TINY)
            old, change = W[name], -rule.sign * eta * sums[name][..., j, :, :]
            after = keep * old
            if rule.erase == "per-layer" or (rule.erase == "input" and keyed):
                erased = eps * a.mT @ (a @ old)
                after = after - (erased.detach() if rule.stop == "write" else erased)
            now = (last >= j).view(-1, *[1] * (old.dim() - 1))
            if rule.momentum:
                change = rule.momentum * momentum[name] + change
                momentum[name] = torch.where(now, change, momentum[name])
            W[name] = torch.where(now, after + change, old)
    return W, momentum
