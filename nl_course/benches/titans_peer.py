"""Our whole Titans layer beside titans-pytorch's NeuralMemory, on the same work: gates and gradients per token (its
`chunk_size=1`), the weights at which gradients are taken renewed every 64 tokens, momentum, a memory of two layers with
an expansion of 4. d = 256, 4 heads of 64, B = 1, T = 1024, float32.

Theirs is called without what is not in the paper. It has projections and one gate per head, but no convolutions and no
gate per feature, which ours is timed with. tests/peers/test_titans_pytorch.py shows that both compute the same numbers.
"""

import torch

from nl_course.memories import Titans, TitansConfig
from nl_course.seeding import seeded

WIDTH, HEADS, CHUNK, TOKENS = 256, 4, 64, 1024


@seeded(0)
def ours() -> Titans:
    """The course's layer."""
    return Titans(TitansConfig(WIDTH, HEADS, layers=2, expansion=4, chunk=CHUNK))


@seeded(0)
def theirs() -> torch.nn.Module:
    """titans-pytorch's memory; needs the environment of `make peers`."""
    from titans_pytorch import NeuralMemory

    return NeuralMemory(
        WIDTH,
        dim_head=WIDTH // HEADS,
        heads=HEADS,
        chunk_size=1,
        batch_size=CHUNK,
        momentum=True,
        mem_model_norm_add_residual=False,
        default_model_kwargs=dict(depth=2, expansion_factor=4.0),
    )


def peak_program(which: str) -> str:
    """A program that prepares and warms up on one chunk, then runs forward and backward over the text."""
    return f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
from nl_course.benches.measure import forward_backward
from nl_course.benches.titans_peer import TOKENS, WIDTH, ours, theirs
memory = {which}()
x = torch.randn(1, TOKENS, WIDTH)
forward_backward(memory, x[:, :64])()
main = forward_backward(memory, x)
"""
