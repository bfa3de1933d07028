"""Recomputing by segment: what a segment computes is forgotten once it is read, and computed again for its gradient.

The outer loop differentiates the inner steps. So in training every segment keeps the graph of its forward pass and
that of its inner gradient: several times what a network without an inner loop keeps. With `recompute` a segment keeps
only what went into it, and pays one more forward pass and one more inner gradient (Chen et al. 2016, arXiv 1604.06174).

PyTorch's own checkpoint would run the whole segment again as soon as the inner gradient asks for what it did not keep.
Here the segment, inner gradient included, is a single step of autograd. The first time it runs it needs no graph of
the gradient.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Tensors in -> tensors out. The flag says whether the outputs, inner gradients among them, must be differentiable.
RunSegment = Callable[[Sequence[Tensor], bool], Sequence[Tensor]]


def recomputed(run: RunSegment, inputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """run(inputs, True), without keeping what it takes to differentiate it.

    `parameters` are those that `run` uses besides its inputs. The outputs can be differentiated once.
    """
    return _Recomputed.apply(run, len(inputs), _same_autocast(inputs[0].device.type), *inputs, *parameters)


class _Recomputed(torch.autograd.Function):
    """Autograd's view of a segment: forward without a graph, backward by running it again with one."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, run: RunSegment, input_count: int, autocast: Callable, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Runs the segment without a graph, and keeps its inputs."""
        ctx.run = run
        ctx.input_count = input_count
        ctx.autocast = autocast
        ctx.save_for_backward(*tensors)
        inputs = [t.detach() for t in tensors[:input_count]]
        outputs = tuple(t.detach() for t in run(inputs, False))
        ctx.mark_non_differentiable(*(t for t in outputs if not t.is_floating_point()))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *output_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Runs the segment once more with a graph, and goes back through it."""
        needed = ctx.needs_input_grad[3:]  # run, input_count and autocast come first and have no gradient
        saved_inputs = ctx.saved_tensors[: ctx.input_count]
        parameters = ctx.saved_tensors[ctx.input_count :]

        # The segment once more, this time with a graph, cut off from what came before it.
        inputs = [t.detach().requires_grad_(n) for t, n in zip(saved_inputs, needed)]
        with torch.enable_grad(), ctx.autocast():
            outputs = ctx.run(inputs, True)

        # From the outputs that anybody used back to the tensors whose gradient is asked for.
        sources = [*inputs, *parameters]
        wanted = [i for i, n in enumerate(needed) if n]
        used_outputs, used_grads = [], []
        for output, grad in zip(outputs, output_grads, strict=True):
            if output.requires_grad and grad is not None:
                used_outputs.append(output)
                used_grads.append(grad)
        source_grads: list[Tensor | None] = [None] * len(sources)
        if used_outputs and wanted:
            wanted_sources = [sources[i] for i in wanted]
            wanted_grads = torch.autograd.grad(used_outputs, wanted_sources, used_grads, allow_unused=True)
            for i, grad in zip(wanted, wanted_grads, strict=True):
                source_grads[i] = grad
        return None, None, None, *source_grads


def _same_autocast(device: str) -> Callable[[], AbstractContextManager]:
    """The autocast of now, to be entered later; the meta device, on which operations are only counted, has none."""
    if device == "meta":
        return nullcontext
    enabled = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled)
