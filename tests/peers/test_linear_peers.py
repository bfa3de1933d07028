"""The linear memories against the plain PyTorch functions of flash-linear-attention (package `fla-core`), and our whole
Gated DeltaNet layer against that of Qwen3-Next in Hugging Face transformers.

Both scale queries by d_k^(-1/2), which ours do not (their norm takes it out again), and compute in float32."""

import pytest
import torch

from nl_course.memories import GatedDeltaConfig, GatedDeltaNet
from nl_course.memories.common.inner_model import unit
from nl_course.memories.linear.chunks import hebb_chunked
from nl_course.memories.linear.delta import delta_chunked, delta_reference, gated_delta_reference
from nl_course.memories.linear.linear import retnet_retention
from tests.peers import FLOAT32, from_file, moved, random
from tests.peers.weights import qwen3_next_gated_delta

linear = from_file("fla-core", "fla/ops/linear_attn/naive.py")
retention = from_file("fla-core", "fla/ops/retention/naive.py")
gla = from_file("fla-core", "fla/ops/simple_gla/naive.py")
delta = from_file("fla-core", "fla/ops/delta_rule/naive.py")
gated = from_file("fla-core", "fla/ops/gated_delta_rule/naive.py")

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


@torch.no_grad()
def test_the_whole_gated_deltanet_layer_is_qwen3_nexts():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed; `make peers` does it.")
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    # They add epsilon to the mean square of scaled reads, we to that of unscaled ones: d_k times as large.
    config = transformers.Qwen3NextConfig(
        hidden_size=24,
        linear_num_key_heads=3,
        linear_num_value_heads=3,
        linear_key_head_dim=KEYS,
        linear_value_head_dim=VALUES,
        linear_conv_kernel_dim=4,
        rms_norm_eps=1e-6 / KEYS,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    torch.manual_seed(0)
    peer = moved(qwen.Qwen3NextGatedDeltaNet(config, 0))
    memory = GatedDeltaNet(GatedDeltaConfig(width=24, heads=3, head_dim=KEYS, value_dim=VALUES, chunk=16)).double()
    memory.load_state_dict(qwen3_next_gated_delta(peer.state_dict(), heads=3, keys=KEYS, values=VALUES))
    x = random(2, 100, 24)
    y, _ = memory(x)
    torch.testing.assert_close(y, peer(x), rtol=1e-4, atol=1e-4)
