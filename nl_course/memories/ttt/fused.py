"""The chunked path of TTT over many whole mini-batches, with a backward pass of its own.

The sequential part of a TTT layer is the keys' side: the errors of a mini-batch need the weights that the one before
left. So a group of mini-batches is worked through as a chain of a few small operations each (`chain`). All its queries
are then read at once (`read`), from the anchor W^g that the group began with and the scaled errors f_j = l_j e_j:

    X_i W_i + b_i = X_i W^g + b^g - sum_j F_ij (X_i . a_j + 1) f_j

    F_ij = c_i for j <= i in i's own mini-batch, c_b (b its size) for j in the group's earlier ones, else 0

Autograd would record hundreds of operations per mini-batch and keep what all of them made. Here the anchor of each
group and every layer's output before its activation are kept; the backward pass (fused_backward.py) makes the rest
again while it goes through the groups in reverse. Differentiated further, the dual form takes over (custom_vjp.py).

What it gains over the dual form, forward and backward (width 256, 4 heads, mini-batch 16, float32, two threads, medians
of 7 in turn on a busy machine): TTT-Linear 1.8 times as fast at 2,048 tokens and 1.5 times at 8,192; TTT-MLP 2.0 times
at 2,048. In time of the processor the same three are 1.8, 1.6 and 1.8.

Axes: m rows (batch x heads), s tokens of a group, f head width. Weights are a tuple W1, b1, W2, b2, ...
"""

from functools import partial

import torch
from torch import Tensor

from nl_course.memories.common.custom_vjp import CustomVJP, custom_vjp
from nl_course.memories.common.inner_model import InnerModel, Norm
from nl_course.memories.common.weights import Weights
from nl_course.memories.ttt import dual
from nl_course.memories.ttt.fused_backward import backward_pass
from nl_course.memories.ttt.fused_kernels import Flat, chain, read, standardize


def can_run(inner: InnerModel, first_order: bool) -> bool:
    """Whether this path computes that inner model; for all others there is the dual form."""
    return inner.norm and inner.bias and inner.residual and not first_order


def learn(
    inner: InnerModel, norm: Norm, anchor: Weights, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, factor: Tensor
) -> tuple[Tensor, Weights]:
    """q, k, v (b, h, t, f) and rate (b, h, t) for whole mini-batches of len(factor) tokens -> z (b, h, t, f) and the
    weights after the last: the numbers of reference.py."""
    names = list(inner.shapes(q.shape[-1]))
    operation = CustomVJP(*(partial(way, inner) for way in (plain_pass, forward_pass, backward_pass)))
    z, *last = custom_vjp(operation, q, k, v, rate, factor, *norm, *(anchor[name] for name in names))
    return z, Weights(zip(names, last))


def plain_pass(
    inner: InnerModel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    factor: Tensor,
    gain: Tensor,
    shift: Tensor,
    *weights: Tensor,
) -> list[Tensor]:
    """z and the last weights, by the dual form."""
    names = list(inner.shapes(q.shape[-1]))
    anchor = Weights(zip(names, weights))
    nothing = anchor.map(torch.zeros_like)
    z, last, _ = dual.learn(inner, Norm(gain, shift), anchor, nothing, q, k, v, rate, factor)
    return [z, *(last[name] for name in names)]


def forward_pass(inner: InnerModel, *inputs: Tensor, save: bool) -> tuple[list[Tensor], list]:
    """z and the last weights, and what the backward pass needs, as it describes it; the inputs of `plain_pass`."""
    flat = Flat(inner, *inputs)
    weights = [w.clone(memory_format=torch.contiguous_format) for w in flat.weights]
    outputs = []
    saved = []
    for group in flat.groups():
        anchor = [w.clone() for w in weights]
        inputs_by_layer, hidden, errors = chain(flat, group, weights)
        q = flat.q[:, group]  # (m, s, f)
        # Reading does not go by mini-batches: one matmul for all pairs of tokens in the group.
        joined_inputs = [torch.cat(layer, dim=1) for layer in inputs_by_layer]  # (m, s, in) each
        joined_errors = [torch.cat(layer, dim=1) for layer in errors]  # (m, s, out) each
        y = read(flat, q, joined_inputs, joined_errors, anchor)[-1].output
        unit, _, _ = standardize(y)
        outputs.append(torch.addcmul(q + flat.shift, flat.gain, unit))
        if save:
            saved.append((anchor, hidden, errors[:-1]))
    z = torch.cat(outputs, dim=1).view(inputs[0].shape)  # (b, h, t, f)
    last = [w.view(u.shape) for w, u in zip(weights, inputs[7:])]  # (b, h, in, out)
    return [z, *last], [weights, *saved]
