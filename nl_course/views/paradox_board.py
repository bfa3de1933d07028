"""The paradox board: is the inner loop storing, or mixing?

Ablations after Liu et al. 2026, arXiv 2602.21204 (nl_course/memories/ablations/switches.py), on trained models of the
course: more inner steps, the step's sign turned, the memory read at the key, the last layer alone. Text loss
and recall of pairs never seen in training stand beside each other, the inner loss beside both: |f(k) - v|^2 / |v|^2
of a chunk's pairs with the weights that the chunk left behind. Recorded (`nl-course record sceptic`): each switch by
itself, at test time and, for some, trained with it, with Student's 95 % interval over seeds. Live: the first seed's
model, asked there and then with whatever is switched, several switches together too. It is asked little, or the
answer would take too long: fewer rows, the more inner steps.
"""

import json
from functools import lru_cache

import ipywidgets as W
import torch

from nl_course.errors import check_choice
from nl_course.files import asset
from nl_course.memories.ablations.switches import Ablation, ablated
from nl_course.model import LanguageModel
from nl_course.record.sceptic import ablation_named
from nl_course.record.sceptic_measures import inner_losses, recall_of, text_of
from nl_course.record.seeds import difference, verdict
from nl_course.training.checkpoint import load_model
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

TASKS = ("text", "recall")
PLACES = ("as trained", "switched", "trained so")
PANELS = (  # what stands in a panel, the title of its axis, its place
    (("text",), "text: loss (nats per byte)", (0.0, 0.26)),
    (("recall",), "recall: share right", (0.37, 0.63)),
    (("inner, text", "inner, recall"), "inner loss at the key (share of |v|²)", (0.74, 1.0)),
)
SYMBOLS = {"text": "circle", "recall": "square"}

MODELS = {
    "TTT-Linear": "ttt-linear",
    "TTT-MLP": "ttt-mlp",
    "LMM (Titans)": "titans",
    "self-modifying": "self-modifying",
}
STYLES = {"ttt-linear": "ttt-linear", "ttt-mlp": "ttt-mlp", "titans": "titans", "self-modifying": "hope"}
STEPS = (1, 2, 4, 8)
SIGNS = {"descend": 1, "climb": -1}
ROWS, FOLLOWED, USUAL = 8, 2, "as trained"  # rows asked live; rows whose inner loss is followed


@lru_cache(maxsize=1)
def recording() -> dict:
    """The recording, `assets/runs/sceptic.json`."""
    return json.loads(asset("runs/sceptic.json").read_text("utf-8"))


@lru_cache(maxsize=8)
def trained(task: str, name: str) -> LanguageModel:
    """The first seed's model, as shipped."""
    return load_model(asset(f"checkpoints/sceptic-{task}-{name}.safetensors")).requires_grad_(False)


def recorded(task: str, name: str, trained_with: str, asked_with: str | None) -> dict | None:
    """A row of the recording, if there is one: "quality" and "inner", {by_seed, mean, low, high} each."""
    for row in recording()["rows"]:
        if [row[k] for k in ("task", "model", "trained_with", "asked_with")] == [task, name, trained_with, asked_with]:
            return {"quality": row["recall" if task == "recall" else "loss"], "inner": row["inner"]["after_k"]}
    return None


def key_of(ablation: Ablation) -> str | None:
    """The recording's name for this ablation; None for options that were not recorded together."""
    recorded_ones = recording()["switches"]
    found = (name for name in recorded_ones if ablation_named(recorded_ones, name) == ablation)
    return next(found, None)


@lru_cache(maxsize=128)
@torch.no_grad()
def live(task: str, name: str, ablation: Ablation) -> dict:
    """The model with this ablation: its "quality" (nats per byte, or the share right), its "inner" loss, and how many
    rows were read."""
    model, rows = trained(task, name), max(1, ROWS // ablation.inner_steps)
    about = recording()["about"]["config"]["tasks"][task]
    with ablated(model, ablation):
        if task == "recall":
            found, tokens = recall_of(model, {**about, "asked_rows": rows}, rows)
        else:
            found, tokens = text_of(model, {**about, "windows": rows}, rows)
        inner = inner_losses(model, tokens[:FOLLOWED, :64])["after_k"]
    return {"quality": found.get("recall", found["loss"]), "inner": inner, "rows": rows}


def compute(
    model: str, inner_steps: int = 1, sign: str = "descend", read_with: str = "query", last_layer_only: bool = False,
    trained_so: bool = False,
) -> dict:  # fmt: skip
    """For text, recall and the inner loss of both: the recorded row at each of PLACES, or None, and what the live model
    says as trained and switched."""
    name = MODELS[check_choice("model", model, MODELS)]
    ablation = Ablation(inner_steps, SIGNS[check_choice("sign", sign, SIGNS)], read_with, last_layer_only)
    key = key_of(ablation)
    arrays = {"model": model, "style": STYLES[name], "ablation": ablation, "key": key, "asks_trained": trained_so}
    for task in TASKS:
        now = {USUAL: live(task, name, Ablation())}
        rows = {USUAL: recorded(task, name, USUAL, USUAL), "switched": None, "trained so": None}
        if ablation.changed:
            now["switched"], rows["switched"] = live(task, name, ablation), recorded(task, name, USUAL, key)
            rows["trained so"] = recorded(task, name, key, key) if trained_so and key else None
        arrays["rows"] = now[list(now)[-1]]["rows"]
        for kind, place in (("quality", task), ("inner", f"inner, {task}")):
            arrays[place] = {p: row and row[kind] for p, row in rows.items()}
            arrays[place]["live"] = {p: one[kind] for p, one in now.items()}
    return arrays


MOVED = {"higher": "rises", "lower": "falls", "not told apart": "is not told apart"}


# -- in words ----------------------------------------------------------------------------------------------------------
def told_apart(after: dict, before: dict) -> str:
    """Whether the mean change by seed "rises" or "falls": the rule of `seeds.verdict`, as in the sceptic's table."""
    change = difference(after["by_seed"], before["by_seed"])
    return MOVED[verdict(change)] if "low" in change else "one seed"


def said(row: dict) -> str:
    """A recorded mean with its interval, in words."""
    if row["mean"] is None:
        return "no number (an inner loop ran away)"
    return f"{row['mean']:.2f}" + (f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] is not None else "")


