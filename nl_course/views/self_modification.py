"""Self-modification: what did the model change about its own learning?

The learner's own text, word by word, through the course's own self-modifying Titans (Behrouz et al., arXiv 2512.24695,
section 8): memories that make a word's key, value, step and retention, and one that is read. Nothing in it is trained:
a word is a random direction, every memory begins at random, and the step and the retention begin where the sliders say.
What the picture shows is what the layer's own writes then do to it.

Whether all memories move together is measured, for any kind of memory, on their first layers: the one matrix P that
best explains them all, W = P W_0, and the share of the movement that it does not explain.
"""

import math
from functools import lru_cache

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice
from nl_course.memories.hope.config import VARIANTS, SelfModifyingConfig
from nl_course.memories.hope.layer import SelfModifying
from nl_course.memories.trace import Trace
from nl_course.seeding import seeded
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure
from nl_course.views.surprise_stream import _plain, direction

LEFT, RIGHT = (0.0, 0.60), (0.70, 1.0)
TOP, BOTTOM = (0.60, 1.0), (0.0, 0.40)
TIP = "word %{x} “%{text}”: %{y:.3f}<extra></extra>"
LINES = {  # dash and marker by memory: color is not all
    "key": (theme.style("hope").color, "solid", "circle"),
    "value": (theme.style("attention").color, "dash", "square"),
    "step": (theme.style("outer").color, "dot", "diamond"),
    "retention": (theme.MUTED, "dashdot", "triangle-up"),
    "memory": (theme.style("titans").color, "longdash", "cross"),
}

WIDTH, HIDDEN = 16, 8
LONGEST = 48  # words
CHUNKS = (1, 4, 16)
NAMES = ("key", "value", "step", "retention", "memory")
AIMED = ("key", "value", "memory")  # memories whose target is a vector
TEXT = (
    "The key opens the door. The door opens the house. The key opens the door again. Then the key is lost, and the "
    "house is cold."
)


def words_of(text: str) -> list[str]:
    words = text.split()
    if not 2 <= len(words) <= LONGEST:
        raise CourseError(f"the text may have 2 to {LONGEST} words, not {len(words)}.")
    return words


@lru_cache(maxsize=64)
def layer(
    variant: str, erase: str, kind: str, chunk: int, chunk_others: int, step: float, retention: float
) -> SelfModifying:
    """An untrained layer of one head. eta begins at `step` of at most 1, alpha at `retention`, both less or more by
    what the two memories say."""
    for name, value in (("the first step", step), ("the first retention", retention)):
        if not 0 < value < 1:
            raise CourseError(f"{name} must lie between 0 and 1, not {value}.")
    config = SelfModifyingConfig(
        WIDTH, 1, kind=check_choice("memories", kind, ("mlp", "linear")), hidden=HIDDEN, variant=variant, chunk=chunk,
        chunk_others=chunk_others, erase=erase, max_step=1.0, start_retention=retention, conv=0, start="random",
    )  # fmt: skip
    with seeded(0), torch.no_grad():
        made = SelfModifying(config)
        made.step_bias.fill_(math.log(step / (1 - step)))
        for name, weights in made.start.items():
            gate = name.startswith(("step", "retention"))
            weights.mul_(2.0 if gate or (kind == "mlp" and name.endswith("out")) else 0.8)
        for weights in getattr(made, "number", {}).values():
            weights.normal_(std=WIDTH**-0.5)
    return made.requires_grad_(False)


def compute(
    text: str, variant: str, step: float, kind: str = "linear", erase: str = "per-layer", chunk: int = 1,
    chunk_others: int = 1, retention: float = 0.98,
) -> dict:  # fmt: skip
    """One reading: by word the step, the retention, each memory's distance from its start and how near its target is
    to v; and after the text, how far one gain explains all that moved."""
    words = words_of(text)
    made = layer(variant, erase, kind, chunk, chunk_others, step, retention)
    x = torch.stack([direction(_plain(word))[:WIDTH] for word in words])[None] * WIDTH**0.5 * 2
    moving = [name for name in NAMES if name in made.config.moving]
    wanted = ["step_size", "retention", "value", *(f"{n}.drift" for n in moving), *(f"{n}.target" for n in moving)]
    trace, begun = Trace(tuple(wanted)), made.init_state(1)
    _, state = made(x, begun, trace)
    start, now = made.weights(begun), made.weights(state)
    value = trace["value"][0, :, 0]
    gain, unexplained = shared_gain(start, now, moving)
    return {
        "words": words, "variant": variant, "kind": kind, "erase": erase, "chunk": chunk, "chunk_others": chunk_others,
        "step": trace["step_size"][0, :, 0].numpy(), "retention": trace["retention"][0, :, 0].numpy(),
        "drift": {n: trace[f"{n}.drift"][0, :, 0].numpy() / norm(start[n]) if n in moving else np.zeros(len(words))
                  for n in NAMES},
        "target": {n: cosine(trace[f"{n}.target"][0, :, 0], value) for n in AIMED if n in moving},
        "gain": gain.numpy(), "unexplained": unexplained, "moving": moving, "first_step": step,
        "first_retention": retention,
    }  # fmt: skip


