"""The capacity view: measured numbers beside theory and a loop by hand, the picture, words and controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.pairs import draw_pairs
from nl_course.views.capacity import LOADS, MEMORIES, Capacity, by_groups, compute, draw, kept_bytes, measured


@pytest.fixture(scope="module")
def view():
    return Capacity(strict=True)


@pytest.mark.parametrize("pairs", [16, 64, 256])
def test_hebbs_error_follows_the_theory(pairs):
    assert measured("Hebb", pairs, 32)["squared error"] == pytest.approx((pairs - 1) / 32, rel=0.12)


def test_a_loop_by_hand_gives_the_same():
    drawn = draw_pairs(20, 16, 0.2, rows=3, seed=7)
    right, error, by_age = 0, 0.0, np.zeros(20)
    for keys, values in zip(drawn.keys, drawn.values):
        S = torch.zeros(16, 16, dtype=torch.float64)
        for k, v in zip(keys, values):
            S += torch.outer(k, v - k @ S)
        for i, k in enumerate(keys):
            read = k @ S
            error += float((read - values[i]).square().sum())
            hit = int((values @ read).argmax() == i)
            right, by_age[19 - i] = right + hit, by_age[19 - i] + hit
    found = measured("delta rule", 20, 16, 0.2, rows=3, seed=7)
    assert found["squared error"] == pytest.approx(error / 60)
    assert found["right answers"] == pytest.approx(right / 60)
    assert np.allclose(found["by age"], by_age / 3)


def test_full_memories_fail_differently():
    arrays = compute(64, 256)
    hebb, delta = (arrays["age"][name][1] for name in ("Hebb", "delta rule"))
    assert hebb.max() - hebb.min() < 0.25 and 0.5 < hebb.mean() < 0.95
    assert delta[0] > 0.9 and delta[-1] < 0.1
    assert arrays["here"]["attention"]["right answers"] == 1


def test_attention_is_no_exact_memory_without_sharpness():
    blunt, sharp = (measured("attention", 64, 64, sharpness=s)["right answers"] for s in (1 / 8, 8))
    assert blunt < 0.1 and sharp == 1


def test_bytes_by_hand():
    assert kept_bytes("Hebb", 7, 32) == kept_bytes("delta rule", 700, 32) == 4 * 32 * 32
    assert kept_bytes("attention", 7, 32) == 4 * 7 * (32 + 32)


def test_groups_of_ages():
    age, share = by_groups(np.arange(16.0), 4)
    assert age.tolist() == share.tolist() == [1.5, 5.5, 9.5, 13.5]
    assert by_groups(np.array([1.0, 0.0]))[1].tolist() == [1, 0]


@pytest.mark.parametrize("measure", ["right answers", "squared error"])
def test_draw_shows_those_arrays(measure):
    arrays, figure = compute(32, 64, measure=measure, draws=2), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    for name in MEMORIES:
        assert list(shown[name].y) == arrays["lines"][name]
        assert np.array_equal(shown[f"{name} by age"].y, arrays["age"][name][1])
        assert list(shown[f"{name} bytes"].y) == arrays["bytes"][name]
    assert len([t for t in figure.data if t.name == "single draws" and len(t.y) == 2]) == 3
    theory = [t for t in figure.data if "theory" in t.name]
    assert [list(t.y) for t in theory] == ([[(n - 1) / 32 for n in LOADS]] if measure == "squared error" else [])


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    view.set(pairs=64, width=16)
    assert view.readout.startswith("64 pairs in width 16") and "theory says 3.94" in view.readout
    assert "keeps 1,024 bytes" in view.readout and "attention 8,192" in view.readout
    view.set(similarity=0.5)
    assert "theory" not in view.readout


def test_the_prediction_is_answered_at_twice_the_width(view):
    view.set(pairs=32, width=64, similarity=0)
    assert view.predict("delta rule").endswith("with random keys (cosine 0).")
    view.set(pairs=128)
    assert f'it came out "Hebb". {view.prediction.why}' in view.verdict


def test_bad_input_is_refused_in_words(view):
    with pytest.raises(CourseError, match="pairs cannot be 5"):
        view.set(pairs=5)
    with pytest.raises(CourseError, match="memory 'delta' is not known"):
        measured("delta", 4, 16)
