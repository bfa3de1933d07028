"""More inner steps on the same chunk (the ablation `inner_steps` n), for self-modifying Titans: slow, as it is written.

As in inner_steps.py: where one step has a token's gradient at the anchor, n steps have the sum of its gradients at
W_t^(0) = W^a, W_t^(1), .. W_t^(n-1), W_t^(m) being what the layer's own rule makes of the chunk so far with m of them:

    W_s = (alpha_s I - eps_s a_s^T a_s) W_{s-1} - eta_s sum_{p < m} grad l(W_t^(p); k_s, v^_s)      s = 1 .. t, from W_0

Targets v^, keys, gates and what is erased, a, are the anchor's in every step: the same loss, trained harder. Memories
that are read at boundaries only need this for the last token; read after each write, every token has weights of its
own. A chunk is given whole, or a text ends inside it.

Axes as in hope/bank.py; j pairs of the chunk, r reads. Each read's own weights are folded into the batch, (b r).
"""

import torch
from torch import Tensor

from nl_course.memories.ablations.inner_steps import check_chunk_begins, fold, folded, last_of
from nl_course.memories.common.inner_model import grad_loss
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import TINY, Bank, FastWeights, Rule
from nl_course.memories.hope.layer import SelfModifying


def learn_hope(
    memory: SelfModifying,
    steps: int,
    bank: Bank,
    fast: FastWeights,
    signals: dict[str, Tensor],
    fresh: bool,
    running: bool,
) -> tuple[FastWeights, Tensor | None]:
    """`SelfModifying.learn` with `steps` inner steps, by the memory's rule and path."""
    check_chunk_begins(not fresh)
    rule, plain = memory.rule, memory.path == "reference"
    count = signals["key"].shape[2]
    reads = count if running else 1
    many = {name: fold(signals[name], reads) for name in ("key", "value", "step", "log_retention")}
    stopped = rule.stop in ("first-order", "write")
    anchor, S = (part.map(lambda w: fold(w, reads)) for part in (fast.anchor, fast.momentum))
    target = memory.shared_targets(bank, many["value"]) or bank.outputs(anchor, many["value"])
    if rule.stop == "targets":
        target = target.map(Tensor.detach)
    last = torch.arange(count - reads, count, device=many["key"].device).repeat(signals["key"].shape[0])  # (b r,)
    W, momentum, sums, inputs = anchor, S, None, bank.inputs(anchor, many["key"])
    for _ in range(steps):
        gradient = pair_gradients(bank, W, many["key"], target, plain, stopped)
        sums = gradient if sums is None else sums + gradient
        W, momentum = rolled(rule, anchor, S, inputs, sums, many, last)
    o = None
    if running:
        o = bank.read(W, folded(signals["query"])[:, :, None])["memory"]  # (b r, h, 1, f)
        o = o[:, :, 0].unflatten(0, (-1, reads)).transpose(1, 2)  # (b, h, t, f)
    W, momentum = (part.map(lambda w: last_of(w, reads)) for part in (W, momentum))
    return FastWeights(fast.anchor, W, momentum), o


def pair_gradients(bank: Bank, W: Weights, k: Tensor, target: Weights, plain: bool, stop: bool) -> Weights:
    """Every pair's own, name -> (b r, h, .., j, in, out)."""
    gradients = Weights()
    if plain:

        def loss(at: Weights, k_j: Tensor, target_j: Weights) -> Tensor:
            """The loss of one pair in every memory of the bank, summed to a scalar."""
            errors = bank.outputs(at, k_j) - target_j
            return sum(error.square().sum() / 2 for error in errors.values())

        per_pair = []
        for j in range(k.shape[2]):
            pair = slice(j, j + 1)
            target_j = target.map(lambda y, pair=pair: y[..., pair, :])  # (b r, h, .., 1, out)
            per_pair.append(grad_loss(loss, W, k[:, :, pair], target_j, create_graph=not stop))
        for name in W:
            gradients[name] = torch.stack([gradient[name] for gradient in per_pair], dim=-3)
        return gradients
    for name, grad in bank.rank_one_grads(W, k, None, target, False).items():
        a, error = grad.input, grad.error  # (b r, h, .., j, in) and (.., j, out)
        if stop:
            a, error = a.detach(), error.detach()
        gradients[name] = a[..., :, None] * error[..., None, :]
    return gradients


def rolled(
    rule: Rule, start: Weights, S: Weights, inputs: Weights, sums: Weights, pairs: dict[str, Tensor], last: Tensor
) -> tuple[Weights, Weights]:
    """The chunk's recurrence over its pairs, each row of the batch up to its pair number `last` (b r,)."""
    W, momentum = Weights(start), Weights(S)
    steps, keeps = pairs["step"][..., None, None], pairs["log_retention"].exp()[..., None, None]
    if rule.stop == "write":
        steps, keeps = steps.detach(), keeps.detach()
    for j in range(pairs["key"].shape[2]):
        for name in inputs:
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