def shared_gain(start: dict, now: dict, moving: list[str]) -> tuple[Tensor, float]:
    """P (f, f) that makes sum |W - P W_0|^2 least over the first layers of all memories that moved, and the share of
    |W - W_0| that it leaves. A memory that did not move would need P = I, and is not asked."""
    first = "into" if "into" in now["memory"] else "out"
    before, after = (torch.cat([side[n][first][0, 0] for n in moving], dim=1).double() for side in (start, now))
    P = torch.linalg.lstsq(before.T, after.T).solution.T
    moved = (after - before).norm()
    return P, float((after - P @ before).norm() / moved) if moved > 0 else 0.0


def norm(weights: dict[str, Tensor]) -> float:
    return float(sum(w.square().sum() for w in weights.values()).sqrt())


def cosine(a: Tensor, b: Tensor) -> np.ndarray:
    return torch.cosine_similarity(a, b, dim=-1).numpy()


def read_out(arrays: dict) -> str:
    """What moved, how far, and whether one matrix explains it, in words."""
    step, kept, drift = arrays["step"], arrays["retention"], arrays["drift"]
    still = [name for name in NAMES if name not in arrays["moving"]]
    stood = f"{', '.join(still)} never move on this variant. " if still else ""
    own = " and ".join(f"{arrays['target'][n].mean():.2f} for {n}" for n in ("key", "memory") if n in arrays["target"])
    one = arrays["unexplained"]
    together = "one shared gain explains all of it" if one < 1e-3 else f"one shared gain leaves {one:.0%} unexplained"
    moved = "M_memory alone moved" if len(arrays["moving"]) == 1 else "the memories moved"
    far = {name: f"{drift[name][-1]:.0%}" for name in NAMES}
    return (
        f"Over {len(step)} words the step went from {step[0]:.2f} to {step[-1]:.2f} (between {step.min():.2f} and "
        f"{step.max():.2f}), the retention from {kept[0]:.3f} to {kept[-1]:.3f}. {stood}From their starts the key map "
        f"is {far['key']} away, the value map {far['value']}, the memory {far['memory']}. "
        f"Targets have a mean cosine with v of {own}. Of how {moved}, {together}."
    )


ANSWERS = ("all of it", "more than half", "less than half")


def outcome(arrays: dict) -> str | None:
    """How much of the movement one gain explains with two-layer memories; None until they were chosen."""
    if arrays["kind"] != "mlp" or len(arrays["moving"]) < len(NAMES) or arrays["variant"] != "self-modifying":
        return None
    left = arrays["unexplained"]
    return ANSWERS[0] if left < 1e-3 else ANSWERS[1] if left < 0.5 else ANSWERS[2]


