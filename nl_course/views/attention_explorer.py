"""The attention explorer: which bytes or words does this one read, and why?

A trained model reads the text once with a trace. One head's softmax weights are the heat map; for one row of it the
bars show, key by key, what the weights come from and what they do: the score q . k / sqrt(d), its softmax, and the
length of the value that the share brings into the mix. Everything is taken from that one reading.
"""

import ipywidgets as W
import numpy as np
import torch

from nl_course.errors import CourseError
from nl_course.files import asset
from nl_course.memories import Attention, Trace
from nl_course.model import LanguageModel
from nl_course.tasks.text import encode
from nl_course.training.checkpoint import load_model
from nl_course.views.attention_reading import (
    AttentionReading,
    entropy_bits,
    induction_scores,
    labels,
    pool,
    softmax,
    with_holes,
    word_ticks,
    words,
)
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View

CHECKPOINT = "checkpoints/attention-micro.safetensors"
LONGEST = 128  # bytes
LEFT, RIGHT = (0.0, 0.47), (0.61, 1.0)  # where map and bars stand, as shares of the picture's width
BANDS = ((0.72, 1.0), (0.37, 0.63), (0.0, 0.28))  # and the three rows of bars, of its height
ANSWERS = ("itself", "the byte just before it", "its own earlier copy", "what followed its earlier copy")


def opening_text(seed: int = 0) -> str:
    """Eight random words of three letters, no letter in two of them, twice: nothing to know, all to be looked up."""
    drawn = ord("a") + torch.randperm(26, generator=torch.Generator().manual_seed(seed))[:24].view(8, 3)
    return (" ".join(bytes(word).decode() for word in drawn.tolist()) + " ") * 2


@torch.no_grad()
def read(model: LanguageModel, text: str) -> AttentionReading:
    """The model reads the text once; queries, keys, value lengths and weights of every layer and head."""
    tokens = encode(text)
    if not 2 <= len(tokens) <= LONGEST:
        raise CourseError(f"the text must have 2 to {LONGEST} bytes, not {len(tokens)} (é and the like take two).")
    trace = Trace(only=("query", "key", "weights"))
    _, state = model(tokens[None], None, trace)

    def layers(name):
        """One trace of every layer, stacked: (layers, ...), float64."""
        return np.stack([trace[f"layers.{i}.{name}"][0].double().numpy() for i in range(model.config.layers)])

    memory = model.layers[0].memory
    share = memory.config.heads // memory.config.kv_heads  # queries that share a key
    lengths = torch.stack([layer.value.columns[0].double().norm(dim=-1) for layer in state.layers])
    return AttentionReading(
        tokens=tokens.numpy(),
        query=layers("query").transpose(0, 2, 1, 3),
        key=layers("key").transpose(0, 2, 1, 3).repeat(share, axis=1),
        value_length=lengths.numpy().repeat(share, axis=1),
        weights=layers("weights").transpose(0, 2, 1, 3),
        scale=memory.config.head_dim**-0.5,
    )


def compute(reading: AttentionReading, settings: dict) -> dict:
    """What the picture shows of one head. settings: unit (bytes or words), layer and head (from 1), token (row, from
    1), temperature, mask. Weights (rows, columns) are NaN where the mask forbids reading."""
    s = {**settings, "temperature": round(settings["temperature"], 2)}  # a browser's slider sends 1.0000000000000002
    layer, head, row = s["layer"] - 1, s["head"] - 1, s["token"] - 1
    scores = reading.scores(layer, head) / s["temperature"]
    allowed = np.tril(np.ones_like(scores, dtype=bool))
    weights = softmax(np.where(allowed | (not s["mask"]), scores, -np.inf))
    groups = words(reading.tokens) if s["unit"] == "words" else np.arange(len(reading.tokens))
    if row > groups.max():
        raise CourseError(f"row {row + 1} is past the text's end: it has {groups.max() + 1} {s['unit']}.")
    inside = groups == row
    rows = np.where(allowed | (not s["mask"]), scores, -np.inf)[inside]
    pooled, mix = pool(weights, groups), pool(weights * reading.value_length[layer, head], groups)
    # A group's score is the one that would have won the share of all its bytes: log of the sum of exponentials.
    score = np.array([np.logaddexp.reduce(rows[:, groups == g], axis=1).mean() for g in range(groups.max() + 1)])
    shown = np.tril(np.ones_like(pooled, dtype=bool)) if s["mask"] else np.ones_like(pooled, dtype=bool)
    names = labels(reading.tokens, groups)
    by_word = s["unit"] == "words"
    ahead = float(np.where(allowed, 0, weights).sum() / len(weights))
    return {
        **s,
        "names": names,
        "ticks": (np.arange(1, len(names) + 1), names) if by_word else word_ticks(reading.tokens),
        "weights": np.where(shown, pooled, np.nan),
        "score": np.where(shown[row], score, np.nan),
        "share": np.where(shown[row], pooled[row], np.nan),
        "mix": np.where(shown[row], mix[row], np.nan),
        "entropy": float(entropy_bits(weights[inside]).mean()),
        "most": float(np.log2((allowed[inside] | (not s["mask"])).sum(1)).mean()),
        "ahead": ahead,
        "earlier": int(reading.earlier[row]) if s["unit"] == "bytes" else -1,
        "induction": float(induction_scores(reading)[layer, head]),
    }


