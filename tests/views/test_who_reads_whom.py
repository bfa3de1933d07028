"""Who reads whom: the layers' traces beside weights worked out with letters alone, the picture, words, controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.views.who_reads_whom import (
    ANSWERS,
    READ_OUTS,
    TEXT,
    Knobs,
    WhoReadsWhom,
    compute,
    draw,
    inputs,
    weights_of,
)

SHORT = "abacabad"


@pytest.fixture
def view():
    return WhoReadsWhom(strict=True)


def follows(text):
    """1 where the reader's letter stood before the value's letter, at or before the reader's place."""
    return np.array(
        [[float(0 < s <= t and text[s - 1] == text[t]) for s in range(len(text))] for t in range(len(text))]
    )


def test_hebb_reads_all_that_followed_alike():
    weights, _ = weights_of("linear (Hebb)", SHORT, 0.0, Knobs())
    assert np.allclose(weights, follows(SHORT))


def test_retention_fades_by_distance():
    weights, _ = weights_of("Hebb that fades (RetNet)", SHORT, 0.0, Knobs(retention=0.8))
    distance = np.subtract.outer(np.arange(8), np.arange(8))
    assert np.allclose(weights, follows(SHORT) * 0.8 ** np.maximum(distance, 0))


@pytest.mark.parametrize(("memory", "kept"), [("delta rule", 1.0), ("gated delta rule", 0.9)])
@pytest.mark.parametrize("step", [1.0, 0.5])
def test_the_delta_rule_replaces_what_followed_before(memory, kept, step):
    weights, _ = weights_of(memory, SHORT, 0.0, Knobs(retention=kept, step=step))
    expected = np.zeros((8, 8))
    for t in range(8):
        left = 1.0
        for s in range(t, 0, -1):
            if SHORT[s - 1] == SHORT[t]:  # each write leaves 1 - step of what stood there
                expected[t, s] = step * left * kept ** (t - s)
                left *= 1 - step
    assert np.allclose(weights, expected, atol=1e-6)


def test_in_kda_every_second_letter_fades():
    """Letters are numbered by their bytes, and each is one channel of the key: of a to d, the first and the third keep
    what is tied to them."""
    weights, miss = weights_of("delta rule, every second letter fades (KDA)", SHORT, 0.0, Knobs(retention=0.8))
    expected = np.zeros((8, 8))
    for t in range(8):
        newest = max((s for s in range(1, t + 1) if SHORT[s - 1] == SHORT[t]), default=None)
        if newest is not None:
            kept = 1.0 if SHORT[t] in "ac" else 0.8
            expected[t, newest] = kept ** (t - newest)
    assert np.allclose(weights, expected, atol=1e-6)
    assert miss < 1e-9


def deltas_by_hand(text, kept, step, momentum, chunk):
    """Titans' recurrence on letters alone: M[letter before] holds a mix of places, and so does the ball S."""
    M, S = ({letter: np.zeros(len(text)) for letter in text} for _ in range(2))
    rows, anchor = [], None
    for t in range(len(text)):
        if t % chunk == 0:
            anchor = {letter: row.copy() for letter, row in M.items()}
        for letter in M:
            S[letter] = momentum * S[letter]
            if t > 0 and text[t - 1] == letter:
                S[letter] = S[letter] + step * (np.eye(len(text))[t] - anchor[letter])
            M[letter] = kept * M[letter] + S[letter]
        rows.append(M[text[t]].copy())
    return np.array(rows)


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize(("kept", "step", "momentum"), [(1.0, 1.0, 0.0), (0.9, 0.7, 0.0), (0.9, 0.5, 0.6)])
def test_titans_weights_of_values_follow_its_recurrence(kept, step, momentum, chunk):
    weights, miss = weights_of("Titans (one layer)", SHORT, 0.0, Knobs(kept, step, 8.0, momentum, chunk))
    assert np.allclose(weights, deltas_by_hand(SHORT, kept, step, momentum, chunk), atol=1e-6) and miss < 1e-9


