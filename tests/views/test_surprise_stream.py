"""The surprise stream: the memory beside a plain loop, one write's response beside a sum, ranks, words, controls."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.views.surprise_drawing import draw
from nl_course.views.surprise_stream import (
    ANSWERS,
    NEEDLE,
    TEXT,
    SurpriseStream,
    compute,
    direction,
    dropped,
    gates_of,
    memory,
    outcome,
    pairs,
    response,
)

SHORT = "the cat sat on the mat. the cat sat on the hat."
START = {
    "text": SHORT, "needle": "code is 7.", "place": 3, "momentum": 0.6, "step": 0.4, "retention": 0.9, "depth": 1
}  # fmt: skip


@pytest.fixture
def view():
    return SurpriseStream(strict=True)


def by_hand(words, at, depth, momentum, step, retention, sentence, chunk):
    """Surprise, write and answer to the needle's key, word by word, with autograd and nothing of the course's loop."""
    keys, values = pairs(words)
    W = [memory(depth, 1).start[f"W{i}"][0].clone() for i in range(1, depth + 1)]
    S, rows = [torch.zeros_like(w) for w in W], []

    def answer(weights, x):
        for w in weights[:-1]:
            x = torch.nn.functional.silu(x @ w)
        return x @ weights[-1]

    for t, (k, v) in enumerate(zip(keys, values)):
        if t % chunk == 0:
            anchor = [w.clone().requires_grad_() for w in W]
        u = torch.autograd.grad((answer(anchor, k) - v).square().sum() / 2, anchor)
        kept = retention * (sentence if words[t].endswith(".") else 1)
        S = [momentum * s - step * g for s, g in zip(S, u)]
        W = [kept * w + s for w, s in zip(W, S)]
        rows.append([torch.cat([g.flatten() for g in each]).norm().item() for each in (u, S)])
        read = answer(W, keys[at])
        rows[-1].append(torch.nn.functional.cosine_similarity(read, values[at], dim=0).item())
    return np.array(rows).T


@pytest.mark.parametrize(("depth", "chunk"), [(1, 1), (2, 1), (3, 1), (2, 4)])
def test_the_memory_is_the_papers_loop(depth, chunk):
    arrays = compute(**{**START, "depth": depth}, chunk=chunk, sentence=0.5)
    words, at = dropped(SHORT, START["needle"], 3)
    surprise, write, recall = by_hand(words, at, depth, 0.6, 0.4, 0.9, 0.5, chunk)
    assert np.allclose(arrays["surprise"], surprise, atol=1e-4)
    assert np.allclose(arrays["past_surprise"], write, atol=1e-4)
    assert np.allclose(arrays["recall"], recall, atol=1e-3)


def test_a_repeated_phrase_surprises_less_and_a_new_word_does_not():
    arrays = compute(SHORT, "a b", 12, 0.0, 1.0, 1.0)
    assert arrays["words"][2] == arrays["words"][8] == "sat"
    assert arrays["surprise"][8] < 0.4 < 0.8 < arrays["surprise"][11]  # hat where mat was
    one = compute(SHORT, "a b", 12, 0.0, 0.3, 1.0)
    assert one["surprise"][8] > arrays["surprise"][8]


@pytest.mark.parametrize(("momentum", "retention"), [(0.8, 0.95), (0.0, 0.9), (0.7, 1.0)])
def test_the_response_is_the_sum_over_the_ways_of_a_write(momentum, retention):
    gates = gates_of(["a"] * 30, 0.3, momentum, retention, 1.0)
    expected = [sum(momentum**j * retention ** (n - j) for j in range(n + 1)) for n in range(26)]
    assert np.allclose(response(gates, 4), expected, atol=1e-6)


def test_the_response_is_what_a_second_write_really_leaves():
    """A write changed by a little: the memory's weights differ by the response, wherever the chunk's anchor is."""
    words, at = ["a", "b", "c", "d", "e", "f"], 1
    keys, values = pairs(words)
    gates, neural = gates_of(words, 0.3, 0.7, 0.9, 1.0), memory(1, 16)
    more = values.clone()
    more[at] += direction("more")
    ends = [
        neural.learn(*(u[None, None] for u in (keys, keys, v)), gates, neural.init_state(1))[1] for v in (values, more)
    ]
    moved = ends[1].memory["W1"] - ends[0].memory["W1"]
    expected = 0.3 * response(gates, at)[-1] * torch.outer(keys[at], direction("more"))
    torch.testing.assert_close(moved[0, 0], expected.float(), atol=1e-5, rtol=1e-4)


def test_the_needle_stands_where_it_was_dropped_and_is_ranked_among_the_words_so_far():
    words, at = dropped(SHORT, "code is 7.", 3)
    assert words[3:6] == ["code", "is", "7."] and at == 5
    arrays = compute(**{**START, "momentum": 0.0, "step": 1.0, "retention": 1.0})
    assert arrays["recall"][:5] == pytest.approx(0, abs=0.5) and arrays["rank"][at] == 1
    assert arrays["recall"][at] == pytest.approx(1, abs=1e-3)
    assert arrays["known"].tolist() == [2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 8, 8, 8, 8, 9]


def test_forgetting_at_a_full_stop_is_the_gates_own():
    arrays = compute(**START, sentence=0.5)
    ends = [word.endswith(".") for word in arrays["words"]]
    assert np.allclose(arrays["retention"], np.where(ends, 0.45, 0.9))


def test_draw_shows_those_arrays():
    arrays, figure = compute(**START), go.Figure()
    draw(arrays, figure)
    shown = {trace.name: trace for trace in figure.data}
    needle = shown["answer to the needle's question: the needle"]
    assert np.array_equal(shown["surprise"].y, arrays["surprise"])
    assert np.array_equal(needle.y, arrays["recall"])
    assert np.array_equal(shown["response to one write"].y, arrays["response"])
    filled = np.array(needle.marker.color) != "white"
    assert np.array_equal(filled, (arrays["rank"] == 1) & (np.arange(15) >= 5))
    assert figure.layout.shapes[0].x0 == 3.5 and figure.layout.shapes[0].x1 == 6.5


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert "“7214”, word 19 of 67" in view.readout and "half is left after 34.3 words" in view.readout
    view.set(retention=1.0)
    assert "nothing fades" in view.readout and "rank 1 of 31" in view.readout
    view.set(retention=0.8)
    assert "rank 1 of 31" not in view.readout
    view.stepper[0].children[1].click()
    assert view.settings["place"] == 15 and "word 20 of 67" in view.readout
    view.set(text="one two three", place=3)
    assert view.controls_by_name["place"].max == 3 and view.error == ""


def test_too_much_momentum_blows_up_and_the_words_say_so(view):
    view.set(depth=2, momentum=0.8, step=0.7)
    assert "the memory has blown up" in view.readout and view.error == ""


def test_the_prediction_waits_for_its_momentum(view):
    assert "Set momentum to 0.8" in view.predict(ANSWERS[0])
    view.set(momentum=0.8, step=0.2)
    assert f'it came out "{ANSWERS[1]}"' in view.verdict
    assert outcome(compute(TEXT, NEEDLE, 50, 0.8, 0.2, 0.98)) is None


def test_bad_input_is_told_in_words(view):
    view.set(needle="7214")
    assert "the needle must have at least two words" in view.error
    view.set(needle=NEEDLE, text="word " * 200)
    assert "120 words together, not 205" in view.error
    with pytest.raises(CourseError, match="after word 99: the text has 12"):
        compute(**{**START, "place": 99})
    with pytest.raises(CourseError, match="momentum must lie between 0 and 1, not 2"):
        compute(**{**START, "momentum": 2})
