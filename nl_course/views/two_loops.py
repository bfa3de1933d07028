"""Two loops: who learns what, and through which path?

The smallest nested loop there is. A memory of one weight w reads pairs (x, u) of a sequence in which u = slope * x, and
writes each by one gradient step; then it is asked for the slope. Everything else is learned outside, over sequences of
different slopes: the start w_0, the projections that make key, value and query, and the step.

    k = key * x,  v = value * u:    w_t = w_{t-1} - step * k (k w_{t-1} - v),    outer loss (query * w_n - slope)^2 / 2

The outer gradient goes through all inner steps ("exact"); takes each inner gradient for a constant ("first-order"); or
takes the whole write for one ("stopped"). Slopes are carried forward with w, three lines; the tests hold them to the
course's own TTT reference under autograd, with its three settings of `stop_gradient`.
"""

from dataclasses import asdict, dataclass, replace

import ipywidgets as W
import numpy as np

from nl_course.errors import check_choice, check_int
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, pure

SLOPES = np.array([0.5, 1.0, 1.8])  # one sequence each
PLACES = np.array([1.0, 0.7, 1.2, 0.9, 1.1, 0.8, 1.3, 0.6])  # x of the pairs, in reading order
GRADIENTS = ("exact", "first-order", "stopped")
DASHES = {"exact": "solid", "first-order": "dash", "stopped": "dot"}
WIDTHS = {"exact": 3, "first-order": 7, "stopped": 3}  # a wide dash shows under a dot where the two agree
SHADES = {"exact": 1, "first-order": 0.35, "stopped": 1}
OUTER_STEPS, OUTER_RATE = 30, 0.2


@dataclass(frozen=True)
class Learned:
    """What the outer loop may learn."""

    start: float = -0.6
    key: float = 1.0
    value: float = 0.7
    query: float = 0.9
    step: float = 1.6


NAMES = {
    "start": "the start weight",
    "key": "the key projection",
    "value": "the value projection",
    "query": "the query projection",
    "step": "the step",
}
RANGES = {"start": (-2.0, 2.0), "key": (-0.6, 2.0), "value": (-0.5, 2.5), "query": (-0.5, 2.5), "step": (0.0, 2.8)}


def unroll(learned: dict, inner_steps: int, name: str = "", gradient: str = "exact") -> tuple:
    """The inner loop of every sequence: weights (sequences, inner_steps + 1, ...) and, for the learned number `name`,
    how each depends on it, by the path that `gradient` leaves open. Numbers of `learned` may be arrays."""
    check_choice("gradient", gradient, GRADIENTS)
    check_int("inner steps", inner_steps, 1)
    shape = np.broadcast_shapes(*(np.shape(v) for v in learned.values()))
    slopes = SLOPES.reshape(-1, *[1] * len(shape))
    w = np.broadcast_to(learned["start"], (len(SLOPES), *shape)).astype(float)
    dw = np.full_like(w, float(name == "start"))
    weights, moved = [w], [dw]
    for x in PLACES[:inner_steps]:
        k, v, step = learned["key"] * x, learned["value"] * slopes * x, learned["step"]
        error = k * w - v
        if gradient == "exact":  # the inner gradient k (k w - v) depends on w, and on what made k and v
            dk, dv = x * (name == "key"), slopes * x * (name == "value")
            dw = dw - step * (dk * error + k * (dk * w + k * dw - dv))
        if gradient != "stopped":
            dw = dw - k * error * (name == "step")
        w = w - step * k * error
        weights.append(w)
        moved.append(dw)
    return np.stack(weights, axis=1), np.stack(moved, axis=1)


def outer_loss(learned: dict, inner_steps: int) -> np.ndarray:
    """The mean over the sequences of (query * w_n - slope)^2 / 2, after the inner loop."""
    w = unroll(learned, inner_steps)[0][:, -1]
    return ((learned["query"] * w - SLOPES.reshape(-1, *[1] * (w.ndim - 1))) ** 2 / 2).mean(axis=0)


def slope(learned: dict, inner_steps: int, name: str, gradient: str) -> float:
    """d outer loss / d `name` by one of the three gradients."""
    weights, moved = unroll(learned, inner_steps, name, gradient)
    w, dw = weights[:, -1], moved[:, -1]
    answers = dw * learned["query"] + w * (name == "query")
    return ((learned["query"] * w - SLOPES) * answers).mean()


