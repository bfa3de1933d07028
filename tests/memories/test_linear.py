"""Linear attention, retention and the delta rules: what the suite of all memories does not ask."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.memories import (
    DeltaConfig,
    DeltaNet,
    GatedDeltaConfig,
    LinearAttention,
    LinearAttentionConfig,
    Retention,
    RetentionConfig,
    Trace,
    build_memory,
)
from nl_course.memories.common.inner_model import unit
from nl_course.memories.linear.chunks import decay_between, hebb_chunked
from nl_course.memories.linear.delta import delta_chunked, delta_reference, delta_writes, gated_delta_reference
from nl_course.memories.linear.linear import (
    half_life,
    linear_attention_reference,
    retention_reference,
    retnet_retention,
)
from nl_course.model import LanguageModel, ModelConfig

CLOSE = dict(rtol=1e-10, atol=1e-10)
NAMES = ["linear", "retnet", "delta", "gated-delta"]
LAYERS = [*NAMES, "kda"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def problem(tokens=13, heads=2, rows=2, keys=3, values=4, seed=0):
    """q, k, v, beta, log_a, S as a layer would make them."""
    q, k = unit(random(rows, heads, tokens, keys, seed=seed)), unit(random(rows, heads, tokens, keys, seed=seed + 1))
    v, S = random(rows, heads, tokens, values, seed=seed + 2), random(rows, heads, keys, values, seed=seed + 3)
    beta = 2 * random(rows, heads, tokens, seed=seed + 4).sigmoid()
    log_a = -random(rows, heads, tokens, seed=seed + 5).square()
    return [z.detach().requires_grad_() for z in (q, k, v, beta, log_a, S)]


# Each recurrence twice, as functions of the same six tensors.
PAIRS = {
    "linear": (
        lambda q, k, v, beta, log_a, S, chunk: linear_attention_reference(q, k, v, S),
        lambda q, k, v, beta, log_a, S, chunk: hebb_chunked(q, k, v, None, S, chunk),
    ),
    "retnet": (
        lambda q, k, v, beta, log_a, S, chunk: retention_reference(q, k, v, log_a.exp(), S),
        lambda q, k, v, beta, log_a, S, chunk: hebb_chunked(q, k, v, log_a, S, chunk),
    ),
    "delta": (
        lambda q, k, v, beta, log_a, S, chunk: delta_reference(q, k, v, beta, S),
        lambda q, k, v, beta, log_a, S, chunk: delta_chunked(q, k, v, beta, None, S, chunk),
    ),
    "gated-delta": (
        lambda q, k, v, beta, log_a, S, chunk: gated_delta_reference(q, k, v, beta, log_a.exp(), S),
        lambda q, k, v, beta, log_a, S, chunk: delta_chunked(q, k, v, beta, log_a, S, chunk),
    ),
}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(tokens=st.integers(1, 20), chunk=st.integers(1, 24), heads=st.integers(1, 3), seed=st.integers(0, 99))
def test_by_chunks_it_is_the_reference_in_values_and_gradients(name, tokens, chunk, heads, seed):
    reference, chunked = PAIRS[name]
    given_ = problem(tokens, heads, seed=seed)
    o, S = reference(*given_, chunk)
    o2, S2 = chunked(*given_, chunk)
    torch.testing.assert_close(o2, o, **CLOSE)
    torch.testing.assert_close(S2, S, **CLOSE)
    loss = [(a * random(*a.shape, seed=7)).sum() + (b * random(*b.shape, seed=8)).sum() for a, b in ((o, S), (o2, S2))]
    left, right = (torch.autograd.grad(value, given_, allow_unused=True) for value in loss)
    for a, b in zip(left, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["retnet", "delta", "gated-delta"])
def test_by_chunks_it_can_be_differentiated_twice(name):
    given_ = problem(tokens=3, heads=1, rows=1, keys=2, values=2)
    assert torch.autograd.gradgradcheck(lambda *z: PAIRS[name][1](*z, 2)[0], given_)


@pytest.mark.parametrize("name", NAMES)
def test_the_chunk_is_a_matter_of_speed_only(name):
    given_ = problem(tokens=17)
    expected = PAIRS[name][1](*given_, 17)
    for chunk in (1, 2, 5, 16, 64):
        for a, b in zip(PAIRS[name][1](*given_, chunk), expected, strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


# -- what these memories are ---------------------------------------------------------------------------------------
def inner_loss(S, k, v):
    """1/2 |k S - v|^2, summed over all tokens given."""
    return (k @ S - v).square().sum() / 2


def test_linear_attention_is_one_gradient_step_from_nothing():
    """All tokens' gradients taken at S = 0 and added up, step 1: the batch case of TTT."""
    q, k, v, *_ = (z.detach() for z in problem(rows=1, heads=1))
    o, S = linear_attention_reference(q, k, v, torch.zeros(1, 1, 3, 4, dtype=torch.float64))
    start = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    for t in range(q.shape[2]):
        (gradient,) = torch.autograd.grad(inner_loss(start, k[0, 0, : t + 1], v[0, 0, : t + 1]), start)
        torch.testing.assert_close(o[0, 0, t], q[0, 0, t] @ (start - gradient), **CLOSE)
    torch.testing.assert_close(S[0, 0], -gradient, **CLOSE)


