import pytest
import torch

from nl_course.memories.gate import gated
from nl_course.memories.inner import ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gate_multiplies(activation):
    y, gate = (torch.linspace(-3, 3, 7, dtype=torch.float64).roll(i).requires_grad_() for i in (0, 2))
    torch.testing.assert_close(gated(y, gate, activation), y * ACTIVATIONS[activation].value(gate))
    assert torch.autograd.gradcheck(lambda y, g: gated(y, g, activation), (y, gate))
    assert torch.autograd.gradgradcheck(lambda y, g: gated(y, g, activation), (y, gate))
