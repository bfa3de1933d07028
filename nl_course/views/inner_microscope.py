"""The inner-loop microscope: what does the model learn from this very token?

A trained TTT-Linear model reads the text once, with a trace. Of one layer and one head the view shows, token by token,
the inner loss before and after the write, and what the learned start alone would lose; under it the model's own loss on
the next byte. For the chosen token: key, target and prediction, number by number, and the change of the weights.

The weights at a token are put together again from the trace: W_t = W^a - c_i sum of rate_j k_j^T e_j (Sun et al. 2024,
arXiv 2407.04620, equation 6); the tests hold them to the state that the layer itself carries.
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import ipywidgets as W
import numpy as np
import torch
from torch import nn

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.files import asset
from nl_course.memories import Trace
from nl_course.memories.ttt.layer import TTT
from nl_course.model import LanguageModel
from nl_course.tasks.text import encode
from nl_course.training.checkpoint import load_model
from nl_course.views.attention_reading import labels
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View

OVERVIEW = ((0.44, 1.0), (0.0, 0.28))  # inner losses, next-byte loss
DETAILED = ((0.65, 1.0), (0.44, 0.56), (0.0, 0.28))  # and the chosen byte
HEIGHTS = {False: 400, True: 590}  # without and with the chosen byte
LEFT, RIGHT = (0.0, 0.56), (0.70, 0.92)

CHECKPOINT = "checkpoints/ttt-linear-micro.safetensors"
TEXT = "The memory reads a word and writes a word. The memory reads a word and writes a word. "
LONGEST = 160  # bytes
STARTS = ("learned", "zero", "random")
TRACED = ("k", "v", "prediction", "loss_before", "loss_after", "loss_start", "rate", "step_size", "error", "drift")


@dataclass(frozen=True)
class MicroscopeReading:
    """One text as the model read it: tokens (t,), loss on each next byte (t - 1,), the traces of one layer by name,
    (heads, t, ...), its c_i (b,), and how far each write moved each head's matrix, (heads, t, f, f)."""

    tokens: np.ndarray
    next_loss: np.ndarray
    traces: dict[str, np.ndarray]
    factor: np.ndarray
    moves: np.ndarray


def variant(model: LanguageModel, start: str, mini_batch: int) -> LanguageModel:
    """The model with other inner weights to start from, or another mini-batch, in every layer; a copy.

    c_i keeps its learned value where the place i existed in training and is 1 / i beyond."""
    check_choice("start", start, STARTS)
    check_int("mini_batch", mini_batch, 1)
    twin = deepcopy(model)
    for number, layer in enumerate(twin.layers):
        memory = layer.memory
        size = memory.config.mini_batch
        if start != "learned":
            generator = torch.Generator().manual_seed(number)
            for name, weight in memory.start.items():
                fresh = torch.randn(weight.shape, generator=generator) * 0.02
                weight.data = fresh if start == "random" and name[0] == "W" else torch.zeros_like(weight)
        if mini_batch != size:
            offset = torch.zeros(mini_batch)
            kept = min(size, mini_batch)
            offset[:kept] = memory.position_offset.data[:kept]
            memory.position_offset = nn.Parameter(offset)
            memory.config = replace(memory.config, mini_batch=mini_batch)
    return twin


@torch.no_grad()
def read(model: LanguageModel, text: str, layer: int) -> MicroscopeReading:
    """The model reads the text once, with all that the inner loops of one layer (from 0) do."""
    tokens = encode(text)
    if not 2 <= len(tokens) <= LONGEST:
        raise CourseError(f"the text must have 2 to {LONGEST} bytes, not {len(tokens)} (é and the like take two).")
    trace = Trace(only=[f"layers.{layer}.{name}" for name in TRACED])
    logits, _ = model(tokens[None], None, trace)
    losses = -logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    traces = {name: trace[f"layers.{layer}.{name}"][0].transpose(0, 1).numpy() for name in TRACED}
    factor = model.layers[layer].memory.position_factor().numpy()
    heads = zip(traces["k"], traces["error"], traces["rate"])
    moved = np.stack([moves(k, error, rate, factor) for k, error, rate in heads])
    return MicroscopeReading(tokens.numpy(), losses.numpy(), traces, factor, moved)


