"""How view 17 looks: a marker a memory, larger for larger models; the frontier as grey steps; a ring on the choice."""

from nl_course.views.kit import theme

STYLES = {"hope-at-rest": "hope"}  # where a memory's name is not its style's
MARKER = (8, 11, 15)  # pixels, by size, smallest first


def style(memory: str) -> theme.Style:
    return theme.style(STYLES.get(memory, memory))


def draw(arrays: dict, figure) -> None:
    """Recall against bytes (log) with the frontier, or against pairs."""
    (_against_bytes if arrays["axis"] == "bytes of state" else _against_pairs)(arrays, figure)
    figure.update_layout(
        margin=dict(l=58, r=250, t=40, b=48),
        legend=dict(orientation="v", x=1.02, xanchor="left", y=1, yanchor="top"),
        yaxis=dict(title="share of keys answered rightly", range=[-0.04, 1.06], tickformat=".0%"),
        title=dict(text=arrays["question"] if arrays["axis"] == "bytes of state" else "by pairs"),
    )


def _against_bytes(arrays: dict, figure) -> None:
    rows, steps = arrays["rows"], arrays["frontier"]
    edge = max(row["bytes"] for row in rows.values())
    figure.add_scatter(
        x=[*(rows[name]["bytes"] for name in steps), edge], y=[*(rows[name]["mean"] for name in steps), _best(rows)],
        mode="lines", name="frontier of those shown", line=dict(color=theme.MUTED, width=1.5, shape="hv"),
        hoverinfo="skip",
    )  # fmt: skip
    for memory, names in _by_memory(arrays["points"]).items():
        figure.add_scatter(**_markers(arrays, memory, names))
    chosen = arrays["chosen"]["asked"][arrays["asked"]]
    figure.add_scatter(
        x=[chosen["bytes"]], y=[chosen["mean"]], mode="markers", name="chosen", hoverinfo="skip",
        marker=dict(symbol="circle-open", size=24, color=theme.INK, line=dict(width=2)),
    )  # fmt: skip
    figure.update_layout(xaxis=dict(type="log", title="bytes of state, measured", exponentformat="SI", dtick="D2"))


def _markers(arrays: dict, memory: str, names: list[str]) -> dict:
    """One memory's points: the means with intervals, or every seed."""
    look, rows, sizes = style(memory), arrays["rows"], list(arrays["widths"])
    each = arrays["seeds"] == "each seed"
    places = [(name, share) for name in names for share in (rows[name]["by_seed"] if each else [rows[name]["mean"]])]
    symbol = look.marker + ("-open" if memory == "hope-at-rest" else "")
    marker = dict(
        color=look.color, symbol=symbol, line=dict(width=1.5 if symbol.endswith("open") else 0),
        size=[MARKER[min(sizes.index(arrays["points"][name]["size"]), 2)] for name, _ in places],
    )  # fmt: skip
    found = dict(
        x=[rows[name]["bytes"] for name, _ in places], y=[share for _, share in places],
        customdata=[name for name, _ in places], mode="markers", name=names[0].rsplit(",", 1)[0],
        marker=marker,
        hovertemplate="%{customdata}<br>%{x:,} bytes, %{y:.0%} right<extra></extra>",
    )  # fmt: skip
    if not each:
        found["error_y"] = dict(
            type="data", symmetric=False, thickness=1, width=3, color=look.color,
            array=[rows[name]["high"] - rows[name]["mean"] for name in names],
            arrayminus=[rows[name]["mean"] - rows[name]["low"] for name in names],
        )  # fmt: skip
    return found


def _against_pairs(arrays: dict, figure) -> None:
    widths = {size: (1, 2, 3.5)[min(i, 2)] for i, size in enumerate(arrays["widths"])}
    for memory, names in _by_memory(arrays["points"]).items():
        look = style(memory)
        for name in names:
            rows, point = arrays["by_pairs"][name], arrays["points"][name]
            each = arrays["seeds"] == "each seed"
            for i in range(len(point["seeds"]) if each else 1):
                figure.add_scatter(
                    x=[row["pairs"] for row in rows], y=[row["by_seed"][i] if each else row["mean"] for row in rows],
                    mode="lines+markers", name=name, customdata=[name] * len(rows), legendgroup=name, showlegend=i == 0,
                    line=dict(color=look.color, dash=look.dash, width=widths[point["size"]]),
                    marker=dict(color=look.color, symbol=look.marker, size=7),
                    hovertemplate="%{customdata}<br>%{x} pairs, %{y:.0%} right<extra></extra>",
                )  # fmt: skip
    chosen = arrays["chosen"]["asked"][: len(rows)]
    figure.add_scatter(
        x=[row["pairs"] for row in chosen], y=[row["mean"] for row in chosen], mode="markers", name="chosen",
        hoverinfo="skip", marker=dict(symbol="circle-open", size=16, color=theme.INK, line=dict(width=2)),
    )  # fmt: skip
    pairs = [row["pairs"] for row in rows]
    figure.update_layout(
        xaxis=dict(type="log", title="pairs in the text", tickvals=pairs, ticktext=[str(n) for n in pairs])
    )


def _by_memory(points: dict) -> dict[str, list[str]]:
    found = {}
    for name, point in points.items():
        found.setdefault(point["memory"], []).append(name)
    return found


def _best(rows: dict) -> float:
    return max(row["mean"] for row in rows.values())
