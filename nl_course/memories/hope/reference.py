"""Self-modifying Titans, one token at a time: autograd on the inner loss, and the erase.

    W_t = (alpha_t I - eps_t a_t^T a_t) W_{t-1} - eta_t grad l(W^a; k_t, v^_t),    l = |M(k_t) - v^_t|^2 / 2

for every layer with its own input a_t, eps_t = eta_t for the keys and eta_t / |a_t|^2 for other inputs: delta gradient
descent layer by layer (arXiv 2512.24695, sections 4.5 and 8.1, equation 88). W^a is the anchor, the weights at the last
boundary; with chunks of one token it is W_{t-1}. v^_t, which the memory made itself, is a constant of this gradient
and open to the outer one.

Axes as in hope_core.py. k, v (b, h, c, f), step and log_retention (b, h, c).
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import Weights
from nl_course.memories.hope.bank import TINY, Bank, Fast, Rule


def learn(bank: Bank, rule: Rule, fast: Fast, k, v, step, log_retention, shared, q=None) -> tuple[Fast, Tensor | None]:
    """A piece of one chunk written into a bank, token by token; given q, each is read after its token's write."""
    answers = []
    for t in range(k.shape[2]):
        token = slice(t, t + 1)
        targets = {part: y[..., token, :] for part, y in shared.items()} if shared else None
        gates = step[:, :, token, None], log_retention[:, :, token, None].exp()
        fast = one_token(bank, rule, fast, k[:, :, token], v[:, :, token], *gates, targets)
        if q is not None:
            answers.append(bank.read(fast.running, q[:, :, token])["memory"])
    return fast, None if q is None else torch.cat(answers, dim=2)


def one_token(bank: Bank, rule: Rule, fast: Fast, k, v, step, retention, shared) -> Fast:
    """k, v (b, h, 1, f), step and retention (b, h, 1, 1)."""
    target = shared or bank.answers(fast.anchor, v)
    if rule.stop == "targets":
        target = {part: y.detach() for part, y in target.items()}
    constant = rule.stop in ("first-order", "write")
    gradient = inner_gradient(bank, fast.anchor, k, target, torch.is_grad_enabled() and not constant)
    running, momentum = dict(fast.running), dict(fast.momentum)
    for name, a in bank.inputs(fast.anchor, k).items():
        W, keyed = fast.running[name], name in ("into", "out")
        eta, alpha = (step, retention) if keyed else (step[:, :, None], retention[:, :, None])
        if constant:
            a = a.detach()
        if rule.stop == "write":
            eta, alpha = eta.detach(), alpha.detach()
        rate = eta if keyed else eta / (a.square().sum(-1, keepdim=True) + TINY)
        erased = rate * a.mT @ (a @ W)
        if rule.erase == "off" or (rule.erase == "input" and not keyed):
            erased = torch.zeros_like(W)
        change = -rule.sign * eta * gradient[name]
        if rule.momentum:
            change = momentum[name] = rule.momentum * fast.momentum[name] + change
        running[name] = alpha * W - (erased.detach() if rule.stop == "write" else erased) + change
    return Fast(fast.anchor, running, momentum)


def inner_gradient(bank: Bank, anchor: Weights, k: Tensor, target: Weights, graph: bool) -> Weights:
    """Of every memory's loss on one token, with respect to its own weights at the anchor. Differentiable if `graph`."""
    if torch.is_inference_mode_enabled():  # even there a memory learns
        with torch.inference_mode(False):
            anchor, target = ({n: x.clone() for n, x in each.items()} for each in (anchor, target))
            return inner_gradient(bank, anchor, k.clone(), target, False)
    with torch.enable_grad():
        # Views, so that a target which the same weights made is no part of what is differentiated.
        at = {n: w.view_as(w) if graph and w.requires_grad else w.detach().requires_grad_() for n, w in anchor.items()}
        answers = bank.answers(at, k)
        loss = sum((answers[part] - target[part]).square().sum() / 2 for part in answers)
        gradients = torch.autograd.grad(loss, list(at.values()), create_graph=graph)
    return dict(zip(at, gradients if graph else (g.detach() for g in gradients)))
