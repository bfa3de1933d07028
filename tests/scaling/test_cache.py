"""Bytes of the cache, against figures worked out by hand from published configurations."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling import (
    LayerGroup,
    ModelShape,
    bytes_per_token,
    cache_bytes,
    kept_bytes,
    model,
    models,
    on_one_device,
    reshaped,
    tokens_in,
    uniform,
    window_bytes,
)
from nl_course.scaling.formats import GIB, KIB, MIB

GLOBAL = {  # name: KiB per token, GiB at the longest context
    **{"gpt2-124m": (36, 0.035), "gpt2-350m": (96, 0.094), "gpt2-774m": (180, 0.176)},
    **{"gpt2-1558m": (300, 0.293), "gpt3-175b": (4608, 9.0), "llama-2-7b": (512, 2.0)},
    **{"llama-2-70b": (320, 1.25), "llama-3.1-8b": (128, 16), "llama-3.1-70b": (320, 40)},
    **{"llama-3.1-405b": (504, 63), "llama-3.2-1b": (32, 4), "llama-3.2-3b": (112, 14)},
    **{"mixtral-8x7b": (128, 4), "mixtral-8x22b": (224, 14), "qwen2.5-0.5b": (12, 0.375)},
    **{"qwen2.5-1.5b": (28, 3.5), "qwen2.5-3b": (36, 1.125), "qwen2.5-7b": (56, 7), "qwen2.5-14b": (192, 24)},
    **{"qwen2.5-32b": (256, 32), "qwen2.5-72b": (320, 40), "qwen3-0.6b": (112, 4.375)},
    **{"qwen3-1.7b": (112, 4.375), "qwen3-4b": (144, 5.625), "qwen3-8b": (144, 5.625)},
    **{"qwen3-14b": (160, 6.25), "qwen3-32b": (256, 10), "qwen3-30b-a3b": (96, 3.75)},
    **{"qwen3-235b-a22b": (188, 7.34)},
}
MIXED = {  # name: slope KiB per token, MiB of full windows, GiB at the longest context, GiB if all global
    "mistral-7b-v0.1": (0, 512, 0.5, 1.0),
    "gemma-2-2b": (52, 208, 0.61, 0.81),
    "gemma-2-9b": (168, 672, 1.97, 2.63),
    "gemma-2-27b": (184, 736, 2.16, 2.88),
    "gemma-3-1b": (4, 11, 0.136, 0.81),
    "gemma-3-4b": (20, 116, 2.61, 17.0),
    "gemma-3-12b": (64, 320, 8.31, 48.0),
    "gemma-3-27b": (80, 416, 10.4, 62.0),
    "gpt-oss-20b": (24, 3, 3.0, 6.0),
    "gpt-oss-120b": (36, 4.5, 4.5, 9.0),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_global_layers(name):
    per_token, at_most = GLOBAL[name]
    shape = model(name)
    assert bytes_per_token(shape) == per_token * KIB
    assert cache_bytes(shape, shape.max_context) / GIB == pytest.approx(at_most, rel=0.01, abs=5e-4)


@pytest.mark.parametrize("name", MIXED)
def test_sliding_windows(name):
    slope, windows, at_most, all_global = MIXED[name]
    shape = model(name)
    assert bytes_per_token(shape) == slope * KIB
    assert window_bytes(shape) == windows * MIB
    assert cache_bytes(shape, shape.max_context) / GIB == pytest.approx(at_most, rel=0.01)
    assert cache_bytes(shape, shape.max_context, ring=False) / GIB == pytest.approx(all_global, rel=0.01)


@pytest.mark.parametrize(
    ("name", "per_token", "at_128k"),
    [("deepseek-v2", 67.5, 8.44), ("deepseek-v2-lite", 30.4, 3.80), ("deepseek-v3", 68.6, 8.58)],
)
def test_latents(name, per_token, at_128k):
    assert bytes_per_token(name) / KIB == pytest.approx(per_token, abs=0.05)
    assert cache_bytes(name, 131072) / GIB == pytest.approx(at_128k, abs=0.005)


def test_latents_against_the_heads_they_replace():
    v3 = model("deepseek-v3")
    plain = reshaped(v3)
    assert bytes_per_token(plain) / bytes_per_token(v3) == pytest.approx(57, abs=0.5)
    wide_keys = 61 * 128 * (192 + 128) * 2  # keys of 128 + 64, values of 128
    assert wide_keys == 4880 * KIB and wide_keys / bytes_per_token(v3) == pytest.approx(71, abs=0.5)
    assert v3.layers[0].values_per_token / (2 * 128) == 2.25  # key-value heads of the same size


def test_the_93_percent_claim():
    v2, old = bytes_per_token("deepseek-v2"), bytes_per_token("deepseek-67b")
    assert 100 * (1 - v2 / old) == pytest.approx(82.2, abs=0.05)
    assert 100 * (1 - bytes_per_token("deepseek-v2", 6 / 8) / old) == pytest.approx(93.34, abs=0.005)


def test_a_million_tokens_of_llama_70b_as_kvpress_prints_it():
    assert cache_bytes("llama-3.1-70b", 10**6, dtype="fp16") == pytest.approx(327.7e9, rel=1e-4)


def test_published_factors_of_windows():
    assert cache_bytes("mistral-7b-v0.1", 32768, ring=False) / cache_bytes("mistral-7b-v0.1", 32768) == 8
    ratios = [cache_bytes("gemma-3-27b", t, ring=False) / cache_bytes("gemma-3-27b", t) for t in (32768, 131072)]
    assert ratios == pytest.approx([5.2, 5.96], abs=0.3) and ratios[0] + 0.3 >= 5.2 and ratios[1] <= 6.5
    smaller = [cache_bytes("gemma-3-1b", t, ring=False) / cache_bytes("gemma-3-1b", t) for t in (32768, 131072)]
    assert smaller[0] == pytest.approx(5.98, abs=0.05) and smaller[1] == pytest.approx(6.36, abs=0.05)


def test_per_token_cache_fell_while_windows_grew():
    gpt3 = bytes_per_token("gpt3-175b")
    fell = [gpt3 / bytes_per_token(name) for name in ("llama-3.1-8b", "deepseek-v3", "llama-3.1-405b")]
    assert fell == pytest.approx([36, 67, 9], abs=0.5)


def test_multi_query_and_eight_bits():
    shape = uniform(layers=24, heads=32, head_dim=64)
    assert bytes_per_token(shape) == 192 * KIB
    assert bytes_per_token(reshaped(shape, kv_heads=1)) == 6 * KIB
    assert bytes_per_token(shape, "fp8") == 96 * KIB and bytes_per_token(shape, 0.5) == 48 * KIB


def test_a_window_on_every_layer_by_choice():
    shape = reshaped("llama-3.1-8b", window=1024)
    assert cache_bytes(shape, 10**6) == cache_bytes("llama-3.1-8b", 1024)
    assert "window 1024" in shape.title


NAMES = st.sampled_from(sorted(models()))
TOKENS = st.integers(0, 2_000_000)


@given(NAMES, TOKENS, TOKENS)
def test_longer_is_never_smaller(name, some, more):
    assert cache_bytes(name, some) <= cache_bytes(name, some + more)


@given(NAMES, TOKENS, st.integers(0, 512), st.sampled_from(["fp32", "bf16", "fp8", "int4"]))
def test_linear_in_the_batch(name, context, batch, dtype):
    assert cache_bytes(name, context, batch, dtype) == pytest.approx(batch * cache_bytes(name, context, 1, dtype))


@given(NAMES, TOKENS)
def test_a_ring_never_holds_more_than_the_whole(name, context):
    ring, whole = cache_bytes(name, context), cache_bytes(name, context, ring=False)
    assert ring <= whole
    first = min((g.window for g in model(name).layers if g.window is not None), default=math.inf)
    assert (ring == whole) == (context <= first)


@given(NAMES, st.floats(0, 1e12))
def test_tokens_in_undoes_cache_bytes(name, budget):
    tokens = tokens_in(name, budget)
    if tokens == math.inf:
        assert cache_bytes(name, 10**12) <= budget
    else:
        assert cache_bytes(name, tokens) == pytest.approx(budget, abs=1e-3)


@given(st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([32, 64, 128]))
def test_fewer_key_value_heads_are_cheaper_in_proportion(layers, kv_heads, head_dim):
    shape = uniform(layers, 16, head_dim, kv_heads)
    assert bytes_per_token(shape) * 16 == bytes_per_token(reshaped(shape, kv_heads=16)) * kv_heads


def test_the_slope_before_windows_are_full():
    gemma = model("gemma-3-27b")
    assert bytes_per_token(gemma, full=True) == cache_bytes(gemma, 1)
    assert bytes_per_token(replace(gemma, layers=gemma.layers[:1])) == bytes_per_token(gemma)


def test_bad_input_is_named():
    with pytest.raises(CourseError, match="context"):
        cache_bytes("llama-3.1-8b", -1)
    with pytest.raises(CourseError, match="batch"):
        cache_bytes("llama-3.1-8b", 1, 1.5)
    with pytest.raises(CourseError, match="budget"):
        tokens_in("llama-3.1-8b", -1)
    with pytest.raises(CourseError, match="cannot share"):
        reshaped("llama-3.1-8b", kv_heads=5)


# -- several devices ---------------------------------------------------------------------------------------------------
def test_heads_are_dealt_out_and_latents_repeated():
    """By hand: 8 key-value heads over 4 and 16 devices; a latent stays whole; 32 heads of a state are dealt out."""
    plain = uniform(24, 16, 128, 8)
    assert cache_bytes(on_one_device(plain, 4), 1000) == cache_bytes(plain, 1000) / 4
    assert cache_bytes(on_one_device(plain, 16), 1000) == cache_bytes(plain, 1000) / 8  # 8 heads, each on two devices
    latent = ModelShape("l", "l", 1, 16, (LayerGroup(3, "latent", 128, kv_rank=512, rope_dim=64),), 9)
    assert kept_bytes(on_one_device(latent, 8), 1000) == kept_bytes(latent, 1000)
    sizes = dict(state_heads=32, key_width=128, value_width=128, conv_width=4, conv_channels=8192)
    state = ModelShape("s", "s", 1, 16, (LayerGroup(3, "state", **sizes),), 9)
    assert kept_bytes(on_one_device(state, 8), 1000) == kept_bytes(state, 1000) / 8


def test_one_device_keeps_all_and_none_is_refused():
    for name in models():
        assert kept_bytes(on_one_device(name, 1), 5000) == kept_bytes(name, 5000)
    with pytest.raises(CourseError, match="devices"):
        on_one_device("llama-3.1-8b", 0)
    with pytest.raises(CourseError, match="among 5 devices"):
        on_one_device("llama-3.1-8b", 5)
