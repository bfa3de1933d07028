"""Self-modifying Titans, one token at a time: the definition that every other path is tested against.

Behrouz et al. 2025, "Nested Learning", arXiv 2512.24695, section 8.1. The paper's letters, but in rows: k M where it
writes M k.

    M          any of the memories M_k, M_v, M_eta, M_alpha, M_memory: all are written at one key, by one rule
    M_xi       that memory at the last boundary of its chunks, the anchor; with chunks of one token it is M_{t-1}
    k_t, v_t   key and value of token t
    v_hat_t    the target: what this memory itself says of v_t
    eta_t      step
    alpha_t    retention, the share that is kept; 1 keeps everything (in Titans alpha is the share that is forgotten)

Where k_t, v_t, eta_t and alpha_t come from, which are read from memories too (eq. 83 to 87), stands in layer.py.
Ours, since the paper is silent: the erase of a second layer, half the squared error, momentum (see config.py).

Axes: b batch, h heads, t tokens, f head width.
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import grad_loss
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import TINY, Bank, FastWeights, Network, Rule


def write_token(
    network: Network,
    rule: Rule,
    M: Weights,
    M_xi: Weights,
    S: Weights,
    k_t: Tensor,
    v_hat_t: Tensor,
    eta_t: Tensor,
    alpha_t: Tensor,
) -> tuple[Weights, Weights]:
    """One memory after token t, and its momentum S (empty without momentum, before and after).

    k_t (b, h, 1, f), v_hat_t (b, h, 1, f or 1), eta_t and alpha_t (b, h, 1, 1)."""
    # `stop` changes no number: it detaches what the outer loop must treat as a constant.
    constant = rule.stop in ("first-order", "write")
    gradient = grad_loss(network.loss, M_xi, k_t, v_hat_t, create_graph=not constant)  # in eq. 88; at M_xi: eq. 90
    inputs = network.inputs(M_xi, k_t)
    if constant:
        inputs = inputs.map(Tensor.detach)
    if rule.stop == "write":
        eta_t, alpha_t = eta_t.detach(), alpha_t.detach()
    first_layer, *_ = M
    after, momentum = Weights(M), Weights(S)
    for name, a_t in inputs.items():  # k_t for the first layer; for the second, what the first makes of k_t
        eps_t = erase_rate(rule, name == first_layer, a_t, eta_t)
        erased = eps_t * a_t.mT @ (a_t @ M[name])  # eta_t k_t k_t^T, eq. 88
        step = -rule.sign * eta_t * gradient[name]
        if rule.momentum:
            step = momentum[name] = rule.momentum * S[name] + step
        if rule.stop == "write":
            erased = erased.detach()
        after[name] = alpha_t * M[name] - erased + step  # eq. 88
    return after, momentum


def erase_rate(rule: Rule, first_layer: bool, a_t: Tensor, eta_t: Tensor) -> Tensor | float:
    """The share of what stands along a layer's input a_t (b, h, 1, in) that is erased: eta_t, or 0.

    The factor of eq. 88 is for keys, which have length 1. The input of a second layer has any length, so the rate is
    divided by its square: delta gradient descent (section 4.5) with that layer's own input."""
    if rule.erase == "off":
        return 0.0
    if first_layer:
        return eta_t
    if rule.erase == "input":
        return 0.0
    return eta_t / (a_t.square().sum(-1, keepdim=True) + TINY)


def write_tokens(
    bank: Bank,
    rule: Rule,
    fast: FastWeights,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    alpha: Tensor,
    shared_targets: Weights | None,
    q: Tensor | None = None,
) -> tuple[FastWeights, Tensor | None]:
    """A piece of one chunk written into a bank of memories: k, v (b, h, t, f), eta and alpha (b, h, t).

    `shared_targets` are the targets that `bank.targets` made for all memories; None: each makes its own. Returns the
    fast weights after the piece and, given q (b, h, t, f), what M_memory answers to each token's query with that
    token's own write in it (b, h, t, f)."""
    anchors, memories = bank.spread(fast.anchor), bank.spread(fast.running)
    momenta = bank.spread(fast.momentum) if fast.momentum else dict.fromkeys(bank.names, Weights())
    targets = bank.unpack(shared_targets) if shared_targets else None
    reads = []
    for t in range(k.shape[2]):
        token = slice(t, t + 1)
        k_t, v_t = k[:, :, token], v[:, :, token]  # (b, h, 1, f)
        eta_t, alpha_t = eta[:, :, token, None], alpha[:, :, token, None]  # (b, h, 1, 1)
        for name in bank.names:
            network, M_xi = bank.network(name), anchors[name]
            if targets is None:
                v_hat_t = network.read(M_xi, v_t)  # eq. 83 to 87: M makes its own target
            else:
                v_hat_t = targets[name][:, :, token]  # eq. 76 to 82: all memories have one target
            if rule.stop == "targets":
                v_hat_t = v_hat_t.detach()
            memories[name], momenta[name] = write_token(
                network, rule, memories[name], M_xi, momenta[name], k_t, v_hat_t, eta_t, alpha_t
            )
        if q is not None:
            reads.append(bank.network("memory").read(memories["memory"], q[:, :, token]))
    momentum = bank.gather(momenta) if rule.momentum else Weights()
    o = torch.cat(reads, dim=2) if q is not None else None  # (b, h, t, f)
    return FastWeights(fast.anchor, bank.gather(memories), momentum), o
