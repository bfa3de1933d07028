"""What fits and how fast it decodes, against the reference values worked out from data sheets."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling import (
    accelerators,
    attention_intensity,
    bytes_per_token,
    cache_bytes,
    decode_bytes,
    decode_flops,
    decode_step,
    intensity,
    max_batch,
    memory_budget,
    model,
    models,
    prefill_flops,
    tokens_in,
    training_budget,
    uniform,
    weight_bytes,
)
from nl_course.scaling.hardware import weights_touched
from nl_course.scaling.training import activation_bytes

LENGTHS = (8 * 1024, 32 * 1024, 128 * 1024)


@pytest.mark.parametrize(
    ("batch", "context", "ops_per_byte", "per_second"),
    [
        *[(1, 1024, 1.03, 221.2), (1, 8192, 1.20, 208.3), (1, 131072, 2.60, 104.1)],
        *[(64, 1024, 42.16, 142.0), (64, 8192, 14.76, 40.0), (64, 131072, 4.81, 3.006)],
    ],
)
def test_llama_8b_on_one_h100(batch, context, ops_per_byte, per_second):
    """Worked out from its shape: 7,504,924,672 parameters are multiplied with (8,030,261,248 less the 128,256 x 4,096
    of the input embedding), a token keeps 2 x 32 x 8 x 128 numbers, and an H100 moves 3.35 TB in a second."""
    assert intensity("llama-3.1-8b", context, batch) == pytest.approx(ops_per_byte, abs=0.006)
    step = decode_step("llama-3.1-8b", "h100", context, batch)
    assert step.tokens_per_second == pytest.approx(per_second, rel=0.002)
    assert step.bound == "reading"


def test_64_readers_of_128k_do_not_fit():
    assert not memory_budget("llama-3.1-8b", "h100", 131072, 64).fits
    assert (
        memory_budget("llama-3.1-8b", "h100", 131072, 3).fits
        and not memory_budget("llama-3.1-8b", "h100", 131072, 4).fits
    )


def test_largest_batches():
    """By hand: nine tenths of 81,559, 143,771 and 183,359 MiB, less two bytes for each parameter, by the cache."""
    assert [max_batch("llama-3.1-8b", "h100", t) for t in LENGTHS] == [56, 14, 3]
    assert [max_batch("llama-3.1-8b", "h200", t) for t in LENGTHS] == [111, 27, 6]
    assert [max_batch("llama-3.1-70b", "b200", t) for t in LENGTHS] == [11, 2, 0]
    assert [max_batch("llama-3.1-70b", "h100", t, count=8) for t in LENGTHS] == [176, 44, 11]


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        *[("llama-2-7b", 26e3), ("llama-3.1-8b", 123e3), ("gpt3-175b", 74e3), ("llama-3.1-70b", 431e3)],
        ("llama-3.1-405b", 1.57e6),
    ],
)
def test_where_the_cache_outweighs_the_weights(name, tokens):
    """B T = 2 P / (bytes per token), at 16 bits."""
    crossing = tokens_in(name, weight_bytes(name))
    assert crossing == pytest.approx(2 * model(name).parameters / bytes_per_token(name))
    assert crossing == pytest.approx(tokens, rel=0.015)


def test_attention_has_a_ceiling_that_batching_cannot_move():
    assert attention_intensity("llama-3.1-8b") == 4 and attention_intensity("llama-3.1-405b") == 16
    assert attention_intensity("llama-2-7b") == 1
    assert attention_intensity(uniform(4, 32, 64, kv_heads=1)) == 32
    assert attention_intensity("deepseek-v3") == pytest.approx(242, abs=0.5)
    assert intensity("llama-3.1-8b", 10**7, 4096) == pytest.approx(4, rel=0.01)
    ridges = [device.ridge for device in accelerators().values()]
    assert min(ridges) > 33 and max(ridges) < 565 and accelerators()["h100"].ridge / 242 < 1.25


def test_weights_are_most_of_what_one_reader_moves_at_8k():
    share = 2 * weights_touched("llama-3.1-8b", 1) / decode_bytes("llama-3.1-8b", 8192)
    assert share == pytest.approx(0.933, abs=5e-4)


def test_operations_by_the_plain_formulas():
    shape = model("llama-3.1-8b")
    attended = 32 * 32 * 128  # layers x heads x head size
    multiplied = 8_030_261_248 - 128_256 * 4096  # the input embedding is a look-up: nothing is multiplied with it
    assert prefill_flops(shape, 1000) == 2 * multiplied * 1000 + 2 * attended * 1000**2
    assert prefill_flops(shape, 1000, square=True) == 2 * multiplied * 1000 + 4 * attended * 1000**2
    assert prefill_flops(shape, 2048, square=True) == pytest.approx(3.294e13, rel=2e-4)  # as torch counts it
    assert decode_flops(shape, 1000) == 2 * multiplied + 4 * attended * 1000


def test_only_an_embedding_beside_the_output_is_a_look_up():
    tied, untied = model("llama-3.2-1b"), model("llama-3.1-8b")
    assert tied.lookup_parameters == 0 and tied.matmul_parameters == tied.parameters
    assert untied.lookup_parameters == 128_256 * 4096
    assert weight_bytes(untied) == 2 * untied.parameters  # it must be in memory all the same
    own = uniform(2, 4, 8, parameters=1000)
    assert own.matmul_parameters == 1000 and decode_flops(own, 0) == 2000


def test_a_window_bounds_the_operations_too():
    mistral = model("mistral-7b-v0.1")
    assert decode_flops(mistral, 10**6) == decode_flops(mistral, 4096)
    extra = prefill_flops(mistral, 20_000) - prefill_flops(mistral, 10_000)
    assert extra == pytest.approx(2 * mistral.matmul_parameters * 10_000 + 4 * 32 * 32 * 128 * 4096 * 10_000)


def test_latents_absorbed_when_decoding_and_unfolded_when_reading():
    v3 = model("deepseek-v3")
    assert decode_flops(v3, 10) - decode_flops(v3, 0) == 10 * 61 * 2 * 128 * (576 + 512)
    assert prefill_flops(v3, 10) - 20 * v3.matmul_parameters == 50 * 61 * 2 * 128 * (192 + 128)


def test_experts_are_read_when_somebody_asks_for_them():
    mixture = model("mixtral-8x7b")
    embedding = 32_000 * 4096
    assert weights_touched(mixture, 1) == pytest.approx(mixture.active - embedding)
    assert mixture.active < weights_touched(mixture, 4) < mixture.parameters - embedding
    assert weights_touched(mixture, 1000) == pytest.approx(mixture.parameters - embedding)
    assert weights_touched("llama-3.1-8b", 7) == 8_030_261_248 - 128_256 * 4096


def test_a_bound_by_computing():
    step = decode_step("llama-3.1-8b", "h100", 0, 1024)
    assert step.bound == "computing" and step.seconds == step.compute_seconds
    slower = decode_step("llama-3.1-8b", "h100", 0, 1024, compute=0.5)
    assert slower.seconds == pytest.approx(2 * step.seconds)
    assert decode_step("llama-3.1-8b", "h100", 0, 1024, count=2).seconds == pytest.approx(step.seconds / 2)


@given(st.sampled_from(sorted(models())), st.integers(1, 10**6), st.integers(1, 64))
def test_the_largest_batch_fits_and_one_more_does_not(name, context, count):
    most = max_batch(name, "h200", context, count)
    assert memory_budget(name, "h200", context, most, count).fits == (
        memory_budget(name, "h200", context, 0, count).left >= 0
    )
    assert not memory_budget(name, "h200", context, most + 1, count).fits


# In a chunked layer the first token of a chunk reads less than the one before it: a longer context can be faster.
STEADY = sorted(name for name, shape in models().items() if "chunks" not in shape.attention)


@given(st.sampled_from(STEADY), st.integers(0, 10**6), st.integers(1, 256))
def test_longer_contexts_and_larger_batches_are_never_faster(name, context, batch):
    base = decode_step(name, "h100", context, batch).seconds
    assert decode_step(name, "h100", context + 1000, batch).seconds >= base
    assert decode_step(name, "h100", context, batch + 1).seconds >= base


@given(st.sampled_from(sorted(models())), st.integers(1, 200_000))
def test_desk_adds_up(name, context):
    filled = memory_budget(name, "b200", context, 3, 2, "fp8", "fp8", other=1e9)
    assert filled.weights + filled.kept + filled.left + 1e9 == pytest.approx(0.9 * 2 * 183_359 * 2**20)
    assert filled.cache == cache_bytes(name, context, 3, "fp8")


def test_a_desk_without_a_context_has_room_for_any_number():
    assert max_batch("llama-3.1-8b", "h100", 0) == math.inf
    assert max_batch("llama-3.1-405b", "h100", 0) == 0


def test_training_needs_sixteen_bytes_a_parameter():
    shape = model("llama-3.1-8b")
    filled = training_budget(shape, context=8192)
    assert filled.states == 16 * shape.parameters and filled.moments == 8 * shape.parameters
    assert filled.total == filled.states + filled.activations


def test_activations_of_gpt3_by_the_published_formula():
    s, b, h, a = 2048, 1, 12288, 96
    per_layer = s * b * h * (34 + 5 * a * s / h)
    assert activation_bytes("gpt3-175b", s, b, "everything") == pytest.approx(96 * per_layer)
    kept = [activation_bytes("gpt3-175b", s, b, keep) for keep in ("everything", "no scores", "layer inputs")]
    assert kept[0] > kept[1] > kept[2] == 96 * 2 * s * b * h


@given(st.integers(0, 10**5), st.integers(0, 64))
def test_activations_without_scores_are_linear_in_tokens(context, batch):
    assert activation_bytes("llama-3.1-8b", context, batch) == 32 * 34 * 4096 * context * batch


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: max_batch("llama-3.1-8b", "h1000", 8), "accelerator 'h1000'"),
        (lambda: max_batch("llama-3.1-8b", "h100", -8), "context"),
        (lambda: max_batch("llama-3.1-8b", "h100", 8, 0), "count"),
        (lambda: memory_budget("llama-3.1-8b", "h100", 8, -1), "batch"),
        (lambda: memory_budget("llama-3.1-8b", "h100", 8, share=1.2), "share"),
        (lambda: memory_budget("llama-3.1-8b", "h100", 8, weights="fp7"), "number format 'fp7'"),
        (lambda: decode_step("llama-3.1-8b", "h100", 8, 0), "batch"),
        (lambda: intensity("llama-3.1-8b", 8, "2"), "batch"),
        (lambda: intensity("llama-3.1-8b", -8), "context"),
        (lambda: decode_bytes("llama-3.1-8b", 8, -2), "batch"),
        (lambda: weights_touched("llama-3.1-8b", 0), "batch"),
        (lambda: decode_step("llama-3.1-8b", "h100", 8, reading=0), "efficiency reading"),
        (lambda: training_budget("llama-3.1-8b", 8, keep="all"), "what to keep 'all'"),
        (lambda: activation_bytes(replace(model("gpt2-124m"), width=None), 8), "no width"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(CourseError, match=names):
        call()
