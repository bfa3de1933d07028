"""How the surprise stream draws: surprise above, the answers to the needle's question below, one write at the right."""

import math

import numpy as np

from nl_course.views.kit import theme

LEFT, RIGHT = (0.0, 0.66), (0.75, 1.0)
BANDS = ((0.57, 1.0), (0.0, 0.42))
HIGHEST = 12.0  # of the norms' axis; what has blown up leaves the picture
TIP = "word %{x} “%{text}”: %{y:.3f}<extra></extra>"


def draw(arrays: dict, figure) -> None:
    """Three panels of one reading: word by word at the left, one write by its age at the right."""
    words, at = arrays["words"], arrays["at"]
    place, own, other = np.arange(1, len(words) + 1), theme.style("titans"), theme.style("outer")
    nearest = (arrays["rank"] == 1) & (np.arange(len(words)) >= at)
    needle = np.isin(np.arange(len(words)), np.arange(arrays["place"], at + 1))
    figure.add_bar(
        x=place, y=arrays["surprise"], name="surprise", text=words, textposition="none", hovertemplate=TIP,
        marker=dict(color=np.where(needle, other.color, own.color), pattern=dict(shape=np.where(needle, "x", ""))),
    )  # fmt: skip
    figure.add_scatter(
        x=place, y=arrays["past_surprise"], name="the write: past surprise, carried on, and its own", mode="lines",
        text=words, line=dict(color=theme.INK, width=2, dash=own.dash), hovertemplate=TIP,
    )  # fmt: skip
    figure.add_scatter(
        x=place, y=arrays["retention"], name="retention", mode="lines", text=words, hovertemplate=TIP,
        line=dict(color=theme.MUTED, width=1, dash="dot", shape="hvh"),
    )  # fmt: skip
    figure.add_scatter(
        x=place, y=arrays["recall"], name="answer to the needle's question: the needle", mode="lines+markers",
        xaxis="x2", yaxis="y2", text=words, line=dict(color=other.color, width=2), hovertemplate=TIP,
        marker=dict(color=np.where(nearest, other.color, "white"), size=7,
                    line=dict(color=other.color, width=1)),
    )  # fmt: skip
    figure.add_scatter(
        x=place, y=arrays["other"], name="the best other word", mode="lines", xaxis="x2", yaxis="y2", text=words,
        line=dict(color=own.color, width=2, dash=own.dash), hovertemplate=TIP,
    )  # fmt: skip
    age = np.arange(len(arrays["response"]))
    figure.add_scatter(
        x=age, y=arrays["response"], name="response to one write", mode="lines+markers", xaxis="x3", yaxis="y3",
        showlegend=False, line=dict(color=own.color, width=2), marker=dict(symbol=own.marker, size=5),
        hovertemplate="%{x} words later: %{y:.3f} times its step<extra></extra>",
    )  # fmt: skip
    _arrange(arrays, figure)


def _arrange(arrays: dict, figure) -> None:
    words, at, stands = arrays["words"], arrays["at"], arrays["response"]
    every = max(1, math.ceil(len(words) / 50))  # as many words as have room
    places = np.arange(1, len(words) + 1, every)
    ticks = dict(tickvals=places, ticktext=words[::every], tickangle=-90, tickfont=dict(size=11))
    span = dict(range=[0.3, len(words) + 0.7], domain=LEFT, showgrid=False)
    titles = (
        (0, BANDS[0][1], "Surprise (gradient norm) and write, word by word"),
        (0, BANDS[1][1], f"Asked for “{words[at]}” after each word: the answer's cosine (filled: nearest of all)"),
        (RIGHT[0], 1, "What stands of one write"),
    )
    shapes = [
        dict(type="rect", x0=arrays["place"] + 0.5, x1=at + 1.5, y0=0, y1=1, xref="x", yref="paper", layer="below",
             fillcolor=theme.GRID, line=dict(width=0)),
    ]  # fmt: skip
    if 0 < arrays["half_life"] < len(stands) - 1:
        shapes.append(dict(type="line", x0=arrays["half_life"], x1=arrays["half_life"], y0=0, y1=1, xref="x3",
                           yref="y3 domain", line=dict(color=theme.MUTED, width=1, dash="dash")))  # fmt: skip
        titles += ((None, 0, "half-life "),)
    sizes = np.concatenate([arrays["surprise"], arrays["past_surprise"]])
    top = min(max(1.0, float(sizes[np.isfinite(sizes)].max())), HIGHEST)
    figure.update_layout(
        margin=dict(l=58, r=12, t=52, b=64), bargap=0.2,
        legend=dict(x=0, y=1.06, xanchor="left", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(**span, showticklabels=False, anchor="y"),
        yaxis=dict(domain=BANDS[0], title="norm", range=[0, 1.05 * top], nticks=6, exponentformat="power"),
        xaxis2=dict(**span, **ticks, anchor="y2", title="words as they are read"),
        yaxis2=dict(domain=BANDS[1], anchor="x2", title="cosine", range=[-0.4, 1.08], nticks=6),
        xaxis3=dict(domain=RIGHT, anchor="y3", title="words since the write", range=[-0.5, max(len(stands) - 0.5, 1)]),
        yaxis3=dict(domain=(0.0, 1.0), anchor="x3", title="times its step", range=[0, max(1.0, stands.max()) * 1.05]),
        shapes=shapes,
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            if x is not None
            else dict(text=text, x=arrays["half_life"], y=0.99, xref="x3", yref="y3 domain", xanchor="left",
                      yanchor="top", showarrow=False)
            for x, y, text in titles
        ],
    )  # fmt: skip
