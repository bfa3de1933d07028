"""A plotly figure as a small widget of our own: plotly.js is loaded once per page, and the state is the whole picture.

plotly's FigureWidget ships five megabytes of JavaScript with every figure and fills the figure by messages; a browser
that is late misses them, and shows empty axes. Here the widget's state always holds the whole figure. A browser starts
from it: at the first showing, in a second output, after a reload. What changes then is sent as a difference with a
number, and a browser that missed one asks for the whole.
"""

import gzip
import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as W
import plotly
import plotly.graph_objects as go
import traitlets

from nl_course.views.kit import theme
from nl_course.views.kit.lasting import FILES, Lasting, script
from nl_course.views.kit.short import rounded
from nl_course.views.kit.sync import changes

STILLS = "NL_COURSE_STILLS"  # where this is "1", an output also holds what `still` returns, under
GRIDS = "NL_COURSE_GRIDS"  # where this is "1" too, also how views move, which takes them seconds
STILL = "application/vnd.nl-course.view+json"
WIDGET, PNG = "application/vnd.jupyter.widget-view+json", "image/png"  # others that an output may hold
MOST_WIDTH = 920  # pixels, of a figure that does not say how wide it may become
LEAST_WIDTH = 300  # where the page is narrower, a figure scrolls sideways
# Pixels of a letter in a legend or at an axis and in a title, of a sign before a name, of the margins beside the axes.
LETTER, LETTER_OF_A_TITLE, SIGN, MARGINS = 7, 8, 50, 40
LEAST_WIDTH_OF_A_VIEW = 820  # its panels stand side by side


class Library(W.Widget):
    """plotly.js, packed by gzip: one per kernel, which the figures of a page read together. It is never shown."""

    source = traitlets.Bytes().tag(sync=True)


_library: Library | None = None


def library() -> Library:
    """The kernel's one copy of plotly.js; made anew where all widgets were closed."""
    global _library
    if _library is None or _library.comm is None:
        file = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
        _library = Library(source=gzip.compress(file.read_bytes(), 1, mtime=0))
    return _library


@lru_cache(maxsize=1)
def _template() -> dict:
    return theme.template().to_plotly_json()


def plain(figure: go.Figure) -> dict:
    """A figure as JSON that any plotly.js draws: `data` and `layout`, with the course's template."""
    drawing = json.loads(figure.to_json())
    layout = {**drawing["layout"], "template": _template()}
    return {"data": drawing["data"], "layout": layout}


def least_width(drawing: dict) -> int:
    """The narrowest that a figure without panels may be drawn, in pixels: the name of its x axis is not cut, and its
    legend takes no room from the axes and does not stand on the title above them."""
    layout = drawing["layout"]
    names = [trace.get("name") or "" for trace in drawing["data"] if trace.get("showlegend") is not False]
    legend = LETTER * max(map(len, names)) + SIGN if len(names) > 1 else 0
    beside = layout.get("legend", {}).get("orientation") == "v"
    axes = max(LEAST_WIDTH, LETTER * len(_title(layout.get("xaxis", {}))) + MARGINS)
    above = LETTER_OF_A_TITLE * len(_title(layout)) + legend
    return axes + legend if beside else max(axes, above)


def _title(part: dict) -> str:
    return part.get("title", {}).get("text") or ""


def wanted(what: str) -> bool:
    """Whether outputs are to hold what a page without a kernel shows; `what` is STILLS or GRIDS."""
    return os.environ.get(what) == "1"


def still(name: str, read_out: str, figure: go.Figure, **more: Any) -> dict:
    """What a page without a kernel shows in a widget's place, as part of its output; nothing unless STILLS asks.

    It holds the read-out, the figure as JSON, and `more`: of a view its title, question, controls, and how it moves.
    """
    if not wanted(STILLS):
        return {}
    drawing = rounded(plain(figure))
    shown = {"name": name, "read_out": read_out, "figure": json.dumps(drawing), "least_width": least_width(drawing)}
    return {STILL: {**shown, **more}}


_later: dict[str, Callable[[], dict]] = {}  # by the model of an output's widget: what it shows by now


def still_later(widget: W.Widget, make: Callable[[], dict]) -> None:
    """Remembers how to make the still of a `widget` whose picture goes on changing after it was shown."""
    if wanted(STILLS):
        _later[widget.model_id] = make


def latest() -> str:
    """What the widgets of `still_later` show now, as JSON: by the model of the widget, as `still` has it."""
    return json.dumps({model: make()[STILL] for model, make in _later.items()})


class Plot(Lasting):
    """A figure in the browser; `show` brings another one. `label` is what a screen reader calls it."""

    _esm = script(
        "alive",
        "keys",
        "plot",
        INK=theme.INK,
        GRID=theme.GRID,
        VEIL=theme.VEIL,
        DARK=list(theme.DARK.items()),
        MOST_WIDTH=MOST_WIDTH,
    )
    _css = FILES / "kit.css"
    library = traitlets.Unicode().tag(sync=True)
    figure = traitlets.Dict().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    least_width = traitlets.Int(LEAST_WIDTH).tag(sync=True)

    def __init__(
        self,
        figure: go.Figure,
        label: str,
        on_click: Callable[[int, int], None] | None = None,
        narrowest: int | None = None,
    ):
        """`narrowest` is the least width in pixels of a figure with panels; None for that of its legend."""
        self.on_click = on_click
        drawing = plain(figure)
        super().__init__(
            library=library().model_id,
            figure={"revision": 0, **drawing},
            label=label,
            least_width=narrowest or least_width(drawing),
        )

    def show(self, figure: go.Figure) -> None:
        """Makes the browser draw `figure`: what differs from the last one is sent, or all where the traces differ."""
        after, before, revision = plain(figure), self.figure, self.figure["revision"] + 1
        if [trace["type"] for trace in before["data"]] != [trace["type"] for trace in after["data"]]:
            self.figure = {"revision": revision, **after}
            return
        data = {i: changes(*traces) for i, traces in enumerate(zip(before["data"], after["data"], strict=True))}
        data = {i: edits for i, edits in data.items() if edits}
        layout = changes(before["layout"], after["layout"])
        if not data and not layout:
            return
        # In place: assigning the trait would send the whole figure.
        self.figure.update(revision=revision, **after)
        self.send({"difference": {"revision": revision, "data": data, "layout": layout}})

    def knows(self, browser: dict) -> bool:
        """Whether the browser has the latest figure."""
        return browser.get("revision") == self.figure["revision"]

    def heard(self, content: dict) -> None:
        """A click on a point of the figure."""
        if "click" in content and self.on_click:
            self.on_click(content["click"]["trace"], content["click"]["point"])

    def __repr__(self) -> str:
        return f"Plot({self.label!r})"
