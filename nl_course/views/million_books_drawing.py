"""How view 18 is drawn: bytes kept and bytes moved at the left, recall of the first book at the right."""

import math

from nl_course.views.kit import theme

HATCH = "not measured"


def look(name: str, styles: dict, index: str) -> theme.Style:
    """A memory's style, or that of the index on disk."""
    return theme.style("index" if name == index else styles[name])


def draw(arrays: dict, figure, styles: dict, index: str) -> None:
    """Lines by formula, markers where measured, a line where the reader stands."""
    chosen = arrays["memory"]
    for name, kept in arrays["state"].items():
        style, some = look(name, styles, index), arrays["measured"][name]
        line = dict(color=style.color, dash=style.dash, width=4 if name == chosen else 1.5)
        marker = dict(color=style.color, symbol=style.marker, size=9 if name == chosen else 6)
        figure.add_scatter(x=arrays["grid"], y=kept, name=f"{name}, kept", mode="lines", line=line, showlegend=False)
        figure.add_scatter(
            x=some["read"], y=some["bytes"], name=f"{name}, measured", mode="markers", marker=marker, showlegend=False
        )
        if name in arrays["moved"]:
            figure.add_scatter(
                x=arrays["grid"], y=arrays["moved"][name], name=f"{name}, moved", mode="lines", line=line,
                xaxis="x2", yaxis="y2", showlegend=False,
            )  # fmt: skip
        above = [high - share for high, share in zip(some["high"], some["recall"])]
        below = [share - low for low, share in zip(some["low"], some["recall"])]
        error = dict(array=above, arrayminus=below, visible=name == chosen, thickness=1.5, width=4)
        figure.add_scatter(
            x=some["read"], y=some["recall"], name=name, mode="lines+markers", line=line, marker=marker, error_y=error,
            xaxis="x3", yaxis="y3", cliponaxis=False,
        )  # fmt: skip
    _axes(arrays, figure)
    _unmeasured(arrays, figure)


def _axes(arrays: dict, figure) -> None:
    """Three panels, all against bytes read on a log scale."""
    read = dict(type="log", range=[2.6, 12.1], exponentformat="SI", dtick=2, title="bytes read")
    sizes = dict(type="log", exponentformat="power", dtick=3)
    here = dict(type="line", y0=0, y1=1, line=dict(color=theme.INK, width=1.5, dash="dot"))
    at = max(arrays["read"], 10**2.6)
    figure.update_layout(
        margin=dict(l=64, r=16, t=84, b=52), legend=dict(y=1.04, x=0, xanchor="left", font=dict(size=12)),
        xaxis=dict(read, domain=(0, 0.44), anchor="y", title=None),
        yaxis=dict(sizes, domain=(0.56, 1), title="bytes kept"),
        xaxis2=dict(read, domain=(0, 0.44), anchor="y2"),
        yaxis2=dict(sizes, domain=(0, 0.44), anchor="x2", title="bytes moved so far", dtick=6),
        xaxis3=dict(read, domain=(0.56, 1), anchor="y3", range=[2.6, 7]),
        yaxis3=dict(anchor="x3", range=[-0.03, 1.04], title="facts of the first book answered", tickformat=".0%"),
        shapes=[
            dict(here, x0=at, x1=at, xref=x, yref=f"{y} domain") for x, y in (("x", "y"), ("x2", "y2"), ("x3", "y3"))
            if y != "y3" or at <= 10**7
        ],
    )  # fmt: skip


def _unmeasured(arrays: dict, figure) -> None:
    """Hatches what the recording of the chosen memory does not reach."""
    last = arrays["measured"][arrays["memory"]]["read"][-1]
    figure.add_scatter(
        x=[last, last, 10**7, 10**7], y=[0, 1, 1, 0], fill="toself", mode="lines", line=dict(width=0), name=HATCH,
        fillpattern=dict(shape="/", fgcolor=theme.MUTED, bgcolor="white", size=10, solidity=0.08), opacity=0.5,
        xaxis="x3", yaxis="y3", hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    words = f"{arrays['memory']}:<br>not measured<br>beyond {last:,} bytes"
    middle = (math.log10(last) + 7) / 2
    figure.add_annotation(
        text=words, x=middle, y=0.55, xref="x3", yref="y3", showarrow=False, bgcolor="white", font=dict(size=12)
    )
    if arrays["read"] > 10**7:
        figure.add_annotation(
            text="the reader stands<br>far to the right", x=7, y=0.9, xref="x3", yref="y3", xanchor="right",
            showarrow=False, bgcolor="white", font=dict(size=12),
        )  # fmt: skip
