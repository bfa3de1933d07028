"""The write-and-read view: answers beside sums by hand, the picture, buttons, the slider, words."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.views.write_and_read import MEMORIES, WIDTH, WriteAndRead, compute, draw, keys_of, tape_of


@pytest.fixture
def view():
    return WriteAndRead(strict=True)


@pytest.mark.parametrize("similarity", [0, 0.3, 1])
def test_keys_have_length_1_and_the_cosine_asked_for(similarity):
    keys = keys_of("ABCDEF", similarity)
    expected = torch.full((6, 6), float(similarity), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(keys @ keys.T, expected)


def test_hebb_returns_every_value_in_the_measure_of_its_key_and_keeps_the_old_one():
    answers = compute("A B C A", 4, 0.4)["answers"]["Hebb"]
    assert np.allclose(answers, [[1, 0.4, 0.4, 1], [0.4, 1, 0.4, 0.4], [0.4, 0.4, 1, 0.4]])


def test_the_delta_rule_by_hand_replaces_the_old_value_and_disturbs_like_keys():
    arrays = compute("A B A", 3, 0.5)
    # after A: A holds v1; B stores v2 - v1 / 2, so A then holds v1 + (v2 - v1 / 2) / 2; A again stores what is missing
    a, b = np.array([1, 0, 0]), np.array([0, 0, 0])
    a, b = a, a / 2
    correction = np.array([0, 1, 0]) - b
    a, b = a + correction / 2, b + correction
    correction = np.array([0, 0, 1]) - a
    a, b = a + correction, b + correction / 2
    assert np.allclose(arrays["answers"]["delta rule"], [a, b])
    assert np.allclose(arrays["error"]["delta rule"], [0, ((b - [0, 1, 0]) ** 2).sum()])
    assert arrays["newest"] == [2, 1]


def test_attention_shares_by_the_softmax_of_the_cosines_and_keeps_both_values_of_a_key():
    answers = compute("A B A", 3, 0.25, sharpness=4)["answers"]["attention"]
    same, other = np.exp(4), np.exp(1)
    assert np.allclose(answers[0], np.array([same, other, same]) / (2 * same + other))


def test_step_and_retention_by_hand():
    arrays = compute("A B", 2, 0, step=0.5, retention=0.8)
    assert np.allclose(arrays["answers"]["Hebb"], [[0.4, 0], [0, 0.5]])
    assert np.allclose(arrays["answers"]["delta rule"], [[0.4, 0], [0, 0.5]])


def test_matrices_differ_by_the_last_write():
    arrays = compute("A B", 2, 0.5)
    key = keys_of("B", 0.5)[0].numpy()
    write = np.outer(key, np.eye(WIDTH)[1])
    assert np.allclose(arrays["after"]["Hebb"] - arrays["before"]["Hebb"], write)
    assert np.allclose(compute("A", 1, 0.5)["before"]["delta rule"], 0)


def test_draw_shows_those_arrays():
    arrays, figure = {**compute("A B C A", 4, 0.5), "rule": "delta rule"}, go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace.z for trace in figure.data}
    for name in MEMORIES:
        assert np.array_equal(shown[name], arrays["answers"][name])
    assert np.array_equal(shown["before"], arrays["before"]["delta rule"])
    assert np.allclose(shown["before"] + shown["the write"], shown["after"])


def test_buttons_write_and_the_slider_follows(view):
    view.controls_by_name["write_F"].click()
    assert (view.settings["tape"], view.settings["writes"]) == ("A B C D A F", 6)
    assert "asked for F, whose newest value is v6" in view.readout and view.figure.data[0].z.shape == (5, 6)
    view.controls_by_name["clear"].click()
    assert (view.settings["tape"], view.settings["writes"]) == ("A", 1) and "After 1 write," in view.readout
    for _ in range(8):
        view.controls_by_name["write_B"].click()
    assert "1 to 8 pairs, not 9" in view.error and view.settings["writes"] == 8


def test_controls_change_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    view.controls_by_name["similarity"].value = 0
    assert "Hebb 1.00 of it, up to 0.00 of another" in view.readout
    view.controls_by_name["rule"].value = "delta rule"
    assert "delta rule: matrix before" in view.figure.layout.annotations[3].text


def test_the_prediction_waits_for_a_key_that_is_written_again(view):
    assert view.predict("Hebb").endswith("Step to the second A.")
    view.set(writes=5)
    assert f'it came out "delta rule". {view.prediction.why}' in view.verdict


def test_bad_input_is_told_in_words(view):
    view.set(tape="A B X")
    assert "keys are the letters A to F, not X" in view.error
    with pytest.raises(CourseError, match="1 to 8 pairs, not 0"):
        tape_of(" , ")
    with pytest.raises(CourseError, match="between 0 and 1, not 2"):
        keys_of("AB", 2)
