"""The linear memories against the plain PyTorch functions of flash-linear-attention (package `fla-core`) and of Hugging
Face transformers, and our whole layers against theirs: Gated DeltaNet against Qwen3-Next's, Kimi Delta Attention
against those of Kimi Linear and GLM-5.3.

Both scale queries by d_k^(-1/2), which ours do not (their norm takes it out again), and compute in float32."""

import pytest
import torch

from nl_course.exercises.ex03.gates import TWO_GATES
from nl_course.memories import KDA, GatedDeltaConfig, GatedDeltaNet, KDAConfig
from nl_course.memories.common.inner_model import unit
from nl_course.memories.linear.chunks import hebb_chunked
from nl_course.memories.linear.delta import delta_chunked, delta_reference, gated_delta_reference
from nl_course.memories.linear.kda import kda_reference
from nl_course.memories.linear.kda_chunk import kda_chunked
from nl_course.memories.linear.linear import retnet_retention
from tests.peers import FLOAT32, from_file, moved, random
from tests.peers.weights import kimi_delta, qwen3_next_gated_delta

linear = from_file("fla-core", "fla/ops/linear_attn/naive.py")
retention = from_file("fla-core", "fla/ops/retention/naive.py")
gla = from_file("fla-core", "fla/ops/simple_gla/naive.py")
delta = from_file("fla-core", "fla/ops/delta_rule/naive.py")
gated = from_file("fla-core", "fla/ops/gated_delta_rule/naive.py")
kda = from_file("fla-core", "fla/ops/kda/naive.py")
gdn2 = from_file("fla-core", "fla/ops/gdn2/naive.py")

TOKENS, KEYS, VALUES = 96, 8, 6
SCALE = KEYS**-0.5


def problem():
    """q, k (b, h, t, d_k), v (b, h, t, d_v), beta and log_a (b, h, t), S (b, h, d_k, d_v), float32."""
    q, k = unit(random(2, 3, TOKENS, KEYS)), unit(random(2, 3, TOKENS, KEYS, seed=1))
    v, S = random(2, 3, TOKENS, VALUES, seed=2), random(2, 3, KEYS, VALUES, seed=3)
    beta, log_a = random(2, 3, TOKENS, seed=4).sigmoid(), -random(2, 3, TOKENS, seed=5).exp()
    return [z.float() for z in (q, k, v, beta, log_a, S)]


def swapped(*tensors):
    """Time before heads, as their functions mostly want."""
    return [z.transpose(1, 2) for z in tensors]


def test_linear_attention():
    q, k, v, _, _, S = problem()
    o, last = hebb_chunked(SCALE * q, k, v, None, S, 32)
    theirs, their_last = linear.naive_recurrent_linear_attn(*swapped(q, k, v), None, S, True)
    torch.testing.assert_close(o, theirs.transpose(1, 2), **FLOAT32)
    torch.testing.assert_close(last, their_last, **FLOAT32)


def test_retention_with_retnets_own_decays():
    q, k, v, *_ = problem()
    log_a = torch.tensor(retnet_retention(3)).log()[None, :, None].expand(2, 3, TOKENS)
    o, _ = hebb_chunked(SCALE * q, k, v, log_a, torch.zeros(2, 3, KEYS, VALUES), 32)
    torch.testing.assert_close(o, retention.naive_retention(q, k, v), **FLOAT32)


def test_decay_that_changes_with_every_token():
    q, k, v, _, log_a, S = problem()
    o, last = hebb_chunked(SCALE * q, k, v, log_a, S, 32)
    theirs, their_last = gla.naive_recurrent_simple_gla(*swapped(q, k, v, log_a), initial_state=S)
    torch.testing.assert_close(o, theirs.transpose(1, 2), **FLOAT32)
    torch.testing.assert_close(last, their_last, **FLOAT32)


