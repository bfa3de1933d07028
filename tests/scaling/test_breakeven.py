"""Where a growing cache overtakes a memory that does not grow."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling import (
    FIXED_MEMORIES,
    FixedMemory,
    break_even_tokens,
    bytes_per_token,
    cache_bytes,
    mha_bytes_per_token,
    model,
    window_bytes,
)

TABLE = {  # name: MB of state, break-even tokens against MHA, GQA 4:1, GQA 8:1
    "linear": (6.3, 32, 128, 256),
    "gated-delta": (25.2, 128, 512, 1024),
    "ttt-linear": (6.4, 33, 130, 260),
    "ttt-linear-x2": (25.6, 130, 520, 1040),
    "ttt-mlp": (50.8, 258, 1034, 2068),
    "ttt-mlp-x2": (203, 1034, 4136, 8272),
    "titans-heads": (201, 1024, 4096, 8192),
    "titans-matrix": (805, 4096, 16384, 32768),
    "titans-wide-bf16": (1611, 8192, 32768, 65536),
    "titans-wide": (6443, 32768, 131072, 262144),
    "titans-760m": (3624, 24576, 98304, 196608),
    "hope-one-level": (1611, 8192, 32768, 65536),
    "hope-four-levels": (6443, 32768, 131072, 262144),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    megabytes, *tokens = TABLE[name]
    memory = FIXED_MEMORIES[name]
    assert memory.nbytes / 1e6 == pytest.approx(megabytes, rel=0.008)
    against = [mha_bytes_per_token(memory.layers, memory.width, share) for share in (1, 4, 8)]
    found = [break_even_tokens(memory, per_token) for per_token in against]
    assert found == pytest.approx(tokens, abs=0.51)


def test_every_memory_is_in_the_table():
    assert set(TABLE) == set(FIXED_MEMORIES)
    assert mha_bytes_per_token(24, 2048) == 192 * 1024


@given(st.integers(1, 30), st.sampled_from([16, 32, 64, 128]), st.integers(1, 16))
def test_closed_forms(layers, head, heads):
    """TTT at 16 bits with its running gradient, against MHA of the same size: f + 1 and 8 f + 5 tokens."""
    width = head * heads
    cache = mha_bytes_per_token(layers, width)
    linear = FixedMemory("", "affine", head, layers, width, "bf16", copies=2)
    deep = FixedMemory("", "mlp", head, layers, width, "bf16", copies=2, bias=True)
    assert break_even_tokens(linear, cache) == head + 1
    assert break_even_tokens(deep, cache) == 8 * head + 5


def test_against_real_models():
    half = FIXED_MEMORIES["ttt-mlp-x2"].nbytes / 2
    assert half == pytest.approx(102e6, rel=0.005)
    assert break_even_tokens(half, "llama-3.1-8b") == pytest.approx(776, abs=1)
    gemma = model("gemma-3-27b")
    assert window_bytes(gemma) == 416 * 2**20 and bytes_per_token(gemma) == 80 * 1024
    assert break_even_tokens(window_bytes(gemma), gemma) < 1024


def test_a_cache_that_never_gets_there():
    assert break_even_tokens(1e12, "mistral-7b-v0.1") == math.inf
    assert break_even_tokens(1e12, 0) == math.inf


@given(st.floats(1, 1e11), st.sampled_from(["llama-3.1-8b", "gemma-3-12b", "deepseek-v3"]))
def test_below_it_the_cache_is_smaller(state, name):
    tokens = break_even_tokens(state, name)
    assert cache_bytes(name, 0.99 * tokens) < state < cache_bytes(name, 1.01 * tokens)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: FixedMemory("", "tensor", 64), "rule of a fixed memory"),
        (lambda: FixedMemory("", "matrix", 60), "cannot be cut into heads of 60"),
        (lambda: FixedMemory("", "matrix", 64, copies=0), "copies"),
        (lambda: break_even_tokens(-1, 1), "state bytes"),
        (lambda: mha_bytes_per_token(0, 64), "layers"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(CourseError, match=names):
        call()