def draw(arrays: dict, figure) -> None:
    """Left the map of weights with the chosen row framed; right that row's scores, shares and value mix by key."""
    count, row = len(arrays["names"]), arrays["token"] - 1
    place, color = np.arange(1, count + 1), theme.style("attention").color
    figure.add_heatmap(
        z=with_holes(arrays["weights"]), x=place, y=place, xaxis="x", yaxis="y", colorscale=theme.SIZES, zmin=0, zmax=1,
        hovertemplate="%{y} reads %{x}<br>weight %{z:.3f}<extra></extra>", hoverongaps=False,
        colorbar=dict(len=0.9, thickness=10, x=0.475, title=dict(text="weight", side="right")),
    )  # fmt: skip
    for axis, name, pattern in (("2", "score", ""), ("3", "share", ""), ("4", "mix", "/")):
        figure.add_bar(
            x=place, y=arrays[name], name=name, xaxis=f"x{axis}", yaxis=f"y{axis}", text=arrays["names"],
            textposition="none", hovertemplate="%{x} %{text}: %{y:.3f}<extra></extra>",
            marker=dict(color=color, pattern=dict(shape=pattern)),
        )  # fmt: skip
    ticks = _ticks(arrays)
    down = {**ticks, "range": [count + 0.5, 0.5], "tickangle": 0}
    bare = {**ticks, "showticklabels": False, "domain": RIGHT}
    titles = ("Who reads whom: rows read from columns", *_titles(arrays))
    spots = ((LEFT[0], 1), *((RIGHT[0], top) for _, top in BANDS))
    figure.update_layout(
        showlegend=False, bargap=0.15, margin=dict(l=58, r=12, t=30, b=52),
        xaxis=dict(**ticks, domain=LEFT, title="the key: which byte is read"),
        yaxis=dict(**down, title="the query: which byte reads"),
        xaxis2=dict(**bare, anchor="y2"), yaxis2=dict(domain=BANDS[0], anchor="x2", nticks=5),
        xaxis3=dict(**bare, anchor="y3"), yaxis3=dict(domain=BANDS[1], anchor="x3", nticks=4, rangemode="tozero"),
        xaxis4=dict(**ticks, domain=RIGHT, anchor="y4", title="the key: which byte is read"),
        yaxis4=dict(domain=BANDS[2], anchor="x4", nticks=4, rangemode="tozero"),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for text, (x, y) in zip(titles, spots)
        ],
        shapes=[
            dict(type="rect", x0=0.5, x1=count + 0.5, y0=row + 0.5, y1=row + 1.5, xref="x", yref="y",
                 line=dict(color=theme.style("outer").color, width=2))
        ],
    )  # fmt: skip


def _titles(arrays: dict) -> tuple[str, str, str]:
    """The headings of the three panels of the chosen row."""
    who = f"{arrays['unit'][:-1]} {arrays['token']}, “{arrays['names'][arrays['token'] - 1]}”"
    divisor = "" if arrays["temperature"] == 1 else f", divided by {arrays['temperature']:g}"
    return (
        f"Scores q·k/√d of {who}{divisor}",
        "Softmax: shares that add up to 1",
        "Contribution to the answer: share x |v|",
    )


def _ticks(arrays: dict) -> dict:
    """An axis of keys or queries that reads as the text, where there is room for it; else one of round places."""
    count, (places, names) = len(arrays["names"]), arrays["ticks"]
    shared = dict(range=[0.5, count + 0.5], showgrid=False, ticks="")
    if count > 80 or len(names) > 30:
        return dict(**shared, dtick=10)
    angle = -90 if sum(map(len, names)) > 40 else 0  # words beside each other need more room than 300 pixels
    return dict(**shared, tickvals=places, ticktext=names, tickfont=dict(size=11), tickangle=angle)


