"""Titans at B = 1, T = 2048, d = 256, 4 heads, float32: the neural memory with one to three layers and chunks of 16 and
64 tokens, and beside attention (MAC, MAG, MAL)."""

from statistics import median

import torch

from nl_course.benches.measure import decode_seconds, forward, forward_backward, in_turn, peak_bytes
from nl_course.memories import MEMORIES, Memory, build_memory

TOKENS, WIDTH, HEADS = 2048, 256, 4
NAMES = {"titans": "LMM", "mac": "MAC", "mag": "MAG", "mal": "MAL"}
CASES = {
    f"{NAMES[memory]}, {layers} layer{'s' * (layers > 1)}, chunk {chunk}": (memory, dict(layers=layers, chunk=chunk))
    for memory, depths in (("titans", (1, 2, 3)), ("mac", (2,)), ("mag", (2,)), ("mal", (2,)))
    if memory in MEMORIES
    for layers in depths
    for chunk in (16, 64)
}


def build(name: str) -> Memory:
    torch.manual_seed(0)
    memory, options = CASES[name]
    return build_memory(memory, WIDTH, HEADS, **options)


def rows() -> list[dict]:
    x = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    memories = {name: build(name) for name in CASES}
    ahead = in_turn({name: forward(memory, x) for name, memory in memories.items()}, rounds=5)
    both = in_turn({name: forward_backward(memory, x) for name, memory in memories.items()}, rounds=5)
    return [
        {
            "name": name,
            "forward, tokens/s": TOKENS / median(ahead[name]),
            "forward+backward, tokens/s": TOKENS / median(both[name]),
            "forward+backward peak, MB": peak_bytes(_peak(name)) / 1e6,
            "decode at 2k, us": 1e6 * decode_seconds(memory, 2048),
            "at 16k": 1e6 * decode_seconds(memory, 16384),
            "state, bytes": memory.state_bytes(TOKENS),
        }
        for name, memory in memories.items()
    ]


def _peak(name: str) -> str:
    """A program that prepares and warms up on one chunk, then runs forward and backward over the text."""
    return f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
from nl_course.benches.measure import forward_backward
from nl_course.benches.titans import TOKENS, WIDTH, build
memory = build({name!r})
x = torch.randn(1, TOKENS, WIDTH)
forward_backward(memory, x[:, :64])()
main = forward_backward(memory, x)
"""
