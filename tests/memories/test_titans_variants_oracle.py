"""MAC, MAG and MAL as whole layers, beside oracles written out from the paper's equations."""

from dataclasses import fields

import pytest

from nl_course.memories import build_memory
from tests.memories.by_hand import assert_is_its_equations, draw, moved
from tests.memories.titans_variants_oracle import LAYERS, Options

WIDTH, TOKENS, ROWS = 8, 11, 2
# Several segments and windows, chunks that end elsewhere, every part on; the other sets change one kind of thing each.
SETS = {
    "all-parts": dict(heads=2, expansion=2, chunk=4, conv=3, persistent=3, segment=5, window=3),
    "bare": dict(
        heads=2, layers=1, chunk=1, conv=0, persistent=0, momentum=False, retention=False, rope_theta=None, segment=4
    )
    | dict(window=2, attention_residual=False, gate="vectors"),
    "inner-parts": dict(heads=1, layers=3, expansion=1, activation="gelu", norm=True, residual=True, bias=True)
    | dict(chunk=3, conv=2, persistent=1, segment=3, window=4, max_step=0.3),
    "nothing-ends": dict(heads=2, expansion=1, chunk=64, conv=4, persistent=2, segment=64, window=64)
    | dict(attention_residual=False),
    "first-order": dict(heads=2, expansion=2, chunk=3, conv=2, persistent=2, segment=4, window=5)
    | dict(stop_gradient="first-order", momentum=False, gate="vectors"),
}
SPLITS = ([TOKENS], [1] * TOKENS, [3, 1, 5, 2], [4, 0, 6, 1])

every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str, options: dict, path: str = "auto"):
    """The layer, and its oracle."""
    others = {"mac": ("window",), "mag": ("segment",), "mal": ("segment", "gate")}[name]
    own = {option: value for option, value in options.items() if option not in (*others, "heads")}
    layer = moved(build_memory(name, WIDTH, options["heads"], path, **own))
    weights = dict(layer.named_parameters())
    return layer, lambda text: LAYERS[name](weights, Options(**options), text)


def check(layer, oracle, splits, silent=False):
    x = draw(0, ROWS, TOKENS, WIDTH)
    assert_is_its_equations(layer, oracle, x, splits, lambda state: state.tensors(), silent)


@pytest.mark.parametrize("options", SETS)
@every_layer
def test_the_layer_is_its_equations_in_any_split_values_state_and_gradients(name, options):
    # What surprises are made of has no gradient where the outer loop takes them for constants.
    check(*make(name, SETS[options]), SPLITS, silent=options == "first-order")


@every_layer
def test_the_reference_path_is_its_equations(name):
    check(*make(name, SETS["all-parts"], "reference"), [[6, 5]])


def test_the_oracles_options_are_those_of_the_layers():
    """An option that the layers gain must be written into the oracles too."""
    known = {field.name for field in fields(Options)}
    of_layers = set()
    for name in LAYERS:
        layer, _ = make(name, SETS["all-parts"])
        of_layers |= {field.name for field in fields(layer.config)}
    assert of_layers - {"width"} == known
