"""The cache-growth view: measured bytes beside counts by hand, the columns held, the picture, words and controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.text import encode
from nl_course.views.cache_growth import FROM, TEXT, WINDOW, CacheGrowth, build, compute, decode, draw, kinds

LAYERS, HEADS, WIDTH = 2, 4, 32
LAST = len(TEXT)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(width=WIDTH, layers=LAYERS, heads=HEADS, hidden=48)).eval()


@pytest.fixture
def view(model):
    return CacheGrowth(model, strict=True)


BY_HAND = {  # numbers kept for a token in one layer
    "multi-head": 2 * WIDTH,
    "grouped (2 heads share)": 2 * WIDTH // 2,
    "multi-query (all share)": 2 * WIDTH // 4,
    "latent": WIDTH // 2 + WIDTH // HEADS // 2,
    f"window of {WINDOW}": 2 * WIDTH,
}


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_by_hand(model, kind, dtype, size):
    decoded = decode(build(model, kind, dtype))
    held = np.arange(LAST + 1)
    if kind.startswith("window"):
        held = np.minimum(held, WINDOW)
    assert np.array_equal(decoded["held"], held)
    assert np.array_equal(decoded["filled"], held * LAYERS * BY_HAND[kind] * size)
    assert np.array_equal(decoded["formula"], decoded["filled"])
    assert (decoded["allocated"] >= decoded["filled"]).all()
    assert len(set(decoded["allocated"])) < 8  # grown by doubling, not token by token
    assert (decoded["seconds"][1:] > 0).all()


def test_the_grid_holds_the_keys_that_the_model_computes_at_once(model):
    decoded = decode(build(model, "multi-head", torch.float32))
    with torch.no_grad():
        _, state = model(encode(TEXT)[None])
    keys = state.layers[0].key.columns[0, 0].numpy().T
    assert np.allclose(decoded["kept"], keys, atol=1e-5)
    grid = compute(decoded, "multi-head", "attention", 10)["grid"]
    assert np.allclose(grid[:, :10], keys[:, :10], atol=1e-5) and np.isnan(grid[:, 10:]).all()


def test_a_window_forgets_its_oldest_columns(model):
    decoded = decode(build(model, f"window of {WINDOW}", torch.float32))
    grid = compute(decoded, "", "window", 20)["grid"]
    assert np.isnan(grid[0]).tolist() == [not 20 - WINDOW <= place < 20 for place in range(LAST)]


def test_draw_shows_those_arrays(model):
    arrays, figure = compute(decode(model), "multi-head", "attention", 12), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert np.allclose(shown["kept"].z.astype(float), arrays["grid"], atol=1e-4, equal_nan=True)
    assert np.array_equal(shown["measured"].y, arrays["filled"][:13])
    assert np.array_equal(shown["formula"].y, arrays["formula"][:13])
    assert np.array_equal(shown["allocated"].y, arrays["allocated"][:13])
    assert np.allclose(shown["time"].y, 1000 * arrays["seconds"][1:13])
    assert shown["formula"].line.dash != shown["allocated"].line.dash


def test_steps_grow_the_picture_and_the_sentence(view):
    _, step, _ = view.stepper[0].children
    step.click()
    assert view.settings["tokens"] == FROM + 1
    per_token = LAYERS * 2 * WIDTH * 4
    assert f"{per_token * (FROM + 1):,} bytes measured, as the formula says" in view.readout
    assert len(view.figure.data[3].y) == FROM + 2
    view.set(tokens=0)
    assert "After 0 tokens" in view.readout and "Nothing is kept yet" in view.readout


def test_kind_and_dtype_drive_the_picture(view):
    view.controls_by_name["dtype"].value = "bfloat16"
    assert view.figure.data[3].y[-1] == LAYERS * 2 * WIDTH * 2 * FROM
    for kind in kinds(view.model.config):
        view.controls_by_name["kind"].value = kind
        assert f"({kind})" in view.readout and not view.error
    view.set(tokens=LAST)
    assert f"only the last {WINDOW} columns are kept" in view.readout and "added 0" in view.readout


def test_every_control_is_described(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert list(view.controls()) == ["tokens"]


def test_the_prediction_is_compared_at_the_last_token(view):
    assert view.predict(LAST / FROM).endswith(f"Step or play to token {LAST}.")
    view.set(tokens=LAST)
    assert "it came out 4, close to it" in view.verdict
    view.set(kind=f"window of {WINDOW}")
    assert "it came out 1." in view.verdict


def test_bad_input_is_refused_in_words(view, model):
    with pytest.raises(CourseError, match="kind cannot be 'paper'"):
        view.set(kind="paper")
    with pytest.raises(CourseError, match=r"kind of cache 'latnt' is not known.*mean 'latent'"):
        build(model, "latnt", torch.float32)


def test_the_twin_keeps_the_models_weights_where_they_fit(model):
    twin = build(model, "grouped (2 heads share)", torch.float32)
    assert torch.equal(twin.layers[0].memory.query.weight, model.layers[0].memory.query.weight)
    assert twin.layers[0].memory.key.weight.shape != model.layers[0].memory.key.weight.shape
