"""Operations with a hand-written backward pass that can still be differentiated any number of times.

A backward pass written by hand is faster than autograd's record of many small operations, and needs less memory. But
autograd cannot look into it, and an inner loop is differentiated more than once: training the outer loop is the second
time, and a learning level above the memory is the third. So each such operation also says the same numbers in ordinary
operations, `plain`. As long as nobody differentiates the gradient, the hand-written pass runs; under `create_graph`,
`plain` is differentiated instead. Where autograd itself is traced or transformed (`torch.compile`, `torch.func`), only
`plain` is used. (VJP, vector-Jacobian product: cotangents of the outputs in, cotangents of the inputs out.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class CustomVJP(NamedTuple):
    """Three ways to one result: tensors in, a tuple of tensors out.

    `plain(*inputs)` uses operations that autograd knows. `forward(*inputs, save=...)` returns the outputs and what
    `backward` needs of them, any tree of lists and tuples of tensors (anything if `save` is False). `backward(inputs,
    saved, cotangents)` returns the cotangent of each input, or None. Autograd records neither of the last two, so both
    may work in place on tensors that they made.
    """

    plain: Callable[..., Sequence[Tensor]]
    forward: Callable[..., tuple[Sequence[Tensor], Any]]
    backward: Callable[..., Sequence[Tensor | None]]


def custom_vjp(operation: CustomVJP, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The operation's outputs."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return tuple(operation.plain(*inputs))
    if torch.is_grad_enabled() and any(u.requires_grad for u in inputs):
        return _Function.apply(operation, *inputs)
    with torch.no_grad():
        outputs, _ = operation.forward(*inputs, save=False)
    return tuple(outputs)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operation: CustomVJP, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs, saved = operation.forward(*inputs, save=True)
        flat, ctx.tree = tree_flatten(saved)
        ctx.operation = operation
        ctx.input_count = len(inputs)
        # Through autograd's own store, which notices tensors that change in place before the backward pass.
        ctx.save_for_backward(*inputs, *flat)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # asked for once: a recomputed group gives them out only once
        inputs = tensors[: ctx.input_count]
        saved = tensors[ctx.input_count :]
        # Gradients are on in a backward pass only where its result will be differentiated again.
        if not torch.is_grad_enabled():
            return None, *ctx.operation.backward(inputs, tree_unflatten(saved, ctx.tree), cotangents)
        return None, *_plain_backward(ctx.operation, inputs, ctx.needs_input_grad[1:], cotangents)


def _plain_backward(
    operation: CustomVJP, inputs: Sequence[Tensor], needed: Sequence[bool], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """The cotangents of the inputs that are `needed`, by autograd on the plain operation, so that they can be
    differentiated again."""
    # New aliases: one input may have been made from another, and that way is not this operation's to count.
    aliases = [u.view_as(u) for u in inputs]
    wanted = [u for u, is_needed in zip(aliases, needed) if is_needed]
    outputs = []
    directions = []
    for output, cotangent in zip(operation.plain(*aliases), cotangents):
        # An output that depends on nothing wanted has no graph, and contributes nothing.
        if output.requires_grad:
            outputs.append(output)
            directions.append(cotangent)
    gradients = torch.autograd.grad(outputs, wanted, directions, create_graph=True, materialize_grads=True)
    remaining = iter(gradients)
    return [next(remaining) if is_needed else None for is_needed in needed]
