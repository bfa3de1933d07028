"""A view's pictures over a grid of its settings, small enough to travel in a page that has no kernel.

The grid holds the opening picture whole, and of every other picture what differs from it. A number of the figure
(`data.0.y`) that depends on one control of three is kept once per stop of that control, and equal values are kept once.

    {"figure": {"data": ..., "layout": ...}, "said": "The wave has 2 crests.",
     "axes": [{"name": "frequency", "label": "Crests per second", "kind": "range", "stops": ["1", "2"], "at": 1}],
     "changes": [["data.0.y", [0], [[0.1, 0.2]], [1, 0]]], ...}

One change is a path, the places of the axes that it depends on, its values, and for each setting of these axes (the
last one moves fastest) which value it is; 0 means: as in the opening picture. The changes travel as JSON, packed by
gzip, in base64. `files/player.js` of `nl_course.export` plays a grid.
"""

import base64
import gzip
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets as W
import numpy as np

from nl_course.errors import CourseError
from nl_course.views.kit.plot import plain
from nl_course.views.kit.short import rounded
from nl_course.views.kit.sync import changes

MOST_PICTURES = 120  # of one view
MOST_BYTES = 100_000  # of one view's grid, packed, beside its opening picture
MOST_AXES = 3
FEWEST_STOPS = 4  # of a slider; where even these are too many, the last control stays still


@dataclass(frozen=True)
class Axis:
    """One control of a grid: the values it stops at, what it shows there, and where it opens."""

    name: str
    label: str
    kind: str  # "range" or "select"
    values: tuple
    words: tuple[str, ...]
    at: int

    @property
    def fewest(self) -> int:
        """How few stops the axis may be thinned to."""
        return FEWEST_STOPS if self.kind == "range" else len(self.values)

    def thinned(self, most: int) -> "Axis":
        """The axis with at most `most` stops, spread evenly; its first, its last and its opening one stay."""
        last = len(self.values) - 1
        if last < most:
            return self
        kept = {round(i * last / (most - 1)) for i in range(most)}
        if self.at not in kept:
            kept.remove(min(kept - {0, last}, key=lambda place: abs(place - self.at)))
            kept.add(self.at)
        places = sorted(kept)
        values = tuple(self.values[place] for place in places)
        words = tuple(self.words[place] for place in places)
        return replace(self, values=values, words=words, at=places.index(self.at))


def axis(name: str, control: W.Widget) -> Axis | None:
    """The axis of a control as it stands now; None for one that has no list or range, such as a text or a button."""
    if isinstance(control, W.Checkbox | W.ToggleButton):
        return Axis(name, control.description, "select", (False, True), ("no", "yes"), int(control.value))
    if control.has_trait("options"):
        options = [option if isinstance(option, tuple) else (str(option), option) for option in control.options]
        words, values = zip(*options, strict=True)
        kind = "range" if isinstance(control, W.SelectionSlider) else "select"
        return Axis(name, control.description, kind, values, words, values.index(control.value))
    if isinstance(control, W.IntSlider | W.FloatSlider):
        count = math.floor((control.max - control.min) / control.step + 1e-6)
        steps = {type(control.value)(round(control.min + i * control.step, 10)) for i in range(count + 1)}
        values = sorted(steps | {control.value, control.max})
        words = tuple(format(value, control.readout_format) for value in values)
        return Axis(name, control.description, "range", tuple(values), words, values.index(control.value))
    return None


def fitting(axes: Sequence[Axis], most: int = MOST_PICTURES) -> list[Axis]:
    """The axes thinned until they have at most `most` settings together. Lists keep all that they offer; where sliders
    of FEWEST_STOPS are still too many, the last axes are left out."""
    axes = list(axes)
    while axes and math.prod(min(len(a.values), a.fewest) for a in axes) > most:
        axes.pop()
    while axes and (product := math.prod(len(a.values) for a in axes)) > most:
        longest = max((a for a in axes if len(a.values) > a.fewest), key=lambda a: len(a.values))
        length = len(longest.values)
        # As many as fit, but not at once far fewer than the next longest slider has.
        stops = max(longest.fewest, most * length // product, length // 2)
        axes[axes.index(longest)] = longest.thinned(min(stops, length - 1))
    return axes


def grid(view: Any, names: Iterable[str]) -> dict | None:
    """The grid of a view around its present settings; None where nothing can move.

    `names` are the controls that move. A grid over MOST_BYTES is thinned further.
    """
    candidates = (axis(name, view.controls_by_name[name]) for name in names)
    axes = [found for found in candidates if found is not None and len(found.values) > 1][:MOST_AXES]
    opening, start = picture(view, view.settings), view.settings
    seen, most = {}, MOST_PICTURES
    while axes := fitting(axes, most):
        pictures = []
        for values in itertools.product(*(a.values for a in axes)):
            settings = {**start, **dict(zip((a.name for a in axes), values, strict=True))}
            key = repr(settings)
            if key not in seen:
                seen[key] = changes(opening, picture(view, settings, opening))
            pictures.append(seen[key])
        text = json.dumps(columns([len(a.values) for a in axes], pictures), separators=(",", ":"))
        packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
        if len(packed) <= MOST_BYTES:
            about = [{"name": a.name, "label": a.label, "kind": a.kind, "stops": a.words, "at": a.at} for a in axes]
            return {"axes": about, "changes": packed}
        most = min(len(pictures) - 1, int(len(pictures) * MOST_BYTES / len(packed)))
    return None


def picture(view: Any, settings: dict, opening: dict | None = None) -> dict:
    """The picture and the sentence of `settings` as one tree: `said`, `data` and `layout`.

    Where the view refuses the settings, the opening picture stays, its error is said, and `wrong` is there.
    """
    try:
        figure, said = view.pictured(view.compute(settings))
    except CourseError as error:
        return {**(opening or {}), "said": str(error), "wrong": True}
    drawing = rounded(plain(figure))
    return {"said": said, "data": dict(enumerate(drawing["data"])), "layout": drawing["layout"]}


def columns(sizes: Sequence[int], pictures: Sequence[dict]) -> list:
    """The changes of all pictures, path by path; see the module's text. `sizes` are the numbers of stops."""
    found = []
    for path in dict.fromkeys(path for edits in pictures for path in edits):
        values, place_of, which = [], {}, []
        for edits in pictures:
            place = 0
            if path in edits:
                text = json.dumps(edits[path])
                if text not in place_of:
                    values.append(edits[path])
                    place_of[text] = len(values)
                place = place_of[text]
            which.append(place)
        which = np.array(which).reshape(sizes)
        on = []
        for i in range(len(sizes)):
            first = which.take([0], axis=i)
            if (which == first).all():
                which = first
            else:
                on.append(i)
        found.append([path, on, values, which.ravel().tolist()])
    return found