def test_the_delta_rule_is_one_gradient_step_per_token():
    """Each token's gradient taken where the last one left the memory, step beta: the online case of TTT."""
    q, k, v, beta, _, S = (z.detach() for z in problem(rows=1, heads=1))
    o, last = delta_chunked(q, k, v, beta, None, S, 4)
    W = S[0, 0].clone().requires_grad_()
    for t in range(q.shape[2]):
        (gradient,) = torch.autograd.grad(inner_loss(W, k[0, 0, t], v[0, 0, t]), W)
        W = (W - beta[0, 0, t] * gradient).detach().requires_grad_()
        torch.testing.assert_close(o[0, 0, t], q[0, 0, t] @ W, **CLOSE)
    torch.testing.assert_close(last[0, 0], W, **CLOSE)


def test_orthonormal_keys_are_recalled_exactly_until_the_matrix_is_full():
    keys = torch.linalg.qr(random(6, 6)).Q[None, None]
    values, empty = random(1, 1, 6, 5, seed=1), torch.zeros(1, 1, 6, 5, dtype=torch.float64)
    one = torch.ones(1, 1, 6, dtype=torch.float64)
    _, S = delta_chunked(keys, keys, values, one, None, empty, 4)
    torch.testing.assert_close(keys @ S, values, **CLOSE)
    _, hebb = hebb_chunked(keys, keys, values, None, empty, 4)
    torch.testing.assert_close(hebb, S, **CLOSE)


def test_delta_overwrites_where_hebb_piles_up():
    key = unit(random(1, 1, 1, 4)).expand(1, 1, 2, 4)
    values, empty = random(1, 1, 2, 3, seed=1), torch.zeros(1, 1, 4, 3, dtype=torch.float64)
    one = torch.ones(1, 1, 2, dtype=torch.float64)
    _, S = delta_chunked(key, key, values, one, None, empty, 2)
    torch.testing.assert_close((key @ S)[:, :, 1], values[:, :, 1], rtol=1e-5, atol=1e-5)  # |k|^2 is 1 - 1e-6
    _, S = hebb_chunked(key, key, values, None, empty, 2)
    torch.testing.assert_close((key @ S)[:, :, 1], values.sum(2), rtol=1e-5, atol=1e-5)


