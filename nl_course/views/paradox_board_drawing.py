"""How the paradox board draws: text loss, recall and the inner losses, as trained, switched, and trained so."""

from nl_course.views.kit import theme

TASKS = ("text", "recall")
PLACES = ("as trained", "switched", "trained so")
PANELS = (  # what stands in a panel, the title of its axis, its place
    (("text",), "text: loss (nats per byte)", (0.0, 0.26)),
    (("recall",), "recall: share right", (0.37, 0.63)),
    (("inner, text", "inner, recall"), "inner loss at the key (share of |v|²)", (0.74, 1.0)),
)
SYMBOLS = {"text": "circle", "recall": "square"}


def draw(arrays: dict, figure) -> None:
    """Three panels; in each, for each place, the mean with its interval, the single seeds, and the live model."""
    style = theme.style(arrays["style"])
    for number, (names, title, domain) in zip(("", "2", "3"), PANELS):
        axes = dict(xaxis=f"x{number}", yaxis=f"y{number}")
        for i, name in enumerate(names):
            shift = 0.2 * (2 * i - 1) if len(names) > 1 else 0.0
            _marks(figure, arrays[name], name.split(", ")[-1], shift, style, axes, legend=len(names) > 1)
        labels = [place.replace(" ", "<br>") for place in PLACES]
        span = _span([arrays[name] for name in names], names)
        x = dict(domain=domain, range=[-0.5, 2.5], tickvals=[0, 1, 2], ticktext=labels, tickfont=dict(size=11))
        x |= dict(anchor=f"y{number}", showgrid=False, tickangle=0)
        y = dict(anchor=f"x{number}", title=title, range=span)
        figure.update_layout({f"xaxis{number}": x, f"yaxis{number}": y})
    legend = dict(orientation="h", y=1.03, yanchor="bottom", x=0, xanchor="left")
    figure.update_layout(legend=legend, margin=dict(t=56, l=64, b=60))


def _known(rows: dict) -> list[tuple[int, dict]]:
    return [(i, rows[p]) for i, p in enumerate(PLACES) if rows[p] is not None and rows[p]["mean"] is not None]


def _marks(figure, rows: dict, task: str, shift: float, style, axes: dict, legend: bool) -> None:
    """`rows`: for each place {by_seed, mean, low, high} or None, and "live": {place: number}."""
    symbol, found = SYMBOLS[task], _known(rows)
    ends = [(row["mean"] if row["high"] is None else row["high"], row["low"] or row["mean"]) for _, row in found]
    figure.add_scatter(
        x=[i + shift for i, _ in found], y=[row["mean"] for _, row in found], mode="markers", name=f"{task}, recorded",
        showlegend=legend, marker=dict(symbol=symbol, size=11, color=style.color),
        error_y=dict(type="data", symmetric=False, color=style.color, width=6,
                     array=[high - row["mean"] for (high, _), (_, row) in zip(ends, found)],
                     arrayminus=[row["mean"] - low for (_, low), (_, row) in zip(ends, found)]),
        hovertemplate="%{y:.3f}<extra>mean over seeds</extra>", **axes,
    )  # fmt: skip
    points = [(i + shift + 0.1, value) for i, row in found for value in row["by_seed"]]
    figure.add_scatter(
        x=[p[0] for p in points], y=[p[1] for p in points], mode="markers", name="single seeds",
        showlegend=legend and task == "recall", marker=dict(symbol=f"{symbol}-open", size=6, color=theme.MUTED),
        hovertemplate="%{y:.3f}<extra>one seed</extra>", **axes,
    )  # fmt: skip
    live = [(PLACES.index(place) + shift - 0.1, value) for place, value in rows["live"].items() if value is not None]
    pink = dict(width=2.5, color=theme.style("outer").color)
    figure.add_scatter(
        x=[p[0] for p in live], y=[p[1] for p in live], mode="markers", name="asked just now, on a few texts",
        showlegend=legend and task == "recall", marker=dict(symbol="x-thin", size=10, line=pink),
        hovertemplate="%{y:.3f}<extra>asked just now, on a few texts</extra>", **axes,
    )  # fmt: skip


def _span(groups: list[dict], names: tuple) -> list[float]:
    if names == ("recall",):
        return [-0.04, 1.06]
    values = [v for rows in groups for v in rows["live"].values() if v is not None]
    for rows in groups:
        for _, row in _known(rows):
            values += [v for v in (row["low"], row["high"], *row["by_seed"]) if v is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    gap = 0.08 * max(high - low, 0.1)
    return [low - gap, high + gap]
