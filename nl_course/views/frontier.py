"""The frontier: what does a byte of state buy?

Every point is a small model that `nl-course record frontier` trained and asked: the share of recall that came out
right against the bytes its state holds after a text of that length, measured. A point is chosen by a click or in the
list; its tooltip has its config and how it was made. The gray steps are the frontier: no model shown with fewer bytes
recalls more. The other picture has the same answers against the number of pairs.
"""

import math
from functools import cache

import ipywidgets as W

from nl_course.errors import CourseError, check_choice
from nl_course.scaling.shapes import read_table
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

STYLES = {"hope-at-rest": "hope"}  # where a memory's name is not its style's
MARKER = (8, 11, 15)  # pixels, by size, smallest first

LABELS = {
    "attention": "attention",
    "window": "attention (window)",
    "linear": "linear (Hebb)",
    "delta": "delta rule",
    "gated-delta": "Gated DeltaNet",
    "kda": "Kimi Delta Attention",
    "ttt-linear": "TTT-Linear",
    "ttt-mlp": "TTT-MLP",
    "titans": "Titans, memory alone (LMM)",
    "mac": "Titans (MAC)",
    "mag": "Titans (MAG)",
    "mal": "Titans (MAL)",
    "self-modifying": "self-modifying Titans",
    "hope": "HOPE",
    "hope-at-rest": "HOPE, level at rest",
    "ttt-e2e": "TTT-E2E",
}
EVERY_SIZE = ("attention", "window", "linear", "gated-delta", "kda", "ttt-linear", "titans")
GROUPS = {
    "all": tuple(LABELS),
    "those of every size": EVERY_SIZE,
    "attention and windows": ("attention", "window", "ttt-e2e"),
    "one matrix a head": ("linear", "delta", "gated-delta", "kda", "ttt-linear"),
    "deep memories": ("ttt-mlp", "titans", "mac", "mag", "mal", "ttt-e2e"),
    "Titans and HOPE": ("titans", "mac", "mag", "mal", "self-modifying", "hope", "hope-at-rest"),
}
ALL_SIZES = "all sizes"
AXES = ("bytes of state", "pairs asked")
SHOWN = ("mean and interval", "each seed")
ASKED_FIRST = 3  # the question that the view opens with and the prediction is about
TEACHING = 0.01  # the gaps' power that the models were taught with: these questions differ in pairs alone


@cache
def recorded() -> dict:
    """`runs/frontier.json`. Raises CourseError if the recording is missing."""
    return read_table("runs/frontier.json")


def key(point: dict) -> str:
    """What a point is called in the list, e.g. "TTT-Linear, middle"."""
    return f"{LABELS[point['memory']]}, {point['size']}"


def questions() -> list[str]:
    """What was asked, in words, in the recording's order."""
    return [question(row) for row in recorded()["points"][0]["asked"]]


def question(row: dict) -> str:
    """What was asked in one row, in words."""
    words = f"{row['pairs']} pairs in {row['length']} tokens"
    if row["power"] != TEACHING:
        words += ", gaps of any length"
    if row.get("filler") == "any":
        words += ", keys in the filler"
    return words


def as_taught(row: dict) -> bool:
    """Whether a row was asked in the form that the models were taught with, so that only the pairs may be more."""
    return row["power"] == TEACHING and "filler" not in row


def compute(
    asked: int, memories: str = "all", size: str = ALL_SIZES, point: str = "", seeds: str = SHOWN[0],
    axis: str = AXES[0],
) -> dict:  # fmt: skip
    """The points shown at question number `asked`, which of them are on the frontier, and the chosen one whole.

    Raises CourseError where nothing is left to show, or for names that are not known.
    """
    wanted, run = GROUPS[check_choice("group of memories", memories, GROUPS)], recorded()
    points = [p for p in run["points"] if p["memory"] in wanted and size in (ALL_SIZES, p["size"])]
    if not points:
        raise CourseError(f"no model of {memories!r} was recorded at size {size!r}; choose another.")
    everything = {key(p): p for p in run["points"]}
    rows = {key(p): p["asked"][asked] for p in points}
    taught = [i for i, row in enumerate(run["points"][0]["asked"]) if as_taught(row)]
    by_pairs = {}
    for p in points:
        by_pairs[key(p)] = [p["asked"][i] for i in taught]
    return {
        "axis": axis,
        "seeds": seeds,
        "question": questions()[asked],
        "asked": asked,
        "points": {key(p): p for p in points},
        "rows": rows,
        "frontier": on_the_frontier({name: (row["bytes"], row["mean"]) for name, row in rows.items()}),
        "by_pairs": by_pairs,
        "chosen": everything[check_choice("point", point, everything)] if point else points[0],
        "widths": {name: about["width"] for name, about in run["sizes"].items()},
    }


