"""Explosion: why do inner loops blow up, and what prevents it?

A linear memory writes W <- W - step * k^T (k W - v): what it holds along k is multiplied by 1 - step |k|^2, and is only
safe while that lies between -1 and 1, that is, while step |k|^2 < 2. In a mini-batch all gradients are taken at one
anchor, so that similar keys push in the same direction: |k|^2 gives way to the largest eigenvalue of the sum of k^T k.

The view runs the course's own inner loop (`memories.ttt.dual.dual`, in float64) at 90 step sizes at once.
"""

from dataclasses import dataclass

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor

from nl_course.errors import check_choice, check_int
from nl_course.memories.common.inner_model import InnerModel, Norm
from nl_course.memories.common.weights import Weights
from nl_course.memories.ttt.dual import dual
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, pure

TOKENS, WIDTH = 192, 16
STEPS = np.concatenate([np.linspace(0.01, 0.2, 20), np.linspace(0.24, 3.0, 70)])
BLOWN = 1e4  # a norm beyond this counts as blown up; the weights start near 1
CURES = ("none", "keys of length 1", "mean, not sum, in a mini-batch", "layer norm in the memory")


@dataclass(frozen=True)
class Stream:
    """A text as an inner loop meets it: unit keys and values (TOKENS, WIDTH) in float64, and the start (1, W, W)."""

    keys: Tensor
    values: Tensor
    start: Tensor


