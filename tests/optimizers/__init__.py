"""Small problems that the tests of the optimizers share."""

import torch
from torch import Tensor

EXACT = dict(rtol=1e-10, atol=1e-10)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(random(*shape, seed=seed, dtype=dtype))


def run(optimizer: torch.optim.Optimizer, params: list[Tensor], gradients: list[list[Tensor]]) -> None:
    """Steps with given gradients: one list of them a step, one tensor a parameter."""
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()


def state_elements(optimizer: torch.optim.Optimizer) -> int:
    """How many numbers an optimizer's state holds, counters aside."""
    total = 0
    for state in optimizer.state.values():
        total += sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    return total
