"""Layers that keep a state, read a choice of tokens, or start anew with each chunk; and models that people run."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling import (
    FixedMemory,
    LayerGroup,
    ModelShape,
    all_cached,
    bytes_per_token,
    cache_bytes,
    cheaper_than_all_cached,
    decode_bytes,
    decode_flops,
    index_bytes,
    kept_bytes,
    memory_budget,
    model,
    models,
    prefill_flops,
    read_bytes,
    reshaped,
    state_bytes,
    state_is_own_cache,
    tail_bytes,
    tokens_in,
    uniform,
    window_bytes,
)
from nl_course.scaling.fixed_state import Writing, state_traffic
from nl_course.scaling.hardware import weights_touched

# Worked out by hand from the configurations: state layers x heads x key width x value width x 4 bytes, bytes per token
# of the cache, tokens at which both are equal, tokens from which it is cheaper than a cache in every layer.
BY_HAND = {
    "qwen3-next-80b-a3b": (36 * 32 * 128 * 128 * 4, 24_576, 3072, 1024),
    "qwen3.5-9b": (24 * 32 * 128 * 128 * 4, 32_768, 1536, 512),
    "qwen3.5-35b-a3b": (30 * 32 * 128 * 128 * 4, 20_480, 3072, 1024),
    "qwen3.5-397b-a17b": (45 * 64 * 128 * 128 * 4, 30_720, 6144, 2048),
    "kimi-linear-48b-a3b": (20 * 32 * 128 * 128 * 4, 8064, 5201, 1820),
    "glm-5.3-flash": (34 * 64 * 128 * 128 * 4, 11_264, 12_660, 4096),
    "kimi-k3": (69 * 96 * 128 * 128 * 4, 27_648, 15_701, 5461),
}
AT_128K = {  # decimal GB of the cache at 131,072 tokens: its own, and if every layer kept one
    **{"qwen3-next-80b-a3b": (3.2, 12.9), "qwen3.5-9b": (4.3, 17.2), "qwen3.5-35b-a3b": (2.7, 10.7)},
    **{"qwen3.5-397b-a17b": (4.0, 16.1), "kimi-linear-48b-a3b": (1.1, 4.1), "glm-5.3-flash": (1.5, 6.0)},
    "kimi-k3": (3.6, 14.0),
}
HYBRIDS = [name for name, shape in models().items() if shape.is_hybrid]


@pytest.mark.parametrize("name", BY_HAND)
def test_the_seven_hybrids(name):
    state, per_token, own, cheaper = BY_HAND[name]
    assert state_bytes(name) == state and bytes_per_token(name) == per_token
    assert state_is_own_cache(name) == pytest.approx(own, abs=0.5)
    assert cheaper_than_all_cached(name) == pytest.approx(cheaper, abs=0.5)
    found = [cache_bytes(shape, 131_072) / 1e9 for shape in (name, all_cached(name))]
    assert found == pytest.approx(AT_128K[name], abs=0.051)


def test_the_two_lengths_of_what_people_run():
    own = [state_is_own_cache(name) for name in BY_HAND]
    cheaper = [cheaper_than_all_cached(name) for name in BY_HAND]
    assert 1500 < min(own) and max(own) < 16_000
    assert 500 < min(cheaper) and max(cheaper) < 5500
    assert all(c < o for c, o in zip(cheaper, own, strict=True))


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_costs_more_before_and_less_after(name):
    tokens = cheaper_than_all_cached(name)
    if tokens == math.inf:  # a state beside a cache in every layer saves nothing
        assert name == "falcon-h1-34b" and bytes_per_token(all_cached(name)) == bytes_per_token(name)
        return
    own, every = (lambda t: cache_bytes(name, t) + state_bytes(name)), (lambda t: cache_bytes(all_cached(name), t))
    assert own(0.9 * tokens) > every(0.9 * tokens) and own(1.1 * tokens) < every(1.1 * tokens)
    at = state_is_own_cache(name)
    assert cache_bytes(name, at) == pytest.approx(state_bytes(name))


def test_tails_and_index_keys_are_counted_apart():
    """A Gated DeltaNet layer of Qwen3-Next convolves 16 keys, 16 queries and 32 values of 128 channels over 4 taps."""
    assert tail_bytes("qwen3-next-80b-a3b") == 36 * 3 * (16 + 16 + 32) * 128 * 2
    assert index_bytes("qwen3-next-80b-a3b", 1000) == 0
    assert index_bytes("deepseek-v3.2", 1000) == 61 * 128 * 1000 * 2
    assert cache_bytes("deepseek-v3.2", 1000) == cache_bytes("deepseek-v3", 1000)
    assert index_bytes("glm-5.3-flash", 1600) == 11 * 128 * 100 * 2  # one key per 16 tokens


def test_only_kimi_linear_s_list_makes_27_layers_with_seven_caches():
    groups = {group.kind: group.count for group in model("kimi-linear-48b-a3b").layers}
    assert groups == {"state": 20, "latent": 7}


@given(st.sampled_from(sorted(models())), st.integers(0, 2_000_000), st.integers(0, 64))
def test_kept_is_the_sum_of_its_parts(name, context, batch):
    parts = cache_bytes(name, context, batch) + index_bytes(name, context, batch)
    assert kept_bytes(name, context, batch) == parts + state_bytes(name, batch) + tail_bytes(name, batch)
    assert read_bytes(name, context, batch) <= cache_bytes(name, context, batch) + index_bytes(name, context, batch)


@given(st.sampled_from(sorted(models())), st.floats(1e9, 1e12))
def test_tokens_in_everything_undoes_kept_bytes(name, budget):
    tokens = tokens_in(name, budget, everything=True)
    if tokens == math.inf:
        assert kept_bytes(name, 10**12) <= budget
    else:
        assert kept_bytes(name, tokens) == pytest.approx(budget, rel=1e-9)


def test_a_budget_without_room_for_the_state_holds_no_token():
    assert tokens_in("kimi-k3", 400e6, everything=True) == 0
    assert tokens_in("kimi-k3", 400e6) > 0


def test_the_memory_budget_shows_the_state_beside_the_cache():
    filled = memory_budget("qwen3-next-80b-a3b", "h200", 8192, 4, 2)
    assert filled.state == 4 * state_bytes("qwen3-next-80b-a3b") and filled.index == 0
    assert filled.tails == 4 * tail_bytes("qwen3-next-80b-a3b")
    assert filled.cache == cache_bytes("qwen3-next-80b-a3b", 8192, 4)
    assert filled.kept == 4 * filled.per_user == kept_bytes("qwen3-next-80b-a3b", 8192, 4)
    assert filled.left == pytest.approx(filled.usable - filled.weights - filled.kept)
    assert memory_budget("deepseek-v3.2", "h200", 8192, 1, 16).index == index_bytes("deepseek-v3.2", 8192)


def test_a_state_is_moved_twice_and_a_sparse_cache_read_in_part():
    name = "qwen3-next-80b-a3b"
    fixed = state_bytes(name, 3) + tail_bytes(name, 3)
    moved = decode_bytes(name, 1000, 3) - 2 * weights_touched(name, 3)
    assert moved == pytest.approx(cache_bytes(name, 1000, 3) + 2 * fixed)
    few, many = read_bytes("deepseek-v3.2", 2048), read_bytes("deepseek-v3.2", 102_400)
    assert few == cache_bytes("deepseek-v3.2", 2048) + index_bytes("deepseek-v3.2", 2048)
    assert many - few == index_bytes("deepseek-v3.2", 102_400 - 2048)  # only the indexer reads on
    assert many < 0.25 * cache_bytes("deepseek-v3.2", 102_400)


def test_a_chunked_layer_keeps_a_chunk_and_reads_half_of_it_on_average():
    group = LayerGroup(1, "chunked", 8, kv_heads=1, window=100)
    assert [group.tokens_kept(t) for t in (50, 100, 1000)] == [50, 100, 100]
    assert [group.tokens_read(t) for t in (50, 100, 1000)] == [50, 100, 50]
    scout = model("llama-4-scout")
    assert window_bytes(scout) == 36 * 2 * 8 * 128 * 8192 * 2
    assert bytes_per_token(scout) == 12 * 2 * 8 * 128 * 2 and not scout.is_hybrid
    pairs = prefill_flops(scout, 20 * 8192) - 2 * scout.matmul_parameters * 20 * 8192
    assert pairs == 4 * 40 * 128 * (36 * 20 * 8192**2 / 2 + 12 * (20 * 8192) ** 2 / 2)


def test_operations_of_a_state_are_those_of_the_fixed_memories():
    """Per number of the state: 7 with the delta rule and retention, 5 without the error; as `state_traffic` has it."""
    group = LayerGroup(3, "state", state_heads=4, key_width=64, value_width=64)
    memory = FixedMemory("", "matrix", 64, layers=3, width=256)
    plain = uniform(1, 4, 64, parameters=1000)
    for rule, writing in (("delta", Writing(retention=True)), ("sum", Writing(error=False, retention=True))):
        shape = replace(plain, layers=(*plain.layers, replace(group, rule=rule)))
        extra = state_traffic(memory, writing).flops
        assert decode_flops(shape, 10) - decode_flops(plain, 10) == extra
        assert prefill_flops(shape, 10) - prefill_flops(plain, 10) == 10 * extra


def test_operations_of_an_indexer():
    sparse, dense = model("deepseek-v3.2"), model("deepseek-v3")
    scored = 61 * 2 * 64 * 128  # for one pair: 64 heads of 128, multiply and add
    read = 61 * 2 * 128 * (576 + 512)
    assert decode_flops(sparse, 10_000) - decode_flops(sparse, 2048) == pytest.approx(scored * (10_000 - 2048))
    assert decode_flops(dense, 10_000) - decode_flops(dense, 2048) == pytest.approx(read * (10_000 - 2048))
    long = 10**5
    attended = prefill_flops(sparse, long) - 2 * sparse.matmul_parameters * long
    pairs = 61 * 2 * 128 * (192 + 128) * (long * 2048 - 2048**2 / 2)
    assert attended == pytest.approx(pairs + scored * long**2 / 2)


def test_a_state_beside_attention_adds_no_depth():
    falcon = model("falcon-h1-34b")
    assert falcon.depth == 72 and sum(group.count for group in falcon.layers) == 144
    assert all_cached(falcon).layers == falcon.layers[:1]


def test_attention_of_hybrids_is_named_by_what_is_kept():
    named = ("qwen3.5-9b", "kimi-k3", "glm-5.3-flash", "glm-5", "llama-4-scout", "gemma-4-31b", "minimax-m2")
    assert [model(name).attention for name in named] == [
        *("GQA + state", "MLA + state", "sparse MLA + state", "sparse MLA", "GQA + chunks", "GQA + window", "GQA"),
    ]


def test_reshaping_leaves_a_state_alone():
    changed = reshaped("qwen3-next-80b-a3b", kv_heads=1)
    assert state_bytes(changed) == state_bytes("qwen3-next-80b-a3b")
    assert bytes_per_token(changed) == bytes_per_token("qwen3-next-80b-a3b") / 2


STATE = dict(state_heads=2, key_width=4, value_width=4)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: LayerGroup(2, "state", state_heads=2, key_width=4), "a state layer needs value_width"),
        (lambda: LayerGroup(2, "chunked", 64, kv_heads=2), "a chunked layer needs window"),
        (lambda: LayerGroup(2, "global", kv_heads=2), "a global layer needs head_dim"),
        (lambda: LayerGroup(2, "state", **STATE, rule="mean"), "rule of a state"),
        (lambda: LayerGroup(2, "state", **STATE, state_dtype="fp33"), "number format"),
        (lambda: LayerGroup(2, "state", **STATE, conv_width=0), "conv_width"),
        (lambda: LayerGroup(2, "local", 64, kv_heads=2, window=8, top_k=4), "top_k is for global and latent"),
        (lambda: LayerGroup(2, "global", 64, kv_heads=2, top_k=4), "index_dim"),
        (lambda: state_is_own_cache("llama-3.1-8b"), "Llama 3.1 8B is no hybrid"),
        (lambda: cheaper_than_all_cached("deepseek-v3.2"), "is no hybrid"),
        (lambda: all_cached("mistral-7b-v0.1"), "no layer with a growing cache"),
        (lambda: tail_bytes("kimi-k3", 1.5), "batch"),
        (lambda: index_bytes("kimi-k3", -1), "context"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(CourseError, match=names):
        call()


def test_a_model_of_states_alone_keeps_no_cache():
    only = ModelShape("own", "own", 1, 2, (LayerGroup(2, "state", **STATE),), 1024)
    assert only.attention == "state" and not only.is_hybrid
    assert kept_bytes(only, 10**6) == state_bytes(only) == 2 * 2 * 16 * 4
    with pytest.raises(CourseError, match="own is no hybrid"):
        state_is_own_cache(only)
