"""The arithmetic of an inner model's weights, and that states and torch's trees keep their type."""

from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

from nl_course.memories import State
from nl_course.memories.common.weights import Weights


def draw(seed: int) -> Weights:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"W1": (2, 3, 4, 5), "b1": (2, 3, 1, 5)}
    return Weights({name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()})


def test_sums_differences_and_scales_go_name_by_name():
    M, S = draw(1), draw(2)
    eta = torch.rand(2, 3, 1, 1, dtype=torch.float64)
    moved = eta * M - 0.5 * S + M
    assert type(moved) is Weights
    for name in M:
        torch.testing.assert_close(moved[name], eta * M[name] - 0.5 * S[name] + M[name], rtol=0, atol=0)


def test_the_norm_is_that_of_all_weights_of_a_head():
    M = draw(1)
    flat = torch.cat([w.flatten(2) for w in M.values()], dim=2)
    torch.testing.assert_close(M.norm(), flat.norm(dim=2))


@dataclass(frozen=True)
class WeightsTestState(State):
    """A state that holds weights."""

    memory: dict


def test_a_state_keeps_them_weights_when_mapped_saved_and_loaded(tmp_path):
    state = WeightsTestState(draw(1))
    assert type(state.detach().memory) is Weights
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors")
    assert type(loaded.memory) is Weights
    assert all(torch.equal(loaded.memory[name], w) for name, w in state.memory.items())


def test_torchs_trees_see_the_tensors_inside():
    M = draw(1)
    assert len(pytree.tree_leaves(M)) == 2
    gradient = torch.func.grad(lambda W: sum(w.square().sum() for w in W.values()))(M)
    assert type(gradient) is Weights
    torch.testing.assert_close(gradient["W1"], 2 * M["W1"])
