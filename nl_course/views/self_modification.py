"""Self-modification: what did the model change about its own learning?

A HOPE of the course that was trained on parity (`nl-course record hope`) reads the learner's own bits. It has one layer
of self-modifying Titans with one head (Behrouz et al., arXiv 2512.24695, section 8). Its memories are matrices, its
chunks are one token long, and nothing is forgotten by retention. Shown at each bit are the step that the layer gives
itself, and whether the value that it makes points along the bit's key or away from it. The two together say how much
one write leaves of what stood under that key: 1 - (2 - k v) step.

Below stand the model's answers, with all memories at work or with some of them held still at their trained start while
the model reads. Nothing is trained again for that, so it says what this model needs, not what a model could do without.
"""

from functools import lru_cache

import ipywidgets as W
import numpy as np
import torch

from nl_course.errors import CourseError, check_choice
from nl_course.files import asset
from nl_course.memories import Trace
from nl_course.nested import NestedLanguageModel
from nl_course.record.hope_measures import held_still
from nl_course.tasks.formal import classes, encode
from nl_course.training.checkpoint import load_model
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

CHECKPOINT = "checkpoints/hope-parity.safetensors"
TEXT = "110100101110010111010011"  # bits; as long as the longest string of its training
SHORTEST, LONGEST = 2, 64
HELD = {
    "nothing": (),
    "the key memory": ("key",),
    "the value memory": ("value",),
    "the step memory": ("step",),
    "all three": ("key", "value", "step"),
    "M_memory, which is read": ("memory",),
}
ANSWERS = ("as well as before", "like a coin", "wrong at almost every bit")
ENOUGH = 16  # bits from which on half right is told from all or none
BANDS = ((0.74, 1.0), (0.40, 0.64), (0.0, 0.28))
PALE = 0.4  # opacity of a 0's bars


@lru_cache(maxsize=1)
def model() -> NestedLanguageModel:
    """The model as trained."""
    return load_model(asset(CHECKPOINT)).requires_grad_(False)


def bits_of(text: str) -> str:
    """The learner's bits without blanks. Raises CourseError."""
    bits = "".join(text.split())
    if not SHORTEST <= len(bits) <= LONGEST:
        raise CourseError(f"give {SHORTEST} to {LONGEST} bits, not {len(bits)}.")
    encode("parity", bits)
    return bits


@torch.no_grad()
def read(bits: str, held: str) -> dict[str, np.ndarray]:
    """One reading, by bit (t,): the `step`, `along` (k v, key and value of length 1 at most), and `right`, the
    probability that the model gives to the right one of odd and even."""
    trace = Trace(("layers.0.step_size", "layers.0.key", "layers.0.value"))
    with held_still(model(), HELD[held]):
        logits, _ = model()(torch.tensor([encode("parity", bits)]), trace=trace)  # (1, t, vocab)
    truth = torch.tensor(classes("parity", bits))  # (t,)
    odd, even = (classes("parity", bit)[0] for bit in "10")
    both = logits[0].log_softmax(-1)[:, [odd, even]].softmax(-1)  # (t, 2)
    key, value = trace["layers.0.key"][0, :, 0], trace["layers.0.value"][0, :, 0]  # (t, f) each
    return {
        "step": trace["layers.0.step_size"][0, :, 0].numpy(),
        "along": (key * value).sum(-1).numpy(),
        "right": torch.where(truth == odd, both[:, 0], both[:, 1]).numpy(),
    }


def compute(bits: str, held: str = "nothing") -> dict:
    """The reading with `held` still, and `usual`, the probabilities of the right answers with nothing held."""
    bits = bits_of(bits)
    check_choice("held still", held, HELD)
    reading = read(bits, held)
    usual = read(bits, "nothing")["right"]
    return {"bits": bits, "held": held, **reading, "usual": usual, "ones": np.array([bit == "1" for bit in bits])}


def left(step: float, along: float) -> float:
    """The share of what stood under a key that one write of this step leaves there."""
    return 1 - (2 - along) * step


def read_out(arrays: dict) -> str:
    """The rule at a 1 and at a 0, and the answers, in words."""
    told = []
    for bit in "10":
        here = arrays["ones"] == (bit == "1")
        if here.any():
            step, along = arrays["step"][here].mean(), arrays["along"][here].mean()
            told.append(
                f"A {bit} gets a step of {step:.2f} and a value with k·v = {along:.2f}, so that one write leaves "
                f"{left(step, along):.2f} of what stood under its key."
            )
    count = len(arrays["bits"])
    right = int((arrays["right"] > 0.5).sum())
    if arrays["held"] == "nothing":
        told.append(f"All memories are written: {right} of {count} answers are right.")
    else:
        before = int((arrays["usual"] > 0.5).sum())
        told.append(f"Held still: {arrays['held']}. {right} of {count} answers are right, {before} with nothing held.")
    return " ".join(told)


