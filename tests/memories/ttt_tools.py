"""Small TTT layers for the tests, with nothing left at its start value."""

from dataclasses import replace

import torch
from torch import Tensor

from nl_course.memories import TTT, TTTConfig
from nl_course.memories.ttt.layer import TTTState

CLOSE = dict(rtol=1e-10, atol=1e-10)
GRADIENTS = dict(rtol=1e-8, atol=1e-8)
KINDS, BACKBONES = ("linear", "mlp"), ("mamba", "transformer")


def layer(kind: str = "linear", path: str = "auto", width: int = 8, heads: int = 2, spread=0.3, **options) -> TTT:
    """A float64 layer, the same for the same arguments; parameters moved from their start by `spread`."""
    torch.manual_seed(0)
    memory = TTT(TTTConfig(width, heads, kind=kind, **options), path=path).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return memory


def twin(memory: TTT, path: str = "auto", **options) -> TTT:
    """The same weights in a layer with another path or other options."""
    other = TTT(replace(memory.config, **options), path=path).double()
    other.load_state_dict(memory.state_dict())
    return other


def draw(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(memory: TTT, x: Tensor, seed: int = 3) -> list[Tensor]:
    """Of a random weighting of the outputs, with respect to x and every parameter."""
    x = x.clone().requires_grad_()
    y, _ = memory(x)
    return torch.autograd.grad((y * draw(*y.shape, seed=seed)).sum(), [x, *memory.parameters()])


def same_gradients(one: TTT, other: TTT, x: Tensor) -> None:
    names = ["x", *(name for name, _ in one.named_parameters())]
    for name, a, b in zip(names, gradients(one, x), gradients(other, x), strict=True):
        torch.testing.assert_close(a, b, **GRADIENTS, msg=lambda m, n=name: f"{n}: {m}")


def bare(kind: str = "linear", zero: bool = True, **options) -> TTT:
    """A layer whose inner model has no norm and, unless asked for, no residual path; it starts from zero and turns
    nothing. Its `learn` below takes queries, keys, values and rates as they are."""
    options = dict(norm=False, residual=False, rope_theta=None, position_factor="sum") | options
    memory = layer(kind, backbone="transformer", **options)
    if zero:
        with torch.no_grad():
            for weight in memory.start.values():
                weight.zero_()
    return memory


def learn(memory: TTT, q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> tuple[Tensor, TTTState]:
    """The inner loop alone: z (b, h, t, f) for q, k, v (b, h, t, f) and rate (b, h, t), and the state after it."""
    return memory.learn(q, k, v, rate, memory.init_state(q.shape[0]))
