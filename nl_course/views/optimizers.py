"""Optimizers as memories: what does an optimizer remember, and where does it end up?

The landscape is the loss of a real layer. A `nn.Linear` of two weights sees two inputs, at right angles; its error
under each is half a square and a ripple. Curvature is how much longer the second input is, tilt turns both. The
course's own optimizers (`nl_course.optimizers`) train it, each from the same start at the same rate.

What a step remembers is measured: the run is repeated with one past gradient changed a little at a time, all
gradients being given, and the change of step LOOK is read off. Nothing is assumed about the optimizer.
"""

import copy
import math
from functools import lru_cache

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.optimizers import OPTIMIZERS, build_optimizer
from nl_course.seeding import seeded
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

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

NAMES = {
    "gradient descent": "sgd",
    "momentum": "momentum",
    "DGD": "dgd",
    "delta momentum": "delta-momentum",
    "deep momentum": "deep-momentum",
    "Adam": "adam",
    "Muon": "muon",
    "M3": "m3",
}
HELD = {"momentum": "momentum", "delta-momentum": "momentum", "deep-momentum": "momentum", "muon": "momentum"}
LOWEST, START = (1.0, 1.5), (-1.4, -0.6)  # where the loss is lowest, and where every run begins at first
STEPS, WAVES = 48, 4.0
LOOK, AGES = 14, 12  # the step shown at first (gradients are still large), and how far back its memory is measured
ACROSS, UP = (-2.2, 2.8), (-1.8, 2.8)  # the landscape that is drawn
NUDGE = 1e-4


def inputs(curvature: float, tilt: float) -> Tensor:
    """The two inputs of the layer, (2, 2): of squared length 1 and `curvature`, turned by `tilt` degrees."""
    if not check_min("curvature", curvature, 0.01) <= 100:
        raise CourseError(f"curvature must be at most 100, not {curvature}.")
    angle = math.radians(tilt)
    turn = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    return torch.tensor(turn, dtype=torch.float64) * torch.tensor([[1.0], [curvature**0.5]], dtype=torch.float64)


def loss_of(outputs: Tensor, X: Tensor, ripple: float) -> Tensor:
    """The loss of outputs (..., 2, 1), one for each input: e^2 / 2 and a ripple that is 0 at e = 0, (...,)."""
    error = outputs - X @ torch.tensor(LOWEST, dtype=X.dtype)[:, None]
    return (error.square() / 2 + ripple * (1 - (WAVES * error).cos()) / WAVES).sum((-2, -1))


class Layers(nn.Module):
    """`count` separate layers of two weights, all at `start`."""

    def __init__(self, start: Tensor, count: int = 1):
        """All layers begin at `start`, (1, 2)."""
        super().__init__()
        with seeded(0):  # what is drawn here is overwritten
            self.each = nn.ModuleList(nn.Linear(2, 1, bias=False, dtype=torch.float64) for _ in range(count))
        for layer in self.each:
            layer.weight = nn.Parameter(start.clone())

    def forward(self, X: Tensor) -> Tensor:
        """X (2, 2) -> the outputs of every layer, (count, 2, 1)."""
        return torch.stack([layer(X) for layer in self.each])


def optimizer(name: str, layers: nn.Module, rate: float, momentum: float, strength: float):
    """The optimizer called `name`, at this rate; `strength` is of DGD's erase."""
    options = {HELD[name]: momentum} if name in HELD else {}
    if name in ("adam", "m3"):
        options["betas"] = (momentum, 0.99) if name == "adam" else (momentum, 0.99, momentum)
    options |= {"dgd": {"reduction": "sum", "strength": strength}, "m3": {"slow_every": 10, "rms": 0.7}}.get(name, {})
    if name == "muon":
        options |= {"scale": "none", "nesterov": False}
    return build_optimizer(name, layers, lr=rate, **options)


@lru_cache(maxsize=128)
def run(
    name: str, curvature: float, tilt: float, ripple: float, rate: float, momentum: float, strength: float,
    look: int, start: tuple[float, float],
):  # fmt: skip
    """One run from `start`: its path (STEPS + 1, 2), loss (STEPS + 1,), and the weights of at most AGES gradients in
    step `look`, newest first."""
    X, layers = inputs(curvature, tilt), Layers(torch.tensor([start], dtype=torch.float64))
    ages = min(AGES, look)
    weight = layers.each[0].weight
    descent = optimizer(name, layers, rate, momentum, strength)
    path, losses, given = [weight.detach().clone()], [], []
    for step in range(STEPS):
        if step == look - ages:
            memory, before = copy.deepcopy(dict(descent.state.get(weight, {}))), weight.detach().clone()
        descent.zero_grad()
        loss = loss_of(layers(X), X, ripple).sum()
        loss.backward()
        given.append(weight.grad.clone())
        descent.step()
        path.append(weight.detach().clone())
        losses.append(loss.item())
    losses.append(loss_of(layers(X), X, ripple).item())
    probe = Layers(before, ages + 1)
    again = optimizer(name, probe, rate, momentum, strength)
    shares = weights_of_gradients(again, probe, X, given[look - ages : look], memory, rate)
    return torch.cat(path).numpy(), np.array(losses), shares


