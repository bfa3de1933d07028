"""The parameters in `assets/models.json` against models that Hugging Face transformers builds from the published
configurations, on the meta device: shapes without numbers.

The widths here are those of the models' config.json; what the table holds beside them (heads, layers, vocabulary) must
be the same."""

import pytest
import torch

from nl_course.scaling import model, models

transformers = pytest.importorskip("transformers", reason="transformers is not installed; `make peers` does it.")


def plain(hidden, intermediate, layers, heads, kv_heads, vocab, kind="Llama", tied=False, **options):
    """The class's name, and the options that most of their configurations share."""
    sizes = dict(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, vocab_size=vocab)
    attention = dict(num_attention_heads=heads, num_key_value_heads=kv_heads)
    return kind, sizes | attention | dict(tie_word_embeddings=tied) | options


def gpt2(width, layers, heads):
    return "GPT2", dict(n_embd=width, n_layer=layers, n_head=heads)


def qwen3(hidden, intermediate, layers, heads, kv_heads, kind="Qwen3", **options):
    return plain(hidden, intermediate, layers, heads, kv_heads, 151_936, kind, head_dim=128, **options)


def qwen3_moe(hidden, layers, heads, expert):
    experts = dict(moe_intermediate_size=expert, num_experts=128, num_experts_per_tok=8)
    return qwen3(hidden, 3 * hidden, layers, heads, 4, "Qwen3Moe", **experts)


def gemma(hidden, intermediate, layers, heads, kv_heads, head_dim, version, vocab):
    return plain(hidden, intermediate, layers, heads, kv_heads, vocab, f"Gemma{version}", True, head_dim=head_dim)


def gpt_oss(layers, experts):
    return plain(2880, 2880, layers, 64, 8, 201_088, "GptOss", head_dim=64, num_local_experts=experts)


def deepseek(hidden, intermediate, layers, heads, vocab, version, dense, expert, routed, shared, q_rank):
    experts = dict(moe_intermediate_size=expert, n_routed_experts=routed, n_shared_experts=shared)
    latents = dict(q_lora_rank=q_rank, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128)
    options = experts | latents | dict(first_k_dense_replace=dense)
    return plain(hidden, intermediate, layers, heads, heads, vocab, f"DeepseekV{version}", **options)


