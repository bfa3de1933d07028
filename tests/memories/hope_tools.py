"""Small self-modifying layers for the tests, with nothing left at its start value."""

from dataclasses import replace

import torch
from torch import Tensor

from nl_course.memories import SelfModifying, SelfModifyingConfig
from nl_course.memories.ablations.gain import SharedGain

CLOSE = dict(rtol=1e-10, atol=1e-10)
GRADIENTS = dict(rtol=1e-8, atol=1e-8)
ALL = ("key", "value", "step", "retention", "memory")


def layer(path: str = "auto", spread: float = 0.3, width: int = 8, heads: int = 2, **options) -> SelfModifying:
    """A float64 layer, the same for the same arguments; parameters moved from their start by `spread`."""
    torch.manual_seed(0)
    memory = SelfModifying(SelfModifyingConfig(width, heads, **{"chunk": 4, "max_step": 0.3} | options), path=path)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in memory.double().parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return memory


def twin(memory: SelfModifying, path: str = "auto", **options) -> SelfModifying:
    """The same weights in a layer with another path or other options."""
    other = SelfModifying(replace(memory.config, **options), path=path).double()
    other.load_state_dict(memory.state_dict(), strict=False)
    return other


def by_gain(memory: SelfModifying) -> SharedGain:
    """The same weights in a layer that keeps one gain."""
    other = SharedGain(memory.config).double()
    other.load_state_dict(memory.state_dict())
    return other


def draw(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(memory: SelfModifying, x: Tensor) -> dict[str, Tensor]:
    """Of a random weighting of the outputs, by name, with respect to x and every parameter; None is written as 0."""
    x = x.clone().requires_grad_()
    y, _ = memory(x)
    named = {"x": x, **dict(memory.named_parameters())}
    loss = (y * draw(*y.shape, seed=3)).sum()
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)))


def same(one: SelfModifying, other: SelfModifying, x: Tensor) -> None:
    """Outputs, memories after the last token, and gradients."""
    (y, state), (z, after) = one(x), other(x)
    torch.testing.assert_close(y, z, **CLOSE)
    same_weights(one.weights(state), other.weights(after))
    left, right = gradients(one, x), gradients(other, x)
    for name in left:
        torch.testing.assert_close(left[name], right[name], **GRADIENTS, msg=lambda m, n=name: f"{n}: {m}")


def same_weights(one: dict, other: dict) -> None:
    for name, own in one.items():
        for part, w in own.items():
            torch.testing.assert_close(w, other[name][part], **CLOSE, msg=lambda m, n=name, p=part: f"{n}.{p}: {m}")