def finite_difference(learned: dict, inner_steps: int, name: str, by: float = 1e-5) -> float:
    """(L(p + by) - L(p - by)) / (2 by): the slope that no choice of gradient can talk away."""
    up, down = ({**learned, name: learned[name] + sign * by} for sign in (1, -1))
    return (outer_loss(up, inner_steps) - outer_loss(down, inner_steps)) / (2 * by)


def outer_training(learned: dict, inner_steps: int, name: str, gradient: str, steps: int = OUTER_STEPS) -> list[float]:
    """The values of one learned number, from its present one on, as the outer loop moves it downhill (by at most 0.5 a
    step, for where an inner loop explodes)."""
    path = [learned[name]]
    for _ in range(steps):
        downhill = -OUTER_RATE * slope({**learned, name: path[-1]}, inner_steps, name, gradient)
        path.append(path[-1] + float(np.clip(downhill, -0.5, 0.5)))
    return path


def compute(settings: dict) -> dict:
    """settings: outer (steps done), gradient (that training follows), number (that learns), inner_steps, step."""
    name, inner_steps, outer = settings["number"], settings["inner_steps"], settings["outer"]
    first = asdict(replace(Learned(), step=settings["step"]))
    paths = {g: np.array(outer_training(first, inner_steps, name, g)) for g in GRADIENTS}
    now = {**first, name: float(paths[settings["gradient"]][outer])}
    places = np.linspace(*RANGES[name], 181)
    return {
        **settings,
        "places": places,
        "curve": outer_loss({**first, name: places}, inner_steps),
        "now": now[name],
        "loss": float(outer_loss(now, inner_steps)),
        "paths": paths,
        "losses": {g: outer_loss({**first, name: path}, inner_steps) for g, path in paths.items()},
        "slopes": {g: float(slope(now, inner_steps, name, g)) for g in GRADIENTS},
        "difference": float(finite_difference(now, inner_steps, name)),
        "inner": unroll(now, inner_steps)[0],
    }


def read_out(arrays: dict) -> str:
    """Where the learned number stands, and the slope there by each gradient beside a finite difference."""
    slopes, losses = arrays["slopes"], arrays["losses"][arrays["gradient"]]
    text = (
        f"After {arrays['outer']} outer steps along the {arrays['gradient']} gradient, {NAMES[arrays['number']]} is "
        f"{arrays['now']:.2f} and the outer loss {arrays['loss']:.4f} (at first {losses[0]:.4f}). Slope there: exact "
        f"{slopes['exact']:.4f}, finite difference {arrays['difference']:.4f}, first-order "
        f"{slopes['first-order']:.4f}, stopped {slopes['stopped']:.4f}."
    )
    if arrays["number"] in ("key", "value") and slopes["stopped"] == 0:
        return text + " Stopped means exactly zero here: the write is the only path."
    if slopes["exact"] * slopes["stopped"] < 0:
        return text + " The stopped gradient points uphill: the inner steps overshoot, and only the exact one knows."
    return text


def outcome(arrays: dict) -> str | None:
    """What the key projection learned without the path through the write, or None until that was tried."""
    if (arrays["number"], arrays["gradient"], arrays["outer"]) != ("key", "stopped", OUTER_STEPS):
        return None
    gained = {g: losses[0] - losses[-1] for g, losses in arrays["losses"].items()}
    if abs(gained["stopped"]) < 1e-12:
        return ANSWERS[0]
    return ANSWERS[1] if gained["stopped"] < 0.9 * gained["exact"] else ANSWERS[2]


ANSWERS = ("nothing at all", "something, but less", "as much")


