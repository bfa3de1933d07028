"""Inner models: the small networks that a memory trains while it reads.

A memory of this kind answers a row x with

    f(x; W) = x + LN(f_res(x; W)),    f_res(x) = act(.. act(x W1 + b1) ..) Wn + bn

and is trained on one pair at a time, the loss being l = |f(k; W) - v|^2 / 2, that is, with the residual moved to the
target, l = |LN(f_res(k; W)) - (v - k)|^2 / 2 (TTT, Sun et al. 2024, arXiv 2407.04620, section 2). The gradient of such
a loss with respect to the weights of a layer is one outer product a^T e: a is what the layer was given, e the error
that comes back to it. `key_side` gives every layer's a and e with matmuls only; `inner_loss` is what autograd would
differentiate to find the same.

Axes: b batch, h heads, t tokens, f head width, m hidden width. Rows are vectors, y = x @ W. Weights are
W1 (b, h, in, out), b1 (b, h, 1, out), W2, ...; each row of the batch owns its weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu as _gelu
from torch.nn.functional import silu
from torch.utils._pytree import tree_map_only

from nl_course.errors import check_bool, check_choice, check_int
from nl_course.memories.common.weights import Weights

# Of the inner LayerNorm. With zero weights nothing else divides the error: it grows 1 / sqrt(EPSILON) = 1000-fold.
EPSILON = 1e-6
# GELU in its tanh form is x sigmoid(A x + B x^3).
_A = 2 * math.sqrt(2 / math.pi)
_B = 0.044715 * _A


class Norm(NamedTuple):
    """Gain and shift of the inner LayerNorm, (h, 1, f) each: parameters of the outer loop, one pair per head."""

    gain: Tensor
    shift: Tensor


@dataclass(frozen=True)
class InnerModel:
    """The shape of an inner model: `layers` of weights, hidden width `expansion` times the head's, the `activation`
    between layers, and whether there are biases, the LayerNorm and the residual path around it all."""

    layers: int = 1
    expansion: int = 4
    activation: str = "gelu"
    bias: bool = True
    norm: bool = True
    residual: bool = True

    def __post_init__(self):
        check_int("layers", self.layers, 1)
        check_int("expansion", self.expansion, 1)
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("bias", "norm", "residual"):
            check_bool(name, getattr(self, name))

    def shapes(self, width: int) -> dict[str, tuple[int, int]]:
        """The weights of one head of width f by name, (in, out) each."""
        widths = [width] + [self.expansion * width] * (self.layers - 1) + [width]
        shapes = {}
        for i, (before, after) in enumerate(pairwise(widths), 1):
            shapes[f"W{i}"] = (before, after)
            if self.bias:
                shapes[f"b{i}"] = (1, after)
        return shapes

    def layer(self, weights: Weights, i: int, x: Tensor) -> Tensor:
        """Layer i = 1, 2, ... of the network: x (b, h, t, in) -> (b, h, t, out), before the activation."""
        z = x @ weights[f"W{i}"]  # (b, h, t, out)
        return z + weights[f"b{i}"] if self.bias else z

    def activate(self, z: Tensor) -> Tensor:
        """What stands between layers, elementwise."""
        return ACTIVATIONS[self.activation].value(z)

    def slope(self, z: Tensor) -> Tensor:
        """The activation's derivative at z."""
        return ACTIVATIONS[self.activation].slope(z)

    def pull(self, u: Tensor, z: Tensor) -> Tensor:
        """u times the activation's derivative at z, by a fused kernel: for passes that nobody differentiates."""
        return ACTIVATIONS[self.activation].pull(u, z)

    def residue(self, weights: Weights, x: Tensor) -> Tensor:
        """f_res(x; W), (b, h, t, f)."""
        z = self.layer(weights, 1, x)
        for i in range(2, self.layers + 1):
            z = self.layer(weights, i, self.activate(z))
        return z

    def answer(self, x: Tensor, z: Tensor, norm: Norm | None) -> Tensor:
        """f(x; W), given z = f_res(x; W)."""
        if self.norm:
            z = layer_norm(z, norm)
        return x + z if self.residual else z

    def target(self, k: Tensor, v: Tensor) -> Tensor:
        """What LN(f_res(k)) should be: the value, less what the residual path brings already."""
        return v - k if self.residual else v

    def read(self, weights: Weights, q: Tensor, norm: Norm | None) -> Tensor:
        """f(q; W), (b, h, t, f): no weight changes."""
        return self.answer(q, self.residue(weights, q), norm)

    def inner_loss(self, weights: Weights, k: Tensor, v: Tensor, norm: Norm | None) -> Tensor:
        """l = |f(k; W) - v|^2 / 2 for each token, (b, h, t)."""
        return (self.read(weights, k, norm) - v).square().sum(-1) / 2

    def key_side(self, weights: Weights, k: Tensor, v: Tensor, norm: Norm | None) -> list[tuple[Tensor, Tensor]]:
        """For each layer, first to last, its input a (b, h, t, in) and its error e (b, h, t, out) on the pairs k, v:
        the gradient of token j's loss is a_j^T e_j for the layer's matrix, and e_j for its bias."""
        # Forward: what each layer is given and what it answers.
        inputs = [k]
        outputs = [self.layer(weights, 1, k)]
        for i in range(2, self.layers + 1):
            inputs.append(self.activate(outputs[-1]))  # (b, h, t, m)
            outputs.append(self.layer(weights, i, inputs[-1]))
        # Backward by hand, not by autograd: so the outer loop differentiates plain products, as often as it wants.
        target = self.target(k, v)
        error = ln_l2_gradient(outputs[-1], target, norm) if self.norm else outputs[-1] - target  # (b, h, t, f)
        errors = [error]
        for i in range(self.layers, 1, -1):
            error = error @ weights[f"W{i}"].mT * self.slope(outputs[i - 2])  # (b, h, t, m)
            errors.append(error)
        return list(zip(inputs, reversed(errors)))


