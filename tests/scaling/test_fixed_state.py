"""Decoding from a fixed state, against counts made by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling import FIXED_MEMORIES, FixedMemory, accelerator, break_even_tokens, uniform
from nl_course.scaling.fixed_state import (
    WRITINGS,
    Traffic,
    Writing,
    cache_traffic,
    chunk_traffic,
    even_traffic_tokens,
    state_traffic,
    weights_traffic,
)


def head(rule: str, f: int = 8, **more) -> FixedMemory:
    return FixedMemory("one head", rule, f, layers=1, width=f, **more)


@pytest.mark.parametrize(
    ("writing", "flops"),
    [
        (Writing(error=False), 2 * 64 + 2 * 64),  # S += k v, q S
        (Writing(), 2 * 64 + 2 * 64 + 2 * 64),  # k S, S += k e, q S
        (Writing(retention=True), 7 * 64),
        (Writing(retention=True, momentum=True), 9 * 64),
    ],
)
def test_a_matrix_by_hand(writing, flops):
    found = state_traffic(head("matrix"), writing)
    assert found == Traffic(flops, 4 * 64, 4 * 64)
    assert found.intensity == flops / 512


def test_a_deep_memory_by_hand():
    # 4 -> 16 -> 4: the key goes forward (2 * 128), the error back through the second matrix (2 * 64), both are written
    # (2 * 128), the query is answered (2 * 128); retention 128, momentum 256.
    memory = head("mlp", 4, copies=2)
    found = state_traffic(memory, Writing(retention=True, momentum=True))
    assert found.flops == 256 + 128 + 256 + 256 + 128 + 256
    assert found.read == found.written == 2 * 128 * 4


def count_a_delta_step(f: int) -> int:
    """Multiplies and adds, one by one, in a loop that does what the delta rule does."""
    S, k, q, v, done = [[0.0] * f for _ in range(f)], [1.0] * f, [1.0] * f, [1.0] * f, 0
    known, read = [0.0] * f, [0.0] * f
    for i in range(f):
        for j in range(f):
            known[j] += k[i] * S[i][j]
            done += 2
    for i in range(f):
        for j in range(f):
            S[i][j] += k[i] * (v[j] - known[j])
            done += 2
    for i in range(f):
        for j in range(f):
            read[j] += q[i] * S[i][j]
            done += 2
    return done


@pytest.mark.parametrize("f", [3, 16])
def test_a_delta_step_counted_in_a_loop(f):
    assert state_traffic(head("matrix", f)).flops == count_a_delta_step(f)


def test_writing_once_a_chunk_by_hand():
    # f = 8, c = 4: the state is read to answer (64) and, once in four tokens, for the write (16); on average 1.5 tokens
    # wait with an input and an error of 8 each; written are a quarter of the state and the token's own 16.
    found = state_traffic(head("matrix"), Writing(), every=4)
    assert found.read == 4 * (64 + 16 + 1.5 * 16) and found.written == 4 * (16 + 16)
    assert found.flops == 6 * 64 + 2 * 1.5 * 16
    forgetful = state_traffic(head("matrix"), Writing(retention=True), every=4)
    assert forgetful.flops - found.flops == 64 / 4


def test_cache_and_weights_by_hand():
    shape = uniform(3, 4, 8, kv_heads=2, parameters=1000)
    found = cache_traffic(shape, 100)
    assert found.flops == 3 * 4 * (4 * 8) * 100  # scores and the sum of values
    assert found.read == 3 * 100 * 2 * 2 * 8 * 2 and found.written == 3 * 2 * 2 * 8 * 2
    # Of a model with an embedding beside its output, too, it is the attention alone.
    assert cache_traffic("llama-3.1-8b", 100).flops == 32 * 32 * (4 * 128) * 100
    assert weights_traffic(1000, batch=4) == Traffic(2000, 500, 0)
    both = weights_traffic(1000) + found
    assert both.bytes == 2000 + found.bytes and both.times(3).flops == 3 * both.flops


def test_a_chunk_at_once_by_hand():
    # Per token: k S, S += k e, q S, 2 * 64 each; on average 1.5 of 4 pairs are earlier ones of the chunk, each with a
    # product q k of 8 and a sum over e of 8. In bytes: a quarter of 64 numbers in and out, q, k, v and y in bf16.
    found = chunk_traffic(head("matrix"), Writing(), chunk=4)
    assert found == Traffic(6 * 64 + 1.5 * 2 * 16, 64 + 3 * 16, 64 + 16)
    assert chunk_traffic(head("matrix"), Writing(), chunk=4, reads_chunk=False).flops == 6 * 64
    assert chunk_traffic(head("matrix"), Writing()).flops == state_traffic(head("matrix"), Writing()).flops


def test_newton_schulz_by_hand():
    # 8 x 8: a Gram matrix, its square and their product with the matrix, 2 * 8^3 each. 4 x 16 and 16 x 4: two of
    # 2 * 4 * 4 * 16 and one of 2 * 4^3, for both matrices.
    for memory, one_step in ((head("matrix"), 6 * 8**3), (head("mlp", 4), 2 * (2 * 512 + 128))):
        without, with_it = (chunk_traffic(memory, Writing(), 16, newton_schulz_steps=n) for n in (0, 5))
        assert with_it.flops - without.flops == 5 * one_step / 16
        assert with_it.bytes == without.bytes


def test_a_chunk_alone_makes_no_small_state_busy():
    """Without reading its own chunk, a head of f has at most 6 f^2 operations for 4 numbers of f in bf16."""
    busiest = chunk_traffic("linear", Writing(), chunk=10**6, reads_chunk=False)
    assert 0.99 * 0.75 * 64 < busiest.intensity < 0.75 * 64 < accelerator("h100").ridge
    wide = chunk_traffic("titans-wide-bf16", chunk=512, reads_chunk=False)
    assert wide.intensity > accelerator("h100").ridge > chunk_traffic("titans-wide-bf16", chunk=16).intensity
    with pytest.raises(CourseError, match="newton_schulz_steps"):
        chunk_traffic("linear", newton_schulz_steps=-1)


def test_every_byte_moved_has_few_operations_and_no_batch_changes_that():
    ridge = accelerator("h100").ridge
    for name in WRITINGS:
        found = state_traffic(name)
        assert found.intensity < 3 < ridge and found.bound("h100") == "moving bytes"
        assert found.times(64).intensity == pytest.approx(found.intensity)
    assert state_traffic("titans-heads", every=16).intensity > state_traffic("titans-heads").intensity
    assert weights_traffic(1e9, batch=1024).bound("h100") == "computing"
    assert Traffic(1e12, 1, 1).seconds("h100") == pytest.approx(1 / accelerator("h100").dense_16bit_tflops)
    assert Traffic(1, 2e12, 1e12).seconds("h100") == pytest.approx(3 / accelerator("h100").bandwidth_tb_s)


@pytest.mark.parametrize("name", WRITINGS)
def test_bytes_moved_are_even_later_than_sizes(name):
    shape, state = uniform(24, 16, 128), state_traffic(name)
    tokens = even_traffic_tokens(state, shape)
    assert cache_traffic(shape, tokens).bytes == pytest.approx(state.bytes)
    assert tokens == pytest.approx(2 * break_even_tokens(FIXED_MEMORIES[name], shape) - 1)


@given(st.integers(1, 64), st.sampled_from(["matrix", "affine", "mlp"]), st.booleans())
def test_a_longer_chunk_never_writes_more_of_the_state(c, rule, momentum):
    memory = head(rule, 64, copies=2)
    now, later = (state_traffic(memory, Writing(momentum=momentum), every=n) for n in (c, c + 1))
    assert later.written < now.written and all(math.isfinite(x) and x > 0 for x in (now.flops, now.read))


def test_bad_input_is_refused_in_words():
    with pytest.raises(CourseError, match="titans-head"):
        state_traffic("titans-head")
    with pytest.raises(CourseError, match="a name or a FixedMemory"):
        state_traffic(5)
    with pytest.raises(CourseError, match="state must be the Traffic"):
        even_traffic_tokens(1e6, "llama-3.1-8b")
    with pytest.raises(CourseError, match="every"):
        state_traffic("linear", every=0)
    with pytest.raises(CourseError, match="parameters"):
        weights_traffic(-1)
