"""The inner loop of TTT, one mini-batch or a piece of one: by autograd a token at a time, and in its dual form.

In a mini-batch of b tokens every gradient is taken at the weights that it began with, the anchor W^a (Sun et al. 2024,
arXiv 2407.04620, section 2.4 and equation 6). With a_j, e_j a layer's input and error for token j's pair (inner.py),
rate l_j and position factor c_i:

    W_i = W^a - c_i G_i,    G_i = sum_{j <= i} l_j a_j^T e_j,    z_i = f(q_i; W_i)        write first, then read

`reference` does just that. `dual` never makes a weight matrix for a token (section 2.5): with X the rows that a layer
reads with, and E_ij = c_i l_j for j <= i, 0 for later j,

    X_i W_i + b_i = X W^a + b^a - (E * (X a^T + 1)) e,      the 1 being the bias's share

for every layer in turn. A mini-batch may be cut anywhere: what is carried is the anchor and G, here `gathered`.

Axes: b batch, h heads, t tokens of the piece, f head width. q, k, v (b, h, t, f), rate (b, h, t), factor (t,).
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import InnerModel, Norm, Weights, grad_loss

STOPS = ("none", "first-order", "write")


def moved(anchor: Weights, gathered: Weights, factor: Tensor) -> Weights:
    """W = W^a - c G, the weights as they stand."""
    return Weights({name: anchor[name] - factor * gathered[name] for name in anchor})


def loss_gradient(inner: InnerModel, norm: Norm | None, anchor: Weights, k: Tensor, v: Tensor, graph: bool) -> Weights:
    """Gradient of one token's inner loss with respect to the anchor."""
    return grad_loss(inner.inner_loss, anchor, k, v, norm, create_graph=graph)


def reference(
    inner: InnerModel,
    norm: Norm | None,
    anchor: Weights,
    gathered: Weights | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    factor: Tensor,
    stop: str = "none",
) -> tuple[Tensor, Weights]:
    """One token at a time: a gradient, a step, a read. Returns z (b, h, t, f) and the new G. `gathered` None is a G of
    zeros: the piece opens its mini-batch. With a `stop` the inner gradients count as constants."""
    if gathered is None:
        gathered = Weights({name: torch.zeros_like(w) for name, w in anchor.items()})
    answers = []
    for i in range(q.shape[2]):
        token = slice(i, i + 1)
        gradient = grad_loss(
            inner.inner_loss, anchor, k[:, :, token], v[:, :, token], norm, create_graph=stop == "none"
        )
        step = rate[:, :, token, None]
        gathered = Weights({n: g + step * gradient[n] for n, g in gathered.items()})
        answers.append(inner.read(moved(anchor, gathered, factor[i]), q[:, :, token], norm))
    return torch.cat(answers, dim=2), gathered


def dual(
    inner: InnerModel,
    norm: Norm | None,
    anchor: Weights,
    gathered: Weights | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    factor: Tensor,
    stop: str = "none",
) -> tuple[Tensor, Weights]:
    """The same numbers with matmuls only."""
    sides = inner.key_side(anchor, k, v, norm)
    if stop != "none":
        sides = [(a.detach(), e.detach()) for a, e in sides]
    mask = (factor[:, None] * rate[:, :, None, :]).tril()  # E
    x, after = q, Weights()
    for i, (a, e) in enumerate(sides, 1):
        z = inner.layer(anchor, i, x)
        if gathered is not None:
            z = z - factor[:, None] * inner.layer(gathered, i, x)
        products = x @ a.mT + 1 if inner.bias else x @ a.mT
        z = z - (mask * products) @ e
        after[f"W{i}"] = (rate[..., None] * a).mT @ e
        if inner.bias:
            after[f"b{i}"] = rate[:, :, None, :] @ e
        x = inner.activate(z) if i < inner.layers else z
    if gathered is not None:
        after = gathered + after
    return inner.answer(q, x, norm), after


def dual_sequence(
    inner: InnerModel, norm: Norm | None, anchor: Weights, q: Tensor, k: Tensor, v: Tensor, rate, factor: Tensor
) -> tuple[Tensor, Weights]:
    """Whole mini-batches of len(factor) tokens in the dual form: z (b, h, t, f) and the weights after the last."""
    answers = []
    for part in zip(*(u.split(len(factor), dim=2) for u in (q, k, v, rate))):
        z, gathered = dual(inner, norm, anchor, None, *part, factor)
        anchor = moved(anchor, gathered, factor[-1])
        answers.append(z)
    return torch.cat(answers, dim=2), anchor