def on_the_frontier(places: dict[str, tuple[int, float]]) -> list[str]:
    """Those of (bytes, recall) that no other beats with as few bytes or fewer, fewest bytes first."""
    found, best = [], -1.0
    for name, (_, recall) in sorted(places.items(), key=lambda place: (place[1][0], -place[1][1])):
        if recall > best:
            found.append(name)
            best = recall
    return found


def read_out(arrays: dict) -> str:
    """The chosen point and the frontier."""
    chosen = arrays["chosen"]
    row = chosen["asked"][arrays["asked"]]
    by_seed = ", ".join(f"{share:.0%} (seed {seed})" for seed, share in zip(chosen["seeds"], row["by_seed"]))
    interval = "over the seeds" if row["interval"] == "seeds" else "over the questions to one seed"
    first, last = arrays["frontier"][0], arrays["frontier"][-1]
    kept = {name: arrays["rows"][name] for name in (first, last)}
    return (
        f"{key(chosen)}, {arrays['question']}: {row['mean']:.0%} right, 95 % interval {row['low']:.0%} to "
        f"{row['high']:.0%} {interval} ({by_seed}), with {row['bytes']:,} bytes of state. "
        f"Of the {len(arrays['rows'])} models shown {len(arrays['frontier'])} are on the frontier, from {first} "
        f"({kept[first]['bytes']:,} bytes, {kept[first]['mean']:.0%}) to {last} ({kept[last]['bytes']:,} bytes, "
        f"{kept[last]['mean']:.0%})."
    )


def made(point: dict) -> str:
    """How a point was made, for its tooltip: config, training, and the commit of a recorded one."""
    model = point["model"]
    lines = [
        f"{point['parameters']:,} parameters, width {model['width']}, {model['layers']} layer",
        *described(model),
        f"{steps_of(point):,} steps in {point['runs'][0]['training_seconds']:.0f} s",
        f"loss {last_losses(point)} nats per question (guessing: {math.log(model['vocab'] // 2):.2f})",
        *trained_out(point),
    ]
    commit = point["runs"][0]["made"].get("commit")
    if commit:  # a learner's own point is in none
        lines.append(f"commit {commit}")
    return "<br>".join(lines)


def steps_of(point: dict) -> int:
    """How many steps a point was trained for."""
    return point["runs"][0]["curve"][-1]["step"]


def last_losses(point: dict) -> str:
    """The training loss of each seed's last step: whether it had learned its task at all when it was asked."""
    return ", ".join(f"{run['curve'][-1]['loss']:.2f}" for run in point["runs"])


def trained_out(point: dict) -> list[str]:
    """The rate that was searched for a point, and from how many seeds its loss had settled, a line; none of a recording
    that does not say so."""
    ends = [run["settled"]["settled"] for run in point["runs"] if "settled" in run]
    if not ends or "rate" not in point:
        return []
    return [f"learning rate {point['rate']:g}; settled from {sum(ends)} of {len(ends)} seeds"]


def described(model: dict) -> list[str]:
    """A model's memory and options, a line each; of clocked levels their width and chunk."""
    said = [f"memory {model['memory']}", f"{model['heads']} head" + "s" * (model["heads"] > 1)]
    said += [f"{name} {value}" for name, value in model["options"].items()]
    said += [f"convolution of {model['conv']}"] if model["conv"] else []
    if "levels" in model:
        levels = [f"{level['hidden']} wide, chunk {level['chunk'] or 'none'}" for level in model["levels"][-1]]
        said.append("levels " + "; ".join(levels))
    else:
        said.append(f"MLP {model['hidden']} wide")
    return said


def outcome(arrays: dict) -> str | None:
    """Whether the model with most bytes recalls most, among all that were recorded, at the opening question."""
    if arrays["asked"] != ASKED_FIRST or len(arrays["rows"]) < len(recorded()["points"]):
        return None
    rows = list(arrays["rows"].values())
    most = max(rows, key=lambda row: row["bytes"])
    better = sum(row["mean"] > most["mean"] for row in rows)
    if better == 0:
        return "it does"
    return "a few beat it" if better <= len(rows) // 2 else "most beat it"


