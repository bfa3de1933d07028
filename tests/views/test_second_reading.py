"""The losses are the model's own on the whole text, kept states change nothing, words, bad input."""

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.nested import NestedLanguageModel, e2e_config, with_inner_loop, without_inner_loop
from nl_course.record import parts
from nl_course.tasks.text import encode
from nl_course.views import second_reading as view_module
from nl_course.views.second_reading import FARTHEST, FILLER, OTHER, TEXT, SecondReading, compute, read_out

MADE, PLAIN = view_module.CHECKPOINTS
CONFIG = e2e_config(width=16, layers=3, heads=2, hidden=12, window=16, chunk=8, suffix=2, clip=1.0)
RATES = {MADE: 1.0, PLAIN: 0.5}
PASSAGE = "The inverse of a matrix, read twice. "
SET = {"text": PASSAGE, "distance": 64, "start": MADE, "loop": True, "factor": 1.0, "clip": 1.0}


@pytest.fixture(scope="module")
def models() -> dict[str, NestedLanguageModel]:
    made = {}
    for seed, (start, config) in enumerate(((MADE, CONFIG), (PLAIN, without_inner_loop(CONFIG)))):
        torch.manual_seed(seed)
        made[start] = NestedLanguageModel(config)
        parts.begin(made[start])
    return made


def whole(model: NestedLanguageModel, config, opening: str, distance: int) -> np.ndarray:
    """The losses of opening, filler and passage, read at once by a copy of the weights under that config."""
    copy = NestedLanguageModel(config)
    copy.load_state_dict(model.state_dict())
    text = torch.cat([encode(opening)[: len(encode(PASSAGE))], encode(FILLER)[:distance], encode(PASSAGE)])
    with torch.no_grad():
        return copy.token_losses(text[None])[0].numpy()


@pytest.mark.parametrize(
    ("start", "change", "config"),
    [
        (MADE, {}, CONFIG),
        (MADE, {"loop": False}, without_inner_loop(CONFIG)),
        (MADE, {"factor": 2.0, "clip": 0.0}, with_inner_loop(CONFIG, 8, 2.0, None)),
        (PLAIN, {}, with_inner_loop(CONFIG, 8, 0.5, 1.0)),
        (PLAIN, {"loop": False, "distance": 0}, without_inner_loop(CONFIG)),
    ],
    ids=["on", "off", "other step, no clip", "plain start", "plain"],
)
def test_losses_are_those_of_the_whole_text_read_at_once(models, start, change, config):
    settings = {**SET, "start": start, **change}
    arrays, length = compute(models, RATES, {}, settings), len(encode(PASSAGE))
    second = whole(models[start], config, PASSAGE, settings["distance"])
    fresh = whole(models[start], config, OTHER, settings["distance"])
    assert np.allclose(arrays["first"], second[: length - 1], atol=1e-5)
    assert np.allclose(arrays["second"], second[-(length - 1) :], atol=1e-4)
    assert np.allclose(arrays["fresh"], fresh[-(length - 1) :], atol=1e-4)


def test_states_kept_for_other_distances_change_nothing(models):
    kept = {}
    wandering = {d: compute(models, RATES, kept, {**SET, "distance": d}) for d in (128, 0, 192, 64)}
    assert len(kept) == 1
    for distance, arrays in wandering.items():
        alone = compute(models, RATES, {}, {**SET, "distance": distance})
        assert np.allclose(alone["second"], arrays["second"], atol=1e-5) and alone["steps"] == arrays["steps"]


def test_steps_clips_and_bytes_are_counted(models):
    arrays = compute(models, RATES, {}, SET)
    length = len(encode(PASSAGE))
    assert arrays["tokens"] == 2 * length + 64 and arrays["steps"] == (arrays["tokens"] - 1) // 8
    assert sum(arrays["state"].values()) == models[MADE].state_bytes(arrays["tokens"])
    assert arrays["state"]["fast weights"] == 2 * 3 * 16 * 12 * 4
    open_window = replace(without_inner_loop(CONFIG), options={**CONFIG.options, "window": None})
    assert arrays["full"] == NestedLanguageModel(open_window).state_bytes(arrays["tokens"])
    assert compute(models, RATES, {}, {**SET, "clip": 1e-6})["clipped"] == arrays["steps"]
    off = compute(models, RATES, {}, {**SET, "loop": False})
    assert off["steps"] == 0 and off["state"]["fast weights"] == 0


def test_draw_shows_the_arrays(models):
    arrays, figure = compute(models, RATES, {}, SET), go.Figure()
    view_module.draw(arrays, figure)
    named = {trace.name: trace for trace in figure.data}
    last = np.mean(arrays["second"][-8:])
    assert named["second reading"].y[-1] == pytest.approx(last, abs=1e-5)
    assert np.allclose(named["saved by the first reading"].y, arrays["fresh"] - arrays["second"])
    assert named["fast weights"].y[0] * 1000 == arrays["state"]["fast weights"]
    assert named["all keys and values"].y[0] * 1000 == arrays["full"]


def test_the_view_answers_and_says_what_it_shows(models):
    view = SecondReading(models, RATES, strict=True, text=PASSAGE)
    before, line = view.readout, view.figure.data[2].y
    view.set(distance=0)
    assert "still in the window" in view.readout and not np.allclose(line, view.figure.data[2].y)
    view.set(distance=64)
    assert "beyond all windows together" in view.readout
    view.set(loop=False)
    assert view.readout.startswith("The inner loop is off: the passage")
    view.set(loop=True, start=PLAIN, factor=0.5)
    assert "of size 0.25" in view.readout and view.readout != before
    view.controls_by_name["text"].value = "short"
    assert "16 to 200 bytes" in view.error
    view.set(text=PASSAGE)
    assert not view.error


def test_the_prediction_waits_until_nothing_is_in_any_window(models):
    view = SecondReading(models, RATES, strict=True, text=PASSAGE, distance=0)
    assert view.predict("80").endswith("its own step.")
    view.set(distance=128)
    share = 100 * view.arrays["second"].mean() / view.arrays["first"].mean()
    assert f"it came out {share:.3g}" in view.verdict
    view.set(loop=False)
    assert "it came out" not in view.verdict


def test_what_blows_up_is_said(models):
    arrays = compute(models, RATES, {}, SET)
    words = read_out({**arrays, "second": np.full_like(arrays["second"], np.nan)})
    assert "blow up" in words
    view_module.draw({**arrays, "second": np.full_like(arrays["second"], np.nan)}, go.Figure())


def test_bad_settings_are_told_in_words(models):
    for wrong, words in (
        ({"start": "random"}, "start 'random' is not known"),
        ({"distance": FARTHEST + 1}, "0 to "),
        ({"text": "a" * 201}, "not 201"),
        ({"text": "é" * 7}, "not 14"),
    ):
        with pytest.raises(CourseError, match=words):
            compute(models, RATES, {}, {**SET, **wrong})


@pytest.mark.slow
def test_the_recorded_networks_show_what_the_recording_says():
    view = SecondReading(strict=True, text=TEXT, distance=512)
    saved = {}
    for start in view.models:
        for loop in (True, False):
            view.set(start=start, loop=loop)
            saved[start, loop] = (view.arrays["fresh"] - view.arrays["second"]).mean()
    assert saved[MADE, True] > 0.2 and saved[MADE, True] > saved[PLAIN, True] > 0
    assert abs(saved[MADE, False]) < 0.02 and abs(saved[PLAIN, False]) < 0.02
