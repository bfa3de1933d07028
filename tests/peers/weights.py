"""Weights of Hugging Face's models under our names. No package is imported: the peers' tests and the tests that read
stored arrays share this."""

from collections.abc import Mapping

from torch import Tensor

from tests.peers import pairs_from_halves


def llama(state_dict: Mapping[str, Tensor], layers: int, heads: int, kv_heads: int) -> dict[str, Tensor]:
    """A LlamaForCausalLM without its head, for a LanguageModel with attention."""
    weights = {
        "embedding.weight": state_dict["model.embed_tokens.weight"],
        "norm.weight": state_dict["model.norm.weight"],
    }
    for i in range(layers):
        theirs = {name.split(".", 3)[3]: w for name, w in state_dict.items() if name.startswith(f"model.layers.{i}.")}
        ours = {
            "memory_norm.weight": theirs["input_layernorm.weight"],
            "memory.query.weight": pairs_from_halves(theirs["self_attn.q_proj.weight"], heads),
            "memory.key.weight": pairs_from_halves(theirs["self_attn.k_proj.weight"], kv_heads),
            "memory.value.weight": theirs["self_attn.v_proj.weight"],
            "memory.output.weight": theirs["self_attn.o_proj.weight"],
            "mlp_norm.weight": theirs["post_attention_layernorm.weight"],
            "mlp.gate.weight": theirs["mlp.gate_proj.weight"],
            "mlp.up.weight": theirs["mlp.up_proj.weight"],
            "mlp.down.weight": theirs["mlp.down_proj.weight"],
        }
        weights |= {f"layers.{i}.{name}": w for name, w in ours.items()}
    return weights


def qwen3_next_gated_delta(
    state_dict: Mapping[str, Tensor], heads: int, keys: int, values: int, key_heads: int | None = None
) -> dict[str, Tensor]:
    """A Qwen3NextGatedDeltaNet for a GatedDeltaNet. For each key head they keep rows for q, k, and v and the gate of
    the value heads that it serves together, and for their steps and intervals."""
    groups = key_heads or heads
    served = heads // groups
    rows = state_dict["in_proj_qkvz.weight"].unflatten(0, (groups, -1))
    q, k, v, gate = rows.split([keys, keys, served * values, served * values], dim=1)
    step, interval = state_dict["in_proj_ba.weight"].unflatten(0, (groups, 2, served)).unbind(1)
    return {
        "query.weight": q.flatten(0, 1),
        "key.weight": k.flatten(0, 1),
        "value.weight": v.flatten(0, 1),
        "gate.weight": gate.flatten(0, 1),
        "conv.weight": state_dict["conv1d.weight"][:, 0],
        "step.weight": step.flatten(0, 1),
        "interval.weight": interval.flatten(0, 1),
        "interval_bias": state_dict["dt_bias"],
        "log_rate": state_dict["A_log"],
        "norm.weight": state_dict["norm.weight"],
        "output.weight": state_dict["out_proj.weight"],
    }


def kimi_delta(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A KimiLinearDeltaAttention, or GLM-5.3's layer with a bound, for a KDA."""
    return {
        "query.weight": state_dict["q_proj.weight"],
        "key.weight": state_dict["k_proj.weight"],
        "value.weight": state_dict["v_proj.weight"],
        "conv.weight": state_dict["conv1d.weight"][:, 0],
        "step.weight": state_dict["b_proj.weight"],
        "interval.down.weight": state_dict["forget_gate.f_a_proj.weight"],
        "interval.up.weight": state_dict["forget_gate.f_b_proj.weight"],
        "interval_bias": state_dict["forget_gate.dt_bias"],
        "log_rate": state_dict["forget_gate.A_log"].flatten(),
        "gate.down.weight": state_dict["g_a_proj.weight"],
        "gate.up.weight": state_dict["g_b_proj.weight"],
        "norm.weight": state_dict["o_norm.weight"],
        "output.weight": state_dict["o_proj.weight"],
    }
