"""What every memory must do on an accelerator as it does on the CPU, one function per property: it takes a `Case` and
the name of a device. `make gpu` runs all of them on every memory of the course. In the tests, where there is no GPU,
the device is the CPU itself, so that the properties are known to hold there, and to notice a memory that breaks them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.memories import Memory, State
from nl_course.suite.case import TOKENS, Case, assert_close, assert_same_state, build, inputs, read_in_pieces, require
from nl_course.suite.properties import relative_error

FIRST = 5  # tokens read before a state is taken
SUMS = 1e-8  # by which float64 may differ between devices: sums come out in another order
SINGLE = 1e-4  # the band of float32, of the largest output


def same_values(case: Case, device: str) -> None:
    """In float64 the device gives the CPU's outputs and the CPU's state."""
    exact, exact_state = build(case)(inputs())
    y, state = build(case, device=device)(inputs(device=device))
    assert_close(y.cpu(), exact, f"on {device}", SUMS)
    assert_same_state(state.to("cpu"), exact_state, SUMS)


@torch.no_grad()
def same_in_pieces(case: Case, device: str) -> None:
    """Without autograd, where a cache may grow in place, pieces give on the device what the whole gives on the CPU."""
    exact, exact_state = build(case)(inputs())
    y, state = read_in_pieces(build(case, device=device), inputs(device=device), [4, 1, 6])
    assert_close(y.cpu(), exact, f"in pieces on {device}", SUMS)
    assert_same_state(state.to("cpu"), exact_state, SUMS)


def same_gradients(case: Case, device: str) -> None:
    """In float64 the device gives the CPU's gradients by x and by every parameter."""
    expected = _gradients(case, "cpu")
    ours = _gradients(case, device)
    for name, gradient in ours.items():
        assert_close(gradient.cpu(), expected[name], f"on {device}, the gradient by {name}", 10 * SUMS)


def _gradients(case: Case, device: str) -> dict[str, Tensor]:
    """The gradients of a weighted sum of the outputs, by the names of what it is differentiated by."""
    memory = build(case, device=device)
    x = inputs(device=device).requires_grad_()
    names = ["x", *(name for name, _ in memory.named_parameters())]
    y, _ = memory(x)
    direction = _direction(y)
    gradients = torch.autograd.grad((y * direction).sum(), [x, *memory.parameters()])
    return dict(zip(names, gradients, strict=True))


def _direction(y: Tensor) -> Tensor:
    """Weights for a sum of outputs, the same numbers on every device: a plain sum is blind to a changed order."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)


def low_precision(case: Case, device: str) -> None:
    """On the device float32 and bfloat16 stay in their bands around the CPU's float64."""
    exact, _ = build(case)(inputs())
    # Convolutions may round float32 to 10 bits of fraction on a GPU unless they are told not to.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for dtype, band in ((torch.float32, SINGLE), (torch.bfloat16, case.bf16_band)):
            y, state = build(case, dtype, device)(inputs(dtype=dtype, device=device))
            require(y.dtype == dtype, f"on {device} x of {dtype} gives y of {y.dtype}")
            _in_band(y, exact, band, f"in {dtype} on {device}")
            _finite(state, f"in {dtype} on {device}")


def autocast(case: Case, device: str) -> None:
    """Inside of autocast, weights in float32 give outputs in the band of bfloat16, and gradients that are finite."""
    exact, _ = build(case)(inputs())
    memory = build(case, torch.float32, device)
    x = inputs(dtype=torch.float32, device=device).requires_grad_()
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        y, state = memory(x)
    _in_band(y, exact, case.bf16_band, f"inside of autocast on {device}")
    _finite(state, f"inside of autocast on {device}")
    gradients = torch.autograd.grad((y.float() * _direction(y.float())).sum(), [x, *memory.parameters()])
    bad = sum(not gradient.isfinite().all() for gradient in gradients)
    require(not bad, f"inside of autocast on {device} {bad} gradients hold numbers that are not finite")


