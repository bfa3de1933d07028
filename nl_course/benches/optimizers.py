"""The time of a step of each optimizer, on the matrices of a model of 4 layers at width 256, float32, gradients given.

M3 may cost twice Muon's step: both make one matrix orthogonal per step, M3 a second one every `slow_every` steps, and
M3 keeps three further buffers. torch's Muon takes 5 Newton-Schulz steps in bfloat16. Ours takes as many as the shape
needs (`steps_for`: 5 to 9 here), in float32 on a CPU; with torch's settings it has a row of its own.
"""

from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from nl_course.benches.measure import in_turn, ratio
from nl_course.optimizers import M3, Adam, DeepMomentum, DeltaMomentum, Momentum, Muon

WIDTH, LAYERS, HIDDEN = 256, 4, 704
SHAPES = [*[(WIDTH, WIDTH)] * 4, *[(HIDDEN, WIDTH)] * 2, (WIDTH, HIDDEN)] * LAYERS
SLOW = 10  # M3's period here, so that every round holds a slow step
TORCHS = dict(ns_steps=5, precision="bf16")
CASES: dict[str, Callable] = {
    "momentum": Momentum,
    "Adam": Adam,
    "AdamW (torch)": torch.optim.AdamW,
    "delta momentum": DeltaMomentum,
    "deep momentum, width 64": lambda params: DeepMomentum(params, width=64),
    "Muon": Muon,
    "M3": lambda params: M3(params, slow_every=SLOW),
    "M3, printed": lambda params: M3(params, slow_every=SLOW, mode="printed"),
    "Muon (torch)": torch.optim.Muon,
    "Muon, torch's settings": lambda params: Muon(params, **TORCHS),
    "M3, torch's settings": lambda params: M3(params, slow_every=SLOW, **TORCHS),
}


def parameters() -> list[nn.Parameter]:
    """The matrices, each with a gradient."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in SHAPES]
    for p in params:
        p.grad = 0.01 * torch.randn(p.shape, generator=generator)
    return params


def rows(rounds: int = 5) -> list[dict]:
    """A row per optimizer: milliseconds per step, its ratio to both Muons, and the bytes of its state."""
    optimizers = {name: build(parameters()) for name, build in CASES.items()}
    times = in_turn({name: _steps(optimizer) for name, optimizer in optimizers.items()}, rounds)
    table = []
    for name, optimizer in optimizers.items():
        row = {
            "name": name,
            "ms a step": 1e3 * median(times[name]) / SLOW,
            "times Muon": ratio(times, name, "Muon"),
            "times torch's Muon": ratio(times, name, "Muon (torch)"),
            "state, bytes": state_bytes(optimizer),
        }
        table.append(row)
    return table


def _steps(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """One round: as many steps as M3's period."""

    def run() -> None:
        for _ in range(SLOW):
            optimizer.step()

    return run


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors that the optimizer keeps."""
    total = 0
    for state in optimizer.state.values():
        total += sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, torch.Tensor))
    return total
