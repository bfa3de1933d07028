"""A chunk written by SGD is Titans; written by Muon it is the equations, whatever the path and the split."""

import pytest
import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories import Titans, TitansConfig
from nl_course.memories.ablations.as_attention import as_attention
from nl_course.memories.ablations.inner_muon import InnerMuon, InnerMuonConfig
from nl_course.memories.ablations.switches import ablated
from nl_course.memories.titans.chunk import Gates
from tests.memories.ttt_tools import CLOSE, draw, same_gradients

SIZES = dict(expansion=2, conv=3, persistent=3)


def pair(path: str, inner: str, **options) -> tuple[Titans, InnerMuon]:
    """Titans and the chunkwise memory with the same weights, none of them at its start."""
    torch.manual_seed(0)
    titans = Titans(TitansConfig(8, 2, momentum=False, **SIZES | options)).double()
    with torch.no_grad():
        for i, parameter in enumerate(titans.parameters()):
            parameter.add_(0.3 * draw(*parameter.shape, seed=i))
    memory = InnerMuon(InnerMuonConfig(8, 2, inner_optimizer=inner, **SIZES | options), path=path).double()
    memory.load_state_dict(titans.state_dict())
    return titans, memory


def slopes(memory: InnerMuon, x: Tensor) -> list[Tensor]:
    """Of a random weighting of the outputs; zero for what "first-order" cuts off."""
    y, _ = memory(x)
    weighted = (y * draw(*y.shape, seed=3)).sum()
    return torch.autograd.grad(weighted, list(memory.parameters()), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("path", ["reference", "chunked"])
@pytest.mark.parametrize("chunk", [1, 4, 32])
@pytest.mark.parametrize("more", [{"layers": 1}, {"layers": 2, "retention": False}, {"norm": True, "residual": True}])
def test_with_sgd_it_is_titans(path, chunk, more):
    titans, memory = pair(path, "sgd", chunk=chunk, **more)
    x = draw(2, 11, 8)
    torch.testing.assert_close(memory(x)[0], titans(x)[0], **CLOSE)
    same_gradients(memory, titans, x)
    whole, parts = titans(x)[1].neural, memory(x)[1].neural
    torch.testing.assert_close(dict(parts.memory), dict(whole.memory), **CLOSE)


@pytest.mark.parametrize("chunk", [1, 4, 32])
@pytest.mark.parametrize("more", [{"layers": 1}, {"layers": 2, "retention": False}, {"stop_gradient": "first-order"}])
def test_the_chunked_path_is_the_reference(chunk, more):
    _, by_token = pair("reference", "muon", chunk=chunk, **more)
    _, at_once = pair("chunked", "muon", chunk=chunk, **more)
    x = draw(2, 11, 8)
    torch.testing.assert_close(at_once(x)[0], by_token(x)[0], **CLOSE)
    # Newton-Schulz makes the rounding of a direction that is nearly empty 500 times larger.
    for a, b in zip(slopes(at_once, x), slopes(by_token, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def newton_schulz_by_hand(G: Tensor) -> Tensor:
    """Five quintic steps of Jordan's, on one matrix."""
    X = G / G.square().sum().sqrt().clamp(min=1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = 3.4445 * X - 4.7750 * A @ X + 2.0315 * A @ A @ X
    return X


@pytest.mark.parametrize("path", ["reference", "chunked"])
def test_one_matrix_by_hand(path):
    """The equations for one head of one layer, a token at a time, with the gradient of a matrix written out."""
    memory = InnerMuon(InnerMuonConfig(4, 1, layers=1, chunk=3, conv=0, persistent=0), path=path).double()
    q, k, v = (draw(1, 1, 8, 4, seed=i) for i in range(3))
    step, keep = (draw(1, 1, 8, seed=i).sigmoid() for i in (3, 4))
    y, state = memory.neural.learn(q, k, v, Gates(step, None, keep.log()), memory.neural.init_state(1))
    M = memory.neural.start["W1"][0]
    for t in range(8):
        if t % 3 == 0:
            anchor, U, size, kept = M, torch.zeros(4, 4, dtype=torch.float64), 0.0, 1.0
        error = k[0, 0, t] @ anchor - v[0, 0, t]
        U = keep[0, 0, t] * U + step[0, 0, t] * torch.outer(k[0, 0, t], error)
        size = keep[0, 0, t] * size + step[0, 0, t]
        kept = keep[0, 0, t] * kept
        M = kept * anchor - size * newton_schulz_by_hand(U)
        torch.testing.assert_close(y[0, 0, t], q[0, 0, t] @ M, **CLOSE)
    torch.testing.assert_close(state.memory["W1"][0, 0], M, **CLOSE)


def test_a_text_may_be_cut_inside_a_chunk():
    _, memory = pair("chunked", "muon", chunk=8, layers=1)
    x = draw(2, 11, 8)
    first, state = memory(x[:, :3])  # after three persistent tokens, the sixth of a chunk
    second, _ = memory(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), memory(x)[0], **CLOSE)


def written(order: list[int], values: float = 1.0) -> Tensor:
    """What six pairs of one chunk, written in that order with equal steps, leave in a memory that begins empty."""
    memory = InnerMuon(InnerMuonConfig(12, 1, layers=1, chunk=6, conv=0, persistent=0, retention=False)).double()
    memory.neural.start["W1"].data.zero_()
    k, v = draw(1, 1, 6, 12, seed=5)[:, :, order], values * draw(1, 1, 6, 12, seed=6)[:, :, order]
    gates = Gates(torch.full((1, 1, 6), 0.25, dtype=torch.float64), None, None)
    _, state = memory.neural.learn(k, k, v, gates, memory.neural.init_state(1))
    return state.memory["W1"][0, 0]


def test_a_chunk_is_a_set_and_its_write_is_as_long_as_its_steps_and_not_as_its_errors():
    W = written([0, 1, 2, 3, 4, 5])
    torch.testing.assert_close(written([3, 0, 5, 1, 4, 2]), W, **CLOSE)
    torch.testing.assert_close(written([0, 1, 2, 3, 4, 5], values=50.0), W, **CLOSE)
    lengths = torch.linalg.svdvals(W)  # six pairs, six directions
    assert 0.6 * 1.5 < lengths[5] <= lengths[0] < 1.3 * 1.5  # 1.5: six steps of 0.25
    assert lengths[6] < 1e-9


def test_what_it_refuses():
    for options in ({"momentum": True}, {"bias": True}):
        with pytest.raises(CourseError, match="no momentum and no biases"):
            InnerMuonConfig(8, 2, **options)
    with pytest.raises(CourseError, match="moun"):
        InnerMuonConfig(8, 2, inner_optimizer="moun")
    _, memory = pair("auto", "muon")
    with pytest.raises(CourseError, match="a chunk is written as one step"), ablated(memory, inner_steps=2):
        pass
    with pytest.raises(CourseError, match="InnerMuon is not written as attention"):
        as_attention(memory, draw(1, 4, 8))


def test_an_ablation_of_its_inputs_holds():
    _, memory = pair("auto", "muon")
    x = draw(1, 6, 8)
    y = memory(x)[0]
    with ablated(memory, sign=-1):
        climbed = memory(x)[0]
    assert not torch.allclose(climbed, y)
    torch.testing.assert_close(memory(x)[0], y, **CLOSE)
