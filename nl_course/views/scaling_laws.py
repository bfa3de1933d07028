"""The scaling-law explorer: what ten times the compute, the parameters, the tokens or the context buys.

Published laws are drawn from their constants; "ours" is fitted, there and then, to the recorded runs of
`nl-course record scaling`, with the bootstrap's band. Losses of different texts and tokenisers are not comparable.
"""

from functools import lru_cache
from itertools import pairwise

import ipywidgets as W
import numpy as np

from nl_course.errors import CourseError
from nl_course.scaling import fit_law, kaplan_loss, law, laws, own_runs
from nl_course.scaling.power_laws import PF_DAY
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View

AXES = {
    "split": "one budget, split between parameters and tokens",
    "compute": "loss against compute, well spent",
    "parameters": "loss against parameters",
    "tokens": "loss against tokens",
    "context": "loss against context",
}
KAPLAN = "kaplan"
PUBLISHED, OURS = (18.0, 26.0, 21.0), (10.0, 14.0, 12.0)  # powers of ten of operations: least, most, start
RESAMPLES = 60
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@lru_cache(maxsize=16)
def our_fit(smallest: float = 0.0):
    """The joint fit to the recorded runs of at least `smallest` parameters, with its bootstrap."""
    runs = own_runs()
    runs = runs.where(runs.parameters >= smallest)
    return fit_law(runs.parameters, runs.tokens, runs.loss, resamples=RESAMPLES), runs


def compute(settings: dict) -> dict:
    """Curves, points and marks for one law and one axis.

    settings: law ("ours", "kaplan", or a name of `laws()`), axis (a key of AXES), power (log10 of operations), smallest
    (parameters; of the runs that our own fit uses). Raises CourseError for an axis on which the law says nothing.
    """
    name, axis = settings["law"], settings["axis"]
    if axis == "context":
        return {**settings, **_context(name)}
    if name == KAPLAN:
        return {**settings, **_kaplan(axis, settings["power"])}
    if name == "ours":
        fit, runs = our_fit(settings["smallest"])
        fitted = fit.law()
    else:
        fit, runs, fitted = None, None, law(name)
    flops = 10.0 ** settings["power"]
    now, more = fitted.optimum(flops), fitted.optimum(10 * flops)
    found = {"now": now, "more": more, "flops": flops, "title": fitted.title, "floor": fitted.floor, "fit": fit}
    return {**settings, **found, **_curves(axis, fitted, flops, fit, runs)}


def _curves(axis, fitted, flops, fit, runs) -> dict:
    """curves: (name, x, loss); points: (name, x, loss); band: (x, low, high) or None; marks: (name, x, loss)."""
    now, more = fitted.optimum(flops), fitted.optimum(10 * flops)
    curves, points, band = [], [], None
    if axis == "split":
        spread = np.geomspace(1 / 30, 30, 81)
        for budget, best in ((flops, now), (10 * flops, more)):
            N = best.parameters * spread
            curves.append((f"{_power(budget)} operations", N, fitted.loss(N, budget / (6 * N))))
        marks = [("best", now.parameters, now.loss), ("best of ten times", more.parameters, more.loss)]
        if fit is not None:
            N = curves[0][1]
            band = (N, *fit.band(N, flops / (6 * N)))
    elif axis == "compute":
        C = np.geomspace(flops / 100, flops * 1000, 61)
        best = [fitted.optimum(c) for c in C]
        curves.append(("best split", C, np.array([b.loss for b in best])))
        marks = [("now", flops, now.loss), ("ten times", 10 * flops, more.loss)]
        if fit is not None:
            N = np.array([split.parameters for split in best])
            D = np.array([split.tokens for split in best])
            band = (C, *fit.band(N, D))
            points.append(("our runs", runs.flops, runs.loss))
    else:
        mine, other = ("parameters", "tokens") if axis == "parameters" else ("tokens", "parameters")
        at = getattr(now, mine)
        x = np.geomspace(at / 100, at * 1000, 61)
        if runs is not None:
            x = np.geomspace(getattr(runs, mine).min() / 2, getattr(runs, mine).max() * 10, 61)
        fixed = np.unique(getattr(runs, other)) if runs is not None else [getattr(now, other), 10 * getattr(now, other)]
        for value in fixed:
            sizes = (x, np.full_like(x, value)) if axis == "parameters" else (np.full_like(x, value), x)
            label = f"{_number(value)} {other}"
            curves.append((label, x, fitted.loss(*sizes)))
            if runs is not None:
                chosen = getattr(runs, other) == value
                points.append((label, getattr(runs, mine)[chosen], runs.loss[chosen]))
                band = (x, *fit.band(*sizes))
        marks = [] if runs is not None else [("now", at, now.loss)]
    return {"curves": curves, "points": points, "band": band, "marks": marks}


