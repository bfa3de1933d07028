"""Every local memory at B = 1, T = 2048, d = 256, 4 heads, in one process, float32: first one of each kind, then
Titans' neural memory with one to three layers and chunks of 16 and 64 tokens, alone (LMM) and beside attention (MAC,
MAG, MAL)."""

from statistics import median

import torch

from nl_course.benches.measure import decode_seconds, forward, forward_backward, in_turn, peak_bytes
from nl_course.memories import Memory, build_memory
from nl_course.seeding import seeded

TOKENS, WIDTH, HEADS = 2048, 256, 4

# Of each case: the memory's name and its options.
LOCAL = {
    "attention": ("attention", {}),
    "linear (Hebb)": ("linear", {}),
    "retention": ("retnet", {}),
    "DeltaNet": ("delta", {}),
    "Gated DeltaNet": ("gated-delta", {}),
    "Kimi Delta Attention": ("kda", {}),
    "TTT-Linear": ("ttt-linear", {}),
    "TTT-MLP": ("ttt-mlp", {}),
    "self-modifying Titans": ("self-modifying", {}),
}
TITANS = {
    "LMM, 1 layer, chunk 16": ("titans", {"layers": 1, "chunk": 16}),
    "LMM, 1 layer, chunk 64": ("titans", {"layers": 1, "chunk": 64}),
    "LMM, 2 layers, chunk 16": ("titans", {"layers": 2, "chunk": 16}),
    "LMM, 2 layers, chunk 64": ("titans", {"layers": 2, "chunk": 64}),
    "LMM, 3 layers, chunk 16": ("titans", {"layers": 3, "chunk": 16}),
    "LMM, 3 layers, chunk 64": ("titans", {"layers": 3, "chunk": 64}),
    "MAC, 2 layers, chunk 16": ("mac", {"layers": 2, "chunk": 16}),
    "MAC, 2 layers, chunk 64": ("mac", {"layers": 2, "chunk": 64}),
    "MAG, 2 layers, chunk 16": ("mag", {"layers": 2, "chunk": 16}),
    "MAG, 2 layers, chunk 64": ("mag", {"layers": 2, "chunk": 64}),
    "MAL, 2 layers, chunk 16": ("mal", {"layers": 2, "chunk": 16}),
    "MAL, 2 layers, chunk 64": ("mal", {"layers": 2, "chunk": 64}),
}


@seeded(0)
def build(name: str) -> Memory:
    """The memory of a case of `LOCAL` or `TITANS`, the same weights each time."""
    memory, options = (LOCAL | TITANS)[name]
    return build_memory(memory, WIDTH, HEADS, **options)


def rows() -> list[dict]:
    """Both tables, one below the other: tokens per second, MB, microseconds per token and bytes."""
    # Each table by itself, so that only a few memories take turns at a time.
    return _measured(list(LOCAL)) + _measured(list(TITANS))


def _measured(names: list[str]) -> list[dict]:
    x = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    memories = {name: build(name) for name in names}
    ahead = in_turn({name: forward(memory, x) for name, memory in memories.items()}, rounds=5)
    both = in_turn({name: forward_backward(memory, x) for name, memory in memories.items()}, rounds=5)
    return [
        {
            "name": name,
            "forward, tokens/s": TOKENS / median(ahead[name]),
            "forward+backward, tokens/s": TOKENS / median(both[name]),
            "forward+backward peak, MB": peak_bytes(_peak_program(name)) / 1e6,
            "decode at 2k, us": 1e6 * decode_seconds(memory, 2048),
            "at 16k": 1e6 * decode_seconds(memory, 16384),
            "state at 2k, bytes": memory.state_bytes(TOKENS),
            "state at 16k": memory.state_bytes(16384),
        }
        for name, memory in memories.items()
    ]


def _peak_program(name: str) -> str:
    """A program that prepares and warms up on one chunk, then runs forward and backward over the text."""
    return f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
from nl_course.benches.measure import forward_backward
from nl_course.benches.memories import TOKENS, WIDTH, build
memory = build({name!r})
x = torch.randn(1, TOKENS, WIDTH)
forward_backward(memory, x[:, :64])()
main = forward_backward(memory, x)
"""
