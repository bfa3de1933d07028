"""The linear memories against arrays that other people's code made: the naive functions of flash-linear-attention
(values, and gradients of every input), and the Gated DeltaNet layer of Qwen3-Next in Hugging Face transformers.

Both scale queries by d_k^(-1/2), which ours do not: a layer's norm takes it out again. Ours computes in float64 here,
so that the whole difference is the rounding of theirs, which is float32's."""

import pytest
import torch
from torch import Tensor

from nl_course.memories import GatedDeltaConfig, GatedDeltaNet
from nl_course.memories.linear.chunks import hebb_chunked
from nl_course.memories.linear.delta import delta_chunked, delta_reference, gated_delta_reference
from nl_course.memories.linear.linear import linear_attention_reference, retention_reference, retnet_retention
from tests import golden
from tests.peers.weights import qwen3_next_gated_delta

pytestmark = golden.needs_golden
Outputs = tuple[Tensor, Tensor]  # o (b, h, t, d_v), the last S
THEIR_ROUNDING = dict(rtol=0, atol=2e-6)  # in outputs and gradients of size 1 to 3


def retnet_log_a(q: Tensor) -> Tensor:
    """The log of RetNet's own retention per head, (b, h, t)."""
    heads = torch.tensor(retnet_retention(q.shape[1]), dtype=q.dtype).log()
    return heads[None, :, None].expand(q.shape[:3])


def retnet(q: Tensor, k: Tensor, v: Tensor, S: Tensor, path: str) -> Outputs:
    log_a = retnet_log_a(q)
    return retention_reference(q, k, v, log_a.exp(), S) if path == "reference" else hebb_chunked(q, k, v, log_a, S, 16)


def fading(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, S: Tensor, path: str) -> Outputs:
    return retention_reference(q, k, v, log_a.exp(), S) if path == "reference" else hebb_chunked(q, k, v, log_a, S, 16)


def hebb(q: Tensor, k: Tensor, v: Tensor, S: Tensor, path: str) -> Outputs:
    return linear_attention_reference(q, k, v, S) if path == "reference" else hebb_chunked(q, k, v, None, S, 16)


def delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor, path: str) -> Outputs:
    return delta_reference(q, k, v, beta, S) if path == "reference" else delta_chunked(q, k, v, beta, None, S, 16)


def gated_delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor, S: Tensor, path: str) -> Outputs:
    if path == "reference":
        return gated_delta_reference(q, k, v, beta, log_a.exp(), S)
    return delta_chunked(q, k, v, beta, log_a, S, 16)


# Their function's name -> ours, which takes q already scaled.
OURS = {"linear": hebb, "retention": retnet, "simple_gla": fading, "delta": delta, "gated_delta": gated_delta}


@pytest.mark.parametrize("path", ["reference", "chunked"])
@pytest.mark.parametrize("name", OURS)
def test_outputs_and_the_gradients_of_every_input_are_flas(name, path):
    arrays = golden.load("fla_naive")
    theirs = golden.part(arrays, f"{name}|g|")
    given = {letter: arrays[f"in|{letter}"].double().requires_grad_() for letter in theirs}
    q = given["q"]
    inputs = given | {"q": q * q.shape[-1] ** -0.5}
    if "S" not in given:  # theirs starts empty
        inputs["S"] = torch.zeros_like(arrays["in|S"], dtype=q.dtype)
    o, _ = OURS[name](**inputs, path=path)
    torch.testing.assert_close(o.float(), arrays[f"{name}|o"], **THEIR_ROUNDING)
    gradients = torch.autograd.grad((o * arrays["direction"]).sum(), list(given.values()))
    for letter, gradient in zip(given, gradients):
        torch.testing.assert_close(
            gradient.float(), theirs[letter], **THEIR_ROUNDING, msg=lambda m, n=letter: f"{n}: {m}"
        )


@pytest.mark.parametrize("path", ["reference", "chunked", "auto"])
@torch.no_grad()
def test_the_whole_gated_deltanet_layer_is_qwen3_nexts(path):
    arrays = golden.load("hf_qwen3_next_gated_deltanet")
    memory = GatedDeltaNet(GatedDeltaConfig(width=24, heads=3, head_dim=8, value_dim=6, chunk=16), path=path).double()
    memory.load_state_dict(qwen3_next_gated_delta(golden.part(arrays, "w|"), heads=3, keys=8, values=6))
    x = arrays["x"].double()
    # Their rounding: 2e-5 in outputs of size 7.
    y, _ = memory(x)
    torch.testing.assert_close(y.float(), arrays["y"], rtol=0, atol=6e-5)
    # Token by token, with the state between.
    pieces, state = [], None
    for piece in x.split([1, 7, 1, 41], dim=1):
        y, state = memory(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1).float(), arrays["y"], rtol=0, atol=6e-5)
