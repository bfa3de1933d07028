"""Operations with a backward pass of their own that can nevertheless be differentiated any number of times.

An inner loop is differentiated when the outer loop trains, and once more where a learning level stands above it, so a
hand-written backward pass must not be the end of the chain. `raw` runs one as long as nobody differentiates it. Under
`create_graph` it differentiates `plain` instead, the same numbers in ordinary operations; so it does where autograd is
traced or transformed (`torch.compile`, `torch.func`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class Operation(NamedTuple):
    """Three ways to one result: tensors in, a tuple of tensors out.

    `plain(*given)` by operations that autograd knows; `forward(*given, keep=...)` -> (results, kept), `kept` being any
    tree of lists and tuples of tensors, and of no use if `keep` is False; `backward(given, kept, cotangents)` -> the
    cotangent of each given tensor, or None.
    Neither of the last two is recorded, so both may work in place on what is their own."""

    plain: Callable[..., Sequence[Tensor]]
    forward: Callable[..., tuple[Sequence[Tensor], Any]]
    backward: Callable[..., Sequence[Tensor | None]]


def raw(operation: Operation, *given: Tensor) -> tuple[Tensor, ...]:
    """The operation's results."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return tuple(operation.plain(*given))
    if not (torch.is_grad_enabled() and any(u.requires_grad for u in given)):
        with torch.no_grad():
            return tuple(operation.forward(*given, keep=False)[0])
    return _Raw.apply(operation, *given)


class _Raw(torch.autograd.Function):
    @staticmethod
    def forward(ctx, operation: Operation, *given: Tensor) -> tuple[Tensor, ...]:
        results, kept = operation.forward(*given, keep=True)
        flat, ctx.tree = tree_flatten(kept)
        ctx.operation, ctx.count = operation, len(given)
        ctx.save_for_backward(*given, *flat)
        return tuple(results)

    @staticmethod
    def backward(ctx, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        given, kept = saved[: ctx.count], saved[ctx.count :]
        if not torch.is_grad_enabled():
            return None, *ctx.operation.backward(given, tree_unflatten(kept, ctx.tree), cotangents)
        # Under new names: one given tensor may be made of another (a norm's weights, used before), and what reaches it
        # by that way is not this operation's to give.
        given = [u.view_as(u) for u in given]
        results = ctx.operation.plain(*given)
        wanted = [u for u, needed in zip(given, ctx.needs_input_grad[1:]) if needed]
        # A result that depends on nothing wanted has no graph, and nothing to give.
        pairs = [(u, d) for u, d in zip(results, cotangents) if u.requires_grad]
        outputs, into = zip(*pairs)
        made = iter(torch.autograd.grad(outputs, wanted, into, create_graph=True, materialize_grads=True))
        return None, *(next(made) if needed else None for needed in ctx.needs_input_grad[1:])