def grad_loss(loss: Callable[..., Tensor], weights: Weights, *given: Any, create_graph: bool = True) -> Weights:
    """The inner gradient: of loss(weights, *given), summed, with respect to `weights`, by autograd.

    `given` is what the loss is about: tensors, or trees of them (a `Norm`, `Weights`), all constants here. The outer
    loop can differentiate the result again if `create_graph`, and never where gradients are off. A sum over tokens,
    rows and heads mixes nothing as long as each has weights of its own.
    """
    if torch.is_inference_mode_enabled():
        # Inference mode records nothing, and its tensors may not be recorded later; but a memory learns there too.
        with torch.inference_mode(False):
            weights, given = tree_map_only(Tensor, torch.clone, (weights, given))
            return grad_loss(loss, weights, *given, create_graph=False)
    graph = create_graph and torch.is_grad_enabled()

    def alias(w: Tensor) -> Tensor:
        """The same numbers as a tensor of its own, so that the gradient is taken here and not where `w` was made."""
        return w.view_as(w) if graph and w.requires_grad else w.detach().requires_grad_()

    with torch.enable_grad():
        # Keys and targets may have been made with these same weights; by way of an alias that does not count.
        at = Weights({name: alias(w) for name, w in weights.items()})
        gradients = torch.autograd.grad(loss(at, *given).sum(), list(at.values()), create_graph=graph)
    if not graph:
        gradients = [g.detach() for g in gradients]
    return Weights(zip(at, gradients))


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last axis. A small constant under the root keeps a zero vector zero, with a finite
    gradient."""
    accum = x.to(torch.promote_types(x.dtype, torch.float32))
    return accum * torch.rsqrt(accum.square().sum(-1, keepdim=True) + 1e-6)


def layer_norm(z: Tensor, norm: Norm) -> Tensor:
    """gain * (z - mean) / sqrt(variance + 1e-6) + shift over the last axis (biased variance).

    Written out, because PyTorch's own is silently wrong from its third derivative on (seen with 2.13). We need three:
    autograd inside the inner loop is the first, training the second, and a learning level above the third."""
    standard, _ = _standardize(z)
    return norm.gain * standard + norm.shift


def ln_l2_gradient(z: Tensor, target: Tensor, norm: Norm) -> Tensor:
    """d/dz of |LN(z) - target|^2 / 2, in closed form, (..., f)."""
    standard, sigma = _standardize(z)
    g = (norm.gain * standard + norm.shift - target) * norm.gain
    return (g - g.mean(-1, keepdim=True) - standard * (g * standard).mean(-1, keepdim=True)) / sigma


def _standardize(z: Tensor) -> tuple[Tensor, Tensor]:
    """(z - mean) / sigma and sigma, over the last axis."""
    centered = z - z.mean(-1, keepdim=True)
    sigma = (centered.square().mean(-1, keepdim=True) + EPSILON).sqrt()  # (..., 1)
    return centered / sigma, sigma


class Activation(NamedTuple):
    """A function between layers, elementwise, and its derivatives.

    `slope` is the first derivative and `bend` the second. The last three are for passes that nobody differentiates
    further: `pull(u, x)` is u slope(x) in one operation, the others give value, slope and bend together.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    value_slope: Callable[[Tensor], tuple[Tensor, Tensor]]
    value_slope_bend: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks and Gimpel 2016, arXiv 1606.08415), that is,
    x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    return _gelu(x, approximate="tanh")


def gelu_slope(x: Tensor) -> Tensor:
    """The derivative of `gelu`."""
    gate = torch.sigmoid(x * (_A + _B * x**2))
    return gate + x * gate * (1 - gate) * (_A + 3 * _B * x**2)


def _gelu_value_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """In elementary operations, which on a CPU is faster than PyTorch's own for tensors that fit its cache."""
    square = x * x
    start = x.new_full((), _A)
    gate = torch.add(start, square, alpha=_B).mul_(x).sigmoid_()
    value = x * gate
    rest = torch.addcmul(value, value, gate, value=-1)
    return value, gate.addcmul_(rest, torch.add(start, square, alpha=3 * _B))


def _gelu_value_slope_bend(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    square = x * x
    start = x.new_full((), _A)
    gate = torch.add(start, square, alpha=_B).mul_(x).sigmoid_()
    rate = torch.add(start, square, alpha=3 * _B)
    turn = torch.addcmul(gate, gate, gate, value=-1)  # sigmoid's slope
    first = turn * rate
    bend = rate.addcmul_(rate, gate, value=-2).mul_(first).addcmul_(turn, x, value=6 * _B).mul_(x)
    return x * gate, gate.addcmul_(x, first), bend.add_(first, alpha=2)


def silu_slope(x: Tensor) -> Tensor:
    """The derivative of x sigmoid(x)."""
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _silu_value_slope_bend(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate = torch.sigmoid(x)
    turn = gate * (1 - gate)
    return x * gate, gate + x * turn, turn * (2 + x * (1 - 2 * gate))


def _gelu_pull(u: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(u, x, approximate="tanh")


def _silu_value_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    value, slope, _ = _silu_value_slope_bend(x)
    return value, slope


ACTIVATIONS = {
    "gelu": Activation(gelu, gelu_slope, _gelu_pull, _gelu_value_slope, _gelu_value_slope_bend),
    "silu": Activation(silu, silu_slope, torch.ops.aten.silu_backward, _silu_value_slope, _silu_value_slope_bend),
}