def weights_of_gradients(descent, probe: Layers, X: Tensor, given: list[Tensor], memory: dict, rate: float):
    """How the last step depends on each gradient, newest first, in units of the rate: 1 for plain descent's newest.

    Layer i of `probe` is given the i-th gradient longer by NUDGE along itself, the last layer all as they were; what
    is returned is the change of the last step along that gradient, divided by -NUDGE * rate. One per gradient."""
    ways = [g / g.norm().clamp(min=1e-30) for g in given]
    parameters = [layer.weight for layer in probe.each]
    for p in parameters:
        descent.state[p] = copy.deepcopy(memory)
    for i, g in enumerate(given):
        before = [p.detach().clone() for p in parameters]
        descent.zero_grad()
        if isinstance(descent, OPTIMIZERS["dgd"]):
            probe(X).sum().backward()  # so that the layers have been given their inputs
        for j, p in enumerate(parameters):
            p.grad = g + NUDGE * ways[i] if i == j else g.clone()
        descent.step()
    last = [(p.detach() - b) for p, b in zip(parameters, before)]
    shares = [((step - last[-1]) * way).sum().item() / (-NUDGE * rate) for step, way in zip(last, ways)]
    return np.array(shares[::-1])


def compute(
    one: str, other: str, curvature: float, tilt: float, ripple: float, rate: float, momentum: float,
    step: int = LOOK, strength: float = 1.0, start_x: float = START[0], start_y: float = START[1],
) -> dict:  # fmt: skip
    """Plain descent and two optimizers on one landscape, looked at in step `step`; the landscape itself on a grid."""
    if not 1 <= check_int("step", step) <= STEPS:
        raise CourseError(f"the step must be 1 to {STEPS}, not {step}.")
    if not 0 <= momentum < 1:
        raise CourseError(f"momentum must be at least 0 and below 1, not {momentum}.")
    check_min("rate", rate, 1e-4)
    check_min("strength", strength, 0)
    check_min("ripple", ripple, 0)
    asked = list(dict.fromkeys(("gradient descent", one, other)))
    runs = {}
    for said in asked:
        name = NAMES[check_choice("optimizer", said, NAMES)]
        path, losses, shares = run(name, curvature, tilt, ripple, rate, momentum, strength, step, (start_x, start_y))
        runs[said] = {"name": name, "path": path, "loss": losses, "weights": shares}
    X = inputs(curvature, tilt)
    x, y = np.linspace(*ACROSS, 51), np.linspace(*UP, 47)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1))
    return {
        "runs": runs, "x": x, "y": y, "surface": loss_of((grid @ X.T)[..., None], X, ripple).numpy(),
        "curvature": curvature, "tilt": tilt, "ripple": ripple, "rate": rate, "momentum_set": momentum,
        "strength": strength, "erased": np.array(LOWEST) / (1 + strength), "look": step,
    }  # fmt: skip


def ends_at(arrays: dict, said: str) -> str:
    """Where a run has come after STEPS steps, in words."""
    end = arrays["runs"][said]["path"][-1]
    if not np.isfinite(end).all() or np.abs(end).max() > 1e3:
        return "blown up"
    away = np.linalg.norm(end - LOWEST)
    return "at the lowest point" if away < 0.05 else f"{away:.2f} from the lowest point"


def read_out(arrays: dict) -> str:
    """Where each run ended, how far back its step remembers, and DGD's own fixed point if it ran."""
    text = f"After {STEPS} steps at rate {arrays['rate']:g}: "
    text += "; ".join(f"{said} is {ends_at(arrays, said)}" for said in arrays["runs"]) + "."
    for said, found in arrays["runs"].items():
        if said != "gradient descent":
            text += f" {remembered(said, found['weights'], arrays['look'])}"
    if "DGD" in arrays["runs"] and arrays["ripple"] == 0:
        end = arrays["runs"]["DGD"]["path"][-1]
        x, y = arrays["erased"]
        text += (
            f" DGD erases while it writes: it settles at {1 / (1 + arrays['strength']):.2g} times the lowest "
            f"point's weights, ({x:.2f}, {y:.2f}), and stands at ({end[0]:.2f}, {end[1]:.2f})."
        )
    return text


