import pytest
import torch
from torch import nn

from nl_course.memories.common.gate import gated_norm
from nl_course.memories.common.inner_model import ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_the_norm_times_the_gate(activation):
    generator = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(4, eps=1e-6).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    z, gate = (torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))

    def run(z, gate, gain, shift):
        given = dict(weight=gain, bias=shift)
        return torch.func.functional_call(
            Gated(norm, activation), {f"norm.{n}": p for n, p in given.items()}, (z, gate)
        )

    torch.testing.assert_close(gated_norm(norm, z, gate, activation), norm(z) * ACTIVATIONS[activation].value(gate))
    given = (z, gate, *norm.parameters())
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


class Gated(nn.Module):
    def __init__(self, norm: nn.LayerNorm, activation: str):
        super().__init__()
        self.norm, self.activation = norm, activation

    def forward(self, z, gate):
        return gated_norm(self.norm, z, gate, self.activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_gate_in_half_precision_has_the_gradients_of_its_values(activation):
    """Inside of autocast z is in float32 and the gate in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(4, eps=1e-6)
    z, gate = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    half = gate.to(torch.bfloat16)

    def gradients(gate):
        variables = (z.requires_grad_(), gate.requires_grad_(), *norm.parameters())
        return torch.autograd.grad(gated_norm(norm, *variables[:2], activation).square().sum(), variables)

    for ours, expected in zip(gradients(half.detach()), gradients(half.detach().float()), strict=True):
        torch.testing.assert_close(ours.float(), expected, rtol=0.02, atol=0.02)
