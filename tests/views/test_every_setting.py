"""Whatever a control can be set to, a view draws, or says in one line why not.

Each control of each view is driven to both of its ends, then all of them together, then to values that only code can
give it. A view says "This view failed" where it met an error that it did not expect; here such an error is raised.
"""

import math
import random
import re

import ipywidgets as W
import pytest

from nl_course.errors import CourseError
from nl_course.views.kit.shell import View, check_setting
from tests.views.test_every_view import VIEWS

pytestmark = pytest.mark.slow
TEXTS = ("", " ", "a", "a b", "a a a a a a", "א 😀 ß", "\0 a\tb", "word " * 300, "x" * 3000)
TOGETHER = 8  # settings in which every control stands at one of its ends


@pytest.fixture(scope="module", params=VIEWS, ids=lambda kind: kind.name)
def view(request) -> View:
    return request.param(strict=True)


def ends(control: W.Widget) -> list:
    """The first and the last value of a control; for text, what people and accidents type."""
    if isinstance(control, W.Checkbox | W.ToggleButton):
        return [False, True]
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return [values[0], values[-1]]
    if control.has_trait("min") and isinstance(control.value, tuple):
        return [(control.min, control.min), (control.min, control.max), (control.max, control.max)]
    if control.has_trait("min"):
        return [control.min, control.max]
    if isinstance(control, W.Text | W.Textarea):
        return list(TEXTS)
    return []


def settable(view: View) -> dict[str, W.Widget]:
    """The controls that hold a value: a button has none."""
    return {name: control for name, control in view.controls_by_name.items() if control.has_trait("value")}


def check_what_it_says(view: View, settings: dict) -> None:
    """One line of error, or a sentence about numbers that are numbers."""
    assert "\n" not in view.error and "failed" not in view.error, settings
    if not view.error:
        assert not re.search(r"\b(nan|inf|None)\b", view.readout), (settings, view.readout)


def test_each_control_goes_to_both_ends(view):
    start = view.settings
    for name, control in settable(view).items():
        assert ends(control), f"this test knows no ends of {name!r}, a {type(control).__name__}"
        for value in ends(control):
            view.set(**start)
            view.set(**{name: value})
            check_what_it_says(view, {name: value})
    view.set(**start)


def test_all_controls_go_to_their_ends_together(view):
    start = view.settings
    rng = random.Random(view.name)
    for _ in range(TOGETHER):
        settings = {name: rng.choice(ends(control)) for name, control in settable(view).items()}
        try:
            view.set(**settings)
        except CourseError:  # one control may narrow what another allows
            view.set(**start)
            continue
        check_what_it_says(view, settings)
    view.set(**start)


def test_what_only_code_can_set_is_refused_in_one_line(view):
    start = view.settings
    for name, control in settable(view).items():
        refused = []
        if hasattr(control, "options"):
            refused.append(None)
        if isinstance(control.value, float):
            refused += [math.nan, math.inf]
        if isinstance(control, W.Text | W.Textarea):
            refused.append("half of an emoji: \ud83d")
        for value in refused:
            with pytest.raises(CourseError) as error:
                view.set(**{name: value})
            assert "\n" not in str(error.value)
    assert view.settings == start


def test_a_value_set_past_the_view_is_told_in_the_view():
    view = VIEWS[0](strict=True)
    text = next(control for control in settable(view).values() if isinstance(control, W.Text | W.Textarea))
    text.value = "\ud83d"
    assert "half a character" in view.error


def test_what_can_be_drawn_passes():
    for control, value in ((W.FloatSlider(), 1.0), (W.Text(), "é 😀"), (W.Dropdown(options=["a"]), "a")):
        check_setting(control, value)