def test_without_momentum_and_chunks_titans_is_the_gated_delta_rule():
    knobs = Knobs(retention=0.9, step=0.5)
    pair = [weights_of(name, "to be or not to be", 0.3, knobs)[0] for name in ("Titans (one layer)", "delta rule")]
    assert not np.allclose(*pair, atol=1e-3)  # the delta rule forgets nothing
    pair = [
        weights_of(name, "to be or not to be", 0.3, Knobs(step=0.5))[0] for name in ("Titans (one layer)", "delta rule")
    ]
    assert np.allclose(*pair, atol=1e-6)


def test_attention_is_a_softmax_over_all_that_is_past():
    weights, _ = weights_of(None, SHORT, 0.0, Knobs(sharpness=3.0))
    scores = np.where(np.tril(np.ones((8, 8))) > 0, 3.0 * follows(SHORT), -np.inf)
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(weights, expected)


@pytest.mark.parametrize("memory", [None, *READ_OUTS])
def test_contributions_add_up_to_what_the_layer_read(memory):
    _, miss = weights_of(memory, "to be or not to be", 0.3, Knobs(0.9, 0.7, 8.0))
    assert miss < 1e-9


@pytest.mark.parametrize("memory", READ_OUTS)
def test_what_later_tokens_hold_is_not_in_a_read(memory):
    one, _ = weights_of(memory, SHORT, 0.2, Knobs(0.9, 0.7))
    other, _ = weights_of(memory, SHORT[:5] + "xyz", 0.2, Knobs(0.9, 0.7))
    assert np.allclose(one[:5], other[:5]) and np.allclose(np.triu(one, 1), 0)


def test_letters_have_the_cosine_asked_for():
    x = inputs("abc", 0.4)[0, :, :32]
    expected = torch.full((3, 3), 0.4, dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(x @ x.T, expected)
    assert torch.equal(inputs("abc", 0.4)[0, 1:, 32:64], x[:-1])


def test_draw_shows_those_arrays():
    arrays, figure = compute(SHORT, "delta rule", 7), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    for name, weights in (("delta rule", arrays["own"]), ("attention (softmax)", arrays["softmax"])):
        assert np.allclose(np.array(shown[name].z, dtype=float), weights, atol=1e-4, equal_nan=True)
    assert np.array_equal(shown["row of delta rule"].y, np.nan_to_num(arrays["own"][6]))
    assert arrays["followers"] == [1, 3, 5]


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert "linear (Hebb) reads 1.00 of “1” at 2, 1.00 of “4” at 8, 1.00 of “7” at 14" in view.readout
    view.set(memory="delta rule")
    assert "delta rule reads 1.00 of “7” at 14. The contributions add up" in view.readout
    view.set(text="ababab")
    assert (
        view.settings["token"] == 6 and "“b” at 6 asks what followed “b” earlier (“a” at 3, “a” at 5)" in view.readout
    )
    step = view.stepper[0].children[0]
    step.click()
    assert view.settings["token"] == 5


def test_the_prediction_waits_for_a_delta_rule(view):
    assert "Choose the delta rule" in view.predict(ANSWERS[0])
    view.set(memory="delta rule")
    assert f'it came out "{ANSWERS[1]}". {view.prediction.why}' in view.verdict
    view.set(text=TEXT, token=1)
    assert "Choose the delta rule" in view.verdict


def test_bad_input_is_told_in_words(view):
    view.set(text="x")
    assert "2 to 48 bytes, not 1" in view.error
    view.set(text="abcdefghijklmnopqrstuvwxyzABCDEFGH")
    assert "31 different letters, not 34" in view.error
    with pytest.raises(CourseError, match="'delta' is not known"):
        weights_of("delta", SHORT, 0.0, Knobs())
    with pytest.raises(CourseError, match="row 9 is past"):
        compute(SHORT, "delta rule", 9)