def test_deltanet():
    q, k, v, beta, _, S = problem()
    theirs, their_last = delta.delta_rule_recurrence(q, k, v, beta, S)
    for o, last in (delta_reference(SCALE * q, k, v, beta, S), delta_chunked(SCALE * q, k, v, beta, None, S, 32)):
        torch.testing.assert_close(o, theirs, **FLOAT32)
        torch.testing.assert_close(last, their_last, **FLOAT32)
    theirs, their_last = delta.delta_rule_chunkwise(q, k, v, beta, 32)
    o, last = delta_chunked(SCALE * q, k, v, beta, None, torch.zeros_like(S), 16)
    torch.testing.assert_close(o, theirs, **FLOAT32)
    torch.testing.assert_close(last, their_last, **FLOAT32)


def test_gated_deltanet():
    q, k, v, beta, log_a, S = problem()
    theirs = gated.naive_recurrent_gated_delta_rule(
        *swapped(q, k, v, beta, log_a), initial_state=S, output_final_state=True
    )
    chunked = gated.naive_chunk_gated_delta_rule(
        *swapped(q, k, v, log_a, beta), chunk_size=32, initial_state=S, output_final_state=True
    )
    for o, last in (
        gated_delta_reference(SCALE * q, k, v, beta, log_a.exp(), S),
        delta_chunked(SCALE * q, k, v, beta, log_a, S, 48),
    ):
        for expected, their_last in (theirs, chunked):
            torch.testing.assert_close(o, expected.transpose(1, 2), **FLOAT32)
            torch.testing.assert_close(last, their_last, **FLOAT32)


def test_gated_deltanets_gradients():
    given = [z.requires_grad_() for z in problem()]
    q, k, v, beta, log_a, S = given
    direction = random(2, 3, TOKENS, VALUES, seed=9).float()
    o, _ = delta_chunked(SCALE * q, k, v, beta, log_a, S, 32)
    mine = torch.autograd.grad((o * direction).sum(), given)
    theirs, _ = gated.naive_recurrent_gated_delta_rule(*swapped(q, k, v, beta, log_a), initial_state=S)
    expected = torch.autograd.grad((theirs.transpose(1, 2) * direction).sum(), given)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "key_heads"), [(3, 3), (4, 2)])
