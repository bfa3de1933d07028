"""Our latent attention against the attention of DeepSeek-V3 in Hugging Face transformers."""

import pytest
import torch

from nl_course.memories import LatentAttention, LatentAttentionConfig
from tests.peers import FLOAT32, moved, random

transformers = pytest.importorskip("transformers", reason="transformers is not installed; `make peers` does it.")
deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")


def theirs(q_rank: int | None) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Their attention, and the module that makes its rotary angles."""
    config = transformers.DeepseekV3Config(
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        kv_lora_rank=10,
        q_lora_rank=q_rank,
        qk_rope_head_dim=4,
        qk_nope_head_dim=6,
        v_head_dim=5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return moved(deepseek.DeepseekV3Attention(config, 0)), deepseek.DeepseekV3RotaryEmbedding(config)


def ours(peer: torch.nn.Module, q_rank: int | None, path: str) -> LatentAttention:
    sizes = dict(width=24, heads=3, kv_rank=10, rope_dim=4, head_dim=6, value_dim=5, q_rank=q_rank)
    memory = LatentAttention(LatentAttentionConfig(**sizes), path=path).double()
    up = peer.kv_b_proj.weight.unflatten(0, (3, 11))  # per head: 6 rows for keys, then 5 for values
    weights = {
        "down.weight": peer.kv_a_proj_with_mqa.weight,
        "latent_norm.weight": peer.kv_a_layernorm.weight,
        "up_key.weight": up[:, :6].flatten(0, 1),
        "up_value.weight": up[:, 6:].flatten(0, 1),
        "output.weight": peer.o_proj.weight,
    }
    if q_rank is None:
        weights["query.weight"] = peer.q_proj.weight
    else:
        weights["query.0.weight"] = peer.q_a_proj.weight
        weights["query.1.weight"] = peer.q_a_layernorm.weight
        weights["query.2.weight"] = peer.q_b_proj.weight
    memory.load_state_dict(weights)
    return memory


@pytest.mark.parametrize("q_rank", [None, 7])
@pytest.mark.parametrize("path", ["auto", "reference"])
@torch.no_grad()
def test_the_same_weights_give_the_same_output(q_rank, path):
    peer, rotary = theirs(q_rank)
    memory = ours(peer, q_rank, path)
    x = random(2, 40, 24)
    hidden = torch.full((40, 40), float("-inf"), dtype=torch.float64).triu(1)
    expected, _ = peer(x, rotary(x, torch.arange(40)[None]), hidden)
    y, _ = memory(x)
    torch.testing.assert_close(y, expected, **FLOAT32)
    # One token at a time ours attends over the latents themselves, without ever making keys or values.
    state, pieces = None, []
    for token in x.split(1, dim=1):
        y, state = memory(token, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), expected, **FLOAT32)
