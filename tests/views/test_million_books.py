"""Its formulas beside the recording, what is marked as not measured, the picture, words and controls."""

import plotly.graph_objects as go
import pytest

from nl_course.errors import CourseError
from nl_course.views.million_books import (
    ASKED,
    FIXED,
    HATCH,
    INDEX,
    STYLES,
    MillionBooks,
    compute,
    draw,
    known,
    lasting,
    moved_bytes,
    readable,
    recorded,
    state_bytes,
)

DOCS, NOVEL = "a module's docstrings (5 kB)", "a novel (600 kB)"


@pytest.fixture(scope="module")
def view():
    return MillionBooks(strict=True)


def test_the_formula_is_what_was_measured():
    assert set(recorded()["models"]) == set(STYLES) and set(FIXED) < set(STYLES)
    for name, model in recorded()["models"].items():
        for row in model["first"]:
            assert state_bytes(name, row["bytes"]) == row["state_bytes"], (name, row["bytes"])
    last = recorded()["index"]["first"][-1]
    assert state_bytes(INDEX, last["bytes"]) == pytest.approx(last["disk_bytes"])


def test_what_is_moved_grows_with_the_square_for_a_cache_and_in_proportion_for_the_rest():
    cache, fixed, window = "attention, whole cache", "TTT-Linear", "attention, window 64"
    assert moved_bytes(cache, 2_000_000) == pytest.approx(4 * moved_bytes(cache, 1_000_000), rel=0.01)
    for name in (fixed, window):
        assert moved_bytes(name, 2_000_000) == pytest.approx(2 * moved_bytes(name, 1_000_000), rel=0.01)
    by_hand = sum(state_bytes(cache, at) for at in range(1000))
    assert moved_bytes(cache, 1000) == pytest.approx(by_hand, rel=0.01)


def test_known_is_the_last_row_that_was_passed_and_says_when_the_recording_is_over():
    rows = recorded()["models"]["TTT-Linear"]["first"]
    assert known("TTT-Linear", 400) is None
    assert known("TTT-Linear", 1500)["bytes"] == 1024 and not known("TTT-Linear", 1500)["beyond"]
    far = known("TTT-Linear", 1e12)
    assert far["bytes"] == rows[-1]["bytes"] and far["beyond"]


def test_beyond_the_recording_nothing_is_claimed(view):
    view.set(books=1_000_000, memory="TTT-Linear", book=NOVEL)
    assert "NOT measured" in view.readout and "expect" not in view.readout and "600 GB" in view.readout
    hatched = next(trace for trace in view.figure.data if trace.name == HATCH)
    last = recorded()["models"]["TTT-Linear"]["first"][-1]["bytes"]
    assert min(hatched.x) == last
    for name in STYLES:
        line = next(t for t in view.figure.data if t.name == name)
        assert max(line.x) == recorded()["models"][name]["first"][-1]["bytes"], "recall is drawn where measured only"
    view.set(books=1, book=DOCS)
    assert "NOT measured" not in view.readout and "Measured at 4,096 bytes" in view.readout


def test_more_facts_asked_more_expected(view):
    view.set(books=0.2, book=DOCS, memory="TTT-Linear", facts=100)
    share = known("TTT-Linear", 1000)["accuracy"]
    assert f"expect {100 * share:.0f} right" in view.readout


def test_the_index_keeps_all_and_moves_nothing_here(view):
    view.set(memory=INDEX, books=1, book=DOCS)
    assert "H100" not in view.readout and INDEX in view.readout and f"{known(INDEX, 5000)['right']} of" in view.readout


def test_the_prediction_is_compared_once_one_book_is_read(view):
    view.set(books=10, book=DOCS)
    assert "Set the books to 1" in view.predict("Titans (MAG)")
    view.set(books=1)
    best = max(ASKED, key=lambda name: known(name, 5000)["accuracy"])
    assert f'it came out "{best}"' in view.verdict


def test_drawing_is_pure():
    arrays, first, again = compute(10, DOCS, "TTT-Linear", 20), go.Figure(), go.Figure()
    draw(arrays, first)
    draw(arrays, again)
    assert first.to_json() == again.to_json()
    errors = [trace for trace in first.data if trace.error_y and trace.error_y.visible]
    assert [trace.name for trace in errors] == ["TTT-Linear"]


def test_words_for_sizes_and_times():
    assert readable(999) == "999 bytes" and readable(1_234_567) == "1.23 MB" and readable(6e14) == "600 TB"
    assert lasting(90) == "1.5 minutes" and lasting(3.156e8) == "10 years" and lasting(0.25) == "0.25 seconds"
    with pytest.raises(CourseError, match="book"):
        compute(1, "a scroll", "TTT-Linear", 20)
    with pytest.raises(CourseError, match="memory"):
        compute(1, DOCS, "LSTM", 20)