def test_retention_is_masked_attention_with_a_fading_mask():
    q, k, v, *_ = (z.detach() for z in problem(tokens=6, rows=1, heads=1))
    gamma = 0.9
    index = torch.arange(6, dtype=torch.float64)
    mask = torch.where(index[:, None] >= index, gamma ** (index[:, None] - index), 0.0)
    log_a = torch.full((1, 1, 6), math.log(gamma), dtype=torch.float64)
    o, _ = hebb_chunked(q, k, v, log_a, torch.zeros(1, 1, 3, 4, dtype=torch.float64), 4)
    torch.testing.assert_close(o, (q @ k.mT * mask) @ v, **CLOSE)


def test_half_life_is_when_half_of_a_write_is_left():
    assert [round(half_life(g)) for g in retnet_retention(4)] == [22, 44, 88, 177]
    retention, d = 0.5 ** (1 / 10), 3
    k, v = random(1, 1, 11, d), random(1, 1, 11, d, seed=1)
    k[:, :, 1:] = 0  # one write, then nothing but time
    log_a = torch.full((1, 1, 11), math.log(retention), dtype=torch.float64)
    _, first = hebb_chunked(k[:, :, :1], k[:, :, :1], v[:, :, :1], log_a[:, :, :1], torch.zeros(1, 1, d, d).double(), 4)
    _, last = hebb_chunked(k, k, v, log_a, torch.zeros(1, 1, d, d).double(), 4)
    assert half_life(retention) == pytest.approx(10)
    torch.testing.assert_close(last, first / 2, **CLOSE)
    assert half_life(1) == math.inf and half_life(0) == 0
    for wrong in (-0.1, 1.5, math.nan, "1"):
        with pytest.raises(CourseError, match="retention"):
            half_life(wrong)


# -- hard numbers --------------------------------------------------------------------------------------------------
def test_decay_is_exact_behind_a_token_that_forgot_everything():
    log_a = torch.tensor([-0.001, -math.inf, -0.001, -1e4, -0.002, 0.0])
    D = decay_between(log_a)
    assert D.isfinite().all()
    assert D[2, 0] == D[5, 2] == 0
    assert D[2, 1] == torch.tensor(-0.001).exp()
    assert D[5, 3] == torch.tensor(-0.002).exp()  # a running sum near -10000 has no digits left for this
    assert (D.diagonal() == 1).all()
    assert D.triu(1).abs().max() == 0


