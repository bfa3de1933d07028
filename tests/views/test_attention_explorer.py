"""The attention explorer: its arrays against the model's own trace and plain loops, its picture, words and controls."""

import math

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Trace
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.text import encode
from nl_course.views.attention_explorer import ANSWERS, LONGEST, AttentionExplorer, compute, draw, opening_text, read
from nl_course.views.attention_reading import (
    AttentionReading,
    entropy_bits,
    induction_scores,
    labels,
    pool,
    previous_occurrence,
    word_ticks,
    words,
)
from nl_course.views.kit.sync import same

SETTINGS = dict(unit="bytes", layer=2, head=1, token=9, temperature=1.0, mask=True)
TEXT = "the cat and the caté "


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(width=32, layers=2, heads=4, hidden=48, options={"kv_heads": 2})
    model = LanguageModel(config).eval()
    with torch.no_grad():  # sharper than at the start, so that rows differ
        for layer in model.layers:
            layer.memory.query.weight.mul_(20)
            layer.memory.key.weight.mul_(20)
    return model


@pytest.fixture
def view(model):
    return AttentionExplorer(model, strict=True)


def traced(model, text, name):
    trace = Trace()
    with torch.no_grad():
        model(encode(text)[None], None, trace)
    return trace[name][0].double().numpy()


def test_weights_and_scores_are_the_models_own(model):
    reading = read(model, TEXT)
    for head in (1, 2, 3, 4):
        arrays = compute(reading, {**SETTINGS, "head": head})
        own = traced(model, TEXT, "layers.1.weights")[:, head - 1]
        later = np.triu_indices(len(own), 1)
        assert np.isnan(arrays["weights"][later]).all()
        assert np.allclose(np.nan_to_num(arrays["weights"]), own, atol=1e-6)
        assert np.allclose(arrays["share"][:9], own[8, :9], atol=1e-6)
        assert np.allclose(arrays["score"][:9], traced(model, TEXT, "layers.1.scores")[8, head - 1, :9], atol=1e-5)


def test_temperature_divides_scores_and_the_mask_can_be_lifted(model):
    reading = read(model, TEXT)
    scores = torch.tensor(reading.scores(1, 0))
    warm = compute(reading, {**SETTINGS, "temperature": 2.5})
    assert np.allclose(warm["share"][:9], (scores[8, :9] / 2.5).softmax(0))
    assert warm["entropy"] > compute(reading, SETTINGS)["entropy"]
    free = compute(reading, {**SETTINGS, "mask": False})
    weights = scores.softmax(1)
    assert np.allclose(free["weights"], weights, atol=1e-6)
    assert free["ahead"] == pytest.approx(float(weights.triu(1).sum() / len(weights)))
    assert compute(reading, SETTINGS)["ahead"] == 0


def test_the_mix_is_weight_times_length_of_value(model):
    arrays = compute(read(model, TEXT), {**SETTINGS, "head": 4})
    with torch.no_grad():
        _, state = model(encode(TEXT)[None])
    lengths = state.layers[1].value.columns[0, 1].norm(dim=-1).numpy()  # heads 3 and 4 share the second
    assert np.allclose(arrays["mix"][:9], arrays["share"][:9] * lengths[:9], atol=1e-6)


def test_words_average_readers_and_add_up_what_is_read(model):
    reading = read(model, TEXT)
    groups = words(reading.tokens)
    assert labels(reading.tokens, groups) == ["the", "cat", "and", "the", "caté"]
    arrays = compute(reading, {**SETTINGS, "unit": "words", "token": 4})
    own, pooled = traced(model, TEXT, "layers.1.weights")[:, 0], np.zeros((5, 5))
    for i, reader in enumerate(groups):
        for j, key in enumerate(groups):
            pooled[reader, key] += own[i, j] / (groups == reader).sum()
    assert np.allclose(np.nan_to_num(arrays["weights"]), pooled, atol=1e-6)
    assert np.allclose(arrays["share"][:4], pooled[3, :4], atol=1e-6) and np.isnan(arrays["share"][4])
    assert np.nansum(arrays["share"]) == pytest.approx(1)


def test_a_word_of_one_byte_has_the_score_that_gives_its_share(model):
    reading = read(model, "a b the c")
    arrays = compute(reading, {**SETTINGS, "unit": "words", "token": 4})
    score = torch.tensor(arrays["score"])
    assert np.allclose(score.softmax(0), arrays["share"])


def test_earlier_copies_and_words_by_hand():
    tokens = np.frombuffer(b"abcXabcYbc", dtype=np.uint8)
    assert previous_occurrence(tokens, 3).tolist() == [-1, -1, -1, -1, -1, -1, 2, -1, -1, -1]
    assert previous_occurrence(tokens, 1).tolist() == [-1, -1, -1, -1, 0, 1, 2, -1, 5, 6]
    assert words(np.frombuffer(b" a  bc\nd", dtype=np.uint8)).tolist() == [0, 1, 1, 1, 2, 2, 2, 3]
    assert labels(np.array([32, 195, 10, 97]), np.arange(4)) == ["␣", "c3", "↵", "a"]
    places, names = word_ticks(np.frombuffer(b" a  bc\nd", dtype=np.uint8))
    assert places.tolist() == [2, 5.5, 8] and names == ["a", "bc", "d"]
    assert pool(np.eye(3), np.array([0, 0, 1])).tolist() == [[1, 0], [0, 1]]
    assert entropy_bits(np.array([[0.25] * 4, [1, 0, 0, 0]])).tolist() == [2, 0]


