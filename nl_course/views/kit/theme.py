"""How every picture of the course looks: one color and one dash per memory, one template for all charts.

The palette was checked to stand at least 3.1 : 1 against white and at least 27 apart in CIELAB for ordinary sight,
deuteranopia, protanopia and tritanopia; a dash, marker or bar pattern always carries the same message as the color.
"""

from typing import NamedTuple

import plotly.graph_objects as go


class Style(NamedTuple):
    """Color (hex), line dash (plotly), bar pattern (plotly) and marker of one memory."""

    color: str
    dash: str
    pattern: str
    marker: str = "circle"


_FAMILIES = {
    "attention": Style("#1437DC", "solid", ""),
    "linear": Style("#849663", "dot", "."),
    "delta": Style("#0096F8", "dashdot", "/"),
    "ttt": Style("#003A36", "dash", "x"),
    "titans": Style("#BA8A10", "longdash", "-"),
    "hope": Style("#7A3200", "longdashdot", "\\"),
    "ttt-e2e": Style("#5A0A8F", "5px,2px", "+"),
    "outer": Style("#C12D86", "solid", ""),
}
# Variants share their family's color and differ by marker.
_VARIANTS = {
    "attention": ("attention", "circle"),
    "gqa": ("attention", "square"),
    "mqa": ("attention", "diamond"),
    "latent-attention": ("attention", "cross"),
    "window": ("attention", "triangle-up"),
    "linear": ("linear", "circle"),
    "retnet": ("linear", "square"),
    "delta": ("delta", "circle"),
    "gated-delta": ("delta", "square"),
    "kda": ("delta", "triangle-up"),
    "cached": ("delta", "cross"),
    "ttt-linear": ("ttt", "circle"),
    "ttt-mlp": ("ttt", "square"),
    "titans": ("titans", "circle"),
    "mac": ("titans", "square"),
    "mag": ("titans", "diamond"),
    "mal": ("titans", "triangle-up"),
    "hope": ("hope", "circle"),
    "self-modifying": ("hope", "square"),
    "ttt-e2e": ("ttt-e2e", "circle"),
    "outer": ("outer", "circle"),
}

MUTED, INK, GRID = "#8A8F98", "#1B1F24", "#E3E6EA"
ON_PALE = "#1B1F25"  # ink on pale colors, which are pale on dark paper too
VEIL = "rgba(255,255,255,0.8)"  # behind words that stand on a picture
# In the browser INK, GRID, VEIL and "white" become the page's own ink and paper (kit/files/plot.js). On dark paper each
# memory has a lighter color of about the same hue: at least 4.5 : 1 against #111111, and again at least 27 apart.
DARK = {
    "#1437DC": "#7669FD",
    "#849663": "#EEF033",
    "#0096F8": "#BFCEFC",
    "#003A36": "#81FED7",
    "#BA8A10": "#F6AF74",
    "#7A3200": "#E4470D",
    "#5A0A8F": "#9A6CB6",
    "#C12D86": "#C55C79",
}
PLAIN = "rgba(0,0,0,0)"  # no color: the page shows through
_INDEX = Style(MUTED, "dot", ".", "x")  # a text index on disk is no memory of the course, and grey
SIZES = "Viridis"  # heat maps of sizes
SIGNS = "RdBu"  # heat maps of signed values; use zmid=0


class Ink(NamedTuple):
    """A color (hex) on light paper and the one that means the same on dark paper."""

    light: str
    dark: str


# One color per symbol, wherever it is written or drawn: formulas, diagrams, views. Each stands at least 5 : 1 against
# its paper. The letter stands beside the color everywhere, so that the color alone never says anything.
SYMBOLS = {
    "k": Ink("#0A71C0", "#3FA9FF"),
    "v": Ink("#88280A", "#FBA173"),
    "q": Ink("#366E35", "#4DEBC6"),
    "W": Ink("#63367D", "#C78ECB"),
    "error": Ink("#D41771", "#EE7389"),
    "surprise": Ink("#946604", "#FEDD4A"),
}
PAPER = Ink("#FFFFFF", "#15181C")
# What a formula has that the one before it had not. Formulas take one color for light and dark pages: at least 4 : 1.
NEW_TERM = "#D84315"


def style(memory: str) -> Style:
    """The style of a memory or variant by its name, e.g. `style("gqa")`. Raises KeyError for a name without a style."""
    if memory == "index":
        return _INDEX
    family, marker = _VARIANTS[memory]
    return _FAMILIES[family]._replace(marker=marker)


def template() -> go.layout.Template:
    """Margins, fonts and grid shared by every chart (plotly's own margins waste half of a small figure)."""
    small = dict(size=12)  # of legends and color bars
    color_bar = dict(tickfont=small, title=dict(font=small))
    axis = dict(
        gridcolor=GRID,
        linecolor=MUTED,
        zeroline=False,
        ticks="outside",
        tickcolor=GRID,
        automargin=True,
        title=dict(font=dict(size=13), standoff=8),
    )
    # A patterned bar is solid in its color, with the pattern in the page's own color on it: it does not fall apart.
    pattern = dict(fillmode="overlay", fgcolor="white", fgopacity=0.7, size=8, solidity=0.25)
    return go.layout.Template(
        data=dict(
            bar=[go.Bar(marker=dict(pattern=pattern))],
            heatmap=[go.Heatmap(colorbar=color_bar)],
        ),
        layout=dict(
            font=dict(family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif", size=13, color=INK),
            title=dict(font=dict(size=15), x=0.01, xanchor="left"),
            margin=dict(l=60, r=20, t=44, b=48),
            paper_bgcolor=PLAIN,
            plot_bgcolor=PLAIN,
            colorway=[s.color for s in _FAMILIES.values()],
            xaxis=axis,
            yaxis=axis,
            legend=dict(orientation="h", yanchor="bottom", y=1.0, xanchor="right", x=1.0, font=small),
            hoverlabel=dict(font=dict(size=13)),
            coloraxis=dict(colorbar=color_bar),
        ),
    )