@pytest.mark.parametrize("name", ["retnet", "gated-delta"])
def test_gates_near_0_and_1_are_finite_in_float32_and_right(name):
    exact = problem(tokens=64)
    with torch.no_grad():
        hard = torch.tensor([0.0, -1e-7, -30.0, -200.0, -1e4])
        exact[4].copy_(hard[torch.randint(0, 5, exact[4].shape, generator=torch.Generator().manual_seed(0))])
        exact[3].copy_((20 * random(*exact[3].shape, seed=9)).sigmoid())
    low = [z.detach().float().requires_grad_() for z in exact]
    o, S = PAIRS[name][1](*low, 16)
    expected, _ = PAIRS[name][0](*exact, 16)
    torch.testing.assert_close(o.double(), expected, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(o.sum() + S.sum(), [z for z in low if z is not low[3] or name != "retnet"])
    assert all(g.isfinite().all() for g in gradients)


def test_a_gate_of_exactly_0_is_a_fresh_start():
    q, k, v, beta, log_a, S = (z.detach() for z in problem(tokens=9))
    log_a[:, :, 5] = -math.inf
    o, last = delta_chunked(q, k, v, beta, log_a, S, 4)
    fresh, end = delta_chunked(*(z[:, :, 5:] for z in (q, k, v, beta, log_a)), torch.zeros_like(S), 4)
    torch.testing.assert_close(o[:, :, 5:], fresh, **CLOSE)
    torch.testing.assert_close(last, end, **CLOSE)


@pytest.mark.parametrize("reach", [1, 2], ids=["beta to 1", "beta to 2"])
def test_a_long_text_stays_bounded_and_exact_in_float32(reach):
    """|I - beta k^T k| <= 1 for beta in [0, 2]: each write moves the memory, and rounding, no further than it must."""
    tokens = 8192
    q, k = unit(random(1, 2, tokens, 8)), unit(random(1, 2, tokens, 8, seed=1) + 1)  # keys that resemble each other
    v, beta = random(1, 2, tokens, 8, seed=2), reach * (3 * random(1, 2, tokens, seed=3)).sigmoid()
    empty = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    o, _ = delta_chunked(q, k, v, beta, None, empty, 64)
    low, S = delta_chunked(*(z.float() for z in (q, k, v, beta)), None, empty.float(), 64)
    error = (low.double() - o).abs().amax(dim=(0, 1, 3))
    assert S.isfinite().all()
    assert error.max() < 1e-3 * o.abs().max()
    assert error[-1000:].max() < 20 * error[:1000].max() + 1e-5


# -- the layers ----------------------------------------------------------------------------------------------------
def layer(name, **options):
    torch.manual_seed(0)
    return build_memory(name, width=8, heads=2, **options).double()


@pytest.mark.parametrize("name", LAYERS)
def test_both_paths_of_a_layer_agree(name):
    x = random(2, 11, 8)
    slow, fast = layer(name, path="reference"), layer(name, path="chunked", chunk=4)
    torch.testing.assert_close(fast(x)[0], slow(x)[0], **CLOSE)
    torch.testing.assert_close(fast(x)[1].matrix, slow(x)[1].matrix, **CLOSE)


@pytest.mark.parametrize("name", LAYERS)
def test_the_shares_of_all_values_add_up_to_the_read(name):
    memory, trace = layer(name, chunk=4), Trace()
    memory(random(2, 11, 8), None, trace)
    assert trace["weights"].shape == (2, 11, 2, 11)
    assert trace["weights"].permute(0, 2, 1, 3).triu(1).abs().max() == 0
    told = torch.einsum("bthp,bphd->bthd", trace["weights"], trace["value"])
    torch.testing.assert_close(told, trace["read"], **CLOSE)


def test_the_shares_of_tokens_read_by_an_earlier_call_are_not_known():
    memory, trace = layer("delta"), Trace(only=["weights"])
    _, state = memory(random(1, 3, 8))
    memory(random(1, 2, 8, seed=1), state, trace)
    assert trace.names() == ["weights"]
    assert trace["weights"].shape == (1, 2, 2, 5)
    assert trace["weights"][..., :3].isnan().all()
    assert trace["weights"][..., 3:].isfinite().all()


def test_an_overwritten_value_has_no_share_left():
    q = k = unit(random(1, 1, 1, 4)).expand(1, 1, 2, 4)
    memory, one = layer("delta"), torch.ones(1, 1, 2, dtype=torch.float64)
    weights = memory.weights(q, k, one, None)[0, 0]
    torch.testing.assert_close(weights, torch.eye(2, dtype=torch.float64), rtol=0, atol=2e-6)
    assert LinearAttention.weights(memory, q, k, None, None)[0, 0, 1].min() > 0.99


@pytest.mark.parametrize("name", LAYERS)
def test_the_trace_says_what_a_token_by_token_account_says(name):
    memory, trace = layer(name, chunk=4), Trace()
    x = random(2, 11, 8)
    _, state = memory(random(2, 5, 8, seed=3))
    memory(x, state, trace)
    _, k, v, _ = memory.project(x, state)
    step, log_a = memory.gates(x)
    S = state.matrix
    for t in range(11):
        a = 1.0
        if log_a is not None:
            kept = log_a[:, :, t].exp()
            # One share for each row of S, or one for all.
            a = kept[..., None] if name == "kda" else kept[..., None, None]
        beta = 1.0 if step is None else step[:, :, t, None, None]
        k_t, v_t = k[:, :, t, None], v[:, :, t, None]
        before, old = (k_t @ S - v_t).square().sum((-2, -1)), a * S
        S = old + k_t.mT @ (v_t if step is None else beta * (v_t - k_t @ old))
        for name_, value in {
            "loss_before": before,
            "loss_after": (k_t @ S - v_t).square().sum((-2, -1)),
            "write_norm": (S - old).norm(dim=(-2, -1)),
            "step_size": torch.as_tensor(beta, dtype=v.dtype).expand(2, 2, 1, 1)[..., 0, 0],
            "retention": torch.ones(2, 2).double() if log_a is None else kept,
        }.items():
            torch.testing.assert_close(trace[name_][:, t], value, **CLOSE)


def test_the_writes_make_any_delta_memory_a_hebbian_one():
    q, k, v, beta, log_a, S = problem()
    w = delta_writes(k, v, beta, log_a, S, 4)
    for a, b in zip(hebb_chunked(q, k, w, log_a, S, 4), delta_chunked(q, k, v, beta, log_a, S, 4), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_keys_and_queries_of_the_delta_rules_have_length_1_whatever_the_projection():
    memory = layer("delta", conv=0)
    x = random(2, 5, 8)
    q, k, *_ = memory.project(x, memory.init_state(2))
    for z in (q, k):
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 2, 5).double(), rtol=1e-3, atol=1e-3)
    assert unit(torch.zeros(3, requires_grad=True)).abs().max() == 0