def outcome(arrays: dict) -> str | None:
    """How the model answers without rewriting its key memory; None until that was tried on enough bits."""
    if arrays["held"] != "the key memory" or len(arrays["bits"]) < ENOUGH:
        return None
    right = (arrays["right"] > 0.5).mean()
    if right > 0.9:
        return ANSWERS[0]
    return ANSWERS[1] if right > 0.25 else ANSWERS[2]


def draw(arrays: dict, figure) -> None:
    """Three bands over the same bits: the step, the value along the key, the right answer's probability."""
    color = theme.style("hope").color
    place = np.arange(1, len(arrays["bits"]) + 1)
    for name, axes in (("step", ""), ("along", "2")):
        for bit, opacity in (("1", 1.0), ("0", PALE)):
            here = arrays["ones"] == (bit == "1")
            figure.add_bar(
                x=place[here], y=arrays[name][here], name=f"at a {bit}", marker=dict(color=color), opacity=opacity,
                xaxis=f"x{axes}", yaxis=f"y{axes}", showlegend=name == "step", width=0.7,
                hovertemplate=f"bit %{{x}}, a {bit}: %{{y:.2f}}<extra></extra>",
            )  # fmt: skip
    if arrays["held"] != "nothing":
        figure.add_scatter(
            x=place, y=arrays["usual"], name="answer, nothing held still", mode="lines+markers", xaxis="x3", yaxis="y3",
            line=dict(color=color, width=1, dash="dot"), marker=dict(symbol="circle-open", size=9),
            hovertemplate="bit %{x}: %{y:.0%}<extra></extra>",
        )  # fmt: skip
    wrong = arrays["right"] < 0.5
    figure.add_scatter(
        x=place, y=arrays["right"], name="answer" if arrays["held"] == "nothing" else "answer, held still",
        mode="lines+markers", xaxis="x3", yaxis="y3", line=dict(color=theme.style("outer").color, width=2),
        marker=dict(symbol=np.where(wrong, "x", "circle"), size=np.where(wrong, 10, 8)),
        hovertemplate="bit %{x}: %{y:.0%}<extra></extra>",
    )  # fmt: skip
    _arrange(arrays, figure)


def _arrange(arrays: dict, figure) -> None:
    """Axes, headings, and the bits under the lowest band."""
    bits = arrays["bits"]
    span = dict(range=[0.3, len(bits) + 0.7], showgrid=False)
    ticks = dict(tickvals=np.arange(1, len(bits) + 1), ticktext=list(bits), tickangle=0)
    titles = (
        (BANDS[0][1], "The step that the layer gives itself"),
        (BANDS[1][1], "Does the value point along its key (1) or away from it (-1)?"),
        (BANDS[2][1], "Probability of the right answer: is the number of 1s so far odd or even?"),
    )
    figure.update_layout(
        barmode="overlay", margin=dict(l=62, r=16, t=48, b=44),
        legend=dict(orientation="h", x=1.0, xanchor="right", y=1.03, yanchor="bottom"),
        xaxis=dict(anchor="y", showticklabels=False, **span),
        yaxis=dict(domain=BANDS[0], title="step", range=[0, 0.5], dtick=0.25),
        xaxis2=dict(anchor="y2", showticklabels=False, **span),
        yaxis2=dict(domain=BANDS[1], anchor="x2", title="k·v", range=[-1, 1], dtick=1, zeroline=True,
                    zerolinecolor=theme.MUTED),
        xaxis3=dict(anchor="y3", title="bits as they are read", **span, **ticks),
        yaxis3=dict(domain=BANDS[2], anchor="x3", title="probability", range=[-0.08, 1.12], dtick=0.5,
                    tickformat=".0%"),
        annotations=[
            dict(text=text, x=0, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for y, text in titles
        ],
    )  # fmt: skip


class SelfModification(View):
    """A string of bits, the rule that a trained layer gives itself, and its answers with memories held still."""

    name = "self-modification"
    title = "What did the model change about its own learning?"
    prediction = Prediction(
        "The layer rewrites the memory that makes its keys at every bit. Hold that memory still at its trained start. "
        "How will the model answer?",
        outcome,
        options=ANSWERS,
        until=f"Hold the key memory still, on {ENOUGH} bits or more.",
        why="This model has learned to count with the memory that makes its keys; held still, it loses the count.",
    )
    width, height = 820, 420

    def controls(self) -> dict[str, W.Widget]:
        """The bits, and the memories held still."""
        return {
            "bits": W.Text(value=TEXT, description="Your bits"),
            "held": W.Dropdown(options=list(HELD), value="nothing", description="Held still while it reads"),
        }

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
