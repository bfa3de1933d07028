"""How the second reading draws: loss by byte of three readings, what the first one saves, and the bytes of state."""

import numpy as np

from nl_course.views.inner_microscope import running_mean
from nl_course.views.kit import theme

LEFT, RIGHT = (0.0, 0.66), (0.8, 1.0)
TOP, BOTTOM = (0.44, 1.0), (0.0, 0.28)
SMOOTH = 8  # bytes
E2E, FULL = theme.style("ttt-e2e"), theme.style("attention")


def draw(arrays: dict, figure) -> None:
    """Two bands over the passage's bytes, bars beside them."""
    place = np.arange(2, len(arrays["names"]) + 1)
    hover = "byte %{x} “%{text}”: %{y:.2f} nats<extra></extra>"
    lines = (
        ("first reading", arrays["first"], dict(color=theme.INK, width=2, dash="dot")),
        ("at the second's place, never read before", arrays["fresh"], dict(color=theme.MUTED, width=2, dash="dash")),
        ("second reading", arrays["second"], dict(color=E2E.color, width=3, dash=E2E.dash)),
    )
    for name, values, line in lines:
        figure.add_scatter(
            x=place, y=shown(running_mean(values, SMOOTH)), name=name, mode="lines", line=line,
            text=arrays["names"][1:], hovertemplate=hover,
        )  # fmt: skip
    saved = arrays["fresh"] - arrays["second"]
    figure.add_bar(
        x=place, y=shown(saved), name="saved by the first reading", xaxis="x2", yaxis="y2", showlegend=False,
        text=arrays["names"][1:], textposition="none", hovertemplate=hover,
        marker=dict(color=E2E.color, line=dict(width=0)),
    )  # fmt: skip
    for (name, size), pattern in zip(arrays["state"].items(), (E2E.pattern, "")):
        _state_bar(figure, "this state", size, name, name.split(" and ")[0], E2E.color, pattern)
    _state_bar(
        figure, "full cache", arrays["full"], "all keys and values", "all keys<br>and values", FULL.color, FULL.pattern
    )
    _arrange(arrays, figure)


def shown(values: np.ndarray) -> np.ndarray:
    """Losses that fit the axis; what has no number is left out."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values.clip(-8, 8), np.nan)


def _state_bar(figure, where: str, size: int, name: str, label: str, color: str, pattern: str) -> None:
    figure.add_bar(
        x=[where], y=[size / 1000], name=name, xaxis="x3", yaxis="y3", showlegend=False,
        marker=dict(
            color=color, line=dict(color="white", width=1),
            pattern=dict(shape=pattern, fillmode="overlay", fgcolor="white", size=10, solidity=0.1),
        ),
        text=[label], textposition="inside", insidetextanchor="middle", textangle=0,
        textfont=dict(color="white", size=12),
        hovertemplate=f"{name}: %{{y:,.0f}} kB<extra></extra>",
    )  # fmt: skip


def _arrange(arrays: dict, figure) -> None:
    count = len(arrays["names"])
    span = dict(range=[0.5, count + 0.5], showgrid=False)
    ticks = dict(dtick=10)
    if count <= 80:
        ticks = dict(tickvals=np.arange(1, count + 1), ticktext=arrays["names"], tickfont=dict(size=11), tickangle=0)
    titles = (
        (LEFT[0], TOP[1] + 0.1, f"Loss by byte, mean of the last {SMOOTH} (nats)"),
        (LEFT[0], BOTTOM[1], "What the first reading saves at each byte (nats)"),
        (RIGHT[0] - 0.03, TOP[1] + 0.1, f"State after {arrays['tokens']:,} bytes (kB)"),
    )
    figure.update_layout(
        barmode="stack", bargap=0.15, margin=dict(l=54, r=12, t=78, b=44),
        legend=dict(x=0, y=1.0, xanchor="left", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(domain=LEFT, anchor="y", showticklabels=False, **span),
        yaxis=dict(domain=TOP, rangemode="tozero", title="nats"),
        xaxis2=dict(domain=LEFT, anchor="y2", title="bytes of the passage", **span, **ticks),
        yaxis2=dict(domain=BOTTOM, anchor="x2", title="nats", nticks=5, zeroline=True, zerolinecolor=theme.MUTED),
        xaxis3=dict(domain=RIGHT, anchor="y3"),
        yaxis3=dict(domain=(0.0, 1.0), anchor="x3", title="kB", rangemode="tozero"),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
    )  # fmt: skip