@pytest.mark.parametrize(("negative", "top"), [(False, 1.0), (True, 2.0)])
def test_beta_stays_below_its_bound(negative, top):
    memory = layer("delta", negative=negative)
    beta, log_a = memory.gates(100 * random(1, 200, 8))
    assert log_a is None
    assert 0 <= beta.min() < 0.01
    assert top - 0.01 < beta.max() <= top


def test_the_forgetting_gate_is_mamba_2s_and_starts_as_there():
    memory = layer("gated-delta")
    x = random(1, 4, 8)
    _, log_a = memory.gates(x)
    z = x @ memory.interval.weight.T + memory.interval_bias
    alpha = torch.exp(-torch.log1p(z.exp()) * memory.log_rate.exp())
    torch.testing.assert_close(log_a.exp(), alpha.mT, **CLOSE)
    start = torch.nn.functional.softplus(torch.cat([layer("gated-delta").interval_bias for _ in range(9)]))
    assert 0.001 <= start.min() <= start.max() <= 0.1


@pytest.mark.parametrize("name", LAYERS)
def test_in_bf16_the_matrix_is_kept_in_float32(name):
    memory = layer(name).bfloat16()
    y, state = memory(random(3, 70, 8, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert state.matrix.dtype == torch.float32
    assert state.nbytes == memory.state_bytes(70, 3) == memory.state_bytes(7, 3)


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_leaves_the_recurrence_in_float32(name):
    memory, x = layer(name).float(), random(2, 70, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = memory(x)
        memory(x[:, :1], state)
        y.float().sum().backward()
    assert state.matrix.dtype == torch.float32
    expected, _ = memory(x)
    assert (y - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_a_language_model_reads_with_it(name):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab=11, width=8, layers=2, heads=2, hidden=8, memory=name)).double()
    tokens = torch.arange(10)[None] % 11
    logits, _ = model(tokens)
    first, state = model(tokens[:, :7])
    second, _ = model(tokens[:, 7:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), logits, **CLOSE)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LinearAttentionConfig(width=8, heads=3), "not a multiple of heads 3"),
        (lambda: DeltaConfig(width=8, heads=2, chunk=0), "chunk must be"),
        (lambda: DeltaConfig(width=8, heads=2, conv=-1), "conv must be"),
        (lambda: GatedDeltaConfig(width=8, heads=2, value_dim=0), "value_dim must be"),
        (lambda: DeltaNet(DeltaConfig(8, 2), path="fast"), "auto, reference, chunked"),
        (lambda: Retention(RetentionConfig(6, 2)), "even, not 3"),
        (lambda: build_memory("gated-delta", 8, 2, gates=1), "negative"),
    ],
)
def test_mistakes_are_named(make, says):
    with pytest.raises(CourseError, match=says):
        make()
