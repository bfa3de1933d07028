"""The picker: the composed memory on the tape beside the tape's own rows, the picture, words and controls."""

import numpy as np
import plotly.graph_objects as go
import pytest

from nl_course.errors import CourseError
from nl_course.views import one_tape
from nl_course.views.family import BESIDE, YOURS, Family, compute, draw


@pytest.fixture
def view():
    return Family(strict=True)


SAME = {
    "linear (Hebb)": dict(loss="inner-product"),
    "Hebb with retention": dict(loss="inner-product", retention="scalar"),
    "delta rule": dict(),
    "delta with retention": dict(retention="scalar", forget="first"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_composed_memory_answers_like_the_row_that_it_is(name):
    composed = compute(**SAME[name], filler=24, overwritten=3, keep=0.9)
    row = one_tape.compute(24, 3, rows=(name,), retention=0.9)
    np.testing.assert_allclose(composed["margin"][YOURS], row["margin"][name], rtol=1e-9, atol=1e-9)
    assert composed["answered"][YOURS] == row["answered"][name]
    assert composed["bytes"][YOURS] == row["bytes"][name]


def test_the_rows_beside_it_are_those_of_the_tape():
    arrays, tape = compute(filler=24), one_tape.compute(24, rows=BESIDE, retention=0.97)
    for name in BESIDE:
        assert np.array_equal(arrays["margin"][name], tape["margin"][name])


def test_the_error_before_and_after_a_write_by_hand():
    arrays, tape = compute(filler=0, step=0.5), one_tape.tape_of(0)
    S = np.zeros((32, 32))
    for t, (k, v) in enumerate(zip(tape.pairs.keys[0].numpy(), tape.pairs.values[0].numpy())):
        assert arrays["before"][t] == pytest.approx(np.square(k @ S - v).sum())
        S = S + 0.5 * np.outer(k, v - k @ S)
        assert arrays["after"][t] == pytest.approx(np.square(k @ S - v).sum())


def test_bytes_count_weights_momentum_and_the_pairs_of_the_window():
    assert compute(filler=0, memory="mlp")["bytes"][YOURS] == 4 * 2 * 32 * 64
    assert compute(filler=0, optimizer="momentum")["bytes"][YOURS] == 4 * 2 * 32 * 32
    assert compute(filler=0, window=4)["bytes"][YOURS] == 4 * (32 * 32 + 3 * 65)


def test_an_outlier_costs_the_squared_error_more_than_hubers_loss():
    def right(**settings):
        return sum(compute(filler=16, outlier=10, seed=seed, **settings)["right"][YOURS] for seed in range(8))

    assert right(loss="huber") > right() + 6


def test_draw_shows_those_arrays():
    arrays, figure = compute(filler=16, overwritten=2), go.Figure()
    draw(arrays, figure)
    table, before, after = figure.data
    assert list(table.y) == [YOURS, *BESIDE]
    assert np.array_equal(np.array(table.z), np.array([arrays["margin"][name] for name in table.y]))
    assert np.array_equal(before.y, arrays["before"]) and np.array_equal(after.y, arrays["after"])
    assert len(after.x) == 8 + 16 + 1
    assert "rewritten" in figure.layout.xaxis.ticktext[1]


def test_controls_drive_picture_and_sentence(view):
    assert all(control.description for control in view.controls_by_name.values())
    assert view.readout.startswith("These choices are DeltaNet.")
    view.set(retention="scalar")
    assert view.readout.startswith("These choices are Gated DeltaNet.")
    view.set(memory="mlp", optimizer="momentum", forget="last")
    assert view.readout.startswith("These choices are Titans' memory (LMM).")
    view.set(optimizer="muon", window=2, step=0.1)
    assert view.readout.startswith("These choices are ATLAS, as far as the picker goes.")
    view.set(loss="l3", overwritten=1)
    assert view.readout.startswith("No row of the family has these choices.")
    assert "new value of pair 1" in view.readout
    assert len(view.figure.data[1].y) == 8 + 16 + 1


def test_a_memory_that_blew_up_says_so(view):
    view.set(memory="matrix", loss="l3", optimizer="momentum", step=2, momentum=0.95, filler=96, outlier=30)
    assert "The writes blew up." in view.readout
    assert set(view.figure.data[0].text[0]) == {"blown<br>up"}


def test_the_prediction_is_answered_where_it_was_asked(view):
    assert view.predict(3).endswith("change the loss to Huber.")
    view.set(outlier=10, loss="huber")
    assert f"it came out {view.arrays['right'][YOURS]}" in view.verdict
    view.set(optimizer="momentum")
    assert "came out" not in view.verdict


def test_bad_input_is_refused_in_words(view):
    with pytest.raises(CourseError, match="loss cannot be 'hubers'"):
        view.set(loss="hubers")
    with pytest.raises(CourseError, match="1 to 8, or 0 for none, not 9"):
        compute(overwritten=9)
