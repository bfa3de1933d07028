"""Every local memory at B = 1, T = 2048, d = 256, 4 heads, in the same process, float32."""

from statistics import median

import torch

from nl_course.benches.measure import decode_seconds, forward, forward_backward, in_turn, peak_bytes
from nl_course.memories import Memory, build_memory

TOKENS, WIDTH, HEADS = 2048, 256, 4
CASES = {
    "attention": ("attention", {}),
    "linear (Hebb)": ("linear", {}),
    "retention": ("retnet", {}),
    "DeltaNet": ("delta", {}),
    "Gated DeltaNet": ("gated-delta", {}),
    "TTT-Linear": ("ttt-linear", {}),
    "TTT-MLP": ("ttt-mlp", {}),
    "self-modifying Titans": ("self-modifying", {}),
}


def build(name: str) -> Memory:
    torch.manual_seed(0)
    memory, options = CASES[name]
    return build_memory(memory, WIDTH, HEADS, **options)


def rows() -> list[dict]:
    x = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    memories = {name: build(name) for name in CASES}
    ahead = in_turn({name: forward(memory, x) for name, memory in memories.items()}, rounds=7)
    both = in_turn({name: forward_backward(memory, x) for name, memory in memories.items()}, rounds=5)
    return [
        {
            "name": name,
            "forward, tokens/s": TOKENS / median(ahead[name]),
            "forward+backward, tokens/s": TOKENS / median(both[name]),
            "forward+backward peak, MB": peak_bytes(_peak(name)) / 1e6,
            "decode at 2k, us": 1e6 * decode_seconds(memory, 2048),
            "at 16k": 1e6 * decode_seconds(memory, 16384),
            "state at 2k, bytes": memory.state_bytes(TOKENS),
            "state at 16k": memory.state_bytes(16384),
        }
        for name, memory in memories.items()
    ]


def _peak(name: str) -> str:
    return f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
from nl_course.benches.measure import forward_backward
from nl_course.benches.memories import TOKENS, WIDTH, build
main = forward_backward(build({name!r}), torch.randn(1, TOKENS, WIDTH))
"""