def moves(k: np.ndarray, error: np.ndarray, rate: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """How far each token's write moves the weight matrix of a head, (t, f, f): k, error (t, f), rate (t,), c (b,).

    Inside a mini-batch the weights stand at W^a - c_i G_i; so token i moves them by c_{i-1} G_{i-1} - c_i G_i, which
    with a running mean (c_i = 1 / i) takes back a part of what the tokens before it wrote."""
    gathered = (rate[:, None, None] * k[:, :, None]) * error[:, None, :]
    change, size = np.empty_like(gathered), len(factor)
    for first in range(0, len(k), size):
        total = gathered[first : first + size].cumsum(axis=0)
        offset = -factor[: len(total), None, None] * total
        change[first : first + size] = np.diff(offset, axis=0, prepend=np.zeros_like(offset[:1]))
    return change


def compute(reading: MicroscopeReading, settings: dict) -> dict:
    """What the picture shows. settings: layer, head, token (all from 1), start and mini_batch (for the words), and
    whether to show the chosen byte in `detail`."""
    head, t = settings["head"] - 1, settings["token"] - 1
    if t >= len(reading.tokens):
        raise CourseError(f"byte {t + 1} is past the text's end: it has {len(reading.tokens)}.")
    one = {name: values[head] for name, values in reading.traces.items()}
    return {
        **settings,
        "names": labels(reading.tokens, np.arange(len(reading.tokens))),
        "before": one["loss_before"],
        "after": one["loss_after"],
        "from_start": one["loss_start"],
        "steps": one["step_size"],
        "running": running_mean(one["loss_before"]),
        "next": reading.next_loss,
        "key": one["k"][t],
        "value": one["v"][t],
        "prediction": one["prediction"][t],
        "change": reading.moves[head, t],
        "drift": one["drift"][t],
        "place": t % len(reading.factor) + 1,
        "lowered": float((one["loss_after"] < one["loss_before"]).mean()),
    }


def running_mean(values: np.ndarray, window: int = 16) -> np.ndarray:
    """The mean over the last `window` values (fewer at the beginning)."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (total[ends] - total[starts]) / (ends - starts)


def read_out(arrays: dict) -> str:
    """The chosen token in words: its step, its loss before and after, and what the model itself expected next."""
    t, before = arrays["token"] - 1, arrays["before"]
    after, start = arrays["after"][t], arrays["from_start"][t]
    text = (
        f"Byte {t + 1}, “{arrays['names'][t]}”, place {arrays['place']} of {arrays['mini_batch']} in its mini-batch, "
        f"layer {arrays['layer']}, head {arrays['head']}: step {arrays['steps'][t]:.4f}. Inner loss "
        f"{before[t]:.2f} before the write, {after:.2f} after ({after / before[t] - 1:+.0%}); with the "
        f"{arrays['start']} start untouched it would be {start:.2f}. The write moves the matrix by "
        f"{np.linalg.norm(arrays['change']):.3f}; it then stands {arrays['drift']:.2f} from its start."
    )
    if t < len(arrays["next"]):
        text += (
            f" Outside, the model gave the next byte, “{arrays['names'][t + 1]}”, a probability of "
            f"{np.exp(-arrays['next'][t]):.0%}."
        )
        return text
    return f"{text} In this text the write lowers the loss on its own byte {arrays['lowered']:.0%} of the time."


def draw(arrays: dict, figure) -> None:
    """Two panels of one reading, where a line marks the chosen byte; with `detail` two more, about that byte."""
    count, t = len(arrays["names"]), arrays["token"]
    place, inner, outer = np.arange(1, count + 1), theme.style("ttt-linear"), theme.style("outer")
    hover = "byte %{x} “%{text}”: %{y:.3f}<extra></extra>"
    lines = (
        ("before the write", arrays["before"], dict(color=inner.color, width=2), "circle"),
        ("after the write", arrays["after"], dict(color=inner.color, width=1, dash="dot"), "circle-open"),
        (f"{arrays['start']} start, never written", arrays["from_start"], dict(color=theme.MUTED, width=1), "x-thin"),
    )
    for name, y, line, symbol in lines:
        marker = dict(symbol=symbol, size=5, color=line["color"], line=dict(color=line["color"], width=1))
        figure.add_scatter(
            x=place, y=y, name=name, mode="lines+markers", line=line, marker=marker, text=arrays["names"],
            hovertemplate=hover,
        )  # fmt: skip
    figure.add_scatter(
        x=place, y=arrays["running"], name="mean of the last 16 before", mode="lines",
        line=dict(color=inner.color, width=4), opacity=0.35,
    )  # fmt: skip
    figure.add_bar(
        x=place[:-1], y=arrays["next"], name="next-byte loss", xaxis="x2", yaxis="y2", text=arrays["names"][:-1],
        textposition="none", marker=dict(color=outer.color), showlegend=False,
        hovertemplate="after byte %{x} “%{text}”: %{y:.2f} nats<extra></extra>",
    )  # fmt: skip
    if arrays["detail"]:
        _chosen(arrays, figure)
    _arrange(arrays, figure, count, t)


def _chosen(arrays: dict, figure) -> None:
    """The chosen byte: what it is asked, what it should say and says; and what its write changed."""
    rows = np.stack([arrays["prediction"] - arrays["value"], arrays["prediction"], arrays["value"], arrays["key"]])
    wide, change = np.abs(rows).max(), arrays["change"]
    features = np.arange(1, rows.shape[1] + 1)
    figure.add_heatmap(
        z=rows, x=features, y=["error", "prediction f(k)", "value v", "key k"], xaxis="x3", yaxis="y3", name="numbers",
        colorscale=theme.SIGNS, zmid=0, zmin=-wide, zmax=wide,
        hovertemplate="%{y}, feature %{x}: %{z:.3f}<extra></extra>",
        colorbar=dict(thickness=8, len=0.34, x=0.565, y=0.14),
    )  # fmt: skip
    wide = max(np.abs(change).max(), 1e-12)
    figure.add_heatmap(
        z=change, x=features, y=features, xaxis="x4", yaxis="y4", name="change of the weights",
        colorscale=theme.SIGNS, zmid=0, zmin=-wide, zmax=wide,
        hovertemplate="from key feature %{y} to answer feature %{x}: %{z:.5f}<extra></extra>",
        colorbar=dict(thickness=8, len=0.34, x=0.925, y=0.14, tickformat=".1e", nticks=5),
    )  # fmt: skip


def _arrange(arrays: dict, figure, count: int, t: int) -> None:
    """Axes, headings, and the line that marks byte `t` of `count`."""
    ticks = dict(dtick=10)
    if count <= 80:
        ticks = dict(tickvals=np.arange(1, count + 1), ticktext=arrays["names"], tickfont=dict(size=11), tickangle=0)
    span = dict(range=[0.3, count + 0.7])
    bands = DETAILED if arrays["detail"] else OVERVIEW
    titles = [
        (0, bands[0][1], f"Inner loss of layer {arrays['layer']}, head {arrays['head']}, byte by byte"),
        (0, bands[1][1], "The model's loss on the byte that comes next (nats)"),
    ]
    if arrays["detail"]:
        who = f"byte {t}, “{arrays['names'][t - 1]}”"
        titles.append((LEFT[0], bands[2][1], f"The inner question of {who}: does f(k) say v?"))
        titles.append((RIGHT[0] - 0.03, bands[2][1], "What its write changed in W"))
        figure.update_layout(
            xaxis3=dict(domain=LEFT, anchor="y3", title="feature", dtick=4, tick0=0),
            yaxis3=dict(domain=bands[2], anchor="x3"),
            xaxis4=dict(domain=RIGHT, anchor="y4", title="answer", dtick=8, tick0=0),
            yaxis4=dict(domain=bands[2], anchor="x4", title="key", dtick=8, tick0=0, autorange="reversed"),
        )
    figure.update_layout(
        height=HEIGHTS[arrays["detail"]],
        margin=dict(l=104, r=10, t=66, b=44), bargap=0.25,
        legend=dict(x=0, y=1.05, xanchor="left", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(**span, showticklabels=False, anchor="y"),
        yaxis=dict(domain=bands[0], title="inner loss", rangemode="tozero", nticks=6),
        xaxis2=dict(**span, **ticks, anchor="y2", title="bytes as they are read"),
        yaxis2=dict(domain=bands[1], anchor="x2", title="nats", rangemode="tozero", nticks=4),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
        shapes=[
            dict(type="line", x0=t, x1=t, y0=bands[1][0], y1=bands[0][1], xref="x", yref="paper",
                 line=dict(color=theme.INK, width=1, dash="dash"))
        ],
    )  # fmt: skip


class InnerMicroscope(View):
    """The microscope on `model` (TTT-Linear in every layer; default: the course's recorded checkpoint)."""

    name = "inner-microscope"
    title = "What does the model learn from this very byte?"
    prediction = Prediction(
        "Each write is one step downhill on its own byte's inner loss. At what share of the bytes, in per cent, is "
        "that loss lower after the write than before?",
        lambda a: 100 * a["lowered"] if a["token"] == len(a["names"]) else None,
        until="Step or play to the last byte of the text.",
        why="The learned step is small, and a small step down a loss's own gradient lowers that loss.",
    )
    step_by = "token"
    width, height = 820, HEIGHTS[False]

    def __init__(self, model: LanguageModel | None = None, strict: bool | None = None, **settings):
        """Raises CourseError unless the memory of every layer of `model` is TTT-Linear."""
        self.model = load_model(asset(CHECKPOINT)) if model is None else model
        if not all(isinstance(x.memory, TTT) and x.memory.config.kind == "linear" for x in self.model.layers):
            raise CourseError("the microscope needs a model whose memory is TTT-Linear in every layer.")
        self._readings: dict[tuple, MicroscopeReading] = {}
        super().__init__(strict, **settings)

    def reading(self, text: str, start: str, mini_batch: int, layer: int) -> MicroscopeReading:
        """The model's reading of `text`, looked at in one layer; the last few are kept."""
        key = text, start, mini_batch, layer
        if key not in self._readings:
            if len(self._readings) >= 16:
                self._readings.pop(next(iter(self._readings)))
            self._readings[key] = read(variant(self.model, start, mini_batch), text, layer - 1)
        return self._readings[key]

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: text, token."""
        last = len(encode(TEXT))
        return {
            "text": W.Text(value=TEXT, description="Your text", layout=W.Layout(width="640px", max_width="100%")),
            "token": W.IntSlider(value=24, min=1, max=last, description="Byte"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: layer, head, start, mini batch, detail."""
        layers, heads = self.model.config.layers, self.model.config.heads
        trained = self.model.layers[0].memory.config.mini_batch
        sizes = sorted({1, 4, trained, 64})
        return {
            "layer": W.IntSlider(value=min(3, layers), min=1, max=layers, description="Layer"),
            "head": W.IntSlider(value=1, min=1, max=heads, description="Head"),
            "start": W.ToggleButtons(options=STARTS, value="learned", description="Start of the inner weights"),
            "mini_batch": W.Dropdown(options=sizes, value=trained, description="Mini-batch (bytes)"),
            "detail": W.Checkbox(value=False, description="The chosen byte's numbers and its write"),
        }

    def adjust(self, name):
        """Keeps the chosen byte inside the text."""
        count = len(encode(self.settings["text"]))
        if name == "text" and 2 <= count <= LONGEST:
            slider = self.controls_by_name["token"]
            value = min(slider.value, count)
            if count < slider.value:
                slider.value = value
            slider.max = count

    def compute(self, settings):
        """What the picture shows at these settings."""
        reading = self.reading(*(settings[name] for name in ("text", "start", "mini_batch", "layer")))
        return compute(reading, {name: value for name, value in settings.items() if name != "text"})

    def draw(self, arrays, figure):
        """Draws what `compute` returned into an empty figure."""
        draw(arrays, figure)

    def read_out(self, arrays):
        """The sentence under the picture."""
        return read_out(arrays)