def remembered(said: str, weights: np.ndarray, look: int) -> str:
    """What one step has of the gradients before the newest, in words."""
    if not np.isfinite(weights).all():
        return f"What {said} remembers cannot be measured: its run has no numbers any more."
    size = np.abs(weights)
    if size.max() < 1e-3:
        return f"{said[0].upper() + said[1:]}'s step does not depend on how long any of these gradients was."
    older = size[1:].sum() / size.sum()
    return f"Of the weights in {said}'s step {look}, {older:.0%} are on gradients before the newest."


ANSWERS = ("at the lowest point", "half way from zero to the lowest point", "it never comes to rest")


def outcome(arrays: dict) -> str | None:
    """Where DGD ends on the plain bowl; None until it was tried there and has arrived."""
    if "DGD" not in arrays["runs"] or arrays["ripple"] or arrays["strength"] != 1:
        return None
    path = arrays["runs"]["DGD"]["path"]
    if np.linalg.norm(path[-1] - path[-5]) > 0.01:
        return None
    places = (np.array(LOWEST), arrays["erased"])
    return ANSWERS[int(np.argmin([np.linalg.norm(path[-1] - place) for place in places]))]


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
        look_at = path[arrays["look"] - 1 : arrays["look"] + 1]  # (2, 2): before and after the step
        figure.add_scatter(
            x=look_at[:, 0], y=look_at[:, 1], name=f"{said}: the step", mode="lines+markers", showlegend=False,
            line=dict(color=theme.INK, width=3),
            marker=dict(color=look.color, symbol=["circle", "arrow"], size=[9, 20], angleref="previous",
                        line=dict(color=theme.INK, width=1.5)),
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
    points = [("lowest point", LOWEST, "x-thin-open")]
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
        xaxis=dict(domain=LEFT, title="first weight", range=[*ACROSS]),
        yaxis=dict(title="second weight", range=[*UP]),
        xaxis2=dict(domain=RIGHT, anchor="y2", title="steps ago"),
        yaxis2=dict(domain=(0.58, 1.0), anchor="x2", title="share, with its sign", tickformat=".0%"),
        xaxis3=dict(domain=RIGHT, anchor="y3", title="step"),
        yaxis3=dict(
            domain=(0.0, 0.42), anchor="x3", title="loss", type="log", exponentformat="power", dtick=2,
        ),
        shapes=[
            dict(type="line", x0=arrays["look"], x1=arrays["look"], y0=0, y1=1, xref="x3", yref="y3 domain",
                 line=dict(color=theme.INK, width=1, dash="dash")),
        ],
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
    )  # fmt: skip


class Optimizers(View):
    """Two optimizers and plain descent on a landscape that the learner shapes."""

    name = "optimizers"
    title = "What does an optimizer remember, and where does it end up?"
    prediction = Prediction(
        "All runs minimise the same loss, with its lowest point at the cross. Delta gradient descent (DGD) is gradient "
        "descent that erases before it writes. On the plain bowl (ripple 0), where will it come to rest?",
        outcome,
        options=ANSWERS,
        until="Choose DGD as one of the two, with ripple 0 and a rate at which it comes to rest.",
        why="DGD erases in proportion to what stands there, so it rests where erasing and writing balance.",
    )
    step_by = "step"
    width, height = 920, 480
    moves = ("one", "step")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: one, other, curvature, tilt, ripple, rate, momentum, step."""
        names = [name for name in NAMES if name != "gradient descent"]
        return {
            "one": W.Dropdown(options=names, value="momentum", description="One optimizer"),
            "other": W.Dropdown(options=names, value="Adam", description="Another"),
            "curvature": W.FloatSlider(value=8, min=1, max=20, step=1, description="Curvature, steep over flat"),
            "tilt": W.IntSlider(value=30, min=0, max=90, step=5, description="Tilt of the valley (degrees)"),
            "ripple": W.FloatSlider(value=0, min=0, max=1, step=0.1, description="Ripple"),
            "rate": W.FloatSlider(value=0.08, min=0.01, max=0.3, step=0.01, description="Rate"),
            "momentum": W.FloatSlider(value=0.8, min=0, max=0.95, step=0.05, description="Momentum"),
            "step": W.IntSlider(value=LOOK, min=1, max=STEPS, description="Step shown"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: strength, start x, start y."""
        across, up = (dict(min=low, max=high, step=0.1) for low, high in (ACROSS, UP))
        return {
            "strength": W.FloatSlider(value=1, min=0, max=1, step=0.1, description="Strength of DGD's erase"),
            "start_x": W.FloatSlider(value=START[0], description="Start, first weight", **across),
            "start_y": W.FloatSlider(value=START[1], description="Start, second weight", **up),
        }

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
