"""A view's grid of pictures, as it travels: at each setting it holds what the live view shows there, and is small."""

import base64
import gzip
import json
import math
import random

import ipywidgets as W
import numpy as np
import plotly.graph_objects as go
import pytest

from nl_course.errors import CourseError
from nl_course.views.kit import grid as grids
from nl_course.views.kit.grid import MOST_BYTES, MOST_PICTURES, Axis, axis, columns, fitting
from nl_course.views.kit.plot import GRIDS, STILL, STILLS, plain
from nl_course.views.kit.shell import View
from nl_course.views.kit.short import rounded
from nl_course.views.kit.sync import changes
from tests.views.test_every_view import VIEWS


class Wave(View):
    """Three controls that move, one of them with a value that is refused; bars are another kind of trace."""

    name, title = "wave", "How often does a wave repeat?"

    def controls(self):
        return {
            "name": W.Text(value="a", description="Name"),
            "frequency": W.IntSlider(value=2, min=0, max=9, description="Frequency (crests per second)"),
            "drawn": W.Dropdown(options=["line", "bars", "both"], description="Drawn as"),
            "fast": W.Checkbox(value=False, description="Twice as fast"),
        }

    def compute(self, settings):
        if settings["frequency"] == 0:
            raise CourseError("a wave moves.")
        t = np.linspace(0, 1, 50)
        crests = settings["frequency"] * (2 if settings["fast"] else 1)
        return {"t": t, "y": np.sin(2 * np.pi * crests * t), "crests": crests, "drawn": settings["drawn"]}

    def draw(self, arrays, figure):
        if arrays["drawn"] != "bars":
            figure.add_scatter(x=arrays["t"], y=arrays["y"], marker=dict(size=9, opacity=0.5))
        if arrays["drawn"] != "line":
            figure.add_bar(x=arrays["t"], y=arrays["y"])
        figure.update_layout(xaxis_title=f"time (s), {arrays['crests']} crests")

    def read_out(self, arrays):
        return f"The wave has {arrays['crests']} crests."


def travels(view: View, monkeypatch) -> dict:
    """What an exported page gets of the view."""
    monkeypatch.setenv(STILLS, "1")
    monkeypatch.setenv(GRIDS, "1")
    return json.loads(json.dumps(view.still()[STILL]))


def played(content: dict, stops: list[int]) -> dict:
    """The picture at these stops, as `player.js` puts it together."""
    figure, grid = json.loads(content["figure"]), content["grid"]
    tree = {"said": content["read_out"], "data": dict(enumerate(figure["data"])), "layout": figure["layout"]}
    tree = json.loads(json.dumps(tree))
    sizes = [len(found["stops"]) for found in grid["axes"]]
    for path, on, values, which in json.loads(gzip.decompress(base64.b64decode(grid["changes"]))):
        place = 0
        for i in on:
            place = place * sizes[i] + stops[i]
        if which[place]:
            put(tree, path.split("."), values[which[place] - 1])
    tree["data"] = [trace for trace in tree["data"].values() if trace.get("type")]
    return tree


def put(tree: dict, keys: list[str], value) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    if value is None:
        tree.pop(keys[-1], None)
    else:
        tree[keys[-1]] = value


def live(view: View) -> dict:
    """What the live view shows, with numbers as short as they travel."""
    figure = json.loads(json.dumps(rounded(plain(view.figure))))
    return {"said": view.readout, "data": figure["data"], "layout": figure["layout"]}


def assert_same(shown: dict, wanted: dict) -> None:
    assert shown["said"] == wanted["said"] and len(shown["data"]) == len(wanted["data"])
    for trace, true in zip(shown["data"], wanted["data"], strict=True):
        assert changes(true, trace) == {}
    assert changes(wanted["layout"], shown["layout"]) == {}


def settings_of(view: View, grid: dict, stops: list[int]) -> dict:
    """The settings that the stops stand for."""
    found = {}
    for about, stop in zip(grid["axes"], stops, strict=True):
        full = axis(about["name"], view.controls_by_name[about["name"]])
        found[about["name"]] = full.values[full.words.index(about["stops"][stop])]
    return found


# -- a toy -------------------------------------------------------------------------------------------------------------
def test_every_setting_of_a_grid_is_the_live_view(monkeypatch):
    view = Wave(strict=True)
    content = travels(view, monkeypatch)
    grid = content["grid"]
    assert [(found["name"], len(found["stops"]), found["at"]) for found in grid["axes"]] == [
        ("frequency", 10, 2), ("drawn", 3, 0), ("fast", 2, 0),
    ]  # fmt: skip
    for frequency in range(1, 10):
        for drawn in range(3):
            for fast in range(2):
                stops = [frequency, drawn, fast]
                assert_same(played(content, stops), live(view.set(**settings_of(view, grid, stops))))


def test_a_refused_setting_says_so_over_the_opening_picture(monkeypatch):
    content = travels(Wave(strict=True), monkeypatch)
    refused, opening = played(content, [0, 1, 0]), played(content, [2, 0, 0])
    assert refused["said"] == "a wave moves." and refused["wrong"] and "wrong" not in opening
    assert refused["data"] == opening["data"] and refused["layout"] == opening["layout"]


def test_a_grid_is_around_the_settings_that_are_shown_and_leaves_them(monkeypatch):
    view = Wave(strict=True, frequency=5, drawn="bars")
    before, said = view.settings, view.readout
    content = travels(view, monkeypatch)
    assert [found["at"] for found in content["grid"]["axes"]] == [5, 1, 0]
    assert (view.settings, view.readout) == (before, said)