def style(memory: str) -> theme.Style:
    """A memory's style in the theme."""
    return theme.style(STYLES.get(memory, memory))


def draw(arrays: dict, figure) -> None:
    """Recall against bytes (log) with the frontier, or against pairs."""
    by_bytes = arrays["axis"] == "bytes of state"
    (_against_bytes if by_bytes else _against_pairs)(arrays, figure)
    figure.update_layout(
        margin=dict(l=58, r=250, t=32, b=48),
        legend=dict(orientation="v", x=1.02, xanchor="left", y=1, yanchor="top"),
        yaxis=dict(title="share of keys answered rightly", range=[-0.04, 1.06], tickformat=".0%"),
        title=dict(text=f"{arrays['question']} (gray line: the frontier)" if by_bytes else "by pairs"),
    )


def _against_bytes(arrays: dict, figure) -> None:
    """Points, intervals and the frontier over bytes of state."""
    rows, steps = arrays["rows"], arrays["frontier"]
    edge = max(row["bytes"] for row in rows.values())
    figure.add_scatter(
        x=[*(rows[name]["bytes"] for name in steps), edge], y=[*(rows[name]["mean"] for name in steps), _best(rows)],
        mode="lines", name="frontier of those shown", line=dict(color=theme.MUTED, width=1.5, shape="hv"),
        hoverinfo="skip", showlegend=False,  # with it in the legend, the last memory would have no place there
    )  # fmt: skip
    for memory, names in _by_memory(arrays["points"]).items():
        figure.add_scatter(**_markers(arrays, memory, names))
    chosen = arrays["chosen"]["asked"][arrays["asked"]]
    figure.add_scatter(
        x=[chosen["bytes"]], y=[chosen["mean"]], mode="markers", name="chosen", hoverinfo="skip", showlegend=False,
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
        marker=marker, text=[made(arrays["points"][name]) for name, _ in places],
        hovertemplate="%{customdata}<br>%{x:,} bytes, %{y:.0%} right<br>%{text}<extra></extra>",
    )  # fmt: skip
    if not each:
        found["error_y"] = dict(
            type="data", symmetric=False, thickness=1, width=3, color=look.color,
            array=[rows[name]["high"] - rows[name]["mean"] for name in names],
            arrayminus=[rows[name]["mean"] - rows[name]["low"] for name in names],
        )  # fmt: skip
    return found


def _against_pairs(arrays: dict, figure) -> None:
    """A line per model over the pairs in the text."""
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
    """The names of points by their memory."""
    found = {}
    for name, point in points.items():
        found.setdefault(point["memory"], []).append(name)
    return found


def _best(rows: dict) -> float:
    """The highest recall of those shown."""
    return max(row["mean"] for row in rows.values())


class Frontier(View):
    """Recall against bytes of state, every point a recorded model; or against pairs."""

    name = "frontier"
    title = "What does a byte of state buy?"
    prediction = Prediction(
        "24 pairs, more than any model was taught with: does the model that keeps most bytes recall most?",
        outcome,
        options=("it does", "a few beat it", "most beat it"),
        until="Show all memories and all sizes, with 24 pairs asked.",
        why="What a model does with its bytes counts for more than how many it keeps: several keep less and "
        "answer more.",
    )
    width, height = 920, 420

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: asked, memories, point."""
        asked = [(words, i) for i, words in enumerate(questions())]
        return {
            "asked": W.Dropdown(options=asked, value=ASKED_FIRST, description="What is asked"),
            "memories": W.Dropdown(options=tuple(GROUPS), description="Memories"),
            "point": W.Dropdown(options=[key(p) for p in recorded()["points"]], description="Chosen point"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: size, seeds, axis."""
        sizes = (ALL_SIZES, *recorded()["sizes"])
        return {
            "size": W.Dropdown(options=sizes, description="Size"),
            "seeds": W.ToggleButtons(options=SHOWN, description="Seeds"),
            "axis": W.ToggleButtons(options=AXES, description="Recall against"),
        }

    def point_clicked(self, trace, point):
        """A click on a point chooses it, as the list does."""
        names = self.figure.data[trace].customdata
        if names is not None:
            self.set(point=str(names[point]))

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
