"""Ours against other people's implementations, on the same weights. `make peers` builds the environment and runs this;
elsewhere, without their packages, each file is skipped in one line.

Most of their code computes rotary angles, norms and softmax in float32 whatever the weights' dtype. Where it does, the
weights are float64 here all the same (so that our own rounding is out of the picture) and the tolerance is theirs."""

import importlib.util
from importlib.metadata import PackageNotFoundError, files
from types import ModuleType

import pytest
import torch
from torch import Tensor

FLOAT32 = dict(rtol=2e-5, atol=1e-5)  # for numbers of order 1


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def from_file(package: str, path: str) -> ModuleType:
    """One file of an installed package as a module by itself. Importing the package would ask for a GPU's compiler."""
    try:
        found = next(f for f in files(package) if str(f) == path)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed; `make peers` does it.", allow_module_level=True)
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), found.locate())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moved(module: torch.nn.Module, seed: int = 1, scale: float = 0.3) -> torch.nn.Module:
    """The module in float64, every parameter moved away from its start, so that a norm's weight is not 1."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def pairs_from_halves(weight: Tensor, heads: int) -> Tensor:
    """A query or key projection (heads * d, width) made for rotary halves (feature i turns with i + d / 2), its rows in
    the order that neighbouring pairs want (2 i with 2 i + 1)."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