CONFIGURATIONS = {
    "gpt2-124m": gpt2(768, 12, 12),
    "gpt2-350m": gpt2(1024, 24, 16),
    "gpt2-774m": gpt2(1280, 36, 20),
    "gpt2-1558m": gpt2(1600, 48, 25),
    "llama-2-7b": plain(4096, 11_008, 32, 32, 32, 32_000),
    "llama-2-70b": plain(8192, 28_672, 80, 64, 8, 32_000),
    "llama-3.1-8b": plain(4096, 14_336, 32, 32, 8, 128_256),
    "llama-3.1-70b": plain(8192, 28_672, 80, 64, 8, 128_256),
    "llama-3.1-405b": plain(16_384, 53_248, 126, 128, 8, 128_256),
    "llama-3.2-1b": plain(2048, 8192, 16, 32, 8, 128_256, tied=True),
    "llama-3.2-3b": plain(3072, 8192, 28, 24, 8, 128_256, tied=True),
    "mistral-7b-v0.1": plain(4096, 14_336, 32, 32, 8, 32_000, "Mistral"),
    "mixtral-8x7b": plain(4096, 14_336, 32, 32, 8, 32_000, "Mixtral"),
    "mixtral-8x22b": plain(6144, 16_384, 56, 48, 8, 32_768, "Mixtral"),
    "qwen2.5-0.5b": plain(896, 4864, 24, 14, 2, 151_936, "Qwen2", tied=True),
    "qwen2.5-1.5b": plain(1536, 8960, 28, 12, 2, 151_936, "Qwen2", tied=True),
    "qwen2.5-3b": plain(2048, 11_008, 36, 16, 2, 151_936, "Qwen2", tied=True),
    "qwen2.5-7b": plain(3584, 18_944, 28, 28, 4, 152_064, "Qwen2"),
    "qwen2.5-14b": plain(5120, 13_824, 48, 40, 8, 152_064, "Qwen2"),
    "qwen2.5-32b": plain(5120, 27_648, 64, 40, 8, 152_064, "Qwen2"),
    "qwen2.5-72b": plain(8192, 29_568, 80, 64, 8, 152_064, "Qwen2"),
    "qwen3-0.6b": qwen3(1024, 3072, 28, 16, 8, tied=True),
    "qwen3-1.7b": qwen3(2048, 6144, 28, 16, 8, tied=True),
    "qwen3-4b": qwen3(2560, 9728, 36, 32, 8, tied=True),
    "qwen3-8b": qwen3(4096, 12_288, 36, 32, 8),
    "qwen3-14b": qwen3(5120, 17_408, 40, 40, 8),
    "qwen3-32b": qwen3(5120, 25_600, 64, 64, 8),
    "qwen3-30b-a3b": qwen3_moe(2048, 48, 32, 768),
    "qwen3-235b-a22b": qwen3_moe(4096, 94, 64, 1536),
    "gemma-2-2b": gemma(2304, 9216, 26, 8, 4, 256, 2, 256_000),
    "gemma-2-9b": gemma(3584, 14_336, 42, 16, 8, 256, 2, 256_000),
    "gemma-2-27b": gemma(4608, 36_864, 46, 32, 16, 128, 2, 256_000),
    "gemma-3-1b": gemma(1152, 6912, 26, 4, 1, 256, 3, 262_144),
    "gemma-3-4b": gemma(2560, 10_240, 34, 8, 4, 256, 3, 262_208),
    "gemma-3-12b": gemma(3840, 15_360, 48, 16, 8, 256, 3, 262_208),
    "gemma-3-27b": gemma(5376, 21_504, 62, 32, 16, 128, 3, 262_208),
    "gpt-oss-20b": gpt_oss(24, 32),
    "gpt-oss-120b": gpt_oss(36, 128),
    "deepseek-67b": plain(8192, 22_016, 95, 64, 8, 102_400),
    "deepseek-v2-lite": deepseek(2048, 10_944, 27, 16, 102_400, 2, 1, 1408, 64, 2, None),
    "deepseek-v2": deepseek(5120, 12_288, 60, 128, 102_400, 2, 1, 1536, 160, 2, 1536),
    "deepseek-v3": deepseek(7168, 18_432, 61, 128, 129_280, 3, 3, 2048, 256, 1, 1536),
}
CONFIG_NAMES = {"Gemma3": "Gemma3TextConfig"}
MODEL_NAMES = {"GPT2": "GPT2LMHeadModel"}


def test_every_counted_model_is_here():
    assert set(CONFIGURATIONS) == {name for name, shape in models().items() if shape.parameters_basis == "counted"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_table_counts_as_transformers_does(name):
    kind, options = CONFIGURATIONS[name]
    config = getattr(transformers, CONFIG_NAMES.get(kind, f"{kind}Config"))(**options)
    with torch.device("meta"):
        theirs = getattr(transformers, MODEL_NAMES.get(kind, f"{kind}ForCausalLM"))(config)
    shape = model(name)
    sizes = {parameter: w.numel() for parameter, w in theirs.named_parameters()}  # tied weights once
    assert shape.parameters == sum(sizes.values())
    experts = sum(size for parameter, size in sizes.items() if ".experts." in parameter)
    unused = 0
    if shape.experts:
        unused = experts * (shape.experts - shape.experts_used) // shape.experts
    assert shape.active == shape.parameters - unused
    embedding, output = theirs.get_input_embeddings().weight, theirs.get_output_embeddings().weight
    assert shape.lookup_parameters == (0 if embedding is output else embedding.numel())
    assert embedding.shape == (shape.vocab, shape.width)
    assert shape.depth == config.num_hidden_layers and shape.heads == config.num_attention_heads