def _kaplan(axis: str, power: float) -> dict:
    """Kaplan's law along one axis, at a budget of 10^power operations."""
    if axis == "split":
        raise CourseError("Kaplan's published formulas take one limit at a time: choose compute, parameters or tokens.")
    flops = 10.0**power
    unit = {"compute": PF_DAY, "parameters": 1.0, "tokens": 1.0}[axis]
    start = flops if axis == "compute" else {"parameters": 1e9, "tokens": 1e10}[axis]
    x = np.geomspace(start / 100, start * 1000, 61)
    keyword = {"compute": "pf_days"}.get(axis, axis)
    curve = kaplan_loss(**{keyword: x / unit})
    ends = (("now", start), ("ten times", 10 * start))
    marks = [(name, size, float(kaplan_loss(**{keyword: size / unit}))) for name, size in ends]
    return {
        "curves": [("Kaplan 2020", x, curve)], "points": [], "band": None, "marks": marks, "title": "Kaplan 2020",
        "flops": flops, "now": None, "more": None, "floor": 0.0, "fit": None,
    }  # fmt: skip


def _context(name: str) -> dict:
    """The loss of our longest runs by position."""
    if name != "ours":
        raise CourseError("no published law here has the context in it: that is the point. Choose our own runs.")
    runs = own_runs()
    longest = runs.where(runs.tokens == runs.tokens.max())
    smoothed = _blocks(longest.by_position)
    curves = [(f"{_number(n)} parameters", smoothed[0], row) for n, row in zip(longest.parameters, smoothed[1])]
    return {
        "curves": curves, "points": [], "band": None, "marks": [], "title": "our runs", "flops": None, "now": None,
        "more": None, "floor": 0.0, "fit": None,
    }  # fmt: skip


def _blocks(by_position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over positions 1, 2, 3-4, 5-8, ...: (middles (K,), means (R, K)), to see through the noise."""
    edges = [0, *(2**k for k in range(by_position.shape[1].bit_length()))]
    middles = np.array([(a + 1 + b) / 2 for a, b in pairwise(edges)])
    means = np.stack([by_position[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    return middles, means


def _number(value: float) -> str:
    """Three digits with k, M, B or T."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _power(value: float) -> str:
    """A number as a power of ten."""
    return f"10^{np.log10(value):.4g}"


LABELS = {
    "split": "parameters (the rest of the budget goes into tokens)", "compute": "operations of training, 6 N D",
    "parameters": "parameters", "tokens": "tokens", "context": "position: bytes read so far",
}  # fmt: skip


def draw(arrays: dict, figure) -> None:
    """Loss over the chosen axis, logarithmic: curves by dash, points by marker, the band in grey."""
    style = theme.style("outer")
    if arrays["band"] is not None:
        x, low, high = arrays["band"]
        grey = dict(mode="lines", line=dict(width=0), hoverinfo="skip")
        figure.add_scatter(x=x, y=low, showlegend=False, name="lower end", **grey)
        name = "90 % of the bootstrap's curves"
        figure.add_scatter(x=x, y=high, name=name, fill="tonexty", fillcolor="rgba(138,143,152,0.3)", **grey)
    shades = _shades(style.color, len(arrays["curves"]))
    for number, (name, x, y) in enumerate(arrays["curves"]):
        line = dict(color=shades[number], dash=DASHES[number % len(DASHES)], width=2)
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line)
    symbols = ("circle", "square", "diamond", "triangle-up", "cross", "x")
    for number, (name, x, y) in enumerate(arrays["points"]):
        marker = dict(symbol=symbols[number % 6], color=shades[number % len(shades)], size=8)
        figure.add_scatter(x=x, y=y, mode="markers", name=f"measured, {name}", marker=marker, showlegend=False)
    if arrays["marks"]:
        figure.add_scatter(
            x=[m[1] for m in arrays["marks"]], y=[m[2] for m in arrays["marks"]], text=[m[0] for m in arrays["marks"]],
            mode="markers+text", textposition="top center", name="marks", showlegend=False,
            marker=dict(symbol="star", size=14, color=theme.INK),
        )  # fmt: skip
    ours = arrays["law"] == "ours"
    figure.update_layout(
        xaxis=dict(type="log", title=LABELS[arrays["axis"]], exponentformat="power", dtick=1),
        yaxis=dict(type="log", title="loss (nats per byte)" if ours else "loss (nats per token)", nticks=8),
        legend=dict(orientation="v", x=1.01, xanchor="left", y=1.0, yanchor="top", traceorder="normal"),
    )


