"""How long each view takes from a changed control to a changed figure, without a browser."""

import importlib
import pkgutil
from statistics import median

from ipywidgets import Widget

from nl_course import views
from nl_course.benches.measure import seconds
from nl_course.views.kit.shell import View


def rows() -> list[dict]:
    """Milliseconds per view: opening it, and from a changed control to a changed figure."""
    return [_row(view) for view in all_views()]


def all_views() -> list[type[View]]:
    """Every view of the course, by importing every module of `nl_course.views`."""
    for module in pkgutil.iter_modules(views.__path__):
        importlib.import_module(f"nl_course.views.{module.name}")
    views_here = {view for view in _below(View) if view.__module__.startswith("nl_course.views.")}
    return sorted(views_here, key=lambda view: view.name)


def _below(kind: type[View]) -> list[type[View]]:
    classes = []
    for child in kind.__subclasses__():
        classes += [child, *_below(child)]
    return classes


def _row(kind: type[View], presses: int = 12) -> dict:
    opening = seconds(lambda: kind(strict=True))
    view, times = kind(strict=True), []
    for name in view.settings:  # buttons have no value to set
        control = view.controls_by_name[name]
        for value in _other_values(control)[:presses]:
            times.append((seconds(lambda n=name, v=value: view.set(**{n: v})), name))
    return {
        "name": kind.name,
        "opening, ms": 1e3 * opening,
        "recompute and draw, median ms": 1e3 * median(t for t, _ in times),
        "slowest, ms": 1e3 * max(times)[0],
        "slowest control": max(times)[1],
    }


def _other_values(control: Widget) -> list:
    """Values that a learner would move this control to, near the present one first."""
    if control.has_trait("options"):
        options = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return [option for option in options if option != control.value]
    if control.has_trait("max") and isinstance(control.value, (int, float)):
        step = control.step or 1
        return [v for n in range(1, 13) if (v := control.value + n * step) <= control.max] or [control.min]
    if isinstance(control.value, bool):
        return [not control.value, control.value]
    return []
