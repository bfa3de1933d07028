"""The chunked path of TTT over many whole mini-batches, with a backward pass of its own.

The sequential part of a TTT layer is the keys' side: a mini-batch's errors need the weights that the one before left.
So a group of mini-batches is worked through as a chain of a few small operations each (`chain`), and all its queries
are then read at once (`read`), from the anchor W^g that the group began with and the scaled errors f_j = l_j e_j:

    X_i W_i + b_i = X_i W^g + b^g - sum_j F_ij (X_i . a_j + 1) f_j

    F_ij = c_i for j <= i in i's own mini-batch, c_b (b its size) for j in the group's earlier ones, else 0

Autograd would record hundreds of operations a mini-batch and keep what all of them made. `Learn` keeps, per group, the
anchor and every layer's output before its activation; its backward pass (ttt_backward.py) makes the rest again while it
goes through the groups in reverse. Differentiated twice, it differentiates the plain dual form instead, so that every
further derivative is right.

Axes: m rows (batch x heads), s tokens of a group, f head width. Weights are a tuple W1, b1, W2, b2, ...
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from nl_course.memories.inner import InnerModel, Norm, Weights
from nl_course.memories.ttt_backward import backward_pass
from nl_course.memories.ttt_dual import dual_sequence
from nl_course.memories.ttt_kernels import Flat, chain, read, standardise


def can_run(inner: InnerModel, stop: str) -> bool:
    """Whether this path computes that inner model; the others go through the plain dual form."""
    plain = inner.norm and inner.bias and inner.residual
    return plain and stop == "none" and not torch.compiler.is_compiling()


def run(
    inner: InnerModel, norm: Norm, anchor: Weights, q: Tensor, k: Tensor, v: Tensor, rate, factor: Tensor
) -> tuple[Tensor, Weights]:
    """q, k, v (b, h, t, f) and rate (b, h, t) for whole mini-batches of len(factor) tokens -> z (b, h, t, f) and the
    weights after the last."""
    names = list(inner.shapes(q.shape[-1]))
    z, *last = Learn.apply(inner, q, k, v, rate, factor, *norm, *(anchor[name] for name in names))
    return z, dict(zip(names, last))


class Learn(torch.autograd.Function):
    """(q, k, v, rate, factor, gain, shift, *weights) -> z and the weights after the last mini-batch."""

    @staticmethod
    def forward(ctx, inner, *given):
        z, last, kept = forward_pass(inner, *given)
        flat, ctx.tree = tree_flatten(kept)
        ctx.inner, ctx.count = inner, len(given)
        ctx.save_for_backward(*given, *flat)
        return z, *last

    @staticmethod
    def backward(ctx, d_z, *d_last):
        saved = ctx.saved_tensors
        given, kept = saved[: ctx.count], saved[ctx.count :]
        if not torch.is_grad_enabled():
            return None, *backward_pass(ctx.inner, given, tree_unflatten(kept, ctx.tree), d_z, d_last)
        names = list(ctx.inner.shapes(given[0].shape[-1]))
        q, k, v, rate, factor, gain, shift, *weights = given
        z, last = dual_sequence(ctx.inner, Norm(gain, shift), dict(zip(names, weights)), q, k, v, rate, factor)
        wanted = [u for u, needed in zip(given, ctx.needs_input_grad[1:]) if needed]
        made = torch.autograd.grad(
            [z, *(last[name] for name in names)], wanted, [d_z, *d_last], create_graph=True, materialize_grads=True
        )
        made = iter(made)
        return None, *(next(made) if needed else None for needed in ctx.needs_input_grad[1:])


def forward_pass(inner: InnerModel, *given: Tensor) -> tuple[Tensor, list[Tensor], list[tuple]]:
    """z, the last weights, and what the backward pass will need of each group: its anchor, and the layers' outputs."""
    flat = Flat(inner, *given)
    weights = [w.clone(memory_format=torch.contiguous_format) for w in flat.weights]
    outputs, kept = [], []
    for at in flat.groups():
        anchor = [w.clone() for w in weights]
        inputs, hidden, errors = chain(flat, at, weights)
        q = flat.q[:, at]
        y = read(flat, q, inputs, errors, anchor)[-1][-1]
        unit = standardise(y)[0]
        outputs.append(torch.addcmul(q + flat.shift, flat.gain, unit))
        kept.append((anchor, hidden))
    z = torch.cat(outputs, dim=1).view(given[0].shape)
    return z, [w.view(u.shape) for w, u in zip(weights, given[7:])], kept
