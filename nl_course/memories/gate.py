"""An output gate: what a memory answers, times an activation of another projection of its input (Mamba's block)."""

from functools import partial

from torch import Tensor

from nl_course.memories.inner import ACTIVATIONS
from nl_course.memories.raw import Operation, raw


def gated(y: Tensor, gate: Tensor, activation: str) -> Tensor:
    """y act(gate). Autograd would keep act(gate) too; here it is made again, which is cheaper than to store it."""
    gating = Operation(*(partial(way, ACTIVATIONS[activation]) for way in (_plain, _forward, _backward)))
    return raw(gating, y, gate)[0]


def _plain(activation, y: Tensor, gate: Tensor) -> tuple[Tensor]:
    return (y * activation.value(gate),)


def _forward(activation, y: Tensor, gate: Tensor, keep: bool) -> tuple[tuple[Tensor], None]:
    return _plain(activation, y, gate), None


def _backward(activation, given, kept, cotangents) -> tuple[Tensor, Tensor]:
    (y, gate), (d_out,) = given, cotangents
    return activation.value(gate).mul_(d_out), activation.pull(d_out * y, gate)
