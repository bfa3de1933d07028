"""Gradient checkpointing: of each block only what goes in is kept, and the block is computed again for its gradient.

A step then holds the insides of one block instead of those of all, and takes about a third more time. Loss and
gradients are the same numbers (Chen et al. 2016, arXiv 1604.06174).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from nl_course.errors import CourseError
from nl_course.model import Block


def check_blocks(model: nn.Module, on: bool) -> None:
    """Raises CourseError if checkpointing is wanted and this model has no blocks that can be computed twice."""
    if on and not _blocks(model):
        raise CourseError(
            f"checkpoint_blocks is for models without levels that learn, and this is a {type(model).__name__}; "
            "for those there is recompute."
        )


@contextmanager
def checkpointed_blocks(model: nn.Module, on: bool) -> Iterator[None]:
    """Within it, if `on`, the model's blocks are computed twice. Afterwards they are as they were."""
    blocks = _blocks(model)
    earlier = [block.checkpoint for block in blocks]
    for block in blocks:
        block.checkpoint = block.checkpoint or on
    try:
        yield
    finally:
        for block, was in zip(blocks, earlier, strict=True):
            block.checkpoint = was


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]
