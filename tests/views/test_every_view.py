"""What all views of the course owe the learner, whatever they show. A new view is found here by itself."""

import importlib
import math
import pkgutil
import re

import ipywidgets as W
import pytest

import nl_course.views
from nl_course.views.kit.plot import plain
from nl_course.views.kit.shell import View
from nl_course.views.kit.sync import changes, flat
from tests.generators import forget_what_views_computed, unchanged


def every_view() -> list[type[View]]:
    for module in pkgutil.iter_modules(nl_course.views.__path__, "nl_course.views."):
        importlib.import_module(module.name)
    queue, found = [View], []
    while queue:
        for kind in queue.pop().__subclasses__():
            queue.append(kind)
            if kind.__module__.startswith("nl_course.views."):
                found.append(kind)
    return sorted(found, key=lambda kind: kind.name)


pytestmark = pytest.mark.slow
VIEWS = every_view()


# Several panels of these would overlap in 420 pixels.
TALL = {"optimizers", "state-map"}
# The settings, beside those it opens with, that answer a view's prediction.
ANSWERED_BY: dict[str, dict] = {
    "attention-explorer": {},
    "cache-growth": {"tokens": 64},
    "capacity": {"pairs": 128},
    "clocks": {},
    "explosion": {"mini_batch": 16},
    "explosion-titans": {"momentum": 0.9, "similarity": 0.0},
    "family": {"outlier": 10, "loss": "huber"},
    "frontier": {},
    "frontier-yours": {},
    "inner-microscope": {"token": 86},
    "memory-desk": {"context": 131072},
    "million-books": {"books": 1},
    "nested-clocks": {"passes": 0},
    "one-tape": {"filler": 64},
    "one-tape-last": {"filler": 64},
    "one-tape-later": {"filler": 64},
    "optimizers": {"one": "DGD"},
    "paradox-board": {"inner_steps": 8, "last_layer_only": False},
    "scaling-laws": {},
    "second-reading": {"distance": 256},
    "self-modification": {"held": "the key memory"},
    "state-map": {"tokens": 100_000},
    "titans-reads": {"token": 17},
    "who-reads-whom": {"memory": "delta rule"},
    "wiring": {"cut": "memory"},
    "write-and-read": {"writes": 5},
}
BY_NO_SETTING = {"training-board"}  # a training answers it
# Numbers of an opening sentence that equal the answer and say something else.
CHANCE = {
    "family": "8 of 8 pairs are right before anything is asked",
    "state-map": "99.5 kB is what another memory keeps",
    "one-tape-last": "a memory of 1 layer",
    "one-tape-later": "a memory of 1 layer",
}
CHANGED: dict[str, list[str]] = {}  # the random numbers that a view's first showing changed, by the view's name


@pytest.fixture(scope="module", params=VIEWS, ids=lambda kind: kind.name)
def view(request) -> View:
    forget_what_views_computed()
    with unchanged() as changed:
        made = request.param(strict=True)
    CHANGED[made.name] = changed
    return made


@pytest.fixture(autouse=True)
def random_numbers_are_left_alone():
    with unchanged() as changed:
        yield
    assert not changed, "a control changes the caller's random numbers"


def shown(view: View) -> dict:
    """All that the learner sees of the present settings, as flat numbers and words."""
    figure = view.figure
    traces = {f"trace {i}": trace.to_plotly_json() for i, trace in enumerate(figure.data)}
    layout = figure.layout.to_plotly_json()
    layout.pop("template", None)
    for trace in traces.values():
        trace.pop("uid", None)
    return flat({"said": view.readout, **traces, "layout": layout})


def others(control: W.Widget) -> list:
    """Some other values that the control allows; none if the test knows no way to move it."""
    if isinstance(control, W.Checkbox | W.ToggleButton):
        return [not control.value]
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return [value for value in values if value != control.value]
    if all(control.has_trait(name) for name in ("min", "max", "step")) and not isinstance(control.value, tuple):
        step = control.step or (control.max - control.min) / 10
        return [control.value + step if control.value + step <= control.max else control.value - step]
    return []


def test_names_differ():
    names = [kind.name for kind in VIEWS]
    assert len(set(names)) == len(names) and "view" not in names
    assert {*ANSWERED_BY, *BY_NO_SETTING, *CHANCE, *TALL} <= set(names), "a row of these tables is of no view"


def test_it_opens_with_a_question_and_something_to_see(view):
    assert view.title and view.prediction is not None
    assert not view.prediction.options or 2 <= len(view.prediction.options) <= 4
    assert len(view.figure.data) > 0 and view.error == ""
    assert view.readout.strip().endswith(".") and any(letter.isdigit() for letter in view.readout)