def test_a_view_says_what_moves_and_why_it_does_not(monkeypatch):
    class Named(Wave):
        moves = ("fast",)

    class Still(Wave):
        stays = "each picture takes an hour."

    assert [found["name"] for found in travels(Named(strict=True), monkeypatch)["grid"]["axes"]] == ["fast"]
    content = travels(Still(strict=True), monkeypatch)
    assert content["grid"] is None and content["stays"] == "each picture takes an hour."


def test_a_grid_that_is_too_large_gets_fewer_stops(monkeypatch):
    whole = travels(Wave(strict=True), monkeypatch)["grid"]
    size = len(whole["changes"])
    monkeypatch.setattr(grids, "MOST_BYTES", size - 1)
    less = travels(Wave(strict=True), monkeypatch)["grid"]
    assert len(less["changes"]) < size and len(less["axes"][0]["stops"]) < 10
    monkeypatch.setattr(grids, "MOST_BYTES", 10)
    assert travels(Wave(strict=True), monkeypatch)["grid"] is None


# -- axes --------------------------------------------------------------------------------------------------------------
def test_an_axis_stops_where_its_control_does():
    slider = axis("a", W.FloatSlider(value=0.3, min=0.1, max=1, step=0.2, description="Step", readout_format=".1f"))
    assert slider.values == (0.1, 0.3, 0.5, 0.7, 0.9, 1.0) and slider.words[:2] == ("0.1", "0.3") and slider.at == 1
    chosen = axis("a", W.Dropdown(options=[("two", 2), ("nine", 9)], value=9, description="Number"))
    assert (chosen.kind, chosen.values, chosen.words, chosen.at) == ("select", (2, 9), ("two", "nine"), 1)
    assert axis("a", W.SelectionSlider(options=(1, 8), value=8, description="Window")).words == ("1", "8")
    assert axis("a", W.Text(description="Your text")) is None and axis("a", W.Button(description="Go")) is None


def slider(count: int, at: int = 0) -> Axis:
    places = tuple(range(count))
    return Axis("slider", "Slider", "range", places, tuple(map(str, places)), at)


def choice(count: int) -> Axis:
    places = tuple(range(count))
    return Axis("list", "List", "select", places, tuple(map(str, places)), 0)


@pytest.mark.parametrize("most", [3, 4, 7, 50])
def test_thinned_stops_keep_the_ends_and_the_opening(most):
    for at in range(50):
        few = slider(50, at).thinned(most)
        assert few.values[0] == 0 and few.values[-1] == 49 and few.values[few.at] == at
        assert len(few.values) == most and list(few.values) == sorted(set(few.values))


def test_axes_are_thinned_until_they_fit():
    assert [len(a.values) for a in fitting([slider(64)], 120)] == [64]
    assert [len(a.values) for a in fitting([slider(149), choice(4)], 120)] == [30, 4]
    assert [len(a.values) for a in fitting([choice(9), choice(6), choice(30)], 120)] == [9, 6]
    sizes = [len(a.values) for a in fitting([slider(90), slider(30), choice(5)], 120)]
    assert math.prod(sizes) <= 120 and min(sizes[:2]) >= grids.FEWEST_STOPS and sizes[2] == 5


def test_a_value_is_kept_once_for_each_setting_that_it_depends_on():
    pictures = []
    for first in range(3):
        for second in range(2):
            pictures.append({"data.0.y": [first], "said": f"{first} {second}"})
    pictures[0] = {}  # the opening picture
    y, said = columns([3, 2], pictures)
    assert y == ["data.0.y", [0, 1], [[0], [1], [2]], [0, 1, 2, 2, 3, 3]]
    assert said[1] == [0, 1] and said[3] == [0, 1, 2, 3, 4, 5]
    assert columns([3, 2], [{"a": place // 2} for place in range(6)]) == [["a", [0], [0, 1, 2], [1, 2, 3]]]


def test_numbers_are_as_short_as_a_picture_allows():
    assert rounded([0.123456, 2.0, math.nan, None, "a"]) == [0.1235, 2, None, None, "a"]
    assert rounded([1000.123, 1000.456]) == [1000.123, 1000.456]  # they differ by less than a thousandth
    assert rounded([1.23456e-7, 1.0]) == [1.235e-7, 1]  # an axis may be logarithmic
    assert rounded([[0.5, 65536.0], [0.25, 1.0]]) == [[0.5, 65536], [0.25, 1]]
    array = np.linspace(0, 1, 6).reshape(2, 3)
    z = rounded(plain(go.Figure(go.Heatmap(z=array))))["data"][0]["z"]
    assert z == [[0, 0.2, 0.4], [0.6, 0.8, 1]]


# -- the course's views ------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("kind", VIEWS, ids=lambda kind: kind.name)
def test_each_view_moves_as_it_does_live_or_says_why_not(kind, monkeypatch):
    view = kind(strict=True)
    content = travels(view, monkeypatch)
    grid = content["grid"]
    if view.stays:
        assert grid is None and view.stays.endswith(".")
        return
    sizes = [len(found["stops"]) for found in grid["axes"]]
    assert len(grid["changes"]) <= MOST_BYTES and math.prod(sizes) <= MOST_PICTURES and len(sizes) <= grids.MOST_AXES
    assert min(sizes) >= 2 and all(len(set(found["stops"])) == len(found["stops"]) for found in grid["axes"])
    rng, start = random.Random(kind.name), view.settings
    opening = [found["at"] for found in grid["axes"]]
    assert_same(played(content, opening), live(view))
    different = 0
    for stops in ([0] * len(sizes), [size - 1 for size in sizes], [rng.randrange(size) for size in sizes]):
        view.set(**start)
        view.set(**settings_of(view, grid, stops))
        shown = played(content, stops)
        if view.error:
            assert shown["said"] == view.error and shown["wrong"]
        else:
            assert_same(shown, live(view))
        different += shown != played(content, opening)
    assert different, "no setting looks different from the opening picture"
