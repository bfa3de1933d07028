"""The tape: what is written, answers beside a loop by hand, the picture, words and controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.views.one_tape import (
    CHUNK,
    PAIRS,
    ROWS,
    STEP,
    TIE,
    WINDOW,
    LastTape,
    LongerTape,
    OneTape,
    compute,
    draw,
    neural_memory,
    tape_of,
)


@pytest.fixture
def view():
    return OneTape(strict=True)


def test_the_tape_holds_eight_pairs_filler_and_the_one_written_again():
    tape = tape_of(5, 3, width=16)
    keys, values = tape.pairs.keys[0], tape.pairs.values[0]
    assert tape.writes == len(keys) == PAIRS + 5 + 1 and tape.last == (0, 1, 13, 3, 4, 5, 6, 7)
    assert torch.equal(keys[13], keys[2]) and not torch.equal(values[13], values[2])
    plain = tape_of(5, 0, width=16)
    assert plain.writes == 13 and plain.last == tuple(range(8)) and torch.equal(plain.pairs.keys[0], keys[:13])


def test_half_of_kdas_channels_fade():
    tape = tape_of(12, 2, width=16, retention=0.9)
    S, keeps = torch.zeros(16, 16, dtype=torch.float64), torch.ones(16, 1, dtype=torch.float64)
    keeps[8:] = 0.9
    for k, v in zip(tape.pairs.keys[0], tape.pairs.values[0]):
        S = keeps * S
        S = S + torch.outer(k, v - k @ S)
    torch.testing.assert_close(ROWS["delta, half fades (KDA)"].answers(tape), tape.queries[0] @ S)


@pytest.mark.parametrize("layers", [1, 2])
def test_titans_answers_beside_autograd(layers):
    tape = tape_of(12, 2, width=16, retention=0.9)
    start = neural_memory(16, layers).start
    W = [start[f"W{i}"][0].clone() for i in range(1, layers + 1)]
    S = [torch.zeros_like(w) for w in W]

    def answer(weights, x):
        for w in weights[:-1]:
            x = torch.nn.functional.silu(x @ w)
        return x @ weights[-1]

    for t, (k, v) in enumerate(zip(tape.pairs.keys[0], tape.pairs.values[0])):
        if t % CHUNK == 0:
            anchor = [w.clone().requires_grad_() for w in W]
        u = torch.autograd.grad((answer(anchor, k) - v).square().sum() / 2, anchor)
        S = [STEP * s - STEP * g for s, g in zip(S, u)]
        W = [0.9 * w + s for w, s in zip(W, S)]
    found = ROWS["Titans (1 layer)" if layers == 1 else "Titans (2 layers)"].answers(tape)
    torch.testing.assert_close(found, answer(W, tape.queries[0]))


@pytest.mark.parametrize("name", list(ROWS)[:6])
def test_answers_beside_a_loop_by_hand(name):
    tape = tape_of(40, 2, width=16, similarity=0.2, retention=0.9, sharpness=6)
    S, kept = torch.zeros(16, 16, dtype=torch.float64), 0.9 if "retention" in name else 1.0
    for k, v in zip(tape.pairs.keys[0], tape.pairs.values[0]):
        S = kept * S
        S = S + torch.outer(k, v - k @ S if name.startswith("delta") else v)
    expected = tape.queries[0] @ S
    if "attention" in name:
        first = 49 - WINDOW if "window" in name else 0
        scores = 6 * tape.queries[0] @ tape.pairs.keys[0, first:].T
        expected = torch.softmax(scores, -1) @ tape.pairs.values[0, first:]
    torch.testing.assert_close(ROWS[name].answers(tape), expected)


def test_an_index_gives_back_the_newest_value_of_a_key_whole():
    tape = tape_of(200, 2, width=16, similarity=0.3)
    answers = ROWS["index on disk"].answers(tape)
    assert torch.equal(answers, tape.pairs.values[0, list(tape.last)])
    assert compute(200, 2)["bytes"]["index on disk"] == compute(200, 2)["bytes"]["attention"]


def test_margins_and_counts_by_hand():
    arrays, tape = compute(40, 2, width=16), tape_of(40, 2, width=16)
    answer = ROWS["linear (Hebb)"].answers(tape)
    values = torch.cat([tape.pairs.values[0, :PAIRS], tape.pairs.values[0, -1:]])  # candidate 8 is pair 2's new value
    for i in range(PAIRS):
        cosines = (values @ answer[i] / answer[i].norm()).tolist()
        own = cosines.pop(8 if i == 1 else i)
        assert arrays["margin"]["linear (Hebb)"][i] == pytest.approx(own - max(cosines))
    assert arrays["right"]["linear (Hebb)"] == sum(arrays["margin"]["linear (Hebb)"] > TIE)
    assert arrays["age"] == [48, 0, 46, 45, 44, 43, 42, 41]


def test_bytes_by_hand():
    size = compute(100, 1, width=16)["bytes"]
    assert size["attention"] == 4 * 109 * 2 * 16 and size[f"attention (window {WINDOW})"] == 4 * WINDOW * 2 * 16
    assert {size[name] for name in list(ROWS)[2:6]} == {4 * 16 * 16}
    assert size["Titans (1 layer)"] == 3 * 4 * 16 * 16  # weights, momentum, and what the chunk began with
    assert size["Titans (2 layers)"] == 3 * 4 * 2 * 16 * 32


def test_full_memories_fail_differently():
    def right(name, filler):
        return sum(compute(filler, seed=seed)["right"][name] for seed in range(10))

    assert right("attention", 128) == 80
    assert right("linear (Hebb)", 64) > 70 > 20 > right("delta rule", 64)


def test_only_a_rewriting_memory_gives_the_new_value_alone():
    arrays = compute(0, 1, width=64)
    assert arrays["margin"]["delta rule"][0] > 0.5
    assert abs(arrays["margin"]["attention"][0]) < 1e-4 and arrays["right"]["attention"] == 7


def test_draw_shows_those_arrays():
    arrays, figure = compute(64, 2), go.Figure()
    draw(arrays, figure)
    table, *bars = figure.data
    assert np.array_equal(np.array(table.z), np.array([arrays["margin"][name] for name in ROWS]))
    assert [bar.x[0] for bar in bars] == [arrays["bytes"][name] for name in ROWS]
    told = np.array(table.text)
    right = np.array([[cell.startswith("right") for cell in row] for row in told])
    assert np.array_equal(right.sum(1), [arrays["right"][name] for name in ROWS])
    assert told[0, 1].startswith("tie")
    assert "rewritten" in figure.layout.xaxis.ticktext[1]


def test_a_memory_that_blew_up_says_so():
    arrays, figure = compute(256, 8, width=64, similarity=0.9), go.Figure()
    draw(arrays, figure)
    assert set(figure.data[0].text[list(ROWS).index("Titans (2 layers)")]) == {"blown<br>up"}
    assert arrays["right"]["Titans (2 layers)"] == 0


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    view.set(filler=0)
    assert "attention 8 (2,048 bytes)" in view.readout and "delta rule 8 (4,096 bytes)" in view.readout
    view.set(overwritten=1, width=64)
    assert "Pair 1 was written again at the end: its new value comes from" in view.readout
    assert "delta rule" in view.readout.split("comes from")[1]
    assert "attention," not in view.readout.split("comes from")[1]


def test_the_tape_comes_back_with_more_rows(view):
    later = LongerTape(strict=True)
    assert list(view.arrays["right"]) == list(ROWS)[:7] and "Titans" not in view.readout
    assert list(later.arrays["right"]) == list(ROWS)[:9] and "Titans (2 layers) 6 (49,152 bytes)" in later.readout
    last = LastTape(strict=True)
    assert list(last.arrays["right"]) == list(ROWS) and "index on disk 8 (10,240 bytes)" in last.readout
    for name in view.arrays["right"]:
        assert np.array_equal(view.arrays["margin"][name], later.arrays["margin"][name])


def test_the_prediction_is_answered_where_it_was_asked(view):
    assert view.predict(8).endswith("Drag the filler to 64.")
    view.set(filler=64)
    assert f"it came out {view.arrays['right']['delta rule']}" in view.verdict


def test_bad_input_is_refused_in_words(view):
    with pytest.raises(CourseError, match="overwritten cannot be 9"):
        view.set(overwritten=9)
    with pytest.raises(CourseError, match="1 to 8, or 0 for none, not 9"):
        tape_of(3, 9)
