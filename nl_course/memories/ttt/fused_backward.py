"""The backward pass of the fused path (fused.py): group by group from the last, the reading, then the chain in reverse.

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
from nl_course.memories.ttt.fused_kernels import Flat, gradient, project, read, standardize


def backward_pass(
    inner: InnerModel, inputs: Sequence[Tensor], saved: list, cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Cotangents of q, k, v, rate, factor, gain, shift and the weights, from those of z and of the last weights.

    `saved` has the last weights, and of every group its anchor and, by layer and mini-batch, the outputs before the
    activation and the errors below the last layer.
    """
    flat = Flat(inner, *inputs)
    d_z, *d_last = cotangents
    weights, *saved_groups = saved
    d_z = d_z.flatten(0, 1)  # (m, t, f)
    # Cotangents of the weights after the group at hand: they go backwards through the text and change in place.
    d_weights = [u.flatten(0, 1).clone(memory_format=torch.contiguous_format) for u in d_last]
    d_gain, d_shift = torch.zeros_like(flat.gain), torch.zeros_like(flat.shift)
    d_share, d_last_factor = torch.zeros_like(flat.share), torch.zeros_like(flat.last_factor)
    d_q, d_k, d_v = (torch.empty_like(u) for u in (flat.q, flat.k, flat.v))
    d_rate = torch.empty_like(flat.rate[..., 0])  # (m, t)
    for at, part in zip(reversed(flat.groups()), reversed(saved_groups)):
        group = Group(flat, at, *part)
        d_q[:, at], d_inputs, d_errors, reads = _read_backward(flat, group, d_z[:, at], d_gain, d_shift, d_share)
        d_k[:, at], d_pull, d_scaled = _chain_backward(
            flat, group, weights, d_inputs, d_errors, d_weights, d_last_factor
        )
        weights = group.anchor  # what the earlier group ended with
        # pull = gain (shift - v + k), and the gain's square stands beside the unit.
        d_gain += (d_pull * torch.addcmul(group.distance, group.unit, flat.gain, value=2)).sum(1, keepdim=True)
        d_distance = d_pull * flat.gain
        d_shift += d_distance.sum(1, keepdim=True)
        d_k[:, at] += d_distance
        d_v[:, at] = d_distance.neg_()
        d_rate[:, at] = (d_scaled * group.error).sum(-1)
        # The queries read from the group's anchor.
        for i, (x, d_y) in enumerate(reads):
            d_weights[2 * i].baddbmm_(x.mT, d_y)
            d_weights[2 * i + 1] += d_y.sum(1, keepdim=True)
    shapes = [u.shape for u in inputs]
    d_tokens = (u.view(s) for u, s in zip((d_q, d_k, d_v, d_rate), shapes))
    d_norm = (u.view(*shapes[0][:2], 1, -1).sum(0) for u in (d_gain, d_shift))  # (h, 1, f): all rows share it
    d_weights = (w.view(s) for w, s in zip(d_weights, shapes[7:]))
    return *d_tokens, _factor_backward(flat, d_share, d_last_factor), *d_norm, *d_weights


class Piece(NamedTuple):
    """One mini-batch of a group. Lists over the layers: inputs, slopes and bends (first and second derivatives) of the
    activations between them, errors f, and steps c f."""

    inputs: list[Tensor]
    slopes: Sequence[Tensor]
    bends: Sequence[Tensor]
    errors: list[Tensor]
    steps: list[Tensor]


class Top(NamedTuple):
    """What the loss's Hessian at one mini-batch's last outputs z needs: z with its mean and scale 1 / sigma, `level`
    scale mean(g unit), the rate, the error e = P g, and `part` unit scale / f."""

    z: Tensor
    mean: Tensor
    scale: Tensor
    level: Tensor
    rate: Tensor
    error: Tensor
    part: Tensor


