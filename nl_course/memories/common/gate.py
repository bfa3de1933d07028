"""The way out of a memory in Mamba's block: all heads normalized together, times a gate made from the input."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from nl_course.memories.common.custom_vjp import CustomVJP, custom_vjp
from nl_course.memories.common.inner_model import ACTIVATIONS, Activation


def gated_norm(norm: nn.LayerNorm, z: Tensor, gate: Tensor, activation: str) -> Tensor:
    """norm(z) act(gate), z and gate (..., width) -> (..., width), for an `activation` of the inner models.

    Autograd would keep norm(z) and act(gate) for the backward pass. Computing them again there costs less than storing
    them does.
    """
    act = ACTIVATIONS[activation]
    operation = CustomVJP(*(partial(way, act, norm.eps) for way in (_plain, _forward, _backward)))
    (y,) = custom_vjp(operation, z, gate, norm.weight, norm.bias)
    return y


def _plain(act: Activation, epsilon: float, z: Tensor, gate: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor]:
    return (layer_norm(z, z.shape[-1:], gain, shift, epsilon) * act.value(gate),)


def _forward(act: Activation, epsilon: float, *inputs: Tensor, save: bool) -> tuple[tuple[Tensor], None]:
    return _plain(act, epsilon, *inputs), None


def _backward(
    act: Activation, epsilon: float, inputs: tuple[Tensor, ...], saved: None, cotangents: tuple[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z, gate, gain, shift = inputs
    (d_out,) = cotangents
    width = [z.shape[-1]]
    y, mean, scale = torch.native_layer_norm(z, width, gain, shift, epsilon)
    d_gate = act.pull(y.mul_(d_out), gate)
    del y  # before the next tensor of its size is made
    # Inside of autocast the gate is in half precision and z, which an inner loop made, is not.
    d_y = act.value(gate).to(z.dtype).mul_(d_out)
    of_all = [True, True, True]
    d_z, d_gain, d_shift = torch.ops.aten.native_layer_norm_backward(d_y, z, width, mean, scale, gain, shift, of_all)
    return d_z, d_gate, d_gain, d_shift