def draw(arrays: dict, figure) -> None:
    """Four panels of one reading."""
    words = arrays["words"]
    place = np.arange(1, len(words) + 1)

    def line(y, name, which, axes, legend):
        color, dash, marker = LINES[which]
        figure.add_scatter(
            x=place, y=y, name=name, text=words, mode="lines+markers", hovertemplate=TIP, legendgroup=which,
            showlegend=legend, line=dict(color=color, dash=dash, width=2), marker=dict(symbol=marker, size=5),
            xaxis=f"x{axes}", yaxis=f"y{axes}",
        )  # fmt: skip

    line(arrays["step"], "step", "step", "", False)
    line(arrays["retention"], "retention", "retention", "", False)
    for name, drift in arrays["drift"].items():
        line(drift, name, name, "2", True)
    for name, cosine in arrays["target"].items():
        line(cosine, f"{name}: target and v", name, "3", False)
    change = arrays["gain"] - np.eye(len(arrays["gain"]))
    most = max(float(np.abs(change).max()), 1e-9)
    figure.add_heatmap(
        z=change, xaxis="x4", yaxis="y4", colorscale=theme.SIGNS, zmin=-most, zmax=most, zmid=0, name="P - I",
        colorbar=dict(len=0.4, y=0.2, thickness=10, x=1.0, title=dict(text="P − I", side="top")),
        hovertemplate="row %{y}, column %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    _arrange(arrays, figure)


def _arrange(arrays: dict, figure) -> None:
    words = arrays["words"]
    ticks = dict(tickvals=np.arange(1, len(words) + 1), ticktext=words, tickangle=-90, tickfont=dict(size=11))
    span = dict(range=[0.3, len(words) + 0.7], showgrid=False)
    highest = max(1.05, float(np.nanmax([d.max() for d in arrays["drift"].values()])) * 1.05)
    figure.update_layout(
        xaxis=dict(domain=LEFT, anchor="y", showticklabels=False, **span),
        yaxis=dict(domain=TOP, range=[0, 1.05], title="step ◆, retention ▲"),
        xaxis2=dict(domain=LEFT, anchor="y2", **span, **ticks),
        yaxis2=dict(domain=(0.0, 0.42), range=[0, highest], title="drift / start", anchor="x2"),
        xaxis3=dict(domain=RIGHT, anchor="y3", title="word", **span),
        yaxis3=dict(domain=TOP, range=[-1.05, 1.05], title="cosine of target and v", anchor="x3"),
        xaxis4=dict(domain=(0.72, 0.97), anchor="y4", showticklabels=False, constrain="domain"),
        yaxis4=dict(domain=BOTTOM, anchor="x4", showticklabels=False, autorange="reversed", scaleanchor="x4"),
        legend=dict(orientation="h", x=0.0, xanchor="left", y=1.02, yanchor="bottom"),
        margin=dict(l=60, r=60, t=46, b=70),
    )
    left = arrays["unexplained"]
    figure.add_annotation(
        xref="paper", yref="paper", x=0.84, y=BOTTOM[1] + 0.015, showarrow=False, yanchor="bottom",
        xanchor="center",
        text="one gain, unexplained: " + ("0" if left < 1e-3 else f"{left:.0%}"),
    )  # fmt: skip


class SelfModification(View):
    """A text, and what a self-modifying layer does to its own keys, values, step and retention as it reads."""

    name = "self-modification"
    title = "What did the model change about its own learning?"
    prediction = Prediction(
        "With linear memories one matrix explains how all five moved (lower right). How much of the movement will one "
        "matrix explain for two-layer memories?",
        outcome,
        options=ANSWERS,
        until="Choose two-layer memories on the self-modifying variant.",
    )
    width, height = 920, 560

    def controls(self):
        wide = W.Layout(width="860px", max_width="100%")
        variants = [("1: only M_memory moves", "plain"), ("2: all move, towards v", "adaptive"),
                 ("3: all move, towards targets of their own", "self-modifying")]  # fmt: skip
        assert {value for _, value in variants} == set(VARIANTS)
        return {
            "text": W.Textarea(value=TEXT, rows=2, description="Your text", layout=wide),
            "variant": W.Dropdown(options=variants, value="self-modifying", description="Variant"),
            "step": W.FloatSlider(value=0.3, min=0.05, max=0.95, step=0.05, description="Step to begin with"),
        }

    def more_controls(self):
        erases = [("every layer", "per-layer"), ("first layers", "input"), ("off", "off")]
        kinds = [("linear", "linear"), ("two layers", "mlp")]
        return {
            "kind": W.Dropdown(options=kinds, value="linear", description="Memories"),
            "erase": W.Dropdown(options=erases, value="per-layer", description="Erase"),
            "chunk": W.Dropdown(options=CHUNKS, value=1, description="Chunk of M_memory"),
            "chunk_others": W.Dropdown(options=CHUNKS, value=1, description="Chunk of the others"),
            "retention": W.FloatSlider(
                value=0.98, min=0.8, max=0.99, step=0.01, description="Retention to begin with", readout_format=".2f"
            ),
        }

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
