"""The scaling-law explorer: minima where they belong, our own fit with its band, and what it refuses to say."""

import numpy as np
import plotly.graph_objects as go
import pytest

from nl_course.errors import CourseError
from nl_course.scaling import kaplan_loss, law, laws, own_runs
from nl_course.views.scaling_laws import AXES, ScalingLaws, compute, draw, read_out

SETTINGS = dict(law="besiroglu", axis="split", power=21.0, smallest=0.0)
OURS = {**SETTINGS, "law": "ours", "power": 12.0}


@pytest.fixture
def view():
    return ScalingLaws(strict=True)


@pytest.mark.parametrize("name", laws())
def test_the_budgets_minimum_is_the_lowest_point_of_its_curve(name):
    arrays = compute({**SETTINGS, "law": name})
    for (_, x, y), (_, at, least) in zip(arrays["curves"], arrays["marks"], strict=True):
        lowest = int(np.argmin(y))
        assert 0 < lowest < len(x) - 1 and x[lowest] == pytest.approx(at, rel=0.1) and y[lowest] >= least - 1e-12
        assert law(name).loss(at, 10**21 / (6 * at)) >= least - 1e-12


def test_the_chinchilla_budget():
    arrays = compute({**SETTINGS, "power": np.log10(5.76e23)})
    assert arrays["now"].parameters == pytest.approx(72.2e9, rel=0.01)
    assert "18.4 per parameter" in read_out(arrays)


def test_kaplan_draws_straight_lines():
    for axis, keyword in (("parameters", "parameters"), ("tokens", "tokens")):
        _, x, y = compute({**SETTINGS, "law": "kaplan", "axis": axis})["curves"][0]
        slopes = np.diff(np.log(y)) / np.diff(np.log(x))
        assert np.allclose(slopes, slopes[0]) and y[0] == pytest.approx(kaplan_loss(**{keyword: x[0]}))
    marks = compute({**SETTINGS, "law": "kaplan", "axis": "compute"})["marks"]
    assert marks[1][2] / marks[0][2] == pytest.approx(10**-0.05)


def test_our_runs_are_drawn_as_they_were_measured():
    runs = own_runs()
    points = compute({**OURS, "axis": "parameters"})["points"]
    drawn = sorted((float(a), float(b)) for _, x, y in points for a, b in zip(x, y))
    assert drawn == sorted((float(a), float(b)) for a, b in zip(runs.parameters, runs.loss))
    _, x, y = compute({**OURS, "axis": "compute"})["points"][0]
    assert np.array_equal(x, 6 * runs.parameters * runs.tokens) and np.array_equal(y, runs.loss)


def test_our_band_surrounds_our_curve():
    arrays = compute({**OURS, "axis": "compute"})
    x, low, high = arrays["band"]
    _, same, curve = arrays["curves"][0]
    assert np.array_equal(x, same) and (low <= high).all()
    assert ((low <= curve) & (curve <= high)).mean() > 0.7


def test_fewer_runs_can_be_fitted():
    everything, fewer = compute(OURS), compute({**OURS, "smallest": 4e4})
    assert fewer["fit"].points < everything["fit"].points == len(own_runs().loss)
    assert f"Fitted to {fewer['fit'].points} runs" in read_out(fewer)


def test_the_context_axis_is_measured_and_ours_alone():
    arrays = compute({**OURS, "axis": "context"})
    longest = own_runs().tokens.max()
    for (_, x, y), row in zip(arrays["curves"], own_runs().by_position[own_runs().tokens == longest], strict=True):
        assert y[0] == pytest.approx(row[0]) and y[-1] == pytest.approx(row[128:].mean()) and x[-1] == 192.5
        assert y[-1] < y[0]
    with pytest.raises(CourseError, match="no published law here has the context"):
        compute({**SETTINGS, "axis": "context"})


def test_kaplan_cannot_split_a_budget(view):
    view.set(law="kaplan")
    assert "one limit at a time" in view.error
    view.set(axis="compute")
    assert not view.error and "There is no floor" in view.readout


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", ["besiroglu", "kaplan", "ours"])
def test_every_picture_can_be_drawn_and_told(name, axis):
    settings = {**(OURS if name == "ours" else SETTINGS), "law": name, "axis": axis}
    if (name, axis) in {("kaplan", "split"), ("kaplan", "context"), ("besiroglu", "context")}:
        with pytest.raises(CourseError):
            compute(settings)
        return
    arrays, figure = compute(settings), go.Figure()
    draw(arrays, figure)
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.line.width == 2]
    assert len(lines) == len(arrays["curves"]) and len({trace.line.dash for trace in lines}) == len(lines)
    assert figure.layout.xaxis.title.text and "nats per" in figure.layout.yaxis.title.text
    assert read_out(arrays).endswith(".")


def test_the_slider_follows_the_law_and_drives_the_picture(view):
    view.set(law="ours")
    slider = view.controls_by_name["power"]
    assert (slider.min, slider.max, slider.value) == (10, 14, 12)
    before = view.figure.data[-1].x[0]
    slider.value = 13.0
    assert view.figure.data[-1].x[0] > before and "10^13 operations" in view.readout
    view.set(law="hoffmann")
    assert (slider.min, slider.max, slider.value) == (18, 26, 21) and not view.error
    assert all(control.description for control in view.controls_by_name.values())


def test_the_prediction_is_compared(view):
    assert "close to it" in view.predict("3.2")
    view.set(law="hoffmann")
    assert "Choose the re-fit" in view.predict("3.2")
