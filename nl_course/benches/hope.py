"""Self-modifying Titans at d = 256, float32: the kinds, the chunks, the ways to read, and the reference.

The floor is what a machine that did nothing but the layer's matrix products would need, at its rate for large ones. Per
token a two-layer memory of width d reads (2 d m multiply-adds), makes its target (2 d m), predicts (2 d m), sends its
error back (d m) and is written (2 d m); M_memory reads its query instead of the input. Step and retention have second
layers of one number: half of that. So 9 d m for each of key, value and memory and 4 d m for each of step and retention,
35 d m together, and 3 d^2 for query, gate and output. The backward pass counts twice the forward one. Products of few
rows never reach that rate.

Numbers too small for float32's normal range slow a CPU down tenfold; memories that forget pass through them. They are
flushed to zero here, for all alike.
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
)
from nl_course.memories import SelfModifying, SelfModifyingConfig
from nl_course.memories.ablations.gain import SharedGain
from nl_course.memories.hope.bank import SCALAR
from nl_course.seeding import seeded

WIDTH, TOKENS = 256, 1024
CASES = {
    "chunks 8 / 64": dict(heads=1, chunk=64, chunk_others=8),
    "chunks 64 / 64": dict(heads=1, chunk=64),
    "16 / 16, 4 heads": dict(heads=4, chunk=16),
    "16 / 16, 4 heads, running reads": dict(heads=4, chunk=16, read="running"),
    "16 / 16, 4 heads, momentum": dict(heads=4, chunk=16, momentum=0.9),
    "16 / 16, 4 heads, linear": dict(heads=4, chunk=16, kind="linear"),
    "16 / 16, 4 heads, one gain": dict(heads=4, chunk=16, kind="linear"),
    "16 / 16, 4 heads, plain variant": dict(heads=4, chunk=16, variant="plain"),
    "1 / 1, 4 heads": dict(heads=4, chunk=1),
}
SHARED_GAIN = ("16 / 16, 4 heads, one gain",)  # cases whose memories are kept as one gain


@seeded(0)
def build(name: str) -> SelfModifying:
    """The layer of a case, by its name in `CASES`."""
    layer = SharedGain if name in SHARED_GAIN else SelfModifying
    return layer(SelfModifyingConfig(WIDTH, **CASES[name]))


def rows() -> list[dict]:
    """One row per case: tokens per second, peak memory, decoding time per token, bytes of the state."""
    torch.set_flush_denormal(True)
    try:
        rate = matmul_rate()
        return [_row(name, rate) for name in CASES]
    finally:
        torch.set_flush_denormal(False)


def _row(name: str, rate: float) -> dict:
    """The row of one case; `rate` in multiply-adds per second."""
    memory, x = build(name), torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    times = in_turn({"forward": forward(memory, x), "both": forward_backward(memory, x)}, rounds=3)
    return {
        "name": name,
        "forward, tokens/s": TOKENS / median(times["forward"]),
        "forward+backward, tokens/s": TOKENS / median(times["both"]),
        "floor, tokens/s": rate / (6 * multiply_adds(memory.config)),
        "forward+backward peak, MB": peak_bytes(_peak(name)) / 1e6,
        "decode at 1k, us": 1e6 * decode_seconds(memory, TOKENS),
        "at 8k": 1e6 * decode_seconds(memory, 8 * TOKENS),
        "state, bytes": memory.state_bytes(TOKENS),
    }


def multiply_adds(config: SelfModifyingConfig) -> int:
    """Of a forward pass, per token. A linear memory has one matrix where two layers have two, and sends nothing back; a
    memory that does not move only reads."""
    f, m = config.head_dim, config.hidden
    count = 0
    for name in config.names:
        width_out = 1 if name in SCALAR else f
        if config.kind == "mlp":
            first, second = f * m, m * width_out
        else:
            first, second = 0, f * width_out
        # Read, target, prediction and write use all weights; the error goes back through the second layer only.
        back = second if config.kind == "mlp" else 0
        count += 4 * (first + second) + back if name in config.moving else first + second
    return config.heads * count + 3 * WIDTH * WIDTH


def _peak(name: str) -> str:
    """The program whose peak memory is that of a case's forward and backward pass."""
    return f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
torch.set_flush_denormal(True)
from nl_course.benches.hope import TOKENS, WIDTH, build
from nl_course.benches.measure import forward_backward
main = forward_backward(build({name!r}), torch.randn(1, TOKENS, WIDTH))
"""
