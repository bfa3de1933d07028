"""How the clocks' view draws: the ticks of both clocks, the loss on both tasks, and what each level holds."""

import numpy as np

from nl_course.views.kit import theme

BANDS = ((0.86, 1.0), (0.47, 0.78), (0.0, 0.36))
FAST, SLOW = theme.style("hope"), theme.style("ttt-e2e")
OLD, NEW = theme.style("attention"), theme.style("outer")._replace(dash="dash", marker="square")
GUESS = float(np.log(8))


def draw(arrays: dict, figure) -> None:
    """Three bands over the same axis of symbols."""
    places = arrays["places"]
    looks = (("fast level", FAST, "line-ns-open"), ("slow level", SLOW, "diamond"))
    for i, (name, look, symbol) in enumerate(looks):
        figure.add_scatter(
            x=arrays["changed"][i], y=[1 - i] * len(arrays["changed"][i]), name=f"{name} moves", mode="markers",
            marker=dict(color=look.color, symbol=symbol, size=11, line=dict(width=2, color=look.color)),
            showlegend=False, hovertemplate="after symbol %{x}<extra></extra>",
        )  # fmt: skip
    for name, values, look in (("old task", arrays["old"], OLD), ("new task", arrays["new"], NEW)):
        figure.add_scatter(
            x=places, y=shown(values), name=name, mode="lines+markers", xaxis="x2", yaxis="y2",
            line=dict(color=look.color, dash=look.dash, width=2), marker=dict(symbol=look.marker, size=5),
        )  # fmt: skip
    without = arrays["without"]["old"]
    for (name, look, _), values in zip((looks[1], looks[0]), without):  # without the fast one the slow one is left
        figure.add_scatter(
            x=places, y=shown(values), name=f"old task, {name} alone", mode="lines+markers", xaxis="x3", yaxis="y3",
            line=dict(color=look.color, dash=look.dash, width=2),
            marker=dict(symbol="diamond" if name.startswith("slow") else "circle", size=5),
        )  # fmt: skip
    _arrange(arrays, figure)


def shown(values) -> np.ndarray:
    """Losses as they fit the axis; what has no number is left out."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), np.minimum(values, 6), np.nan)


def _arrange(arrays: dict, figure) -> None:
    last = int(arrays["places"][-1])
    span = dict(range=[-4, last + 4], showgrid=False)
    titles = (
        (BANDS[0][1], "When the weights change"),
        (BANDS[1][1], "Loss of the whole model, asked by either rule (dotted: guessing)"),
        (BANDS[2][1], "What one level holds of the old task: the other put back to its start"),
    )
    shapes = [
        dict(type="rect", x0=arrays["switch"], x1=arrays["back"], y0=0, y1=1, xref="x", yref="paper", layer="below",
             fillcolor=theme.GRID, line=dict(width=0)),
        *(dict(type="line", x0=0, x1=1, y0=GUESS, y1=GUESS, xref=f"x{i} domain", yref=f"y{i}",
               line=dict(color=theme.INK, width=1, dash="dot")) for i in (2, 3)),
    ]  # fmt: skip
    words = [
        dict(text=text, x=0, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
        for y, text in titles
    ]
    words.append(
        dict(text="the new task", x=(arrays["switch"] + arrays["back"]) / 2, y=1.0, xref="x", yref="paper",
             yanchor="bottom", showarrow=False)
    )  # fmt: skip
    loss = dict(title="nats a symbol", rangemode="tozero")
    figure.update_layout(
        margin=dict(l=84, r=12, t=64, b=46),
        legend=dict(x=1, y=1.05, xanchor="right", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(**span, showticklabels=False, anchor="y"),
        yaxis=dict(domain=BANDS[0], tickvals=[1, 0], ticktext=["fast level", "slow level"], range=[-0.6, 1.6]),
        xaxis2=dict(**span, showticklabels=False, anchor="y2"),
        yaxis2=dict(**loss, domain=BANDS[1]),
        xaxis3=dict(**span, anchor="y3", title="symbols read"),
        yaxis3=dict(**loss, domain=BANDS[2]),
        shapes=shapes, annotations=words,
    )  # fmt: skip