class Group:
    """What one group was computed from, made again from what the forward pass kept: whole, (m, s, ...), in `inputs` and
    `errors`; by mini-batches in `pieces` and `top`, first to last."""

    def __init__(
        self,
        flat: Flat,
        at: slice,
        anchor: list[Tensor],
        hidden: list[list[Tensor]],
        lower_errors: list[list[Tensor]],
    ):
        self.anchor = anchor
        self.q, self.k = flat.q[:, at], flat.k[:, at]  # (m, s, f)
        rate = flat.rate[:, at]  # (m, s, 1)
        self.distance = self.k - flat.v[:, at] + flat.shift
        z = torch.cat(hidden[-1], dim=1)  # (m, s, f)
        g, mean, scale, self.unit = gradient(z, flat.square_gain, self.distance * flat.gain)
        self.error = project(g, z, mean, scale)
        level = scale * (g * self.unit).mean(-1, keepdim=True)
        part = self.unit * (scale / z.shape[-1])
        # native_layer_norm wants the statistics of a mini-batch contiguous.
        mean = mean.unflatten(1, (-1, flat.size)).transpose(0, 1).contiguous()  # (mini-batches, m, b, 1)
        scale = scale.unflatten(1, (-1, flat.size)).transpose(0, 1).contiguous()
        parts = (flat.split(u) for u in (level, rate, self.error, part))
        self.top = [Top(*tensors) for tensors in zip(hidden[-1], mean, scale, *parts)]
        top_error = self.error * rate
        self.pieces = self._pieces(flat, hidden, [*lower_errors, flat.split(top_error)])
        self.inputs = [self.k]
        for i in range(1, flat.inner.layers):
            self.inputs.append(torch.cat([piece.inputs[i] for piece in self.pieces], dim=1))  # (m, s, in)
        self.errors = [torch.cat(layer, dim=1) for layer in lower_errors]  # (m, s, out)
        self.errors.append(top_error)

    def _pieces(self, flat: Flat, hidden: list[list[Tensor]], errors: Sequence[Sequence[Tensor]]) -> list[Piece]:
        value_slope_bend = ACTIVATIONS[flat.inner.activation].value_slope_bend
        pieces = []
        for m, k in enumerate(flat.split(self.k)):
            inputs, slopes, bends = [k], [], []
            for z in hidden[:-1]:
                value, slope, bend = value_slope_bend(z[m])
                inputs.append(value)
                slopes.append(slope)
                bends.append(bend)
            here = [layer[m] for layer in errors]
            pieces.append(Piece(inputs, slopes, bends, here, [f * flat.last_factor for f in here]))
        return pieces

    def hessian(self, flat: Flat, m: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """H l u and P l u for mini-batch m, l the rate: u (m, b, f)."""
        top = self.top[m]
        u = u * top.rate
        projected = project(u, top.z, top.mean, top.scale)
        curved = project(flat.square_gain * projected, top.z, top.mean, top.scale)
        curved.addcmul_(top.level, projected, value=-1)
        curved.addcmul_((u * top.part).sum(-1, keepdim=True), top.error, value=-1)
        curved.addcmul_((u * top.error).sum(-1, keepdim=True), top.part, value=-1)
        return curved, projected


def _read_backward(
    flat: Flat, group: Group, d_z: Tensor, d_gain: Tensor, d_shift: Tensor, d_share: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Reading a group's queries, backwards: cotangents of q and of the layers' inputs and errors, and every layer's own
    input with its output's cotangent, from which the anchor's follow; those of gain, shift and -F grow in place."""
    layers = read(flat, group.q, group.inputs, group.errors, group.anchor)
    tokens, y = d_z.shape[1], layers[-1].output
    share = flat.share[:tokens, :tokens]
    unit, mean, scale = standardize(y)
    d_gain += (d_z * unit).sum(1, keepdim=True)
    d_shift += d_z.sum(1, keepdim=True)
    d_y = project(d_z * flat.gain, y, mean, scale)
    d_inputs, d_errors, reads = [], [], []
    for i in range(flat.inner.layers - 1, -1, -1):
        layer = layers[i]
        d_shared = torch.bmm(d_y, group.errors[i].mT)  # (m, s, s)
        d_share[:tokens, :tokens] += (d_shared * layer.products).sum(0)
        d_products = d_shared.mul_(share)
        d_errors.append(torch.bmm(layer.shared.mT, d_y))
        d_inputs.append(torch.bmm(d_products.mT, layer.input))
        reads.append((layer.input, d_y))
        d_x = torch.bmm(d_y, group.anchor[2 * i].mT).baddbmm_(d_products, group.inputs[i])
        d_y = flat.inner.pull(d_x, layers[i - 1].output) if i > 0 else d_x
    return d_y + d_z, d_inputs[::-1], d_errors[::-1], reads[::-1]


def _chain_backward(
    flat: Flat,
    group: Group,
    weights: list[Tensor],
    d_inputs: list[Tensor],
    d_errors: list[Tensor],
    d_weights: list[Tensor],
    d_last_factor: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The chain in reverse, each mini-batch's step taken back from the `weights` after the group; `d_weights` change in
    place from those after the group to those before it, and `d_last_factor` grows. Returns the cotangents of k, P l f_n
    bar (that of pull) and f_n bar, (m, s, ...)."""
    layers = flat.inner.layers
    d_inputs = [flat.split(u) for u in d_inputs]
    d_errors = [flat.split(u) for u in d_errors]
    matrices = [w.clone() for w in weights[::2]]
    d_k, d_pull, d_scaled = [], [], []
    for m in range(len(group.pieces) - 1, -1, -1):
        inputs, slopes, bends, errors, steps = group.pieces[m]
        # The weights that this mini-batch was computed with: its own step taken back.
        for w, a, step in zip(matrices, inputs, steps):
            w.baddbmm_(a.mT, step)
        # Through the steps, W' = W - c a^T f.
        d_f, d_a, d_below = [], [], []
        for i in range(layers):
            h = torch.baddbmm(d_weights[2 * i + 1], inputs[i], d_weights[2 * i])  # (m, b, out)
            d_last_factor -= torch.dot(h.flatten(), errors[i].flatten())
            d_f.append(torch.addcmul(d_errors[i][m], h, flat.last_factor, value=-1))
            d_a.append(torch.baddbmm(d_inputs[i][m], steps[i], d_weights[2 * i].mT, alpha=-1))
        # Upwards through the errors, f_{i-1} = (f_i W_i^T) act'.
        for i in range(1, layers):
            up = d_f[i - 1] * slopes[i - 1]
            d_below.append(torch.bmm(errors[i], matrices[i].mT).mul_(d_f[i - 1]).mul_(bends[i - 1]))
            d_f[i].baddbmm_(up, matrices[i])
            d_weights[2 * i].baddbmm_(up.mT, errors[i])
        d_scaled.append(d_f[-1])
        d_hidden, d_projected = group.hessian(flat, m, d_f[-1])
        d_pull.append(d_projected)
        # Downwards through the network.
        for i in range(layers - 1, -1, -1):
            d_weights[2 * i].baddbmm_(inputs[i].mT, d_hidden)
            d_weights[2 * i + 1].baddbmm_(flat.ones, d_hidden)
            d_a[i].baddbmm_(d_hidden, matrices[i].mT)
            if i > 0:
                d_hidden = d_below[i - 1].addcmul_(d_a[i], slopes[i - 1])
        d_k.append(d_a[0])
    # Mini-batches were met last to first.
    return tuple(torch.cat(u[::-1], dim=1) for u in (d_k, d_pull, d_scaled))


def _factor_backward(flat: Flat, d_share: Tensor, d_last_factor: Tensor) -> Tensor:
    """The cotangent of c_1 .. c_b from that of -F and that of c_b in the chain."""
    d_factor = -(d_share * flat.same_chunk).sum(1).view(-1, flat.size).sum(0)
    d_factor[-1] += d_last_factor - (d_share * flat.earlier_chunk).sum()
    return d_factor
