"""How self-modification draws: step and retention, drift, targets against v, and the one gain that serves them all."""

import numpy as np

from nl_course.views.kit import theme

LEFT, RIGHT = (0.0, 0.60), (0.70, 1.0)
TOP, BOTTOM = (0.60, 1.0), (0.0, 0.40)
TIP = "word %{x} “%{text}”: %{y:.3f}<extra></extra>"
LINES = {  # dash and marker by memory: color is not all
    "key": (theme.style("hope").color, "solid", "circle"),
    "value": (theme.style("attention").color, "dash", "square"),
    "step": (theme.style("outer").color, "dot", "diamond"),
    "retention": (theme.MUTED, "dashdot", "triangle-up"),
    "memory": (theme.style("titans").color, "longdash", "cross"),
}


def draw(arrays: dict, figure) -> None:
    """Four panels of one reading."""
    words = arrays["words"]
    place = np.arange(1, len(words) + 1)

    def line(y, name, which, axes, legend):
        color, dash, marker = LINES[which]
        figure.add_scatter(
            x=place, y=y, name=name, text=words, mode="lines+markers", hovertemplate=TIP, legendgroup=which,
            showlegend=legend, line=dict(color=color, dash=dash, width=2), marker=dict(symbol=marker, size=5),
            xaxis=f"x{axes}", yaxis=f"y{axes}",
        )  # fmt: skip

    line(arrays["step"], "step", "step", "", False)
    line(arrays["retention"], "retention", "retention", "", False)
    for name, drift in arrays["drift"].items():
        line(drift, name, name, "2", True)
    for name, cosine in arrays["target"].items():
        line(cosine, f"{name}: target and v", name, "3", False)
    change = arrays["gain"] - np.eye(len(arrays["gain"]))
    most = max(float(np.abs(change).max()), 1e-9)
    figure.add_heatmap(
        z=change, xaxis="x4", yaxis="y4", colorscale=theme.SIGNS, zmin=-most, zmax=most, zmid=0, name="P - I",
        colorbar=dict(len=0.4, y=0.2, thickness=10, x=1.0, title=dict(text="P − I", side="top")),
        hovertemplate="row %{y}, column %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    _arrange(arrays, figure)


def _arrange(arrays: dict, figure) -> None:
    words = arrays["words"]
    ticks = dict(tickvals=np.arange(1, len(words) + 1), ticktext=words, tickangle=-90, tickfont=dict(size=11))
    span = dict(range=[0.3, len(words) + 0.7], showgrid=False)
    highest = max(1.05, float(np.nanmax([d.max() for d in arrays["drift"].values()])) * 1.05)
    figure.update_layout(
        xaxis=dict(domain=LEFT, anchor="y", showticklabels=False, **span),
        yaxis=dict(domain=TOP, range=[0, 1.05], title="step ◆, retention ▲"),
        xaxis2=dict(domain=LEFT, anchor="y2", **span, **ticks),
        yaxis2=dict(domain=(0.0, 0.42), range=[0, highest], title="drift / start", anchor="x2"),
        xaxis3=dict(domain=RIGHT, anchor="y3", title="word", **span),
        yaxis3=dict(domain=TOP, range=[-1.05, 1.05], title="cosine of target and v", anchor="x3"),
        xaxis4=dict(domain=(0.72, 0.97), anchor="y4", showticklabels=False, constrain="domain"),
        yaxis4=dict(domain=BOTTOM, anchor="x4", showticklabels=False, autorange="reversed", scaleanchor="x4"),
        legend=dict(orientation="h", x=0.0, xanchor="left", y=1.02, yanchor="bottom"),
        margin=dict(l=60, r=60, t=46, b=70),
    )
    left = arrays["unexplained"]
    figure.add_annotation(
        xref="paper", yref="paper", x=0.84, y=BOTTOM[1] + 0.015, showarrow=False, yanchor="bottom",
        xanchor="center",
        text="one gain, unexplained: " + ("0" if left < 1e-3 else f"{left:.0%}"),
    )  # fmt: skip