def draw(arrays: dict, figure) -> None:
    """Left the outer loss against the learned number with its tangents; right the inner loops and outer training."""
    outer, inner, now = theme.style("outer"), theme.style("ttt-linear"), arrays["now"]
    figure.add_scatter(
        x=arrays["places"], y=arrays["curve"], name="outer loss", mode="lines", line=dict(color=theme.INK, width=2),
        showlegend=False,
    )  # fmt: skip
    wide = np.ptp(arrays["places"]) * 0.16
    for gradient, tilt in arrays["slopes"].items():
        figure.add_scatter(
            x=[now - wide, now + wide], y=[arrays["loss"] - wide * tilt, arrays["loss"] + wide * tilt], name=gradient,
            mode="lines", opacity=SHADES[gradient],
            line=dict(color=outer.color, width=WIDTHS[gradient], dash=DASHES[gradient]),
        )  # fmt: skip
    figure.add_scatter(
        x=[now], y=[arrays["loss"]], name="now", mode="markers", showlegend=False,
        marker=dict(color=outer.color, size=12),
    )  # fmt: skip
    steps = np.arange(arrays["inner"].shape[1])
    for row, (slope_, symbol) in enumerate(zip(SLOPES, ("circle", "square", "diamond"))):
        figure.add_scatter(
            x=steps, y=arrays["inner"][row], name=f"slope {slope_:g}", mode="lines+markers", xaxis="x2", yaxis="y2",
            line=dict(color=inner.color, dash=inner.dash), marker=dict(symbol=symbol, size=7), showlegend=False,
            hovertemplate=f"sequence of slope {slope_:g}: w = %{{y:.3f}} after %{{x}} writes<extra></extra>",
        )  # fmt: skip
    for gradient, losses in arrays["losses"].items():
        figure.add_scatter(
            x=np.arange(OUTER_STEPS + 1), y=losses, name=f"training along {gradient}", mode="lines", xaxis="x3",
            yaxis="y3", line=dict(color=outer.color, width=WIDTHS[gradient], dash=DASHES[gradient]), showlegend=False,
            opacity=SHADES[gradient],
        )  # fmt: skip
    _arrange(arrays, figure)


def _arrange(arrays: dict, figure) -> None:
    name = NAMES[arrays["number"]]
    first = float(arrays["losses"]["exact"][0])
    top = max(2 * first, 1.25 * min(arrays["loss"], 4 * first), 0.05)
    steps = arrays["inner"].shape[1] - 1
    titles = (
        (0, 1, f"Outer loss against {name}"),
        (0.6, 1, "Inner loops: the weight after each write"),
        (0.6, 0.41, "Outer training along each gradient"),
    )
    figure.update_layout(
        margin=dict(l=58, r=12, t=52, b=46),
        legend=dict(x=0.51, y=0.02, xanchor="right", yanchor="bottom", orientation="v", bgcolor=theme.VEIL,
                    title=dict(text="slope here")),
        xaxis=dict(domain=(0, 0.53), title=name, range=[*RANGES[arrays["number"]]]),
        yaxis=dict(title="outer loss", range=[-0.08 * top, top]),
        xaxis2=dict(domain=(0.6, 1), anchor="y2", title="pairs read", dtick=1, range=[-0.2, steps + 0.2]),
        yaxis2=dict(domain=(0.58, 1), anchor="x2", title="w", nticks=6),
        xaxis3=dict(domain=(0.6, 1), anchor="y3", title="outer steps", range=[-0.5, OUTER_STEPS + 0.5]),
        yaxis3=dict(domain=(0, 0.4), anchor="x3", title="outer loss", nticks=5, range=[-0.05 * first, 2 * first]),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
        shapes=[
            *(dict(type="line", x0=0, x1=1, y0=a, y1=a, xref="x2 domain", yref="y2",
                   line=dict(color=theme.MUTED, width=1, dash="dot")) for a in SLOPES),
            dict(type="line", x0=arrays["outer"], x1=arrays["outer"], y0=0, y1=1, xref="x3", yref="y3 domain",
                 line=dict(color=theme.INK, width=1, dash="dash")),
        ],
    )  # fmt: skip


class TwoLoops(View):
    """Inner steps unrolled inside an outer one, with the gradient's path as a switch."""

    name = "two-loops"
    title = "Who learns what, and through which path?"
    prediction = Prediction(
        "Let the outer loop train only the projection that makes the key, but take every write for a constant (the "
        "gradient is stopped there). What will it learn?",
        outcome,
        options=ANSWERS,
        until="Under More controls choose the key projection; follow the stopped gradient to the last outer step.",
    )
    step_by = "outer"
    width, height = 820, 470

    def controls(self):
        return {
            "outer": W.IntSlider(value=0, min=0, max=OUTER_STEPS, description="Outer steps done"),
            "gradient": W.ToggleButtons(
                options=GRADIENTS, value="exact", description="Training follows", style={"button_width": "96px"}
            ),
        }

    def more_controls(self):
        numbers = [(label, name) for name, label in NAMES.items()]
        return {
            "number": W.Dropdown(options=numbers, value="start", description="What learns"),
            "inner_steps": W.IntSlider(value=1, min=1, max=len(PLACES), description="Inner steps (pairs read)"),
            "step": W.FloatSlider(value=1.6, min=0.1, max=2.4, step=0.1, description="Step of each write at first"),
        }

    compute, draw, read_out = pure(compute, draw, read_out)
