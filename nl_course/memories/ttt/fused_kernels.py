"""The passes of the fused path (fused.py) over one group of mini-batches, in operations that nobody differentiates.

Results are written in place wherever a tensor is not needed any more: at these sizes memory traffic costs more than the
products do.

Axes: m rows (batch x heads), s tokens of a group, f head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import ACTIVATIONS, EPSILON, InnerModel

# Tokens per group. More would mean fewer steps of Python, but more pairs of tokens, and tensors that leave the cache.
GROUP_TOKENS = 64


class Flat:
    """A layer's tensors with batch and heads as one axis of rows, and what follows from them."""

    def __init__(
        self,
        inner: InnerModel,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rate: Tensor,
        factor: Tensor,
        gain: Tensor,
        shift: Tensor,
        *weights: Tensor,
    ):
        batch, heads, self.tokens, width = q.shape
        self.inner = inner
        self.size = len(factor)
        self.span = min(self.tokens, max(1, GROUP_TOKENS // self.size) * self.size)
        self.q, self.k, self.v = (u.flatten(0, 1) for u in (q, k, v))  # (m, t, f)
        self.rate = rate.flatten(0, 1)[..., None]  # (m, t, 1)
        # The norm's parameters belong to heads; each row of the batch gets its copy.
        self.gain, self.shift = (u.expand(batch, heads, 1, width).flatten(0, 1) for u in (gain, shift))  # (m, 1, f)
        self.square_gain = self.gain * self.gain
        self.last_factor = factor[-1]  # c_b, with which a finished mini-batch stays in the weights
        self.weights = [w.flatten(0, 1) for w in weights]  # (m, in, out)
        self.ones = q.new_ones(len(self.q), 1, self.size)  # sums over tokens as a matmul, which adds in place
        # Which pairs (reading token, written token) of a group count, and how much.
        at = torch.arange(self.span, device=factor.device)
        chunk = at // self.size
        self.same_chunk = (chunk[:, None] == chunk).tril()  # (s, s)
        self.earlier_chunk = chunk[:, None] > chunk  # (s, s)
        self.share = -(self.same_chunk * factor[at % self.size][:, None] + self.earlier_chunk * self.last_factor)  # -F

    def groups(self) -> list[slice]:
        """Where each group lies in the text."""
        return [slice(i, min(i + self.span, self.tokens)) for i in range(0, self.tokens, self.span)]

    def pull(self, group: slice) -> Tensor:
        """gain (shift - target), (m, s, f): the loss's gradient before P is gain^2 unit + pull."""
        return (self.k[:, group] - self.v[:, group]).add_(self.shift).mul_(self.gain)

    def split(self, u: Tensor) -> tuple[Tensor, ...]:
        """(m, s, ...) by mini-batches."""
        return u.split(self.size, dim=1)


def chain(flat: Flat, group: slice, weights: list[Tensor]) -> tuple[list[list[Tensor]], ...]:
    """Writes the mini-batches of a group, one after the other, into `weights`, which change in place. Returns, by layer
    and mini-batch, inputs a, outputs z before the activation, and scaled errors f."""
    layers = flat.inner.layers
    value_and_slope = ACTIVATIONS[flat.inner.activation].value_slope
    inputs: list[list[Tensor]] = [[] for _ in range(layers)]
    hidden: list[list[Tensor]] = [[] for _ in range(layers)]
    errors: list[list[Tensor]] = [[] for _ in range(layers)]
    tokens = (flat.k[:, group], flat.pull(group), flat.rate[:, group])
    for a, pull, rate in zip(*map(flat.split, tokens)):
        # Upwards: what every layer answers to the keys, with the weights that the last mini-batch left.
        slopes = []
        for i in range(layers):
            inputs[i].append(a)
            z = torch.baddbmm(weights[2 * i + 1], a, weights[2 * i])  # (m, b, out)
            hidden[i].append(z)
            if i + 1 < layers:
                a, slope = value_and_slope(z)
                slopes.append(slope)
        # Downwards: every layer's error, and at once its step.
        loss_grad = gradient(z, flat.square_gain, pull)
        f = project(loss_grad.before_norm, z, loss_grad.mean, loss_grad.scale) * rate  # (m, b, f)
        for i in range(layers - 1, -1, -1):
            errors[i].append(f)
            step = f * flat.last_factor
            if i > 0:
                # Before this layer's weights move: the error below belongs to the weights that made the answer.
                f = torch.bmm(f, weights[2 * i].mT).mul_(slopes[i - 1])  # (m, b, in)
            weights[2 * i].baddbmm_(inputs[i][-1].mT, step, alpha=-1)
            weights[2 * i + 1].baddbmm_(flat.ones, step, alpha=-1)
    return inputs, hidden, errors


class ReadLayer(NamedTuple):
    """One layer's part in reading a group's queries: its input, (m, s, in); that input's products with the keys' side
    plus 1 for the bias, (m, s, s); the same times -F; and the output, (m, s, out)."""

    input: Tensor
    products: Tensor
    shared: Tensor
    output: Tensor


def read(flat: Flat, q: Tensor, inputs: list[Tensor], errors: list[Tensor], anchor: list[Tensor]) -> list[ReadLayer]:
    """Reads a group's queries q (m, s, f) from the group's anchor, given every layer's `inputs` and `errors` on the
    keys' side, (m, s, ...)."""
    layers = []
    share = flat.share[: q.shape[1], : q.shape[1]]  # the last group may be short
    x = q
    for i in range(flat.inner.layers):
        if i > 0:
            x = flat.inner.activate(layers[-1].output)
        products = torch.bmm(x, inputs[i].mT).add_(1)  # (m, s, s)
        shared = products * share
        y = torch.baddbmm(anchor[2 * i + 1], x, anchor[2 * i]).baddbmm_(shared, errors[i])  # (m, s, out)
        layers.append(ReadLayer(x, products, shared, y))
    return layers


def standardize(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """unit = (z - mean) / sigma, mean, 1 / sigma, for z (m, t, f) contiguous."""
    return torch.native_layer_norm(z, [z.shape[-1]], None, None, EPSILON)


def project(u: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """P u = (u - mean(u) - unit mean(u unit)) / sigma, the vjp of standardizing z; scale is 1 / sigma."""
    of_z_only = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(u, z, [z.shape[-1]], mean, scale, None, None, of_z_only)[0]


class LossGradient(NamedTuple):
    """The inner loss's gradient at z is P `before_norm`; with z's mean, `scale` 1 / sigma and `unit`."""

    before_norm: Tensor
    mean: Tensor
    scale: Tensor
    unit: Tensor


def gradient(z: Tensor, square_gain: Tensor, pull: Tensor) -> LossGradient:
    """g = gain^2 unit + pull, to be projected by P."""
    unit, mean, scale = standardize(z)
    return LossGradient(torch.addcmul(pull, square_gain, unit), mean, scale, unit)
