"""How a model's blocks are computed: twice, to hold less memory, or compiled, to take less time.

    with checkpointed_blocks(model, True): ...        # gradient checkpointing, for the length of a step
    compile_blocks(model)                             # from here on

Gradient checkpointing: of each block only what goes in is kept, and the block is computed again for its gradient.

A step then holds the insides of one block instead of those of all, and takes about a third more time. Loss and
gradients are the same numbers (Chen et al. 2016, arXiv 1604.06174).

Compiling: `torch.compile` translates a block when it first runs, which takes from seconds to minutes, and again for
inputs of another shape. Blocks are compiled one by one: they are alike, so that one translation serves them all.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from nl_course.errors import CourseError, check_choice, shortened
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


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Has each block of the model compiled when it first runs, by a backend of torch.compile. The model stays the same
    object, with the same names of its parameters.

    Raises CourseError for an unknown backend, and for a model with levels that learn: what stands above one is
    differentiated twice, which compiled code cannot be.
    """
    check_choice("the backend of --compile", backend, torch.compiler.list_backends(exclude_tags=()))
    if not _blocks(model):
        raise CourseError(f"a {type(model).__name__} has levels that learn as they read, and cannot be compiled.")
    for block in _blocks(model):
        block.compile(backend=backend)


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turns what the compiler raises, such as the want of a C++ compiler, into a CourseError of one line."""
    try:
        yield
    except TorchDynamoException as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        why = shortened(lines[0], 200) if lines else type(error).__name__
        raise CourseError(
            f"the model cannot be compiled on this machine: {why}. Train it without --compile."
        ) from error


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]
