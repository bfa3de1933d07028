"""The passes of `ttt_fast` over one group of mini-batches, in raw operations that nobody differentiates.

Axes: m rows (batch x heads), s tokens of a group, f head width.
"""

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import ACTIVATIONS, EPSILON, InnerModel

TOKENS = 64  # of a group: more are fewer steps of Python, but more pairs of tokens, and tensors that leave the cache


class Flat:
    """A layer's tensors with batch and heads as one axis of rows, and what follows from them."""

    def __init__(self, inner: InnerModel, q, k, v, rate, factor, gain, shift, *weights):
        rows, heads, self.tokens, width = q.shape
        self.inner, self.size = inner, len(factor)
        self.span = min(self.tokens, max(1, TOKENS // self.size) * self.size)
        self.q, self.k, self.v = (u.flatten(0, 1) for u in (q, k, v))
        self.rate = rate.flatten(0, 1)[..., None]
        self.gain, self.shift = (u.expand(rows, heads, 1, width).flatten(0, 1) for u in (gain, shift))
        self.square, self.c = self.gain * self.gain, factor[-1]
        self.weights = [w.flatten(0, 1) for w in weights]
        self.ones = q.new_ones(len(self.q), 1, self.size)  # sums over tokens as a matmul, which adds in place
        at = torch.arange(self.span, device=factor.device)
        chunk = at // self.size
        self.own = (chunk[:, None] == chunk).tril()  # pairs of one mini-batch
        self.earlier = chunk[:, None] > chunk
        self.share = -(self.own * factor[at % self.size][:, None] + self.earlier * self.c)  # -F

    def groups(self) -> list[slice]:
        return [slice(i, min(i + self.span, self.tokens)) for i in range(0, self.tokens, self.span)]

    def pull(self, at: slice) -> Tensor:
        """gain (shift - target): the loss's gradient before P is gain^2 unit + pull."""
        return (self.k[:, at] - self.v[:, at]).add_(self.shift).mul_(self.gain)

    def split(self, u: Tensor) -> tuple[Tensor, ...]:
        """(m, s, ...) by mini-batches."""
        return u.split(self.size, dim=1)


def chain(flat: Flat, at: slice, weights: list[Tensor]) -> tuple[list[list[Tensor]], ...]:
    """Writes the mini-batches of a group, one after the other, into `weights`, which change in place. Returns, by layer
    and mini-batch, inputs a, outputs z before the activation, and scaled errors f."""
    n, both = flat.inner.layers, ACTIVATIONS[flat.inner.activation].both
    inputs, hidden, errors = ([[] for _ in range(n)] for _ in range(3))
    for a, pull, rate in zip(*map(flat.split, (flat.k[:, at], flat.pull(at), flat.rate[:, at]))):
        slopes = []
        for i in range(n):
            inputs[i].append(a)
            z = torch.baddbmm(weights[2 * i + 1], a, weights[2 * i])
            hidden[i].append(z)
            if i + 1 < n:
                a, slope = both(z)
                slopes.append(slope)
        f = project(*gradient(z, flat.square, pull)[:4]) * rate
        for i in range(n - 1, -1, -1):
            errors[i].append(f)
            step = f * flat.c
            f = torch.bmm(f, weights[2 * i].mT).mul_(slopes[i - 1]) if i else None
            weights[2 * i].baddbmm_(inputs[i][-1].mT, step, alpha=-1)
            weights[2 * i + 1].baddbmm_(flat.ones, step, alpha=-1)
    return inputs, hidden, errors


def read(flat: Flat, q: Tensor, inputs, errors, anchor) -> list[tuple[Tensor, ...]]:
    """Reads a group's queries (m, s, f). For every layer: its input x, that input's products with the keys' side, the
    same shared out, and its output y."""
    layers, x = [], q
    share = flat.share[: q.shape[1], : q.shape[1]]
    for i in range(flat.inner.layers):
        if i:
            x = flat.inner.activate(y)
        products = torch.bmm(x, inputs[i].mT).add_(1)
        seen = products * share
        y = torch.baddbmm(anchor[2 * i + 1], x, anchor[2 * i]).baddbmm_(seen, errors[i])
        layers.append((x, products, seen, y))
    return layers


def standardise(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """unit = (z - mean) / sigma, mean, 1 / sigma, z (m, t, f) contiguous."""
    return torch.native_layer_norm(z, [z.shape[-1]], None, None, EPSILON)


def project(u: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """P u = (u - mean(u) - unit mean(u unit)) / sigma, the vjp of standardising z."""
    keep = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(u, z, [z.shape[-1]], mean, scale, None, None, keep)[0]


def gradient(z: Tensor, square: Tensor, pull: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """g = gain^2 unit + pull, then z, mean, 1 / sigma and unit: the inner loss's gradient at z is P g."""
    unit, mean, scale = standardise(z)
    return torch.addcmul(pull, square, unit), z, mean, scale, unit
