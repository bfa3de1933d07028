"""The chunked path of TTT over many whole mini-batches, with a backward pass of its own.

The sequential part of a TTT layer is the keys' side: a mini-batch's errors need the weights that the one before left.
So a group of mini-batches is worked through as a chain of a few small operations each (`chain`), and all its queries
are then read at once (`read`), from the anchor W^g that the group began with and the scaled errors f_j = l_j e_j:

    X_i W_i + b_i = X_i W^g + b^g - sum_j F_ij (X_i . a_j + 1) f_j

    F_ij = c_i for j <= i in i's own mini-batch, c_b (b its size) for j in the group's earlier ones, else 0

Autograd would record hundreds of operations a mini-batch and keep what all of them made. Here the anchor of each group
and every layer's output before its activation are kept; the backward pass (ttt_backward.py) makes the rest again while
it goes through the groups in reverse. Differentiated further, the plain dual form takes over (custom_vjp.py).

Axes: m rows (batch x heads), s tokens of a group, f head width. Weights are a tuple W1, b1, W2, b2, ...
"""

from functools import partial

import torch
from torch import Tensor

from nl_course.memories.common.custom_vjp import CustomVJP, custom_vjp
from nl_course.memories.common.inner_model import InnerModel, Norm, Weights
from nl_course.memories.ttt.dual import dual_sequence
from nl_course.memories.ttt.fused_backward import backward_pass
from nl_course.memories.ttt.fused_kernels import Flat, chain, read, standardise


def can_run(inner: InnerModel, stop: str) -> bool:
    """Whether this path computes that inner model; the others go through the plain dual form."""
    return inner.norm and inner.bias and inner.residual and stop == "none"


def run(
    inner: InnerModel, norm: Norm, anchor: Weights, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, factor: Tensor
) -> tuple[Tensor, Weights]:
    """q, k, v (b, h, t, f) and rate (b, h, t) for whole mini-batches of len(factor) tokens -> z (b, h, t, f) and the
    weights after the last."""
    names = list(inner.shapes(q.shape[-1]))
    learn = CustomVJP(*(partial(way, inner) for way in (plain_pass, forward_pass, backward_pass)))
    z, *last = custom_vjp(learn, q, k, v, rate, factor, *norm, *(anchor[name] for name in names))
    return z, Weights(zip(names, last))


def plain_pass(inner: InnerModel, q, k, v, rate, factor, gain, shift, *weights) -> list[Tensor]:
    """z and the last weights, by the plain dual form."""
    names = list(inner.shapes(q.shape[-1]))
    anchor = Weights(zip(names, weights))
    z, last = dual_sequence(inner, Norm(gain, shift), anchor, q, k, v, rate, factor)
    return [z, *(last[name] for name in names)]


def forward_pass(inner: InnerModel, *given: Tensor, save: bool) -> tuple[list[Tensor], list]:
    """z and the last weights, and what the backward pass needs, as it describes it."""
    flat = Flat(inner, *given)
    weights = [w.clone(memory_format=torch.contiguous_format) for w in flat.weights]
    outputs, kept = [], []
    for at in flat.groups():
        anchor = [w.clone() for w in weights]
        inputs, hidden, errors = chain(flat, at, weights)
        q = flat.q[:, at]
        joined = ([torch.cat(layer, dim=1) for layer in part] for part in (inputs, errors))
        y = read(flat, q, *joined, anchor)[-1][-1]
        unit = standardise(y)[0]
        outputs.append(torch.addcmul(q + flat.shift, flat.gain, unit))
        if save:
            kept.append((anchor, hidden, errors[:-1]))
    z = torch.cat(outputs, dim=1).view(given[0].shape)
    last = [w.view(u.shape) for w, u in zip(weights, given[7:])]
    return [z, *last], [weights, *kept]