def test_its_opening_does_not_answer_its_prediction(view):
    """Neither by the settings, nor by a number or a name in its sentence; or picture and sentence are covered."""
    assert view.name in BY_NO_SETTING or view.name in ANSWERED_BY, "name the settings that answer its prediction"
    start, said = view.settings, view.readout
    if view.covered:
        assert said not in repr(view)
        return
    assert view.prediction.outcome(view.arrays) is None
    if view.name in ANSWERED_BY:
        view.set(**ANSWERED_BY[view.name])
        told = given_away(said, view.prediction.outcome(view.arrays), view.prediction.options)
        assert told == (view.name in CHANCE), said
        view.set(**start)


def test_its_prediction_is_answered_and_a_wrong_one_hears_why(view):
    start, options = view.settings, view.prediction.options
    assert view.prediction.why.endswith(".")
    if view.name in ANSWERED_BY:
        view.set(**ANSWERED_BY[view.name])
        came = view.prediction.outcome(view.arrays)
        assert came in options if options else math.isfinite(came)
        wrong = next(option for option in options if option != came) if options else 2 * came + 1
        assert view.predict(wrong).endswith(view.prediction.why)
        assert not view.covered
        view.set(**start)


def given_away(said: str, came: str | float, options: tuple[str, ...]) -> bool:
    """Whether a sentence has the answer: its number, or its name and no other answer's."""
    if options:
        return came in said and not any(other in said for other in options if other != came)
    numbers = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*", said)]
    return any(abs(number - came) <= 0.01 * abs(came) for number in numbers)


def test_answers_are_found_in_sentences():
    assert given_away("It grows 4.0 times.", 4, ()) and not given_away("It grows.", 4, ())
    assert given_away("Hebb wins.", "Hebb", ("Hebb", "delta")) and not given_away(
        "Hebb, delta.", "Hebb", ("Hebb", "delta")
    )


def test_its_first_showing_leaves_the_callers_random_numbers_alone(view):
    assert not CHANGED[view.name]


def test_its_axes_are_named(view):
    layout = view.figure.layout.to_plotly_json()
    axes = [axis for name, axis in layout.items() if name.startswith(("xaxis", "yaxis")) and axis.get("visible", True)]
    titled = sum(bool((axis.get("title") or {}).get("text")) for axis in axes)
    assert titled >= 1, "at least one axis must say what it counts, with its unit"


def test_it_fits_the_screen_and_its_words_are_legible(view):
    figure = plain(view.figure)
    assert view.name in TALL or figure["layout"]["height"] <= 420
    small = [size for size in font_sizes(figure) if size < 11]
    assert not small, f"text of {min(small)} px; at least 11"


def font_sizes(tree) -> list[float]:
    """Every font size that a figure names."""
    if isinstance(tree, list):
        return [size for part in tree if isinstance(part, dict | list) for size in font_sizes(part)]
    sizes = []
    for key, value in tree.items():
        if isinstance(value, dict | list):
            sizes += font_sizes(value)
            named = key.endswith("font") and isinstance(value, dict) and isinstance(value.get("size"), int | float)
            sizes += [value["size"]] if named else []
    return sizes


def surroundings(view: View) -> list[dict]:
    """The opening settings, then those with one choice made differently, or with one slider at an end: some controls
    matter only there."""
    around = [{}]
    for name, control in view.controls_by_name.items():
        if isinstance(control, W.Dropdown | W.ToggleButtons | W.Checkbox):
            around += [{name: other} for other in others(control)]
    for name, control in view.controls_by_name.items():
        if isinstance(control, W.IntSlider | W.FloatSlider):
            around += [{name: end} for end in (control.min, control.max)]
    return around


def test_no_control_is_dead_and_all_come_back(view):
    start = view.settings
    for name, control in view.controls_by_name.items():
        if name not in start or not others(control):
            continue
        for around in surroundings(view):
            before = shown(view.set(**{**start, **around}))
            value = others(control)[0]
            view.set(**{name: value})
            assert around or view.error == "", f"{name} = {value!r}"
            if alive := not view.error and bool(changes(before, shown(view))):
                break
        assert alive, f"moving {name!r} to {value!r} changes nothing that is seen"
        view.set(**start)
    assert view.settings == start


def test_the_same_settings_say_the_same(view):
    start, said = view.settings, view.readout
    view._cache.clear()
    assert view.set(**start).readout == said