def _shades(color: str, count: int) -> list[str]:
    """`count` shades from pale to the full color."""
    full = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    shades = []
    for share in np.linspace(0.45 if count > 1 else 1.0, 1.0, count):
        red, green, blue = np.rint(255 + (full - 255) * share).astype(int)
        shades.append(f"rgb({red},{green},{blue})")
    return shades


def read_out(arrays: dict) -> str:
    """What the picture says, in words."""
    if arrays["axis"] == "context":
        first, last = arrays["curves"][0], arrays["curves"][-1]
        return (
            f"Reading more helps every size: from the first byte to the last half of the window the loss falls from "
            f"{first[2][0]:.2f} to {first[2][-1]:.2f} nats with {first[0]}, from {last[2][0]:.2f} to {last[2][-1]:.2f} "
            f"with {last[0]}."
        )
    if arrays["law"] == KAPLAN:
        (_, x, loss), (_, _, less) = arrays["marks"]
        unit = {"compute": "operations", "parameters": "parameters", "tokens": "tokens"}[arrays["axis"]]
        size = _power(x) if arrays["axis"] == "compute" else _number(x)
        return f"Kaplan 2020: {size} {unit} give {loss:.3f} nats; ten times as many give {less:.3f}. There is no floor."
    now, more, fit = arrays["now"], arrays["more"], arrays["fit"]
    per = now.tokens / now.parameters
    text = (
        f"{arrays['title']}: {_power(arrays['flops'])} operations are best spent on {_number(now.parameters)} "
        f"parameters and {_number(now.tokens)} tokens ({per:.3g} per parameter). The loss is then "
        f"{now.loss:.3f} nats. Ten times as many operations lower it to {more.loss:.3f} nats, with "
        f"{more.parameters / now.parameters:.3g} times the parameters. The law's floor is {arrays['floor']:.3g} nats."
    )
    if fit is not None:
        (a, b), (c, d) = fit.interval("alpha"), fit.interval("beta")
        text += (
            f" Fitted to {fit.points} runs: exponent of N {fit.values['alpha']:.2f} ({a:.2f} to {b:.2f}), "
            f"of D {fit.values['beta']:.2f} ({c:.2f} to {d:.2f})."
        )
    return text


class ScalingLaws(View):
    """What does ten times the compute buy?"""

    name = "scaling-laws"
    title = "Scaling laws: what does ten times the compute buy?"
    height = 420
    continuous = False
    prediction = Prediction(
        "By the re-fitted Chinchilla law: when the compute grows tenfold and is well spent, by what factor does the "
        "number of parameters grow?",
        lambda arrays: arrays["more"].parameters / arrays["now"].parameters if arrays["law"] == "besiroglu" else None,
        until="Choose the re-fit of 2024 to find out.",
        why="By this law the best parameters and tokens grow almost alike, so each takes about the square root of ten.",
    )
    moves = ("axis", "power")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: law, axis, power."""
        names = [(f.title, name) for name, f in laws().items()]
        names += [("Kaplan 2020", KAPLAN), ("ours, on bytes (recorded)", "ours")]
        return {
            "law": W.Dropdown(options=names, value="besiroglu", description="Law"),
            "axis": W.Dropdown(options=[(v, k) for k, v in AXES.items()], value="split", description="Show"),
            "power": W.FloatSlider(
                value=PUBLISHED[2],
                min=PUBLISHED[0],
                max=PUBLISHED[1],
                step=0.25,
                description="Compute, 10 to the power",
            ),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: smallest."""
        sizes = [("all of them", 0.0), ("from 20k parameters", 2e4), ("from 40k parameters", 4e4)]
        return {"smallest": W.Dropdown(options=sizes, value=0.0, description="Our fit uses the runs")}

    def adjust(self, name):
        """The budget's slider spans what the law speaks of."""
        if name == "law":
            slider, law_name = self.controls_by_name["power"], self.controls_by_name["law"].value
            low, high, start = OURS if law_name == "ours" else PUBLISHED
            if (slider.min, slider.max) != (low, high):
                slider.min, slider.max = min(low, slider.min), max(high, slider.max)  # never crossed on the way
                slider.value = start
                slider.min, slider.max = low, high

    def compute(self, settings):
        """What the picture shows at these settings."""
        return compute(settings)

    def draw(self, arrays, figure):
        """Draws what `compute` returned into an empty figure."""
        draw(arrays, figure)

    def read_out(self, arrays):
        """The sentence under the picture."""
        return read_out(arrays)
