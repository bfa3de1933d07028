"""The backward pass of `ttt_fast.run`: group by group from the last, reading backwards, then the chain in reverse.

With the bar for a cotangent, a_0 = k, z_i = a_{i-1} W_i + b_i, a_i = act(z_i), f_n = l e(z_n), f_{i-1} = (f_i W_i^T)
act'(z_{i-1}), W_i' = W_i - c a_{i-1}^T f_i, b_i' = b_i - c sum f_i, one mini-batch gives back

    h_i = a_{i-1} W_i'bar + b_i'bar,   f_i bar -= c h_i,   a_{i-1}bar -= c f_i W_i'bar^T,   c bar -= h_i . f_i
    upwards:    f_i bar += (f_{i-1}bar act') W_i,  W_i bar += (f_{i-1}bar act')^T f_i,
                z_{i-1}bar += f_{i-1}bar (f_i W_i^T) act''
    z_n bar = H l f_n bar,  H the Hessian of the inner loss at z_n (symmetric)
    downwards:  W_i bar += a_{i-1}^T z_i bar,  b_i bar += sum z_i bar,  a_{i-1}bar += z_i bar W_i^T,
                z_{i-1}bar += a_{i-1}bar act'

The Hessian row by row, with unit = (z - mean) / sigma, P u = (u - mean(u) - unit mean(u unit)) / sigma, e = P g:

    H u = P(gain^2 P u) - (mean(g unit) P u + mean(u unit) e + mean(u e) unit) / sigma
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import ACTIVATIONS, InnerModel
from nl_course.memories.ttt.fused_kernels import Flat, gradient, project, read, standardise


def backward_pass(inner: InnerModel, given, kept, cotangents) -> tuple[Tensor, ...]:
    """Cotangents of q, k, v, rate, factor, gain, shift and the weights, from those of z and of the last weights. `kept`
    has the last weights, and of every group its anchor and, by layer and mini-batch, the outputs before the activation
    and the errors below the last layer."""
    flat, (d_z, *d_last), (last, *kept) = Flat(inner, *given), cotangents, kept
    d_z = d_z.flatten(0, 1)
    d_weights = [u.flatten(0, 1).clone(memory_format=torch.contiguous_format) for u in d_last]
    d_gain, d_shift = torch.zeros_like(flat.gain), torch.zeros_like(flat.shift)
    d_share, d_c = torch.zeros_like(flat.share), torch.zeros_like(flat.c)
    d_q, d_k, d_v, d_rate = (torch.empty_like(u) for u in (flat.q, flat.k, flat.v, flat.rate[..., 0]))
    weights = list(last)
    for at, part in zip(reversed(flat.groups()), reversed(kept)):
        group = Group(flat, at, *part)
        d_q[:, at], d_inputs, d_errors, reads = _read_backward(flat, group, d_z[:, at], d_gain, d_shift, d_share)
        d_k[:, at], pulled, totals = _chain_backward(flat, group, weights, d_inputs, d_errors, d_weights, d_c)
        weights = part[0]
        # pull = gain (shift - v + k), and the gain's square stands beside the unit.
        d_gain += (pulled * torch.addcmul(group.distance, group.unit, flat.gain, value=2)).sum(1, keepdim=True)
        d_pull = pulled * flat.gain
        d_shift += d_pull.sum(1, keepdim=True)
        d_k[:, at] += d_pull
        d_v[:, at] = d_pull.neg_()
        d_rate[:, at] = (totals * group.error).sum(-1)
        for i, (x, d_y) in enumerate(reads):
            d_weights[2 * i].baddbmm_(x.mT, d_y)
            d_weights[2 * i + 1] += d_y.sum(1, keepdim=True)
    shapes = [u.shape for u in given]
    d_tokens = (u.view(s) for u, s in zip((d_q, d_k, d_v, d_rate), shapes))
    d_norm = (u.view(*shapes[0][:2], 1, -1).sum(0) for u in (d_gain, d_shift))
    d_weights = (w.view(s) for w, s in zip(d_weights, shapes[7:]))
    return *d_tokens, _factor_backward(flat, d_share, d_c), *d_norm, *d_weights


class Piece(NamedTuple):
    """One mini-batch of a group. Lists over the layers: inputs, slopes and bends of the activations between them,
    errors f, and steps c f."""

    inputs: list[Tensor]
    slopes: Sequence[Tensor]
    bends: Sequence[Tensor]
    errors: list[Tensor]
    steps: list[Tensor]


class Group:
    """What one group was computed from, made again from what the forward pass kept: whole, (m, s, ...), in `inputs` and
    `errors`; by mini-batches in `pieces` and `top`, first to last."""

    def __init__(self, flat: Flat, at: slice, anchor, hidden, lower_errors):
        self.anchor, self.k, self.q, rate = anchor, flat.k[:, at], flat.q[:, at], flat.rate[:, at]
        self.distance = self.k - flat.v[:, at] + flat.shift
        g, z, mean, scale, self.unit = gradient(torch.cat(hidden[-1], dim=1), flat.square, self.distance * flat.gain)
        self.error = project(g, z, mean, scale)
        level = scale * (g * self.unit).mean(-1, keepdim=True)
        part = self.unit * (scale / z.shape[-1])
        mean, scale = (u.unflatten(1, (-1, flat.size)).transpose(0, 1).contiguous() for u in (mean, scale))
        parts = map(flat.split, (level, rate, self.error, part))
        self.top = list(zip(hidden[-1], mean, scale, *parts))
        top_error = self.error * rate
        self.pieces = self._pieces(flat, hidden, [*lower_errors, flat.split(top_error)])
        values = [torch.cat(layer, dim=1) for layer in zip(*(piece.inputs[1:] for piece in self.pieces))]
        below = [torch.cat(layer, dim=1) for layer in lower_errors]
        self.inputs, self.errors = [self.k, *values], [*below, top_error]

    def _pieces(self, flat: Flat, hidden, errors) -> list[Piece]:
        three, pieces = ACTIVATIONS[flat.inner.activation].three, []
        for m, k in enumerate(flat.split(self.k)):
            values, slopes, bends = zip(*(three(z[m]) for z in hidden[:-1])) if len(hidden) > 1 else ((), (), ())
            now = [layer[m] for layer in errors]
            pieces.append(Piece([k, *values], slopes, bends, now, [f * flat.c for f in now]))
        return pieces

    def hessian(self, flat: Flat, m: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """H l u and P l u for mini-batch m, l the rate."""
        z, mean, scale, level, rate, error, part = self.top[m]
        u = u * rate
        pulled = project(u, z, mean, scale)
        curved = project(flat.square * pulled, z, mean, scale).addcmul_(level, pulled, value=-1)
        curved.addcmul_((u * part).sum(-1, keepdim=True), error, value=-1)
        return curved.addcmul_((u * error).sum(-1, keepdim=True), part, value=-1), pulled


def _read_backward(flat: Flat, group: Group, d_z: Tensor, d_gain: Tensor, d_shift: Tensor, d_share: Tensor):
    """Reading a group's queries, backwards: cotangents of q and of the layers' inputs and errors, and every layer's own
    input with its output's cotangent, from which the anchor's follow; those of gain, shift and -F grow in place."""
    layers = read(flat, group.q, group.inputs, group.errors, group.anchor)
    tokens, y = d_z.shape[1], layers[-1][-1]
    share = flat.share[:tokens, :tokens]
    unit, mean, scale = standardise(y)
    d_gain += (d_z * unit).sum(1, keepdim=True)
    d_shift += d_z.sum(1, keepdim=True)
    d_y = project(d_z * flat.gain, y, mean, scale)
    d_inputs, d_errors, reads = [], [], []
    for i in range(flat.inner.layers - 1, -1, -1):
        x, products, seen, _ = layers[i]
        d_seen = torch.bmm(d_y, group.errors[i].mT)
        d_share[:tokens, :tokens] += (d_seen * products).sum(0)
        d_products = d_seen.mul_(share)
        d_errors.append(torch.bmm(seen.mT, d_y))
        d_inputs.append(torch.bmm(d_products.mT, x))
        reads.append((x, d_y))
        d_x = torch.bmm(d_y, group.anchor[2 * i].mT).baddbmm_(d_products, group.inputs[i])
        d_y = flat.inner.pull(d_x, layers[i - 1][-1]) if i else d_x
    return d_y + d_z, d_inputs[::-1], d_errors[::-1], reads[::-1]


def _chain_backward(flat: Flat, group: Group, weights, d_inputs, d_errors, d_weights, d_c: Tensor):
    """The chain in reverse, each mini-batch's step taken back from the `weights` after the group; `d_weights` change in
    place from those after the group to those before it, and `d_c` grows. Returns the cotangents of k, P l f_n bar (that
    of pull) and f_n bar, (m, s, ...)."""
    n = flat.inner.layers
    d_inputs, d_errors = ([flat.split(u) for u in part] for part in (d_inputs, d_errors))
    matrices = [w.clone() for w in weights[::2]]
    d_k, d_pull, totals = [], [], []
    for m in range(len(group.pieces) - 1, -1, -1):
        inputs, slopes, bends, errors, steps = group.pieces[m]
        for w, a, step in zip(matrices, inputs, steps):
            w.baddbmm_(a.mT, step)
        d_f, d_a, d_below = [], [], []
        for i in range(n):
            h = torch.baddbmm(d_weights[2 * i + 1], inputs[i], d_weights[2 * i])
            d_c -= torch.dot(h.flatten(), errors[i].flatten())
            d_f.append(torch.addcmul(d_errors[i][m], h, flat.c, value=-1))
            d_a.append(torch.baddbmm(d_inputs[i][m], steps[i], d_weights[2 * i].mT, alpha=-1))
        for i in range(1, n):
            up = d_f[i - 1] * slopes[i - 1]
            d_below.append(torch.bmm(errors[i], matrices[i].mT).mul_(d_f[i - 1]).mul_(bends[i - 1]))
            d_f[i].baddbmm_(up, matrices[i])
            d_weights[2 * i].baddbmm_(up.mT, errors[i])
        totals.append(d_f[-1])
        down, pulled = group.hessian(flat, m, d_f[-1])
        d_pull.append(pulled)
        for i in range(n - 1, -1, -1):
            d_weights[2 * i].baddbmm_(inputs[i].mT, down)
            d_weights[2 * i + 1].baddbmm_(flat.ones, down)
            d_a[i].baddbmm_(down, matrices[i].mT)
            if i:
                down = d_below[i - 1].addcmul_(d_a[i], slopes[i - 1])
        d_k.append(d_a[0])
    return (torch.cat(u[::-1], dim=1) for u in (d_k, d_pull, totals))


def _factor_backward(flat: Flat, d_share: Tensor, d_c: Tensor) -> Tensor:
    """The cotangent of c_1 .. c_b from that of -F and that of c_b in the chain."""
    d_factor = -(d_share * flat.own).sum(1).view(-1, flat.size).sum(0)
    d_factor[-1] += d_c - (d_share * flat.earlier).sum()
    return d_factor
