"""Operations of the matrix products that a row has to make, counted without computing them.

A forward pass is counted on PyTorch's meta device, over few tokens where the work grows with the text alone. A backward
pass counts as two forward ones, which is what is counted for these memories within 8 %.
"""

from functools import cache

import torch

from nl_course.benches.gpu.contestants import OURS, TINY_TOKENS, build
from nl_course.nested import NestedLanguageModel
from nl_course.training.estimate import Operations, on_meta
from nl_course.training.loss import token_losses

PASSES = {"forward": 1, "forward+backward": 3}


def operations(name: str, context: int, rows: int, which: str, sizes: str = "full") -> float:
    """Of a pass of the contestant over `rows` texts of `context` tokens; `which` is of PASSES."""
    tokens = OURS[name].counted if sizes == "full" else TINY_TOKENS
    if tokens == 0 or tokens > context:
        tokens = context
    return PASSES[which] * rows * context / tokens * _forward(name, tokens, sizes)


@cache
def _forward(name: str, tokens: int, sizes: str) -> float:
    """One text of so many tokens, forward."""
    with on_meta():
        module = build(name, sizes)
        if isinstance(module, NestedLanguageModel):
            text = torch.zeros(1, tokens, dtype=torch.int64)
            with Operations() as counter:
                token_losses(module, text, text)
        else:
            x = torch.zeros(1, tokens, module.width)
            with torch.no_grad(), Operations() as counter:
                module(x)
    return counter.flops


@cache
def parameters(name: str, sizes: str = "full") -> int:
    """Numbers in all weights of the contestant."""
    with on_meta():
        return sum(p.numel() for p in build(name, sizes).parameters())
