"""The parameters in `assets/models.json` against models that Hugging Face transformers builds from the published
configurations, on the meta device: shapes without numbers.

The widths here are those of the models' config.json; what the table holds beside them (heads, layers, vocabulary) must
be the same. Of models that read more than text the language part is counted."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from nl_course.scaling import kept_bytes, model, models, state_bytes, tail_bytes

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
NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"  # Mamba-2, experts, attention
NEMOTRON = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"  # Mamba-2, MLP, attention
BLOCKS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
KIMI_LINEAR = (4, 8, 12, 16, 20, 24, 27)  # layers with attention, counted from 1: the checkpoint's own list


def layer_list(layers, full):
    return ["full_attention" if i + 1 in full else "linear_attention" for i in range(layers)]


def nano(hidden, expert):
    blocks = dict(layers_block_type=[BLOCKS[letter] for letter in NANO])
    attention = dict(num_attention_heads=32, num_key_value_heads=2, head_dim=128)
    states = dict(mamba_num_heads=64, mamba_head_dim=64, ssm_state_size=128, n_groups=8)
    experts = dict(n_routed_experts=128, num_experts_per_tok=6, moe_intermediate_size=expert)
    shared = dict(moe_shared_expert_intermediate_size=2 * expert)
    return "NemotronH", dict(hidden_size=hidden), blocks | attention | states | experts | shared


def qwen35_397b():
    experts = dict(num_experts=512, num_experts_per_tok=10, moe_intermediate_size=1024)
    heads = dict(num_attention_heads=32, linear_num_value_heads=64, shared_expert_intermediate_size=1024)
    return "Qwen3_5Moe", dict(hidden_size=4096, num_hidden_layers=60), experts | heads


def granite():
    sizes = dict(hidden_size=4096, intermediate_size=768, num_hidden_layers=40, vocab_size=100_352)
    attention = dict(num_attention_heads=32, num_key_value_heads=8, layer_types=layer_list(40, (6, 16, 26, 36)))
    states = dict(mamba_n_heads=128, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1)
    experts = dict(num_local_experts=72, num_experts_per_tok=10, shared_intermediate_size=1536)
    return "GraniteMoeHybrid", sizes | attention, states | experts | dict(tie_word_embeddings=True)


def falcon_h1():
    states = dict(mamba_d_ssm=4096, mamba_n_heads=32, mamba_d_head=128, mamba_n_groups=2, mamba_d_state=256)
    return plain(5120, 21_504, 72, 20, 4, 261_120, "FalconH1", head_dim=128, **states)


def gemma4_31b():
    kinds = dict(num_global_key_value_heads=4, global_head_dim=512, attention_k_eq_v=True, sliding_window=1024)
    return plain(
        5376, 21_504, 60, 32, 16, 262_144, "Gemma4", True, head_dim=256, hidden_size_per_layer_input=0, **kinds
    )


def kimi_k2():
    kind, *sizes = deepseek(7168, 18_432, 61, 64, 163_840, 3, 1, 2048, 384, 1, 1536)
    return kind, *sizes, dict(num_experts_per_tok=8, n_group=1, topk_group=1)


# Where nothing follows the class, its defaults are the checkpoint's configuration.
CONFIGURATIONS |= {
    "llama-4-scout": ("Llama4",),
    "nemotron-h-8b": ("NemotronH", dict(layers_block_type=[BLOCKS[letter] for letter in NEMOTRON])),
    "nemotron-3-nano-30b-a3b": nano(2688, 1856),
    "falcon-h1-34b": falcon_h1(),
    "gemma-3n-e4b": ("Gemma3n",),
    "gemma-4-31b": gemma4_31b(),
    "kimi-k2": kimi_k2(),
    "kimi-linear-48b-a3b": ("KimiLinear", dict(layer_types=layer_list(27, KIMI_LINEAR))),
    "deepseek-v3.2": ("DeepseekV32",),
    "qwen3-next-80b-a3b": ("Qwen3Next",),
    "qwen3.5-9b": ("Qwen3_5",),
    "qwen3.5-35b-a3b": ("Qwen3_5Moe",),
    "qwen3.5-397b-a17b": qwen35_397b(),
    "granite-4.0-h-small": granite(),
    "minimax-m2": ("MiniMaxM2",),
    "olmo-hybrid-7b": ("OlmoHybrid",),
    "ling-3.0-flash": ("BailingHybrid",),
    "glm-5": ("GlmMoeDsa",),
    "glm-5.3-flash": ("Glm5Next",),
}
TEXT_PARTS = ("Gemma3", "Gemma3n", "Gemma4", "Llama4", "Qwen3_5", "Qwen3_5Moe")  # of models that see as well
CONFIG_NAMES = {kind: f"{kind}TextConfig" for kind in TEXT_PARTS}
MODEL_NAMES = {
    "GPT2": "GPT2LMHeadModel",
    "Glm5Next": "Glm5NextForConditionalGeneration",
}  # the latter sees: left out below
KINDS = {  # transformers' words for a layer -> ours
    **{"linear_attention": "state", "sliding_attention": "local", "chunked_attention": "chunked"},
    "hybrid": "cached",  # with a state beside it
    **{"full_attention": "cached", "indexed_attention": "cached", "global": "cached", "latent": "cached"},
}


def configuration(name):
    kind, *options = CONFIGURATIONS[name]
    merged = {}
    for some in options:
        merged |= some
    return kind, getattr(transformers, CONFIG_NAMES.get(kind, f"{kind}Config"))(**merged)


def on_meta(kind, config):
    with torch.device("meta"):
        return getattr(transformers, MODEL_NAMES.get(kind, f"{kind}ForCausalLM"))(config)


def language_sizes(theirs):
    """Numbers in each parameter of the language part, tied weights once."""
    return {parameter: w.numel() for parameter, w in theirs.named_parameters() if ".visual." not in parameter}


def test_every_counted_model_is_here():
    assert set(CONFIGURATIONS) == {name for name, shape in models().items() if shape.parameters_basis == "counted"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_table_counts_as_transformers_does(name):
    kind, config = configuration(name)
    theirs, shape = on_meta(kind, config), model(name)
    sizes = language_sizes(theirs)
    assert shape.parameters == sum(sizes.values())
    experts = sum(size for parameter, size in sizes.items() if ".experts." in parameter)
    unused = 0
    if shape.experts:
        unused = experts * (shape.experts - shape.experts_used) // shape.experts
    assert shape.active == shape.parameters - unused
    embedding, output = theirs.get_input_embeddings().weight, theirs.get_output_embeddings().weight
    assert shape.lookup_parameters - shape.per_layer_tables == (0 if embedding is output else embedding.numel())
    assert shape.per_layer_tables == sizes.get("model.embed_tokens_per_layer.weight", 0)
    assert embedding.shape == (shape.vocab, shape.width)
    config = config.get_text_config()
    assert shape.heads == config.num_attention_heads
    kinds = layers_in(config)
    assert shape.depth == config.num_hidden_layers if kinds is None else layers_of(shape) == kinds


def layers_of(shape):
    """How many layers keep what, by the table."""
    counts = Counter()
    for group in shape.layers:
        if not group.parallel:
            counts[KINDS.get(group.kind, group.kind)] += group.count
    return counts


def layers_in(config):
    """How many layers keep what, by a configuration. Blocks of an MLP or of experts alone keep nothing, nor do layers
    that read the cache of an earlier one. None where it names no layers: all are alike then."""
    names = getattr(config, "layers_block_type", None) or getattr(config, "layer_types", None)
    if names is None:
        return None
    own = len(names) - (getattr(config, "num_kv_shared_layers", 0) or 0)
    return Counter(KINDS[name] for name in names[:own] if name not in ("mlp", "moe"))


WITH_STATES = [name for name in CONFIGURATIONS if state_bytes(name)]


@pytest.mark.parametrize("name", WITH_STATES)
def test_convolutions_are_as_wide_as_transformers_ones(name):
    kind, config = configuration(name)
    convolutions = {p: w for p, w in on_meta(kind, config).named_parameters() if "conv1d.weight" in p}
    (group,) = [group for group in model(name).layers if group.kind == "state"]
    channels = sum(w.shape[0] for w in convolutions.values())
    assert channels == group.count * group.conv_channels
    assert {w.shape[-1] for w in convolutions.values()} == {group.conv_width}


# The sizes of a state are their own options, so a small model around it keeps states of the checkpoint's size.
SMALL = dict(hidden_size=64, intermediate_size=32, vocab_size=32, num_hidden_layers=2, num_experts_per_tok=1)
SMALL |= dict(num_attention_heads=4, num_key_value_heads=4)
SMALL |= dict(layer_types=layer_list(2, (2,)), pad_token_id=0, bos_token_id=1, eos_token_id=2)
GRANITE = dict(mamba_n_heads=128, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1, mamba_expand=128)
AROUND = {
    "qwen3-next-80b-a3b": ("Qwen3Next", dict(num_experts=2, moe_intermediate_size=8)),
    "kimi-linear-48b-a3b": ("KimiLinear", dict(num_local_experts=2, moe_intermediate_size=8)),
    "granite-4.0-h-small": ("GraniteMoeHybrid", dict(num_local_experts=2, shared_intermediate_size=8) | GRANITE),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_layer_s_state_has_the_bytes_that_transformers_keeps(name):
    """Of a model in 16 bits the state stays in 32. Of the convolution transformers keeps all four inputs under its
    taps; three are enough for the next token, and the table counts those."""
    kind, options = AROUND[name]
    config = getattr(transformers, f"{kind}Config")(
        **SMALL | options | dict(num_attention_heads=4, num_key_value_heads=4)
    )
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).to(torch.bfloat16).eval()
    with torch.no_grad():
        kept = theirs(torch.tensor([[5, 6, 7, 8, 9, 10]]), use_cache=True).past_key_values.layers[0]
    (group,) = [group for group in model(name).layers if group.kind == "state"]
    one = replace(model(name), layers=(replace(group, count=1),))
    state, convolution = kept.recurrent_states[0], kept.conv_states[0]
    assert state.dtype == torch.float32 and convolution.dtype == torch.bfloat16
    assert state_bytes(one) == state.nbytes
    assert tail_bytes(one) == convolution.nbytes * (group.conv_width - 1) / group.conv_width
    assert kept_bytes(one, 10**6) == state_bytes(one) + tail_bytes(one)
