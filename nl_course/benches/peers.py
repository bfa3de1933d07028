"""Our layers beside other people's, the same sizes and work: Gated DeltaNet beside Qwen3-Next's and Kimi Delta
Attention beside Kimi Linear's in Hugging Face transformers (plain PyTorch), Titans' memory beside titans-pytorch's
(titans_peer.py), and self-modifying Titans beside nested-learning's, whose forward pass stands against ours and against
our forward and backward pass (hope_peer.py).

Needs the peers' environment: `make peers` makes it and runs this.
"""

from statistics import median

import torch

from nl_course.benches import hope_peer, titans_peer
from nl_course.benches.measure import forward, forward_backward, in_turn, peak_bytes, ratio
from nl_course.benches.memories import HEADS, TOKENS, WIDTH, build
from nl_course.errors import CourseError
from nl_course.seeding import seeded


def rows() -> list[dict]:
    """Tokens per second of our layers and theirs, and the ratio in turn. Raises CourseError without the peers."""
    qwen = {"ours": build("Gated DeltaNet"), "theirs": _qwen3_next()}
    kimi = {"ours": build("Kimi Delta Attention"), "theirs": _kimi_linear()}
    titans = {"ours": titans_peer.ours(), "theirs": titans_peer.theirs()}
    peaks = {which: peak_bytes(titans_peer.peak_program(which)) / 1e6 for which in titans}
    return [
        _row("Gated DeltaNet, Qwen3-Next's", qwen, TOKENS, rounds=5),
        _row("Kimi Delta Attention, Kimi Linear's", kimi, TOKENS, rounds=3),
        _row("Titans, titans-pytorch's", titans, titans_peer.TOKENS, rounds=3)
        | {"peak, MB": peaks["ours"], "theirs, MB": peaks["theirs"]},
        *hope_peer.rows(),
    ]


def _row(name: str, layers: dict[str, torch.nn.Module], tokens: int, rounds: int) -> dict:
    x = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(0))
    ahead = in_turn({which: forward(layer, x) for which, layer in layers.items()}, rounds)
    both = in_turn({which: forward_backward(layer, x) for which, layer in layers.items()}, rounds)
    return {
        "name": name,
        "forward, tokens/s": tokens / median(ahead["ours"]),
        "theirs": tokens / median(ahead["theirs"]),
        "times faster": 1 / ratio(ahead, "ours", "theirs"),
        "forward+backward, tokens/s": tokens / median(both["ours"]),
        "theirs, both": tokens / median(both["theirs"]),
        "times faster, both": 1 / ratio(both, "ours", "theirs"),
        "peak, MB": None,
        "theirs, MB": None,
    }


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


@seeded(0)
@torch.no_grad()
def _kimi_linear() -> torch.nn.Module:
    try:
        from transformers import KimiLinearConfig
        from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
    except ImportError as error:
        raise CourseError("the bench 'peers' needs the environment that `make peers` makes.") from error
    config = KimiLinearConfig(
        hidden_size=WIDTH,
        linear_num_heads=HEADS,
        linear_head_dim=WIDTH // HEADS,
        linear_conv_kernel_dim=4,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    layer = KimiLinearDeltaAttention(config, 0)
    # Only a whole model draws these two: they are memory as it came.
    layer.forget_gate.A_log.zero_()
    layer.forget_gate.dt_bias.normal_()
    return layer