@torch.no_grad()
def test_the_whole_gated_deltanet_layer_is_qwen3_nexts(heads, key_heads):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed; `make peers` does it.")
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    # They add epsilon to the mean square of scaled reads, we to that of unscaled ones: d_k times as large.
    config = transformers.Qwen3NextConfig(
        hidden_size=24,
        linear_num_key_heads=key_heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=KEYS,
        linear_value_head_dim=VALUES,
        linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6 / KEYS,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    torch.manual_seed(0)
    peer = moved(qwen.Qwen3NextGatedDeltaNet(config, 0))
    sizes = dict(width=24, heads=heads, head_dim=KEYS, value_dim=VALUES, chunk=16, key_heads=key_heads)
    memory = GatedDeltaNet(GatedDeltaConfig(**sizes)).double()
    theirs = qwen3_next_gated_delta(peer.state_dict(), heads, keys=KEYS, values=VALUES, key_heads=key_heads)
    memory.load_state_dict(theirs)
    x = random(2, 100, 24)
    y, _ = memory(x)
    torch.testing.assert_close(y, peer(x), rtol=1e-4, atol=1e-4)


# -- Kimi Delta Attention ----------------------------------------------------------------------------------------------
def by_channel():
    """`problem` with a log of alpha for every channel, (b, h, t, d_k), and a key that forgets nearly all at times."""
    q, k, v, beta, _, S = problem()
    log_a = -random(2, 3, TOKENS, KEYS, seed=6).exp().float()
    log_a[..., 0] *= 40
    return q, k, v, beta, log_a, S


def ours(q, k, v, beta, log_a, S):
    """Both of our paths: o and the last S."""
    yield kda_reference(SCALE * q, k, v, beta, log_a.exp(), S)
    yield kda_chunked(SCALE * q, k, v, beta, log_a, S, 64)


def test_kda_is_flash_linear_attentions():
    q, k, v, beta, log_a, S = by_channel()
    given = swapped(q, k, v, log_a, beta)
    theirs = kda.naive_recurrent_kda(*given, initial_state=S, output_final_state=True)
    for o, last in ours(q, k, v, beta, log_a, S):
        torch.testing.assert_close(o, theirs[0].transpose(1, 2), **FLOAT32)
        torch.testing.assert_close(last, theirs[1], **FLOAT32)


def test_kda_is_transformers_functions():
    kimi = pytest.importorskip("transformers.models.kimi_linear.modeling_kimi_linear")
    q, k, v, beta, log_a, S = by_channel()
    given = swapped(q, k, v, log_a, beta)
    for function in (kimi.recurrent_kimi_delta_attention, kimi.chunk_kimi_delta_attention):
        theirs = function(*given, initial_state=S, output_final_state=True)
        for o, last in ours(q, k, v, beta, log_a, S):
            torch.testing.assert_close(o, theirs[0].transpose(1, 2), **FLOAT32)
            torch.testing.assert_close(last, theirs[1], **FLOAT32)


def test_kdas_gradients():
    kimi = pytest.importorskip("transformers.models.kimi_linear.modeling_kimi_linear")
    given = [z.requires_grad_() for z in by_channel()]
    q, k, v, beta, log_a, S = given
    direction = random(2, 3, TOKENS, VALUES, seed=9).float()
    theirs, _ = kimi.recurrent_kimi_delta_attention(*swapped(q, k, v, log_a, beta), S, False)
    expected = torch.autograd.grad((theirs.transpose(1, 2) * direction).sum(), given)
    for o, _ in ours(q, k, v, beta, log_a, S):
        mine = torch.autograd.grad((o * direction).sum(), given)
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_exercise_about_two_gates_is_gated_deltanet_2():
    q, k, v, _, log_a, S = (z[:1, :1].double() for z in by_channel())
    erase, write = random(1, 1, TOKENS, KEYS, seed=7).sigmoid(), random(1, 1, TOKENS, VALUES, seed=8).sigmoid()
    _, last = gdn2.naive_recurrent_gdn2(
        *swapped(q, k, v, log_a, erase, write), initial_state=S, output_final_state=True
    )
    mine = S[0, 0]
    for t in range(TOKENS):
        k_t, v_t, alpha_t, erase_t, write_t = (z[0, 0, t] for z in (k, v, log_a.exp(), erase, write))
        mine = TWO_GATES.solution(mine, k_t, v_t, alpha_t, erase_t, write_t)
    torch.testing.assert_close(mine.float(), last[0, 0], **FLOAT32)


@torch.no_grad()
def test_the_whole_kda_layer_is_kimi_linears():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed; `make peers` does it.")
    kimi = pytest.importorskip("transformers.models.kimi_linear.modeling_kimi_linear")
    config = transformers.KimiLinearConfig(**KIMI, num_hidden_layers=1, layer_types=["linear_attention"])
    assert_is_their_kda(kimi.KimiLinearDeltaAttention(config, 0), None)


@torch.no_grad()
def test_the_whole_bounded_kda_layer_is_glm_5_3s():
    glm = pytest.importorskip("transformers.models.glm5_next.modeling_glm5_next")
    configs = pytest.importorskip("transformers.models.glm5_next.configuration_glm5_next")
    config = configs.Glm5NextTextConfig(**KIMI, num_hidden_layers=1, layer_types=["linear_attention"])
    assert config.linear_lower_bound == -5
    assert_is_their_kda(glm.Glm5NextTextLinearAttention(config, 0), -5.0)


# They add epsilon to the mean square of scaled reads, we to that of unscaled ones: d_k times as large.
KIMI = dict(
    hidden_size=24, linear_head_dim=KEYS, linear_num_heads=3, linear_conv_kernel_dim=4, rms_norm_eps=1e-6 / KEYS
)


def assert_is_their_kda(peer, lower_bound):
    """Our KDA layer with their weights gives their outputs. Their weights have no start of their own."""
    for number, parameter in enumerate(peer.parameters()):
        parameter.copy_(0.5 * random(*parameter.shape, seed=number))
    peer = moved(peer)
    sizes = dict(width=24, heads=3, head_dim=KEYS, chunk=64, lower_bound=lower_bound)
    memory = KDA(KDAConfig(**sizes)).double()
    memory.load_state_dict(kimi_delta(peer.state_dict()))
    x = random(2, 100, 24)
    y, _ = memory(x)
    torch.testing.assert_close(y, peer(x), rtol=1e-4, atol=1e-4)
