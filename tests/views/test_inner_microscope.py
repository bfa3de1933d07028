"""The microscope: its numbers beside the layer's own state and losses, its variants, picture, words, controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch.nn.functional import cross_entropy

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.text import encode
from nl_course.views.inner_microscope import TEXT, InnerMicroscope, compute, draw, read, running_mean, variant

WORDS = "abc abd abc abd, and on it goes"
START = {"token": 7, "layer": 2, "head": 1, "start": "learned", "mini_batch": 4, "detail": True}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    options = {"mini_batch": 4, "base_rate": 4.0}
    config = ModelConfig(width=16, layers=2, heads=2, hidden=24, memory="ttt-linear", conv=4, options=options)
    model = LanguageModel(config).eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.memory.position_offset, std=0.1)  # c_i of their own, one of them likely larger
    return model


@pytest.fixture(scope="module")
def reading(model):
    return read(model, WORDS, layer=1)


@pytest.fixture
def view(model):
    return InnerMicroscope(model, strict=True)


@torch.no_grad()
def test_each_write_is_the_move_of_the_state_that_the_layer_carries(model, reading):
    state, tokens = model.init_state(1), encode(WORDS)[None]
    memory = model.layers[1].memory
    for t in range(tokens.shape[1]):
        before = memory.weights(state.memory(1))["W1"][0]
        _, state = model(tokens[:, t : t + 1], state)
        moved = (memory.weights(state.memory(1))["W1"][0] - before).numpy()
        assert np.allclose(reading.moves[:, t], moved, atol=2e-5)  # float32 differences of weights up to 10
    assert np.abs(reading.moves).max() > 1e-3


@torch.no_grad()
def test_losses_are_the_models_and_the_inner_models_own(model, reading):
    tokens = encode(WORDS)
    logits, _ = model(tokens[None])
    assert np.allclose(reading.next_loss, cross_entropy(logits[0, :-1], tokens[1:], reduction="none"), atol=1e-5)
    arrays = compute(reading, START)
    error = arrays["prediction"] - arrays["value"]
    assert np.isclose(arrays["before"][6], (error**2).sum() / 2, atol=1e-5)
    assert np.isclose(arrays["before"][0], arrays["from_start"][0])
    assert arrays["place"] == 3 and arrays["change"].shape == (8, 8)


def test_the_running_mean_is_of_the_last_values():
    values = np.arange(40.0)
    assert np.allclose(running_mean(values, 16)[[0, 3, 30]], [0, 1.5, np.mean(values[15:31])])


def test_variants_change_the_start_and_the_mini_batch_and_leave_the_model_alone(model):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    zero, longer, shorter = variant(model, "zero", 4), variant(model, "learned", 6), variant(model, "random", 1)
    assert all((w == 0).all() for layer in zero.layers for w in layer.memory.start.values())
    factor, old = longer.layers[0].memory.position_factor(), model.layers[0].memory.position_factor()
    assert torch.allclose(factor[:4], old) and torch.allclose(factor[4:], 1 / torch.tensor([5.0, 6.0]))
    assert not torch.equal(shorter.layers[0].memory.start["W1"], model.layers[0].memory.start["W1"])
    assert read(shorter, WORDS, 0).factor.shape == (1,)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_zero_start_makes_the_first_write_huge(model):
    """The layer norm divides by almost nothing there, so the gradient is a thousand times larger."""
    learned, zero = (read(variant(model, start, 4), WORDS, 0) for start in ("learned", "zero"))
    assert np.linalg.norm(zero.moves[0, 0]) > 20 * np.linalg.norm(learned.moves[0, 0])


def test_draw_shows_those_arrays(reading):
    arrays, figure = compute(reading, START), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    assert np.array_equal(shown["before the write"].y, arrays["before"])
    assert np.array_equal(shown["after the write"].y, arrays["after"])
    assert np.array_equal(shown["learned start, never written"].y, arrays["from_start"])
    assert np.array_equal(shown["next-byte loss"].y, arrays["next"])
    assert np.array_equal(shown["change of the weights"].z, arrays["change"])
    assert np.array_equal(shown["numbers"].z[1:], np.stack([arrays["prediction"], arrays["value"], arrays["key"]]))


def test_the_chosen_bytes_numbers_are_shown_when_asked_for(view):
    assert "numbers" not in {trace.name for trace in view.figure.data} and view.figure.layout.height <= 420
    view.set(detail=True)
    assert {"numbers", "change of the weights"} <= {trace.name for trace in view.figure.data}
    assert view.figure.layout.height > 420 and view.figure.layout.yaxis4.title.text == "key"


def test_controls_drive_picture_and_sentence(view):
    _, step, _ = view.stepper[0].children
    token = view.settings["token"]
    step.click()
    assert view.settings["token"] == token + 1 and f"Byte {token + 1}," in view.readout
    seen = set()
    for change in ({"layer": 1}, {"head": 2}, {"start": "zero"}, {"mini_batch": 1}):
        view.set(**change)
        seen.add(view.readout)
        assert not view.error
    assert len(seen) == 4 and "with the zero start untouched" in view.readout and "place 1 of 1" in view.readout
    view.set(text="abcabc")
    assert view.settings["token"] == 6 and view.controls_by_name["token"].max == 6 and len(view.arrays["names"]) == 6
    assert all(control.description for control in view.controls_by_name.values())


def test_the_prediction_waits_for_the_last_byte(view):
    assert "last byte" in view.predict("100")
    view.set(token=len(TEXT))
    assert "it came out" in view.verdict


def test_bad_input_is_refused_in_words(view, model):
    view.set(text="é" * 200)
    assert "2 to 160 bytes, not 400" in view.error
    with pytest.raises(CourseError, match="start 'one' is not known"):
        variant(model, "one", 4)
    with pytest.raises(CourseError, match="TTT-Linear in every layer"):
        InnerMicroscope(LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16)))
