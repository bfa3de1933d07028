"""What the oracles of whole layers are made of: functions of one row, written out, and the comparison with a layer.

An oracle takes a layer's weights by their names and nothing else from nl_course. It reads one text a token at a time,
so that no mask, chunk or cut can be wrong in the same way as in the layer. A token is a row (d,), a head's share of it
(f,). A linear map W is (out, in), as torch keeps it: x W^T.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
EPSILON = 1e-6  # of every norm, and under the root of |k|
CLOSE = dict(rtol=1e-10, atol=1e-10)


# -- functions of one row ----------------------------------------------------------------------------------------------
def silu(u: Tensor) -> Tensor:
    return u / (1 + torch.exp(-u))


def gelu(u: Tensor) -> Tensor:
    return u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3))) / 2


ACTIVATIONS = {"silu": silu, "gelu": gelu}


def rms_norm(u: Tensor, gain: Tensor) -> Tensor:
    return gain * u / torch.sqrt((u * u).mean() + EPSILON)


def layer_norm(u: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    centered = u - u.mean()
    return gain * centered / torch.sqrt((centered * centered).mean() + EPSILON) + shift


def unit(u: Tensor) -> Tensor:
    return u / torch.sqrt((u * u).sum() + EPSILON)


def turned(u: Tensor, position: int, theta: float | None) -> Tensor:
    """Rotary position: features 2i and 2i + 1 are a point, turned by position * theta^(-2i / f)."""
    if theta is None:
        return u
    f = len(u)
    out = []
    for i in range(f // 2):
        angle = torch.tensor(position * theta ** (-2 * i / f), dtype=u.dtype)
        out.append(u[2 * i] * angle.cos() - u[2 * i + 1] * angle.sin())
        out.append(u[2 * i] * angle.sin() + u[2 * i + 1] * angle.cos())
    return torch.stack(out)


def heads_of(row: Tensor, heads: int) -> list[Tensor]:
    """A row cut into as many equal parts."""
    f = len(row) // heads
    return [row[h * f : (h + 1) * f] for h in range(heads)]


def convolved(u: Tensor, before: list[Tensor], taps: Tensor, bias: Tensor | None) -> Tensor:
    """One row u after the last rows `before` (oldest first, moved on in place): taps (d, kernel), u's own tap last."""
    seen = [*before, u]
    before[:] = seen[1:]
    y = torch.zeros_like(u) if bias is None else bias
    for i, row in enumerate(seen):
        y = y + taps[:, i] * row
    return y


def softmax_read(scores: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The mean of the values, weighed by exp(score)."""
    shares = torch.stack(list(scores)).softmax(0)
    return shares @ torch.stack(list(values))


# -- a layer beside its oracle -----------------------------------------------------------------------------------------
def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(layer: torch.nn.Module, spread: float = 0.2) -> torch.nn.Module:
    """The layer in float64, with no weight left at its start."""
    generator = torch.Generator().manual_seed(9)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def read_batch(oracle: Callable[[Tensor], tuple[Tensor, dict]], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch of texts x (b, t, d), each by itself: outputs (b, t, d), and the state by name with the batch first."""
    outputs = []
    states = []
    for text in x:
        y, state = oracle(text)
        outputs.append(y)
        states.append(state)
    together = {part: torch.stack([state[part] for state in states]) for part in states[0]}
    return torch.stack(outputs), together


def in_pieces(layer: torch.nn.Module, x: Tensor, pieces: Sequence[int]) -> tuple[Tensor, object]:
    """The layer's outputs for x read in these pieces, and its last state."""
    outputs = []
    state = None
    for piece in x.split(list(pieces), dim=1):
        y, state = layer(piece, state)
        outputs.append(y)
    assert state.position == x.shape[1]
    return torch.cat(outputs, dim=1), state


def gradients(layer: torch.nn.Module, x: Tensor, y: Tensor, state: Weights) -> dict[str, Tensor]:
    """Of a sum of all outputs and all numbers of the state, each times a number of its own, by x and every weight."""
    total = (y * draw(1, *y.shape)).sum()
    for i, name in enumerate(sorted(state)):
        total = total + (state[name] * draw(2 + i, *state[name].shape)).sum()
    variables = {"x": x, **dict(layer.named_parameters())}
    return dict(zip(variables, torch.autograd.grad(total, list(variables.values()), materialize_grads=True)))


def compare(found: Weights, expected: Weights) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def assert_is_its_equations(
    layer: torch.nn.Module,
    oracle: Callable[[Tensor], tuple[Tensor, dict]],
    x: Tensor,
    splits: Sequence[Sequence[int]],
    tensors: Callable[[object], Weights],
    silent: bool = False,
) -> None:
    """Outputs, state and gradients by x and by every weight are the oracle's, in each of these splits.

    `oracle(text)`: outputs (t, d) and the state by name; `tensors(state)`: the layer's state by the same names.
    `silent`: some weight may have a gradient of zero; otherwise none hides behind one."""
    x = x.clone().requires_grad_()
    y, state = read_batch(oracle, x)
    expected = gradients(layer, x, y, state)
    if not silent:
        for name, gradient in expected.items():
            assert gradient.abs().max() > 1e-6, f"{name} has no gradient: what the layer does with it is not seen"
    for number, pieces in enumerate(splits):
        # Without autograd a layer takes other paths: caches grow in place.
        with torch.set_grad_enabled(number % 2 == 0):
            found, found_state = in_pieces(layer, x, pieces)
            found_tensors = tensors(found_state)
        torch.testing.assert_close(found, y, **CLOSE)
        compare(found_tensors, state)
        if found.requires_grad:
            compare(gradients(layer, x, found, found_tensors), expected)
