"""Our Gated DeltaNet layer beside Qwen3-Next's in Hugging Face transformers (plain PyTorch), the same sizes and work.

Needs the peers' environment: `make peers` makes it and runs this.
"""

from statistics import median

import torch

from nl_course.benches.measure import forward, forward_backward, in_turn, ratio
from nl_course.benches.memories import HEADS, TOKENS, WIDTH, build
from nl_course.errors import CourseError


def rows() -> list[dict]:
    layers = {"ours": build("Gated DeltaNet"), "theirs": _qwen3_next()}
    x = torch.randn(1, TOKENS, WIDTH)
    ahead = in_turn({name: forward(layer, x) for name, layer in layers.items()}, rounds=5)
    both = in_turn({name: forward_backward(layer, x) for name, layer in layers.items()}, rounds=5)
    return [
        {
            "name": "Gated DeltaNet layer",
            "forward, tokens/s": TOKENS / median(ahead["ours"]),
            "Qwen3-Next's": TOKENS / median(ahead["theirs"]),
            "times faster": 1 / ratio(ahead, "ours", "theirs"),
            "forward+backward, tokens/s": TOKENS / median(both["ours"]),
            "Qwen3-Next's, both": TOKENS / median(both["theirs"]),
            "times faster, both": 1 / ratio(both, "ours", "theirs"),
        }
    ]


def _qwen3_next() -> torch.nn.Module:
    try:
        from transformers import Qwen3NextConfig
        from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet
    except ImportError as error:
        raise CourseError("the bench 'peers' needs the environment that `make peers` makes.") from error
    head = WIDTH // HEADS
    config = Qwen3NextConfig(
        hidden_size=WIDTH,
        linear_num_key_heads=HEADS,
        linear_num_value_heads=HEADS,
        linear_key_head_dim=head,
        linear_value_head_dim=head,
        linear_conv_kernel_dim=4,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    return Qwen3NextGatedDeltaNet(config, 0)
