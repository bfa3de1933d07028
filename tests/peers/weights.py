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


def qwen3_next_gated_delta(state_dict: Mapping[str, Tensor], heads: int, keys: int, values: int) -> dict[str, Tensor]:
    """A Qwen3NextGatedDeltaNet with as many key heads as value heads, for a GatedDeltaNet. Per head they keep rows for
    q, k, v and the gate together, and for the step and the interval."""
    rows = state_dict["in_proj_qkvz.weight"].unflatten(0, (heads, -1))
    q, k, v, gate = rows.split([keys, keys, values, values], dim=1)
    step, interval = state_dict["in_proj_ba.weight"].unflatten(0, (heads, 2)).unbind(1)
    return {
        "query.weight": q.flatten(0, 1),
        "key.weight": k.flatten(0, 1),
        "value.weight": v.flatten(0, 1),
        "gate.weight": gate.flatten(0, 1),
        "conv.weight": state_dict["conv1d.weight"][:, 0],
        "step.weight": step,
        "interval.weight": interval,
        "interval_bias": state_dict["dt_bias"],
        "log_rate": state_dict["A_log"],
        "norm.weight": state_dict["norm.weight"],
        "output.weight": state_dict["out_proj.weight"],
    }