def read_out(arrays: dict) -> str:
    """What the switch does, recorded and live, in words."""
    names = {"text": "text loss", "recall": "recall", "inner, text": "inner loss on text",
             "inner, recall": "inner loss on recall"}  # fmt: skip
    model, ablation = arrays["model"], arrays["ablation"]
    usual = "; ".join(f"{names[p]} {said(arrays[p][USUAL])}" for p in names)
    if not ablation.changed:
        return f"{model} as trained: {usual}. Turn a switch."
    parts = []
    for where, words in (("switched", "Switched at test time only"), ("trained so", "Trained that way too")):
        found = []
        for place, name in names.items():
            row, before = arrays[place][where], arrays[place][USUAL]
            if row is not None:
                known = row["mean"] is not None and before["mean"] is not None
                found.append(
                    f"{name} {said(before)} -> {said(row)}" + (f" ({told_apart(row, before)})" if known else "")
                )
        if found:
            parts.append(f"{words}: {'; '.join(found)}.")
        elif where == "switched":
            parts.append("These switches were not recorded together; the crosses are the live model's.")
        elif arrays["asks_trained"]:
            parts.append("No model was trained that way.")
    now = [arrays[place]["live"]["switched"] for place in ("text", "recall")]
    count = f"{arrays['rows']} rows" if arrays["rows"] > 1 else "one row"
    text, recall = ("no number" if value is None else f"{value:.2f}" for value in now)
    return f"{model}. {' '.join(parts)} Asked just now, {count}: text loss {text}, recall {recall}."


ANSWERS = ("recall rises or holds", "recall falls too", "the inner loss does not fall")


def outcome(arrays: dict) -> str | None:
    """With eight inner steps instead of one, on recall; None until they were chosen and nothing else."""
    if arrays["key"] != "8 steps":
        return None
    inner, recall = arrays["inner, recall"], arrays["recall"]
    if inner["switched"] is None or inner["switched"]["mean"] is None:
        return ANSWERS[2]
    if inner["switched"]["mean"] >= inner[USUAL]["mean"]:
        return ANSWERS[2]
    return ANSWERS[1] if recall["switched"]["mean"] < recall[USUAL]["mean"] - 0.01 else ANSWERS[0]


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
    """The places that have a number, with their rows."""
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
    """The range of a panel's axis."""
    if names == ("recall",):
        return [-0.04, 1.06]
    values = [v for rows in groups for v in rows["live"].values() if v is not None]
    for rows in groups:
        for _, row in _known(rows):
            values += [v for v in (row["low"], row["high"], *row["by_seed"]) if v is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    gap = 0.08 * max(high - low, 0.1)
    return [low - gap, high + gap]


class ParadoxBoard(View):
    """Four switches on trained memories: text loss and recall beside each other, the inner loss beside both."""

    name = "paradox-board"
    title = "Is the inner loop storing, or mixing?"
    prediction = Prediction(
        "Eight inner steps instead of one should lower the inner loss. If it falls, what will recall do?",
        outcome,
        options=ANSWERS,
        until="Choose 8 inner steps, and turn no other switch.",
        why="The layers around the memory learned to read it after one step; eight steps fit it better and leave "
        "a memory that they never met.",
    )
    continuous = False
    width, height = 920, 400
    moves = ("model", "inner_steps", "last_layer_only")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: model, inner steps, sign, read with, last layer only, trained so."""
        return {
            "model": W.Dropdown(options=list(MODELS), value="TTT-MLP", description="Model"),
            "inner_steps": W.Dropdown(options=STEPS, value=2, description="Inner steps"),
            "sign": W.Dropdown(options=list(SIGNS), value="descend", description="The inner loss is to"),
            "read_with": W.Dropdown(options=["query", "key"], value="query", description="Read with"),
            "last_layer_only": W.Checkbox(value=False, description="Write the last layer only"),
            "trained_so": W.Checkbox(value=False, description="Trained that way too, where recorded"),
        }

    compute, draw, read_out = pure(by_name(compute), draw, read_out)


__all__ = ["PLACES", "ParadoxBoard", "compute"]
