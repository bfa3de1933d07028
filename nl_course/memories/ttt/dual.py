"""The inner loop of TTT in its dual form: a whole mini-batch with matmuls, and no weight matrix for any token.

In a mini-batch every gradient is taken at the anchor W^a (reference.py). The gradient of token j's loss is one outer
product per layer, a_j^T e_j, where a_j is the layer's input for the key and e_j the error that comes back to it
(inner_model.py). So the weights that token i reads with are, with rates l_j and position factors c_i,

    W_i = W^a - c_i sum_{j <= i} l_j a_j^T e_j

and a row x_i times these weights needs only products of rows, since x_i (a_j^T e_j) = (x_i . a_j) e_j:

    x_i W_i = x_i W^a - c_i sum_{j <= i} l_j (x_i . a_j) e_j

Stack the rows: with E_ij = c_i l_j for j <= i and 0 for later j, and the bias counted as a feature that is always 1,

    X W + b = X W^a + b^a - (E * (X a^T + 1)) e                           (section 2.5 of arXiv 2407.04620)

Do this layer by layer: activations, LayerNorm and residual path stand between these products and need nothing new. A
mini-batch may be cut anywhere. What its earlier tokens wrote is carried in G = sum_j l_j a_j^T e_j, `grad_accum`.

Axes: b batch, h heads, t tokens, f head width. q, k, v (b, h, t, f), rate (b, h, t), factor: c by position.
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import InnerModel, Norm
from nl_course.memories.common.weights import Weights


def dual(
    inner: InnerModel,
    norm: Norm | None,
    anchor: Weights,
    grad_accum: Weights | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    factor: Tensor,
    first_order: bool = False,
) -> tuple[Tensor, Weights]:
    """One mini-batch, or a piece of one, whose positions have the factors in `factor` (t,): z (b, h, t, f) and the new
    G. A `grad_accum` of None is a G of zeros: the piece opens its mini-batch. With `first_order` the inner gradients
    are constants of the outer loop."""
    key_side = inner.key_side(anchor, k, v, norm)
    if first_order:
        key_side = [(a.detach(), e.detach()) for a, e in key_side]
    E = (factor[:, None] * rate[:, :, None, :]).tril()  # (b, h, t, t): reading token, written token
    step = Weights()
    x = q
    for i, (a, e) in enumerate(key_side, 1):
        z = inner.layer(anchor, i, x)  # (b, h, t, out)
        if grad_accum is not None:
            z = z - factor[:, None] * inner.layer(grad_accum, i, x)
        products = x @ a.mT  # (b, h, t, t)
        if inner.bias:
            products = products + 1
        z = z - (E * products) @ e
        # The sum over the tokens happens inside these products.
        step[f"W{i}"] = (rate[..., None] * a).mT @ e  # (b, h, in, out)
        if inner.bias:
            step[f"b{i}"] = rate[:, :, None, :] @ e  # (b, h, 1, out)
        x = inner.activate(z) if i < inner.layers else z
    if grad_accum is not None:
        step = grad_accum + step
    return inner.answer(q, x, norm), step


def learn(
    inner: InnerModel,
    norm: Norm | None,
    anchor: Weights,
    grad_accum: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    factor: Tensor,
    position: int = 0,
    first_order: bool = False,
) -> tuple[Tensor, Weights, Weights]:
    """Any number of tokens of a text from number `position` on, one mini-batch of len(factor) after another: the same
    arguments and the same numbers as reference.py's `learn`."""
    size = len(factor)
    sizes = piece_sizes(position, q.shape[2], size)
    outputs = []
    for piece in zip(*(u.split(sizes, dim=2) for u in (q, k, v, rate))):
        start = position % size
        stop = start + piece[0].shape[2]
        opened = None if start == 0 else grad_accum
        z, grad_accum = dual(inner, norm, anchor, opened, *piece, factor[start:stop], first_order)
        outputs.append(z)
        position += stop - start
        if stop == size:
            anchor = anchor - factor[-1] * grad_accum
    if position % size == 0:
        grad_accum = grad_accum.map(torch.zeros_like)
    return torch.cat(outputs, dim=2), anchor, grad_accum


def piece_sizes(position: int, tokens: int, size: int) -> list[int]:
    """How many of the next `tokens` lie in each mini-batch: the rest of the open one, whole ones, and a beginning."""
    first = min(tokens, -position % size)
    whole, last = divmod(tokens - first, size)
    sizes = [first] + [size] * whole + [last]
    return [count for count in sizes if count > 0]
