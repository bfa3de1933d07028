"""Texts that overflow: what is not finite must not reach the tokens before it.

A memory reads many tokens with a few large products, in which the weight of every token that may not be seen is 0. But
0 * inf is not 0, it is nan. So where one token overflows, a product carries nan to the tokens *before* it, which know
nothing of it when the text is read token by token. To mask every product twice would prevent that, and would slow down
each text for the sake of few, by 5 to 45 % where we tried it on a CPU.

So a text is read at once, as always. Only if an answer is not finite is it read again in halves, down to the token that
broke: of one token nothing is masked. That costs as much as reading the text once or twice more.

Axes: b batch, t tokens, d features.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack

from nl_course.errors import CourseError


def overflowed(y: Tensor) -> bool:
    """Whether y holds a number that is not finite. Not asked (False) of code that is compiled, transformed or recorded,
    nor of an accelerator in training, which would wait for the answer at every layer."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or _len_torch_dispatch_stack():
        return False
    if y.is_meta or (y.device.type != "cpu" and torch.is_grad_enabled()):
        return False
    if y.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    y = y.detach()
    # One cheap question first: a sum is finite only if every number in it is.
    return not y.sum().isfinite() and not y.isfinite().all()


def read_in_halves(memory: Any, x: Tensor, state: Any, y: Tensor, after: Any) -> tuple[Tensor, Any]:
    """What `memory.advance` gave for x (b, t, d) from `state` on, y (b, t, d) and the state `after`; made again from
    shorter pieces if a row broke in it."""
    tokens = x.shape[1]
    if tokens == 1 or not _breaks(y, state):
        return y, after
    outputs = []
    before = state
    for piece in (x[:, : tokens // 2], x[:, tokens // 2 :]):  # (b, t / 2, d)
        try:
            read = memory.advance(piece, before, None)
        except CourseError:
            return y, after  # an ablation that does not take a text in pieces
        y_piece, before = read_in_halves(memory, piece, before, *read)
        outputs.append(y_piece)
    return torch.cat(outputs, dim=1), before  # (b, t, d)


def _breaks(y: Tensor, state: Any) -> bool:
    """Whether some row of y (b, t, d) is not finite although its `state` before was: it broke in this piece."""
    broke = ~y.detach().isfinite().flatten(1).all(dim=1)  # (b,)
    for tensor in state.tensors().values():
        if tensor.is_floating_point():
            broke &= tensor.detach().isfinite().flatten(1).all(dim=1)
    return bool(broke.any())