def read_out(arrays: dict) -> str:
    """The chosen row in words: what it reads most, how spread its attention is, how much of a copier the head is."""
    share, row = arrays["share"], arrays["token"] - 1
    most = [i for i in np.argsort(np.nan_to_num(share, nan=-1))[::-1][:3] if share[i] > 0.005]
    listed = ", ".join(f"“{arrays['names'][i]}” at {i + 1} ({share[i]:.0%})" for i in most)
    effective = 2 ** arrays["entropy"]
    text = (
        f"Layer {arrays['layer']}, head {arrays['head']}: “{arrays['names'][row]}” at {row + 1} reads {listed}. "
        f"Its attention is as spread out as an even look at {effective:.1f} "
        f"{'byte' if effective < 1.05 else 'bytes'} (entropy {arrays['entropy']:.1f} bits of at most "
        f"{arrays['most']:.1f})."
    )
    if not np.isnan(arrays["induction"]):
        text += (
            f" Where the text repeats, this head puts {arrays['induction']:.0%} of its weight on the byte that came "
            "next last time."
        )
    if not arrays["mask"]:
        text += f" Without the mask, {arrays['ahead']:.0%} of all weight goes to bytes that come later."
    return text


def outcome(arrays: dict) -> str | None:
    """Which of ANSWERS the chosen byte reads most; None where its context has not occurred before."""
    row, before = arrays["token"] - 1, arrays["earlier"]
    if before < 0 or not arrays["mask"] or arrays["temperature"] != 1:
        return None
    places = {row: ANSWERS[0], row - 1: ANSWERS[1], before: ANSWERS[2], before + 1: ANSWERS[3]}
    return places.get(int(np.nanargmax(arrays["share"])), "something else")


class AttentionExplorer(View):
    """The explorer on `model` (any with attention in its layers; default: the course's recorded checkpoint)."""

    name = "attention-explorer"
    title = "Which bytes does this one read, and why?"
    prediction = Prediction(
        "A random text stands here twice. This head reads from the second copy. Which byte gets most of its weight?",
        outcome,
        options=ANSWERS,
        until="Choose a byte in the second copy of the text, with the mask on and temperature 1.",
        why="This head copies: a key carries the byte before it, so a byte finds the place just after its own "
        "earlier copy.",
    )
    width, height = 820, 420

    def __init__(self, model: LanguageModel | None = None, strict: bool | None = None, **settings):
        """`model` reads (default: the course's). Raises CourseError unless all its memories are attention."""
        self.model = load_model(asset(CHECKPOINT)) if model is None else model
        if not all(isinstance(layer.memory, Attention) for layer in self.model.layers):
            raise CourseError("the attention explorer needs a model whose memory is attention in every layer.")
        self._readings: dict[str, AttentionReading] = {}
        super().__init__(strict, **settings)

    def reading(self, text: str) -> AttentionReading:
        """The model's reading of `text`; the last few are kept."""
        if text not in self._readings:
            if len(self._readings) >= 8:
                self._readings.pop(next(iter(self._readings)))
            self._readings[text] = read(self.model, text)
        return self._readings[text]

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: text, token."""
        text = opening_text()
        last = len(encode(text))
        return {
            "text": W.Text(value=text, description="Your text", layout=W.Layout(width="640px", max_width="100%")),
            "token": W.IntSlider(value=last - 14, min=1, max=last, description="Token (row)"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: unit, layer, head, temperature, mask."""
        layers, heads = self.model.config.layers, self.model.config.heads
        scores = induction_scores(self.reading(opening_text()))
        layer, head = np.unravel_index(np.nanargmax(scores), scores.shape)
        return {
            "unit": W.ToggleButtons(options=["bytes", "words"], value="bytes", description="One row is one"),
            "layer": W.IntSlider(value=int(layer) + 1, min=1, max=layers, description="Layer"),
            "head": W.IntSlider(value=int(head) + 1, min=1, max=heads, description="Head"),
            "temperature": W.FloatSlider(value=1, min=0.1, max=5, step=0.1, description="Temperature of the softmax"),
            "mask": W.Checkbox(value=True, description="Mask: no byte reads a later one"),
        }

    def adjust(self, name):
        """Keeps the row inside the text, at the same place of it when the unit changes."""
        slider, tokens = self.controls_by_name["token"], encode(self.settings["text"])
        if name not in ("text", "unit") or not 2 <= len(tokens) <= LONGEST:
            return
        groups = words(tokens.numpy())
        last = int(groups.max()) + 1 if self.settings["unit"] == "words" else len(tokens)
        row = slider.value
        if name == "unit" and slider.max != last:
            to_words = self.settings["unit"] == "words"
            row = int(groups[min(row, len(groups)) - 1]) + 1 if to_words else int(np.argmax(groups == row - 1)) + 1
        slider.max = last
        slider.value = min(row, last)

    def compute(self, settings):
        """What the picture shows at these settings."""
        return compute(self.reading(settings["text"]), {k: v for k, v in settings.items() if k != "text"})

    def draw(self, arrays, figure):
        """Draws what `compute` returned into an empty figure."""
        draw(arrays, figure)

    def read_out(self, arrays):
        """The sentence under the picture."""
        return read_out(arrays)
