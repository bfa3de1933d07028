"""Attention at T = 2048, d = 256, 4 heads, beside the barest layer that does the same: four projections and SDPA."""

from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nl_course.benches.measure import decode_seconds, forward, forward_backward, in_turn, ratio
from nl_course.memories import build_memory
from nl_course.seeding import seeded

TOKENS, WIDTH, HEADS = 2048, 256, 4
CASES = {
    "attention": ("attention", {}),
    "attention, no rotary": ("attention", dict(rope_theta=None)),
    "grouped, 1 of 4": ("attention", dict(kv_heads=1)),
    "window 256": ("attention", dict(window=256)),
    "latent": ("latent-attention", dict(kv_rank=64, rope_dim=32, head_dim=32, value_dim=64)),
}


class Bare(nn.Module):
    """Query, key, value and output projections around SDPA: no cache, no positions, no state."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        q, k, v = (p(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (self.query, self.key, self.value))
        return self.output(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


@seeded(0)
def rows() -> list[dict]:
    """Tokens per second, time beside the bare layer, decode time and state bytes per case."""
    x = torch.randn(1, TOKENS, WIDTH)
    bare = Bare()
    table = []
    for name, (memory, options) in CASES.items():
        ours = build_memory(memory, WIDTH, HEADS, **options)
        ahead = in_turn({"ours": forward(ours, x), "bare": forward(bare, x)}, rounds=15)
        both = in_turn({"ours": forward_backward(ours, x), "bare": forward_backward(bare, x)}, rounds=7)
        with torch.no_grad():
            _, state = ours(x)
        table.append(
            {
                "name": name,
                "forward, tokens/s": TOKENS / median(ahead["ours"]),
                "forward time / bare": ratio(ahead, "ours", "bare"),
                "forward+backward, tokens/s": TOKENS / median(both["ours"]),
                "forward+backward time / bare": ratio(both, "ours", "bare"),
                "decode at 2k, us": 1e6 * decode_seconds(ours, 2048),
                "decode at 16k, us": 1e6 * decode_seconds(ours, 16384),
                "state at 2k, bytes": state.nbytes,
            }
        )
    return table
