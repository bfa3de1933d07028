"""Pictures without controls for the notebooks: `chart("what it says", x=..., y=...)`, then lines, points and bars.

    picture = chart("The cache grows in proportion to the tokens.", x="tokens", y="GB", log="xy")
    picture.line(tokens, gigabytes, "Llama 3.1 8B", memory="gqa")
    picture

Every chart carries one sentence that says what it shows: it stands under the picture, and in its place where no front
end answers. Colors, dashes and markers are the theme's, by memory.
"""

import math

import plotly.graph_objects as go
from ipywidgets import HTML, Layout, VBox

from nl_course.views.kit import theme
from nl_course.views.kit.plot import Plot, still

LINE, SIGN = 70, 6  # letters that a legend above the axes may have, and that each name's sign takes


def _style(memory: str) -> theme.Style:
    """A memory's style by name; grey where the thing drawn is no memory ("")."""
    return theme.style(memory) if memory else theme.Style(theme.MUTED, "solid", "")


class Chart:
    """A figure and its sentence; made by `chart`, shown as a cell's last line."""

    def __init__(self, says: str, layout: dict):
        self.says = says
        self.figure = go.Figure(layout=layout)

    def line(self, x, y, name: str, memory: str = "attention", dash: str | None = None, **more) -> "Chart":
        """A line in the color and dash of `memory` (or another dash)."""
        style = _style(memory)
        line = dict(color=style.color, dash=dash or style.dash, width=2)
        self.figure.add_scatter(x=list(x), y=list(y), name=name, mode="lines", line=line, **more)
        return self

    def points(
        self, x, y, name: str, memory: str = "attention", text=None, symbol=None, joined: bool = False, **more
    ) -> "Chart":
        """Markers in the color and shape of `memory` (or another symbol), with a label each where `text` is given,
        `joined` by a line in its dash."""
        style = _style(memory)
        if joined:
            more["line"] = dict(color=style.color, dash=style.dash, width=2)
        marker = dict(color=style.color, symbol=symbol or style.marker, size=10)
        mode = ("lines+" if joined else "") + ("markers+text" if text is not None else "markers")
        more = {"textposition": "top center", "cliponaxis": False, "text": text, **more}
        self.figure.add_scatter(x=list(x), y=list(y), name=name, mode=mode, marker=marker, **more)
        return self

    def bars(self, names, sizes, name: str, memory: str = "attention", pattern: str | None = None, **more) -> "Chart":
        """Horizontal bars, one a name; several calls stack. `pattern` fills them so that color is not all."""
        style = _style(memory)
        marker = dict(color=style.color, pattern=dict(shape=style.pattern if pattern is None else pattern))
        self.figure.add_bar(x=list(sizes), y=list(names), name=name, orientation="h", marker=marker, **more)
        return self

    def level(self, y: float, name: str) -> "Chart":
        """A dotted horizontal line with its name."""
        at = math.log10(y) if self.figure.layout.yaxis.type == "log" else y
        self.figure.add_shape(
            type="line", xref="paper", x0=0, x1=1, y0=y, y1=y, line=dict(color=theme.INK, dash="dot", width=2)
        )
        self.figure.add_annotation(
            xref="paper", x=0, y=at, text=name, showarrow=False, xanchor="left", yanchor="bottom"
        )
        return self

    def place(self, x: float) -> "Chart":
        """A dotted vertical line; the chart's sentence says what stands there."""
        self.figure.add_vline(x=x, line=dict(color=theme.INK, dash="dot", width=2))
        return self

    def _spread(self) -> None:
        """Whole powers of ten as ticks on logarithmic axes that span two of them or more."""
        for axis in "xy":
            if self.figure.layout[f"{axis}axis"].type == "log":
                values = [v for trace in self.figure.data for v in trace[axis] if v and v > 0]
                if values and max(values) >= 100 * min(values):
                    self.figure.layout[f"{axis}axis"].dtick = 1

    def _make_room(self) -> None:
        """A legend that one line above the axes does not hold stands beside them."""
        names = [trace.name or "" for trace in self.figure.data if trace.showlegend is not False]
        letters = sum(len(name) + SIGN for name in names)
        if letters > LINE and self.figure.layout.legend.orientation is None:
            self.figure.layout.legend = dict(orientation="v", x=1.02, xanchor="left", y=1, yanchor="top")

    def __repr__(self) -> str:
        return f"Chart: {self.says}"

    def _repr_mimebundle_(self, **kwargs) -> dict:
        self._spread()
        self._make_room()
        sentence = HTML(f"<p style='max-width:70ch;line-height:1.4;margin:2px 4px'>{self.says}</p>")
        box = VBox([Plot(self.figure, self.says), sentence], layout=Layout(overflow="visible"))
        box.add_class("nl-chart")
        return {**box._repr_mimebundle_(**kwargs), **still("chart", self.says, self.figure), "text/plain": repr(self)}


def chart(says: str, x: str = "", y: str = "", log: str = "", height: int = 340, **layout) -> Chart:
    """An empty chart. `says` is its sentence, `x` and `y` name the axes with units, `log` is "", "x", "y" or "xy"."""
    axes = {
        f"{axis}axis": dict(
            title=title, **(dict(type="log", exponentformat="none", separatethousands=True) if axis in log else {})
        )
        for axis, title in (("x", x), ("y", y))
    }
    return Chart(says, dict(height=height, barmode="stack", legend_traceorder="normal", **axes, **layout))
