"""How nested clocks draws: the clocks' ticks above, what comes back at each boundary below, the starts at the right."""

import numpy as np

from nl_course.views.kit import theme

# The reading that is drawn; the view that computes it takes its sizes from here.
TOKENS, CHUNK, LEVELS = 32, 4, (8, 16)
BOUNDARIES = TOKENS // CHUNK
MEMORIES = ("key", "value", "step", "retention", "memory")
NAMES = (*MEMORIES, *(f"level of {c}" for c in LEVELS))

LEFT, RIGHT = (0.0, 0.60), (0.81, 1.0)
TOP, BOTTOM = (0.70, 1.0), (0.0, 0.52)


def draw(arrays: dict, figure) -> None:
    """Three panels of one reading and one backward pass, as far as `moment` has come."""
    clocks = {"tokens": 1, f"memories, {CHUNK}": CHUNK, **{f"level, {c}": c for c in LEVELS}}
    read = min(arrays["moment"], BOUNDARIES) * CHUNK
    for row, (name, period) in enumerate(clocks.items()):
        ticks = np.arange(period, TOKENS + 1, period)
        done = ticks <= read
        figure.add_scatter(
            x=ticks, y=[name] * len(ticks), mode="markers", name=name, showlegend=False,
            marker=dict(symbol="line-ns-open" if row == 0 else "diamond", size=9 + row,
                        color=np.where(done, theme.style("hope").color, theme.GRID)),
            hovertemplate=name + ": %{x}<extra></extra>",
        )  # fmt: skip
    learnt = arrays["moment"] > 2 * BOUNDARIES
    figure.add_scatter(
        x=[TOKENS + 2], y=["training"], mode="markers", name="training", showlegend=False,
        marker=dict(symbol="star", size=14, color=theme.style("outer").color if learnt else theme.GRID),
        hovertemplate="the outer step<extra></extra>",
    )  # fmt: skip
    _back(arrays, figure)
    _starts(arrays, figure, learnt)
    _arrange(arrays, figure, read)


def _back(arrays: dict, figure) -> None:
    """log10 of the gradient's norm at every boundary that it has come back to."""
    come = max(0, arrays["moment"] - BOUNDARIES)
    rows = np.array([[row[name] for row in arrays["arriving"]] for name in NAMES])
    shown = rows.astype(object)
    shown[:, : max(BOUNDARIES - come, 0)] = None  # what is not there is None: NaN is no JSON
    logs = [[None if g is None or g < 1e-12 else float(np.log10(g)) for g in row] for row in shown]
    figure.add_heatmap(
        z=logs, x=np.arange(BOUNDARIES) * CHUNK, y=list(NAMES), xaxis="x2", yaxis="y2",
        colorscale=theme.SIZES, customdata=shown, name="gradient", zmin=-4, zmax=1, xgap=2, ygap=2,
        colorbar=dict(title=dict(text="log10 |g|", side="top"), len=0.5, y=0.26, x=0.62, xanchor="left", thickness=10),
        hovertemplate="%{y}, after %{x} tokens: %{customdata:.3g}<extra></extra>",
    )  # fmt: skip


def _starts(arrays: dict, figure, learnt: bool) -> None:
    names, outer = list(arrays["exact"]), theme.style("outer")
    exact = [arrays["exact"][name] for name in names]
    now = [arrays["norms"][name] if learnt else 0 for name in names]
    figure.add_bar(
        y=names, x=exact, orientation="h", name="exact", xaxis="x3", yaxis="y3", marker=dict(color=theme.GRID),
        hovertemplate="%{y}: %{x:.3g} exact<extra></extra>",
    )  # fmt: skip
    figure.add_bar(
        y=names, x=now, orientation="h", name="with the cuts", xaxis="x3", yaxis="y3", customdata=[
            arrays["lost"][name] for name in names],
        marker=dict(color=outer.color, pattern=dict(shape="/")),
        hovertemplate="%{y}: %{x:.3g}, lost %{customdata:.0%}<extra></extra>",
    )  # fmt: skip


def _arrange(arrays: dict, figure, read: int) -> None:
    span = dict(range=[-2.4, TOKENS + 3.5], showgrid=False, domain=LEFT)
    figure.update_layout(
        barmode="group", bargap=0.25,
        xaxis=dict(anchor="y", showticklabels=False, **span),
        yaxis=dict(domain=TOP, autorange="reversed", showgrid=False),
        xaxis2=dict(anchor="y2", title="weights as they stood after so many tokens", dtick=CHUNK, **span),
        yaxis2=dict(domain=BOTTOM, anchor="x2", autorange="reversed", showgrid=False),
        xaxis3=dict(domain=RIGHT, anchor="y3", title="gradient norm at start", type="log", range=[-3.2, 2],
                    tickvals=[0.001, 0.1, 10], tickangle=0),
        yaxis3=dict(domain=(0.0, 1.0), anchor="x3", autorange="reversed"),
        margin=dict(l=90, r=20, t=46, b=50),
    )  # fmt: skip
    figure.add_shape(type="line", x0=read, x1=read, y0=0, y1=1, xref="x", yref="y domain",
                     line=dict(color=theme.INK, width=1))  # fmt: skip
    for boundary in arrays["cuts"]:
        at = boundary * CHUNK - CHUNK / 2
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, xref="x2", yref="y2 domain",
                         line=dict(color=theme.style("outer").color, width=3, dash="dot"))  # fmt: skip
    figure.add_annotation(
        xref="paper", yref="paper", x=0.0, y=0.585, xanchor="left", showarrow=False,
        text="the gradient that comes back" + (", cut at the dotted lines" if arrays["cuts"] else ""),
    )  # fmt: skip
