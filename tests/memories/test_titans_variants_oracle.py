"""MAC, MAG and MAL as whole layers, beside oracles written out from the paper's equations."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from nl_course.memories import build_memory
from tests.memories.titans_variants_oracle import LAYERS, Options, read

WIDTH, TOKENS, ROWS = 8, 11, 2
CLOSE = dict(rtol=1e-10, atol=1e-10)
# Several segments and windows, chunks that end elsewhere, every part on; the other sets change one kind of thing each.
SETS = {
    "all-parts": dict(heads=2, expansion=2, chunk=4, conv=3, persistent=3, segment=5, window=3),
    "bare": dict(
        heads=2, layers=1, chunk=1, conv=0, persistent=0, momentum=False, retention=False, rope_theta=None, segment=4
    )
    | dict(window=2),
    "inner-parts": dict(heads=1, layers=3, expansion=1, activation="gelu", norm=True, residual=True, bias=True)
    | dict(chunk=3, conv=2, persistent=1, segment=3, window=4, max_step=0.3),
    "nothing-ends": dict(heads=2, expansion=1, chunk=64, conv=4, persistent=2, segment=64, window=64),
    "first-order": dict(heads=2, expansion=2, chunk=3, conv=2, persistent=2, segment=4, window=5)
    | dict(stop_gradient="first-order", momentum=False),
}
SPLITS = ([TOKENS], [1] * TOKENS, [3, 1, 5, 2], [4, 0, 6, 1])

every_layer = pytest.mark.parametrize("name", LAYERS)
every_set = pytest.mark.parametrize("options", SETS)


def make(name: str, options: dict, path: str = "auto"):
    """The layer, every weight of it away from its start, and the same options for the oracle."""
    torch.manual_seed(0)
    other = "window" if name == "mac" else "segment"
    own = {option: value for option, value in options.items() if option not in (other, "heads")}
    layer = build_memory(name, WIDTH, options["heads"], path, **own).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer, Options(**options)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_pieces(layer, x: Tensor, pieces: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    outputs = []
    state = None
    for piece in x.split(pieces, dim=1):
        y, state = layer(piece, state)
        outputs.append(y)
    assert state.position == x.shape[1]
    return torch.cat(outputs, dim=1), state.tensors()


def gradients(layer, x: Tensor, y: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a sum of all outputs and all numbers of the state, each times a number of its own, by x and every weight."""
    total = (y * draw(1, *y.shape)).sum()
    for i, name in enumerate(sorted(state)):
        total = total + (state[name] * draw(2 + i, *state[name].shape)).sum()
    variables = {"x": x, **dict(layer.named_parameters())}
    return dict(zip(variables, torch.autograd.grad(total, list(variables.values()), materialize_grads=True)))


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@every_set
@every_layer
def test_the_layer_is_its_equations_in_any_split_values_state_and_gradients(name, options):
    layer, o = make(name, SETS[options])
    x = draw(0, ROWS, TOKENS, WIDTH).requires_grad_()
    y, state = read(name, dict(layer.named_parameters()), o, x)
    expected = gradients(layer, x, y, state)
    if o.stop_gradient == "none":
        # No weight hides behind a gradient of zero: whatever the layer does with it is seen.
        assert min(gradient.abs().max() for gradient in expected.values()) > 1e-6
    for number, pieces in enumerate(SPLITS):
        # Without autograd a layer takes other paths: caches grow in place.
        with torch.set_grad_enabled(number % 2 == 0):
            found, found_state = in_pieces(layer, x, pieces)
        torch.testing.assert_close(found, y, **CLOSE)
        compare(found_state, state)
        if found.requires_grad:
            compare(gradients(layer, x, found, found_state), expected)


@every_layer
def test_the_reference_path_is_its_equations(name):
    layer, o = make(name, SETS["all-parts"], "reference")
    x = draw(0, ROWS, TOKENS, WIDTH).requires_grad_()
    y, state = read(name, dict(layer.named_parameters()), o, x)
    found, found_state = in_pieces(layer, x, [6, 5])
    torch.testing.assert_close(found, y, **CLOSE)
    compare(found_state, state)
    compare(gradients(layer, x, found, found_state), gradients(layer, x, y, state))


def test_the_oracles_options_are_those_of_the_layers():
    """An option that the layers gain must be written into the oracles too."""
    known = {field.name for field in fields(Options)} - {"around"}
    of_layers = set()
    for name in LAYERS:
        layer, _ = make(name, SETS["all-parts"])
        of_layers |= {field.name for field in fields(layer.config)}
    assert of_layers - {"width"} == known