def stream(similarity: float, seed: int = 0) -> Stream:
    """Keys of length 1 whose mean product is about `similarity`: a shared direction and one of their own."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    shared = torch.randn(1, WIDTH, generator=generator, dtype=torch.float64)
    keys = similarity**0.5 * shared / shared.norm() + (1 - similarity) ** 0.5 * own / own.norm(dim=1, keepdim=True)
    values = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    start = torch.randn(1, WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH
    return Stream(keys / keys.norm(dim=1, keepdim=True), values / values.norm(dim=1, keepdim=True), start)


@torch.no_grad()
def norms(keys: Tensor, values: Tensor, start: Tensor, steps: np.ndarray, mini_batch: int, cure: str) -> np.ndarray:
    """The norm of the memory after each mini-batch, from before the first, (len(steps), mini-batches + 1)."""
    check_choice("cure", cure, CURES)
    check_int("mini_batch", mini_batch, 1)
    inside = cure == CURES[3]
    inner = InnerModel(bias=False, norm=inside, residual=inside)
    one, none = torch.ones(1, 1, WIDTH, dtype=start.dtype), torch.zeros(1, 1, WIDTH, dtype=start.dtype)
    rows = len(steps)
    anchor = Weights(W1=start.expand(rows, 1, -1, -1))
    rate = torch.from_numpy(np.asarray(steps))[:, None, None].expand(rows, 1, mini_batch)
    factor = torch.ones(mini_batch, dtype=start.dtype)
    if cure == CURES[2]:
        factor = 1 / torch.arange(1, mini_batch + 1, dtype=start.dtype)
    found = [anchor["W1"].flatten(1).norm(dim=1)]
    for first in range(0, len(keys), mini_batch):
        k, v = (u[first : first + mini_batch].expand(rows, 1, -1, -1) for u in (keys, values))
        c = factor[: k.shape[2]]
        _, grad_accum = dual(inner, Norm(one, none), anchor, None, k, k, v, rate[..., : k.shape[2]], c)
        anchor = anchor - c[-1] * grad_accum
        found.append(anchor["W1"].flatten(1).norm(dim=1))
    return torch.stack(found, dim=1).numpy()


def largest_curvature(keys: Tensor, mini_batch: int, mean: bool) -> float:
    """The largest eigenvalue, over all mini-batches, of the sum (or the mean) of k^T k."""
    parts = keys.split(mini_batch)
    return max(float(torch.linalg.matrix_norm(p, 2) ** 2) / (len(p) if mean else 1) for p in parts)


def compute(settings: dict) -> dict:
    """settings: step, length (of the keys), mini_batch, similarity (of the keys), cure."""
    cure, mini_batch = check_choice("cure", settings["cure"], CURES), settings["mini_batch"]
    text = stream(settings["similarity"])
    keys = text.keys * (1.0 if cure == CURES[1] else settings["length"])
    steps = np.append(STEPS, settings["step"])
    found = norms(keys, text.values, text.start, steps, mini_batch, cure)
    final = np.nan_to_num(found[:, -1], nan=np.inf)
    blown = np.flatnonzero(final[:-1] > BLOWN)
    curvature = np.nan if cure == CURES[3] else largest_curvature(keys, mini_batch, cure == CURES[2])
    return {
        **settings,
        "tokens": np.minimum(np.arange(found.shape[1]) * mini_batch, TOKENS),
        "norm": found[-1],
        "steps": STEPS,
        "final": final[:-1],
        "edge": float(STEPS[blown[0]]) if len(blown) else np.nan,
        "bound": 2 / curvature,
        "multiplier": 1 - settings["step"] * curvature,
        "radius": max(1.0, abs(1 - settings["step"] * curvature)) if np.isfinite(curvature) else np.nan,
        "style": "delta",
    }


def read_out(arrays: dict) -> str:
    """The multiplier of the steepest write, the bound, the measured edge, and what became of the memory."""
    last = arrays["norm"][-1]
    size = f"{last:.3g}" if np.isfinite(last) else "no number any more"
    text = f"Step {arrays['step']:g}: after {TOKENS} tokens the memory's norm is {size}"
    finite = arrays["norm"][np.isfinite(arrays["norm"])]
    text += f" (at first {arrays['norm'][0]:.2f}), and it was at most {finite.max():.3g}."
    if np.isfinite(arrays["bound"]):
        text += (
            f" The steepest write multiplies what stands along its key by {arrays['multiplier']:.2f}; beyond -1 it "
            f"grows. The bound is a step of {arrays['bound']:.3g}; "
        )
    else:
        text += " With the layer norm inside, a large memory gets small gradients, so that no fixed bound applies; "
    edge = f"measured, it blows up from {arrays['edge']:.2f} on." if np.isfinite(arrays["edge"]) else ""
    return text + (edge or f"measured, no step up to {STEPS[-1]:g} blows it up.")


def draw(arrays: dict, figure) -> None:
    """Left the memory's norm as tokens are read; right its norm at the end against the step, with the bound."""
    style, most, steps = theme.style(arrays["style"]), 1e12, arrays["steps"]
    tokens = arrays["tokens"][-1]
    figure.add_scatter(
        x=arrays["tokens"], y=np.clip(np.nan_to_num(arrays["norm"], nan=most), 1e-3, most), name="norm by token",
        mode="lines+markers" if len(arrays["norm"]) < 60 else "lines", line=dict(color=style.color, width=2),
    )  # fmt: skip
    figure.add_scatter(
        x=steps, y=np.clip(arrays["final"], 1e-3, most), name="norm at the end", mode="lines", xaxis="x2", yaxis="y2",
        line=dict(color=style.color, width=2, dash=style.dash),
    )  # fmt: skip
    at = np.clip(np.nan_to_num(arrays["norm"][-1], nan=most), 1e-3, most)
    figure.add_scatter(
        x=[arrays["step"]], y=[at], name="this step", mode="markers", xaxis="x2", yaxis="y2",
        marker=dict(color=theme.INK, size=11, symbol="diamond"),
    )  # fmt: skip
    lines = [
        dict(type="line", x0=0, x1=1, y0=BLOWN, y1=BLOWN, xref=f"{x} domain", yref=y)
        for x, y in (("x", "y"), ("x2", "y2"))
    ]
    words = [dict(x=0, y=np.log10(BLOWN), xref="x domain", yref="y", text="blown up", yanchor="bottom", xanchor="left")]
    for name, said in (("bound", "bound "), ("rare", " bound if a key comes back late")):
        if (edge := arrays.get(name, np.nan)) < steps[-1]:
            side, at = ("right", 0.98) if name == "bound" else ("left", 0.88)
            lines.append(dict(type="line", x0=edge, x1=edge, y0=0, y1=1, xref="x2", yref="y2 domain"))
            words.append(
                dict(x=edge, y=at, xref="x2", yref="y2 domain", text=said, xanchor=side, yanchor="top",
                     bgcolor="white" if name == "rare" else None)
            )  # fmt: skip
    titles = ((0, "The memory's norm as it reads"), (0.56, f"Its norm after {tokens} tokens, by the step"))
    words += [dict(x=x, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", text=t) for x, t in titles]
    log = dict(type="log", range=[-1, 12], dtick=3, exponentformat="power")
    figure.update_layout(
        margin=dict(l=64, r=12, t=36, b=46), showlegend=False,
        xaxis=dict(domain=(0, 0.44), title="tokens read", range=[0, tokens]),
        yaxis=dict(**log, title="norm of the memory"),
        xaxis2=dict(domain=(0.56, 1), anchor="y2", title="step", range=[0, steps[-1]]),
        yaxis2=dict(**log, anchor="x2", title="norm at the end"),
        shapes=[dict(**line, line=dict(color=theme.INK, width=1, dash="dot")) for line in lines],
        annotations=[dict(**word, showarrow=False) for word in words],
    )  # fmt: skip


ANSWERS = ("at the same step", "at about half of it", "at a fifth of it or less")


def outcome(arrays: dict) -> str | None:
    """Where sixteen tokens at once blow up, as a share of where single ones do; None until that was tried."""
    asked = (arrays["mini_batch"], arrays["cure"]) == (16, CURES[0])
    if not asked or not arrays["step"] >= arrays["edge"]:
        return None
    single = compute({**{name: arrays[name] for name in ("step", "length", "similarity", "cure")}, "mini_batch": 1})
    share = arrays["edge"] / single["edge"]
    if share > 0.8:
        return ANSWERS[0]
    return ANSWERS[1] if share > 0.2 else ANSWERS[2]


class Explosion(View):
    """An inner loop with a step that may be too large, and the cures that the papers use."""

    name = "explosion"
    title = "Why do inner loops blow up, and what prevents it?"
    prediction = Prediction(
        "Below, the memory writes one token at a time, and blows up beyond a certain step. If it takes sixteen similar "
        "tokens at once, all from the same weights, and adds up their gradients: at which step will that blow up?",
        outcome,
        options=ANSWERS,
        until="Under More controls choose a mini-batch of 16, with no cure, and try steps until it happens.",
        why="Sixteen similar gradients from the same weights add up to one step that is many times as long.",
    )
    width, height = 820, 380
    moves = ("step", "mini_batch")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: step, cure."""
        return {
            "step": W.FloatSlider(value=0.4, min=0.04, max=3, step=0.02, description="Step of each write"),
            "cure": W.Dropdown(options=CURES, value=CURES[0], description="Cure"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: length, mini batch, similarity."""
        return {
            "length": W.FloatSlider(value=2, min=0.5, max=3, step=0.1, description="Length of the keys"),
            "mini_batch": W.Dropdown(options=[1, 4, 16, 64], value=1, description="Mini-batch (tokens)"),
            "similarity": W.FloatSlider(value=0.9, min=0, max=1, step=0.05, description="Similarity of the keys"),
        }

    compute, draw, read_out = pure(compute, draw, read_out)
