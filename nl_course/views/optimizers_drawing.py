"""How the optimizers' view draws: paths on the landscape, the weight of each past gradient, the loss by step."""

import numpy as np

from nl_course.views.kit import theme

# An optimizer takes the look of the memory that it is: momentum is Hebb's, delta momentum and DGD the delta rule's.
LOOKS = {
    "sgd": theme.Style(theme.MUTED, "solid", "", "circle"),
    "momentum": theme.style("linear"),
    "dgd": theme.style("gated-delta"),
    "delta-momentum": theme.style("delta"),
    "deep-momentum": theme.style("ttt-mlp"),
    "adam": theme.style("titans")._replace(marker="diamond"),
    "muon": theme.style("ttt-e2e")._replace(marker="cross"),
    "m3": theme.style("hope")._replace(marker="triangle-up"),
}
LEFT, RIGHT = (0.0, 0.56), (0.66, 1.0)
LOWEST_LOSS = 1e-6  # of the axis


def draw(arrays: dict, figure) -> None:
    """Left the landscape with every path; right the weights of past gradients, and under them the loss."""
    figure.add_contour(
        x=arrays["x"], y=arrays["y"], z=np.log10(arrays["surface"] + 1e-3), colorscale="Greys", reversescale=True,
        showscale=False, opacity=0.55, ncontours=14, line=dict(width=0.5), hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    for said, found in arrays["runs"].items():
        look, path = LOOKS[found["name"]], np.where(np.abs(found["path"]) < 1e3, found["path"], np.nan)
        line = dict(color=look.color, dash=look.dash, width=2)
        marker = dict(color=look.color, symbol=look.marker, size=6)
        figure.add_scatter(
            x=path[:, 0], y=path[:, 1], name=said, mode="lines+markers", line=line, marker=marker, legendgroup=said,
        )  # fmt: skip
        weights = found["weights"] / max(np.abs(found["weights"]).sum(), 1e-9)
        figure.add_scatter(
            x=np.arange(len(weights)), y=np.where(np.isfinite(weights), weights, np.nan), name=f"{said}: weights",
            mode="lines+markers", line=line, marker=marker, xaxis="x2", yaxis="y2", showlegend=False,
            hovertemplate="%{x} steps ago: %{y:.1%} of all weight<extra></extra>",
        )  # fmt: skip
        loss = np.where(found["loss"] < 1e6, np.maximum(found["loss"], LOWEST_LOSS), np.nan)
        figure.add_scatter(
            x=np.arange(len(loss)), y=loss, name=f"{said}: loss", mode="lines", line=line, xaxis="x3", yaxis="y3",
            showlegend=False,
        )  # fmt: skip
    points = [("lowest point", (1.0, 1.5), "x-thin-open")]
    if "DGD" in arrays["runs"]:
        points.append(("where DGD balances (ripple 0)", arrays["erased"], "star-open"))
    for name, at, symbol in points:
        figure.add_scatter(
            x=[at[0]], y=[at[1]], name=name, mode="markers",
            marker=dict(color=theme.INK, symbol=symbol, size=14, line=dict(width=2, color=theme.INK)),
        )  # fmt: skip
    titles = (
        (RIGHT[0], 1.0, f"Weight of each past gradient in step {arrays['look']}"),
        (RIGHT[0], 0.42, "Loss by step"),
    )
    figure.update_layout(
        margin=dict(l=56, r=12, t=70, b=48),
        legend=dict(x=0, y=1.03, xanchor="left", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(domain=LEFT, title="first weight", range=[-2.2, 2.8]),
        yaxis=dict(title="second weight", range=[-1.8, 2.8]),
        xaxis2=dict(domain=RIGHT, anchor="y2", title="steps ago"),
        yaxis2=dict(domain=(0.58, 1.0), anchor="x2", title="share, with its sign", tickformat=".0%"),
        xaxis3=dict(domain=RIGHT, anchor="y3", title="step"),
        yaxis3=dict(
            domain=(0.0, 0.42), anchor="x3", title="loss", type="log", exponentformat="power", dtick=2,
        ),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
    )  # fmt: skip
