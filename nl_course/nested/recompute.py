"""Checkpointing by segment: what a segment computes is forgotten once it is read, and computed again for its gradient.

An update is differentiated, so under training every segment keeps the graph of its forward pass and of its gradient's:
several times what the network without an inner loop keeps. With `checkpoint` a segment keeps what went into it alone,
for one further forward pass and one further gradient of it (Chen et al. 2016, arXiv 1604.06174).

PyTorch's own checkpoint runs the whole segment again as soon as the inner gradient asks for what it did not keep. Here
the segment is one step of autograd, inner gradient included, so the first time round it needs no graph of a gradient.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Tensors in -> tensors out; the flag says whether the outputs must be differentiable, inner gradients among them.
Run = Callable[[Sequence[Tensor], bool], Sequence[Tensor]]


def recomputed(run: Run, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """run(inputs, True), without what it takes to differentiate it. `parameters` are those that `run` uses besides.
    The outer loop can differentiate the outputs once."""
    return _Recomputed.apply(run, len(inputs), _same_autocast(inputs[0].device.type), *inputs, *parameters)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run: Run, count: int, autocast: Callable, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.run, ctx.count, ctx.autocast = run, count, autocast
        ctx.save_for_backward(*tensors)
        outputs = tuple(t.detach() for t in run([t.detach() for t in tensors[:count]], False))
        ctx.mark_non_differentiable(*(t for t in outputs if not t.is_floating_point()))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        needed = ctx.needs_input_grad[3:]
        inputs = [t.detach().requires_grad_(n) for t, n in zip(ctx.saved_tensors[: ctx.count], needed)]
        with torch.enable_grad(), ctx.autocast():
            outputs = ctx.run(inputs, True)
        sources = [*inputs, *ctx.saved_tensors[ctx.count :]]
        wanted = [i for i, n in enumerate(needed) if n]
        ends = [(t, g) for t, g in zip(outputs, gradients, strict=True) if t.requires_grad and g is not None]
        found = [None] * len(sources)
        if ends and wanted:
            tensors, slopes = zip(*ends)
            each = torch.autograd.grad(tensors, [sources[i] for i in wanted], slopes, allow_unused=True)
            for i, g in zip(wanted, each, strict=True):
                found[i] = g
        return None, None, None, *found


def _same_autocast(device: str) -> Callable[[], AbstractContextManager]:
    """The autocast of now, to be entered later; the meta device, on which operations are only counted, has none."""
    if device == "meta":
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled)
