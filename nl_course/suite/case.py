"""One memory under test, built small, and the inputs that every property reads. In float64 unless a property says
otherwise, so that "equal" means equal to 1e-10."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nl_course.memories import Memory, State, tree
from nl_course.seeding import seeded

TOKENS = 11  # in a text: long enough to overflow the small windows that are tested, and no multiple of any chunk
WIDTH = 8  # features of a token
CLOSE = dict(rtol=1e-10, atol=1e-10)


@dataclass(frozen=True)
class Case:
    """One memory to be tested: `make()` builds it small, of width 8. `grows` says that its state may grow with the
    text; `bf16_band` is the largest error of a bf16 run that the memory promises, relative to the largest output; a
    state whose size comes again every few tokens does so with that `period`. `compiles` False leaves torch.compile out:
    one case per memory is enough, and autograd inside autograd, as in the reference paths, it cannot follow."""

    name: str
    make: Callable[[], Memory]
    grows: bool = False
    bf16_band: float = 0.05
    period: int = 1
    compiles: bool = True


class Broken(AssertionError):
    """A property does not hold; the message says what was seen."""


def require(holds: bool, otherwise: str) -> None:
    """Raises Broken, saying `otherwise`, where something does not hold."""
    if not holds:
        raise Broken(otherwise)


def build(case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu", scale: float = 1.5) -> Memory:
    """The case's memory with every parameter moved away from its start, the same each time: a start at which
    something is zero would hide half of what is tested."""
    with seeded(0):
        memory = case.make().to(torch.float64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in memory.parameters():
            # Drawn in float64 on the CPU, so that every dtype and device is given the same numbers.
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.2 * scale * noise)
    return memory.to(device, dtype)


def inputs(tokens: int = TOKENS, rows: int = 2, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """(rows, tokens, 8), normal, the same every time."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, tokens, WIDTH, generator=generator, dtype=torch.float64).to(device, dtype)


def read_in_pieces(memory: Memory, x: Tensor, pieces: list[int], state: State | None = None) -> tuple[Tensor, State]:
    """x (B, T, D) read in pieces of so many tokens: y (B, T, D) of all pieces joined, and the last state."""
    outputs = []
    for piece in x.split(pieces, dim=1):
        y, state = memory(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state  # (B, T, D)


def assert_same_state(left: State, right: State, tolerance: float = 1e-10) -> None:
    """Raises where the states hold other tensors, or tensors that differ by more than `tolerance`."""
    of_left, of_right = left.tensors(), right.tensors()
    require(of_left.keys() == of_right.keys(), f"one state holds {sorted(of_left)}, the other {sorted(of_right)}")
    for name, tensor in of_left.items():
        assert_close(tensor, of_right[name], f"state, {name}", tolerance)


def assert_close(left: Tensor, right: Tensor, what: str, tolerance: float = 1e-10) -> None:
    """Raises, saying `what` differs, where two tensors do by more than `tolerance`."""
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what}: {text}")


def describe(state: State) -> dict[str, Any]:
    """What a state holds by its dotted path, for exact comparison: numbers and strings (positions, counters) as they
    are, of each tensor its shape alone."""
    ends = tree.leaves(state, is_leaf=lambda value: not tree.is_node(value))
    return {path: tuple(end.shape) if isinstance(end, Tensor) else end for path, end in ends}
