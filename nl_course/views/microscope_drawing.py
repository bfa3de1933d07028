"""How the inner-loop microscope draws: losses by byte above, the chosen byte's numbers and its write below."""

import numpy as np

from nl_course.views.kit import theme

BANDS = ((0.65, 1.0), (0.44, 0.56), (0.0, 0.28))  # inner losses, next-byte loss, the chosen byte
LEFT, RIGHT = (0.0, 0.56), (0.70, 0.92)


def draw(arrays: dict, figure) -> None:
    """Four panels of one reading; the frame marks the chosen byte in the upper two."""
    count, t = len(arrays["names"]), arrays["token"]
    place, inner, outer = np.arange(1, count + 1), theme.style("ttt-linear"), theme.style("outer")
    hover = "byte %{x} “%{text}”: %{y:.3f}<extra></extra>"
    lines = (
        ("before the write", arrays["before"], dict(color=inner.color, width=2), "circle"),
        ("after the write", arrays["after"], dict(color=inner.color, width=1, dash="dot"), "circle-open"),
        (f"{arrays['start']} start, never written", arrays["from_start"], dict(color=theme.MUTED, width=1), "x-thin"),
    )
    for name, y, line, symbol in lines:
        marker = dict(symbol=symbol, size=5, color=line["color"], line=dict(color=line["color"], width=1))
        figure.add_scatter(
            x=place, y=y, name=name, mode="lines+markers", line=line, marker=marker, text=arrays["names"],
            hovertemplate=hover,
        )  # fmt: skip
    figure.add_scatter(
        x=place, y=arrays["running"], name="mean of the last 16 before", mode="lines",
        line=dict(color=inner.color, width=4), opacity=0.35,
    )  # fmt: skip
    figure.add_bar(
        x=place[:-1], y=arrays["next"], name="next-byte loss", xaxis="x2", yaxis="y2", text=arrays["names"][:-1],
        textposition="none", marker=dict(color=outer.color), showlegend=False,
        hovertemplate="after byte %{x} “%{text}”: %{y:.2f} nats<extra></extra>",
    )  # fmt: skip
    _chosen(arrays, figure)
    _arrange(arrays, figure, count, t)


def _chosen(arrays: dict, figure) -> None:
    """The chosen byte: what it is asked, what it should say and says; and what its write changed."""
    rows = np.stack([arrays["prediction"] - arrays["value"], arrays["prediction"], arrays["value"], arrays["key"]])
    wide, change = np.abs(rows).max(), arrays["change"]
    features = np.arange(1, rows.shape[1] + 1)
    figure.add_heatmap(
        z=rows, x=features, y=["error", "prediction f(k)", "value v", "key k"], xaxis="x3", yaxis="y3", name="numbers",
        colorscale=theme.SIGNS, zmid=0, zmin=-wide, zmax=wide,
        hovertemplate="%{y}, feature %{x}: %{z:.3f}<extra></extra>",
        colorbar=dict(thickness=8, len=0.34, x=0.565, y=0.14),
    )  # fmt: skip
    wide = max(np.abs(change).max(), 1e-12)
    figure.add_heatmap(
        z=change, x=features, y=features, xaxis="x4", yaxis="y4", name="change of the weights",
        colorscale=theme.SIGNS, zmid=0, zmin=-wide, zmax=wide,
        hovertemplate="from key feature %{y} to answer feature %{x}: %{z:.5f}<extra></extra>",
        colorbar=dict(thickness=8, len=0.34, x=0.925, y=0.14, tickformat=".1e", nticks=5),
    )  # fmt: skip


def _arrange(arrays: dict, figure, count: int, t: int) -> None:
    ticks = dict(dtick=10)
    if count <= 80:
        ticks = dict(tickvals=np.arange(1, count + 1), ticktext=arrays["names"], tickfont=dict(size=11), tickangle=0)
    span = dict(range=[0.3, count + 0.7])
    who = f"byte {t}, “{arrays['names'][t - 1]}”"
    titles = (
        (0, BANDS[0][1], f"Inner loss of layer {arrays['layer']}, head {arrays['head']}, byte by byte"),
        (0, BANDS[1][1], "The model's loss on the byte that comes next (nats)"),
        (LEFT[0], BANDS[2][1], f"The inner question of {who}: does f(k) say v?"),
        (RIGHT[0] - 0.03, BANDS[2][1], "What its write changed in W"),
    )
    figure.update_layout(
        margin=dict(l=104, r=10, t=66, b=44), bargap=0.25,
        legend=dict(x=0, y=1.05, xanchor="left", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(**span, showticklabels=False, anchor="y"),
        yaxis=dict(domain=BANDS[0], title="inner loss", rangemode="tozero", nticks=6),
        xaxis2=dict(**span, **ticks, anchor="y2", title="bytes as they are read"),
        yaxis2=dict(domain=BANDS[1], anchor="x2", title="nats", rangemode="tozero", nticks=4),
        xaxis3=dict(domain=LEFT, anchor="y3", title="feature", dtick=4, tick0=0),
        yaxis3=dict(domain=BANDS[2], anchor="x3"),
        xaxis4=dict(domain=RIGHT, anchor="y4", title="answer", dtick=8, tick0=0),
        yaxis4=dict(domain=BANDS[2], anchor="x4", title="key", dtick=8, tick0=0, autorange="reversed"),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
        shapes=[
            dict(type="line", x0=t, x1=t, y0=BANDS[1][0], y1=BANDS[0][1], xref="x", yref="paper",
                 line=dict(color=theme.INK, width=1, dash="dash"))
        ],
    )  # fmt: skip
