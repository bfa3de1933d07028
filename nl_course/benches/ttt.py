"""TTT layers at d = 256, 4 heads, mini-batch 16, beside the per-mini-batch autograd loop of `ttt_baseline`.

The floor is what a machine that did nothing but the layer's matrix products would need, at its rate for large ones: per
token 4 d^2 multiply-adds for the four projections, and per mini-batch and head 3 b f^2 + 2 b^2 f for a linear memory,
28 b f^2 + 10 b^2 f for the MLP; the backward pass counts twice the forward one. No layer is faster, and matrices of 16
rows never reach that rate.
"""

from statistics import median

import torch

from nl_course.benches.measure import (
    decode_seconds,
    forward,
    forward_backward,
    in_turn,
    matmul_rate,
    peak_bytes,
    ratio,
)
from nl_course.benches.ttt_baseline import MiniBatchLoop
from nl_course.memories import TTT, TTTConfig
from nl_course.seeding import seeded

WIDTH, HEADS, SIZE = 256, 4, 16
CASES = {
    "TTT-Linear": ("linear", "transformer"),
    "TTT-Linear, Mamba backbone": ("linear", "mamba"),
    "TTT-MLP": ("mlp", "transformer"),
    "TTT-MLP, Mamba backbone": ("mlp", "mamba"),
}


def ours(kind: str, backbone: str) -> TTT:
    """Our layer; base rate 1 for both kinds, as the loop has it."""
    return TTT(TTTConfig(WIDTH, HEADS, kind=kind, backbone=backbone, base_rate=1.0, mini_batch=SIZE))


def loop(kind: str, backbone: str) -> MiniBatchLoop:
    """The layer that ours is measured beside."""
    return MiniBatchLoop(WIDTH, HEADS, kind, backbone == "mamba", SIZE)


@seeded(0)
def rows() -> list[dict]:
    """One row per case; times are medians of runs in turn, so that a busy moment hits both layers."""
    rate = matmul_rate()
    return [_row(name, kind, backbone, rate) for name, (kind, backbone) in CASES.items()]


def _row(name: str, kind: str, backbone: str, rate: float) -> dict:
    memory = ours(kind, backbone)
    theirs = loop(kind, backbone)
    short = torch.randn(1, 2048, WIDTH)
    long = torch.randn(1, 8192, WIDTH)
    read = in_turn({"ours": forward(memory, short), "loop": forward(theirs, short)}, rounds=7)
    train = in_turn({"ours": forward_backward(memory, short), "loop": forward_backward(theirs, short)}, rounds=7)
    train_long = in_turn({"ours": forward_backward(memory, long), "loop": forward_backward(theirs, long)}, rounds=2)
    peaks = {}
    for which in ("ours", "loop"):
        of_processes = [peak_bytes(_peak(which, kind, backbone)) for _ in range(3)]
        peaks[which] = median(of_processes)
    at_2k, at_16k = (decode_seconds(memory, context) for context in (2048, 16384))
    return {
        "name": name,
        "forward, tokens/s": 2048 / median(read["ours"]),
        "loop's": 2048 / median(read["loop"]),
        "times faster": 1 / ratio(read, "ours", "loop"),
        "forward+backward, tokens/s": 2048 / median(train["ours"]),
        "the loop's": 2048 / median(train["loop"]),
        "times as fast": 1 / ratio(train, "ours", "loop"),
        "floor, tokens/s": rate / (6 * multiply_adds(kind)),
        "at 8k, tokens/s": 8192 / median(train_long["ours"]),
        "the loop at 8k": 8192 / median(train_long["loop"]),
        "peak, bytes": peaks["ours"],
        "loop's peak": peaks["loop"],
        "decode at 2k, us": 1e6 * at_2k,
        "decode at 16k, us": 1e6 * at_16k,
        "state, bytes": memory.state_bytes(2048),
    }


def multiply_adds(kind: str) -> int:
    """Of a forward pass, per token: four projections in either backbone, and the inner loop."""
    f = WIDTH // HEADS
    inner = 3 * f * f + 2 * SIZE * f if kind == "linear" else 28 * f * f + 10 * SIZE * f
    return 4 * WIDTH * WIDTH + HEADS * inner


def _peak(which: str, kind: str, backbone: str) -> str:
    """A program that prepares and warms up on one mini-batch, then runs forward and backward over 2048 tokens."""
    return f"""
import torch
from nl_course.benches.measure import forward_backward
from nl_course.benches.ttt import WIDTH, loop, ours
memory = {which}({kind!r}, {backbone!r})
x = torch.randn(1, 2048, WIDTH)
forward_backward(memory, x[:, :64])()
run = forward_backward(memory, x)
def main():
    run()
"""