def test_induction_is_the_weight_on_what_came_next():
    """A made-up head that looks exactly there scores 1, one that looks at itself 0; without repeats there is none."""
    tokens = encode("abcdabcdabcd").numpy()
    weights = np.zeros((1, 2, 12, 12))
    weights[0, 0, np.arange(12), np.maximum(np.arange(12) - 3, 0)] = 1
    weights[0, 1] = np.eye(12)
    reading = AttentionReading(tokens, None, None, None, weights, 1.0)
    assert induction_scores(reading).tolist() == [[1, 0]]
    assert np.isnan(induction_scores(AttentionReading(encode("abcdefg").numpy(), None, None, None, weights, 1.0))).all()


def test_it_opens_on_a_text_twice_at_the_best_copier(view, model):
    text = opening_text()
    half = len(text) // 2
    assert text[:half] == text[half:] and len(set(text) - {" "}) == 24
    scores = induction_scores(view.reading(text))
    settings = view.settings
    assert scores[settings["layer"] - 1, settings["head"] - 1] == scores.max()
    assert settings["text"] == text and settings["token"] > half and not view.error


def test_draw_shows_those_arrays(model):
    arrays, figure = compute(read(model, TEXT), SETTINGS), go.Figure()
    draw(arrays, figure)
    shown, *bars = figure.data
    assert np.allclose(shown.z.astype(float), arrays["weights"], atol=1e-4, equal_nan=True)
    assert [bar.name for bar in bars] == ["score", "share", "mix"]
    for bar in bars:
        assert np.array_equal(bar.y, arrays[bar.name], equal_nan=True)
    frame = figure.layout.shapes[0]
    assert (frame.y0, frame.y1) == (8.5, 9.5)


CHANGES = dict(text="other words", token=20, unit="words", layer=1, head=3, temperature=3.0, mask=False)


@pytest.mark.parametrize("name", CHANGES)
def test_every_control_drives_the_picture(view, name):
    view.set(layer=2, head=1)
    before, said = [t.to_plotly_json() for t in view.figure.data], view.readout
    view.controls_by_name[name].value = CHANGES[name]
    after = [t.to_plotly_json() for t in view.figure.data]
    assert view.readout != said and not view.error
    assert any(not same(a[k], b[k]) for a, b, k in zip(before, after, "zyyy"))


def test_every_control_is_described(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert list(view.controls()) == ["text", "token"]


def test_the_row_stays_in_its_place_and_in_the_text(view):
    view.set(text="one two three four", token=9)  # the t of three
    view.set(unit="words")
    assert view.settings["token"] == 3 and view.arrays["names"][2] == "three"
    view.set(unit="bytes")
    assert view.settings["token"] == 9
    view.set(text="short")
    assert view.settings["token"] == 5 == view.controls_by_name["token"].max


def test_the_sentence_says_the_numbers(view):
    view.set(text="aaaa", token=1)
    assert "“a” at 1 reads “a” at 1 (100%)." in view.readout
    assert "Its attention is as spread out as an even look at 1.0 byte (" in view.readout
    view.set(token=4, mask=False)
    assert "of at most 2.0" in view.readout and "Without the mask, " in view.readout


def test_a_prediction_is_compared_with_what_the_head_reads_most(view):
    view.set(token=2)
    assert view.predict(ANSWERS[0]).endswith("with the mask on and temperature 1.")
    view.set(token=50)
    places = {50: ANSWERS[0], 49: ANSWERS[1], 18: ANSWERS[2], 19: ANSWERS[3]}
    came = places.get(int(np.nanargmax(view.arrays["share"])) + 1, "something else")
    assert f'it came out "{came}"' in view.verdict
    with pytest.raises(CourseError, match="not among the answers"):
        view.predict("the moon")


def test_bad_texts_are_refused_in_words(view, model):
    view.controls_by_name["text"].value = "x" * (LONGEST + 1)
    assert f"2 to {LONGEST} bytes, not {LONGEST + 1}" in view.error
    view.controls_by_name["text"].value = ""
    assert "not 0" in view.error
    view.controls_by_name["text"].value = "good again"
    assert not view.error and view.controls_by_name["token"].max == 10
    with pytest.raises(CourseError, match="row 99 is past the text's end: it has 5 words"):
        compute(read(model, TEXT), {**SETTINGS, "unit": "words", "token": 99})


def test_a_model_without_attention_is_refused():
    config = ModelConfig(16, 16, 1, 2, 16, "latent-attention", dict(kv_rank=8, rope_dim=4, head_dim=8))
    latent = LanguageModel(config)
    with pytest.raises(CourseError, match="memory is attention in every layer"):
        AttentionExplorer(latent)


def test_uniform_weights_have_log2_n_bits(model):
    reading = read(model, "abcdefgh")
    flat = AttentionReading(
        reading.tokens, reading.query * 0, reading.key, reading.value_length, reading.weights, reading.scale
    )
    arrays = compute(flat, {**SETTINGS, "token": 8})
    assert arrays["entropy"] == pytest.approx(math.log2(8)) == arrays["most"]
