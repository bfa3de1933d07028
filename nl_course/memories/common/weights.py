"""The weights of an inner model, with the arithmetic that the papers write: M + S, eta * S, M - theta * grad."""

from collections.abc import Callable
from operator import add, mul, sub

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Weights(dict[str, Tensor]):
    """Tensors by name (W1, b1, W2, ...), added, subtracted and scaled name by name.

    Each tensor is (b, h, in, out): every row of the batch owns its weights. A scale is a number or a tensor that
    broadcasts against all of them, e.g. one number per row and head, (b, h, 1, 1). Sums need the same names.
    """

    def map(self, function: Callable[[Tensor], Tensor]) -> "Weights":
        """New weights with `function` applied to every tensor."""
        return Weights({name: function(w) for name, w in self.items()})

    def _with(self, other: "Weights", operation: Callable[[Tensor, Tensor], Tensor]) -> "Weights":
        return Weights({name: operation(w, other[name]) for name, w in self.items()})

    def __add__(self, other: "Weights") -> "Weights":
        return self._with(other, add)

    def __sub__(self, other: "Weights") -> "Weights":
        return self._with(other, sub)

    def __mul__(self, scale: Tensor | float) -> "Weights":
        return self.map(lambda w: mul(scale, w))

    __rmul__ = __mul__

    def norm(self) -> Tensor:
        """The Euclidean length of all weights of a head together, (b, h)."""
        squares = [w.square().sum(dim=(-2, -1)) for w in self.values()]
        return torch.stack(squares).sum(dim=0).sqrt()


def _flatten(weights: Weights) -> tuple[list[Tensor], list[str]]:
    return list(weights.values()), list(weights)


def _unflatten(tensors: list[Tensor], names: list[str]) -> Weights:
    return Weights(zip(names, tensors))


# Without this torch.func takes a subclass of dict for one leaf and refuses it.
pytree.register_pytree_node(
    Weights, _flatten, _unflatten, serialized_type_name="nl_course.memories.common.weights.Weights"
)
