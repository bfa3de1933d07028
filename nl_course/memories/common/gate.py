"""A memory's way out: all heads normalised together, and gated by another projection of the input (Mamba's block)."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from nl_course.memories.common.custom_vjp import Operation, raw
from nl_course.memories.common.inner_model import ACTIVATIONS


def gated(norm: nn.LayerNorm, z: Tensor, gate: Tensor, activation: str) -> Tensor:
    """norm(z) act(gate), (..., width) each. Autograd would keep norm(z) and act(gate) too; here they are made again,
    which is cheaper than to store them."""
    ways = (partial(way, ACTIVATIONS[activation], norm.eps) for way in (_plain, _forward, _backward))
    return raw(Operation(*ways), z, gate, norm.weight, norm.bias)[0]


def _plain(activation, epsilon: float, z: Tensor, gate: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor]:
    return (layer_norm(z, z.shape[-1:], gain, shift, epsilon) * activation.value(gate),)


def _forward(activation, epsilon: float, *given: Tensor, keep: bool) -> tuple[tuple[Tensor], None]:
    return _plain(activation, epsilon, *given), None


def _backward(activation, epsilon: float, given, kept, cotangents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (z, gate, gain, shift), (d_out,), width = given, cotangents, [given[0].shape[-1]]
    y, mean, scale = torch.native_layer_norm(z, width, gain, shift, epsilon)
    d_gate = activation.pull(y.mul_(d_out), gate)
    del y
    d_y, everything = activation.value(gate).mul_(d_out), [True, True, True]
    d_z, d_gain, d_shift = torch.ops.aten.native_layer_norm_backward(
        d_y, z, width, mean, scale, gain, shift, everything
    )
    return d_z, d_gate, d_gain, d_shift