@torch.no_grad()
def states_travel(case: Case, device: str) -> None:
    """A state goes on exactly where it is taken: from the CPU to the device, back, and through a file."""
    memory, there = build(case), build(case, device=device)
    x, x_there = inputs(), inputs(device=device)
    expected, expected_state = memory(x)
    _, state = memory(x[:, :FIRST])
    _, state_there = there(x_there[:, :FIRST])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.safetensors"
        state_there.save(file)
        from_file, from_file_there = State.load(file), State.load(file, device)
    routes = {
        f"from the CPU to {device}": (there, x_there, state.to(device)),
        f"from {device} to the CPU": (memory, x, state_there.to("cpu")),
        f"from {device} through a file to the CPU": (memory, x, from_file),
        f"from {device} through a file back": (there, x_there, from_file_there),
    }
    for route, (reader, text, taken) in routes.items():
        y, after = reader(text[:, FIRST:], taken)
        assert_close(y.cpu(), expected[:, FIRST:], f"a state {route}", SUMS)
        assert_same_state(after.to("cpu"), expected_state, SUMS)


@torch.no_grad()
def mixed_states(case: Case, device: str) -> None:
    """A state that was filled inside of autocast is read on outside of it, and the other way round, in the band of
    bfloat16; a state that was rounded to bfloat16 is read on in float32 as well."""
    exact, _ = build(case)(inputs())
    memory, x = build(case, torch.float32, device), inputs(dtype=torch.float32, device=device)
    kind = torch.device(device).type
    begin, rest = x.split([FIRST, TOKENS - FIRST], dim=1)
    _, outside = memory(begin)
    with torch.autocast(kind, torch.bfloat16):
        _, inside = memory(begin)
        y = _read(memory, rest, outside, "inside of autocast a state from outside")
    _in_band(y, exact[:, FIRST:], case.bf16_band, "inside of autocast, after a state from outside")
    y = _read(memory, rest, inside, "outside of autocast a state from inside")
    _in_band(y, exact[:, FIRST:], case.bf16_band, "outside of autocast, after a state from inside")
    y = _read(memory, rest, outside.to(torch.bfloat16), "in float32 a state that was rounded to bfloat16")
    _in_band(y, exact[:, FIRST:], case.bf16_band, "in float32, after a state that was rounded to bfloat16")


def _read(memory: Memory, x: Tensor, state: State, what: str) -> Tensor:
    try:
        return memory(x, state)[0]
    except Exception as error:
        require(False, f"{what} cannot be read: {type(error).__name__}: {error}")
        raise


def _in_band(y: Tensor, exact: Tensor, band: float, where: str) -> None:
    """Raises where y is off by more than `band` of the largest exact output, or not finite."""
    require(bool(y.isfinite().all()), f"{where} the output holds numbers that are not finite")
    error = relative_error(y, exact)
    require(error < band, f"{where} the output is off by {error:.2g} of the largest, more than {band:g}")


def _finite(state: State, where: str) -> None:
    """Raises where a state holds numbers that are not finite."""
    finite = all(t.isfinite().all() for t in state.tensors().values() if t.is_floating_point())
    require(finite, f"{where} the state holds numbers that are not finite")


class DeviceProperty(NamedTuple):
    """A property's name, as a statement, and the function that raises where it does not hold on a device."""

    name: str
    holds: Callable[[Case, str], None]


DEVICE_PROPERTIES = (
    DeviceProperty("float64 gives the CPU's values", same_values),
    DeviceProperty("pieces without autograd give the same", same_in_pieces),
    DeviceProperty("float64 gives the CPU's gradients", same_gradients),
    DeviceProperty("fp32 and bf16 stay in their bands", low_precision),
    DeviceProperty("autocast stays in its band", autocast),
    DeviceProperty("a state travels exactly", states_travel),
    DeviceProperty("a state mixes precisions", mixed_states),
)
