"""Who reads whom: which past token is in this answer?

A T x T map of the weight that each past value has in each read, from the traces of a real layer that read the
learner's text, beside the map of softmax attention on the same text. Nothing is trained: the layers' projections are
set by hand. A token's value is the token itself, its key is the token BEFORE it, and its query is itself: each read
asks "what followed this letter earlier?", the task of induction heads (Olsson et al. 2022, arXiv 2209.11895).
A later memory joins with one line in READ_OUTS.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice
from nl_course.memories import Memory, Titans, Trace, build_memory
from nl_course.memories.linear.linear import Retention, RetentionConfig
from nl_course.seeding import seeded
from nl_course.tasks.text import encode
from nl_course.views.attention_reading import labels, with_holes
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

LETTER = 32  # numbers of one letter: the first is shared by all letters, each other one belongs to one of them
WIDTH = 2 * LETTER + 1  # a token's input: itself, the letter before it, and a 1
LONGEST = 48
TEXT = "A1B2C3A4B5C6A7ABC"
RAISED = 100.0  # scale of queries and keys before SiLU, which leaves 0 and large numbers as they are
ANSWERS = ("all of them alike", "the newest most", "the oldest most")


@dataclass(frozen=True)
class Knobs:
    """What the learner sets: the share kept per token, the step of a write, the sharpness of softmax; for Titans also
    the momentum, and how many tokens take their gradients at the same weights."""

    retention: float = 1.0
    step: float = 1.0
    sharpness: float = 16.0
    momentum: float = 0.0
    chunk: int = 1


class Read(NamedTuple):
    """What a layer read, (T, f), and of what: weights (T, T) @ stored (T, f) + start."""

    weights: Tensor
    stored: Tensor
    start: Tensor | int
    read: Tensor


def traced(layer: Memory, x: Tensor) -> Read:
    """From the layer's own trace."""
    trace = Trace()
    y, _ = layer(x, None, trace)
    stored = next((trace[name][0, :, 0] for name in ("error", "value") if name in trace), layer.value(x)[0])
    read = trace["read"][0, :, 0] if "read" in trace else y[0, :, : stored.shape[1]]
    return Read(trace["weights"][0, :, 0], stored, trace["start"][0, :, 0] if "start" in trace else 0, read)


def by_place(layer: Titans, x: Tensor) -> Read:
    """For a linear neural memory that starts empty. Its trace weighs past errors; here it reads the text with values
    that mark their place (the s-th value is 1 at feature s), so that its answers are the weights of past values."""
    trace, state = Trace(["v", "read"]), layer.init_state(1)
    layer(x, state, trace)
    (q, k, _), _ = layer.neural.project(x, state.conv_states, "qkv")
    places = torch.eye(x.shape[1], WIDTH, dtype=x.dtype)[None, None]
    weights, _ = layer.neural.learn(q, k, places, layer.neural.gates(x), state.neural)
    return Read(weights[0, 0, :, : x.shape[1]], trace["v"][0, :, 0], 0, trace["read"][0, :, 0])


@dataclass(frozen=True)
class ReadOut:
    """A memory of this view: its style's name in the theme, how to build it, float64, with the knobs that it has, and
    where its weights come from. It takes inputs of `WIDTH` numbers (see `inputs`)."""

    style: str
    build: Callable[[Knobs], Memory]
    read: Callable[[Memory, Tensor], Read] = traced


class ChosenRetention(Retention):
    """RetNet's layer with a retention of our choice in place of its fixed one a head."""

    log_retention = 0.0

    def gates(self, x: Tensor) -> tuple[None, Tensor]:
        """No step, and the chosen retention at every token."""
        return None, x.new_full((x.shape[0], 1, x.shape[1]), self.log_retention)


def by_hand(memory: Memory, scale: float = 1.0) -> Memory:
    """Query and value pick the token itself, the key the letter before it; what is read comes out as it is."""
    with torch.no_grad():
        for linear, first in ((memory.query, 0), (memory.key, LETTER), (memory.value, 0)):
            linear.weight.copy_(scale * torch.eye(WIDTH)[first : first + LETTER])
        memory.output.weight.copy_(torch.eye(WIDTH)[:, :LETTER])
    return memory


def _constant(linear: nn.Linear, value: float) -> None:
    """Makes a gate's projection say `value` at every token: it looks only at the input's 1."""
    with torch.no_grad():
        linear.weight.zero_()[:, -1] = value


def _logit(share: float) -> float:
    """The number whose sigmoid is `share`."""
    share = min(max(share, 1e-9), 1 - 1e-12)
    return math.log(share / (1 - share))


def _attention(knobs: Knobs) -> Memory:
    """Attention with the chosen sharpness, its weights set by hand."""
    memory = by_hand(build_memory("attention", WIDTH, 1, head_dim=LETTER, rope_theta=None).double())
    memory.query.weight.data *= knobs.sharpness * LETTER**0.5  # the layer divides by sqrt(d)
    return memory


def _linear(knobs: Knobs) -> Memory:
    """Linear attention, its weights set by hand."""
    return by_hand(build_memory("linear", WIDTH, 1, head_dim=LETTER).double())


def _fading(knobs: Knobs) -> Memory:
    """Linear attention that fades by the chosen retention."""
    memory = by_hand(ChosenRetention(RetentionConfig(WIDTH, 1, LETTER, rope_theta=None, gate=False)).double())
    memory.log_retention = math.log(knobs.retention)
    return memory


def _delta(knobs: Knobs, name: str = "delta", **options) -> Memory:
    """The delta rule, or a relative of that `name`, with the chosen step."""
    memory = by_hand(build_memory(name, WIDTH, 1, head_dim=LETTER, conv=0, **options).double(), RAISED)
    _constant(memory.step, _logit(knobs.step))
    return memory


def _gated(knobs: Knobs) -> Memory:
    """Gated DeltaNet with the chosen step and retention."""
    memory = _delta(knobs, "gated-delta", gate=False)
    rate = max(-math.log(knobs.retention), 1e-15)
    _constant(memory.interval, 0.0)
    with torch.no_grad():
        memory.log_rate.zero_()
        memory.interval_bias.fill_(rate + math.log(-math.expm1(-rate)))  # its softplus is the rate
    return memory


def _by_channel(knobs: Knobs) -> Memory:
    """Every second letter's channel fades, the others keep all: a letter is one channel of the key."""
    memory = _delta(knobs, "kda", gate=False)
    rates = torch.full((LETTER,), 1e-15, dtype=torch.float64)
    rates[::2] = max(-math.log(knobs.retention), 1e-15)
    with torch.no_grad():
        memory.interval.up.weight.zero_()
        memory.log_rate.zero_()
        memory.interval_bias.copy_(rates + torch.log(-torch.expm1(-rates)))  # their softplus are the rates
    return memory


def _titans(knobs: Knobs) -> Memory:
    """Titans of one layer, from zero, with the chosen step, momentum and retention."""
    options = dict(layers=1, chunk=knobs.chunk, conv=0, persistent=0, max_step=1.0)
    keeps = dict(momentum=knobs.momentum > 0, retention=knobs.retention < 1)
    memory = build_memory("titans", WIDTH, 1, **options, **keeps).double()
    neural = memory.neural
    with torch.no_grad():
        for linear, first in ((neural.query, 0), (neural.key, LETTER), (neural.value, 0)):
            linear.weight.zero_()[:LETTER] = RAISED * torch.eye(WIDTH)[first : first + LETTER]
        neural.start["W1"].zero_()
        for gate, said in (
            (neural.step, knobs.step),
            (neural.past, knobs.momentum),
            (neural.forget, 1 - knobs.retention),
        ):
            if gate is not None:
                gate.weight.zero_()
                gate.bias.fill_(_logit(said))
    return memory


READ_OUTS: dict[str, ReadOut] = {
    "linear (Hebb)": ReadOut("linear", _linear),
    "Hebb that fades (RetNet)": ReadOut("retnet", _fading),
    "delta rule": ReadOut("delta", _delta),
    "gated delta rule": ReadOut("gated-delta", _gated),
    "delta rule, every second letter fades (KDA)": ReadOut("kda", _by_channel),
    "Titans (one layer)": ReadOut("titans", _titans, by_place),
}
SOFTMAX = ReadOut("attention", _attention)


def inputs(text: str, similarity: float = 0.0) -> Tensor:
    """(1, T, WIDTH): each letter beside the one before it. Two different letters have the cosine `similarity`."""
    tokens = encode(text)
    if not 2 <= len(tokens) <= LONGEST:
        raise CourseError(f"the text must have 2 to {LONGEST} bytes, not {len(tokens)} (é and the like take two).")
    kinds, place = tokens.unique(return_inverse=True)
    if len(kinds) > LETTER - 1:
        raise CourseError(f"the text may have {LETTER - 1} different letters, not {len(kinds)}.")
    letters = math.sqrt(1 - similarity) * torch.eye(LETTER, dtype=torch.float64)[place + 1]
    letters[:, 0] = math.sqrt(similarity)
    before = torch.cat([torch.zeros(1, LETTER, dtype=torch.float64), letters[:-1]])
    return torch.cat([letters, before, torch.ones(len(tokens), 1, dtype=torch.float64)], dim=1)[None]


@lru_cache(maxsize=128)
@torch.no_grad()
def weights_of(memory: str | None, text: str, similarity: float, knobs: Knobs) -> tuple[np.ndarray, float]:
    """Weights (T, T) of past values in what a memory of READ_OUTS reads (None: attention), and the largest number by
    which the weighted values, with the start's share, miss what the layer read."""
    chosen = SOFTMAX if memory is None else READ_OUTS[check_choice("memory", memory, READ_OUTS)]
    with seeded(0):  # the weights that are drawn here are replaced by hand
        layer = chosen.build(knobs)
    weights, stored, start, read = chosen.read(layer, inputs(text, similarity))
    return weights.numpy(), (weights @ stored + start - read).abs().max().item()


def compute(
    text: str, memory: str, token: int, similarity: float = 0.0, retention: float = 1.0, step: float = 1.0,
    sharpness: float = 16.0, momentum: float = 0.0, chunk: int = 1,
) -> dict:  # fmt: skip
    """Both maps, NaN above the diagonal, their miss, and the places that followed the chosen token (from 1) earlier."""
    knobs = Knobs(retention, step, sharpness, momentum, chunk)
    own, miss = weights_of(memory, text, similarity, knobs)
    softmax, softmax_miss = weights_of(None, text, similarity, knobs)
    data = encode(text).numpy()
    if not 1 <= token <= len(data):
        raise CourseError(f"row {token} is past the text's end: it has {len(data)} tokens.")
    hidden = ~np.tril(np.ones_like(own, dtype=bool))
    return {
        "memory": memory,
        "names": labels(data, np.arange(len(data))),
        "token": token,
        "own": np.where(hidden, np.nan, own),
        "softmax": np.where(hidden, np.nan, softmax),
        "miss": max(miss, softmax_miss),
        "followers": [i for i in range(1, token) if data[i - 1] == data[token - 1]],
    }


def draw(arrays: dict, figure) -> None:
    """Softmax's map, the memory's map, and the chosen row of both as bars."""
    names, row, memory = arrays["names"], arrays["token"] - 1, arrays["memory"]
    place = np.arange(1, len(names) + 1)
    maps = (("attention (softmax)", arrays["softmax"], SOFTMAX.style), (memory, arrays["own"], READ_OUTS[memory].style))
    every = max(1, math.ceil(len(names) / 24))  # as many names as have room
    ticks = dict(tickvals=place[::every], ticktext=names[::every], tickangle=0, tickfont=dict(size=11))
    axes, shapes = {}, []
    rows = np.nan_to_num([arrays["softmax"][row], arrays["own"][row]])
    scale = [min(0, rows.min()) - 0.02, max(1, rows.max()) + 0.02]  # one for both, so that bars can be compared
    for i, (name, weights, style) in enumerate(maps, 1):
        look, x = theme.style(style), ((0, 0.31), (0.37, 0.68))[i - 1]
        figure.add_heatmap(
            z=with_holes(weights), x=place, y=place, name=name, xaxis=f"x{i}", yaxis=f"y{i}", coloraxis="coloraxis",
            hoverongaps=False, hovertemplate="read at %{y}: %{z:.3f} of the value at %{x}<extra></extra>",
        )  # fmt: skip
        figure.add_bar(
            x=place, y=np.nan_to_num(weights[row]), name=f"row of {name}", xaxis=f"x{i + 2}", yaxis=f"y{i + 2}",
            marker=dict(color=look.color),
            hovertemplate="value at %{x}: %{y:.3f}<extra></extra>",
        )  # fmt: skip
        shapes.append(
            dict(type="rect", x0=0.5, x1=len(names) + 0.5, y0=row + 0.5, y1=row + 1.5, xref=f"x{i}", yref=f"y{i}",
                 line=dict(color=theme.style("outer").color, width=2))
        )  # fmt: skip
        axes[f"xaxis{i}"] = dict(**ticks, domain=x, anchor=f"y{i}", title="value read", showgrid=False)
        axes[f"yaxis{i}"] = dict(**ticks, domain=(0, 1), anchor=f"x{i}", autorange="reversed", showgrid=False)
        band = ((0.56, 0.96), (0, 0.4))[i - 1]
        axes[f"xaxis{i + 2}"] = dict(**ticks, domain=(0.81, 1), anchor=f"y{i + 2}", range=[0.4, len(names) + 0.6])
        axes[f"yaxis{i + 2}"] = dict(domain=band, anchor=f"x{i + 2}", nticks=5, range=scale)
    axes["yaxis1"]["title"] = "read at"
    who = f"“{names[row]}” at {row + 1}"
    titles = ((0, 1, "left", maps[0][0]), (0.37, 1, "left", memory), (1, 1, "right", f"{who}: attention"))
    titles += ((1, 0.43, "right", f"{who}: {memory}" if len(memory) < 14 else memory),)
    figure.update_layout(
        **axes, shapes=shapes, showlegend=False, bargap=0.15, margin=dict(l=58, r=12, t=30, b=48),
        coloraxis=dict(colorscale=theme.SIGNS, cmid=0, cmin=-1, cmax=1,
                       colorbar=dict(thickness=10, x=0.685)),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor=anchor, yanchor="bottom", showarrow=False)
            for x, y, anchor, text in titles
        ],
    )  # fmt: skip


def read_out(arrays: dict) -> str:
    """What the chosen read holds in both, what followed the letter earlier, and that the contributions add up."""
    row, names, told = arrays["token"] - 1, arrays["names"], []
    for name, weights in (("attention", arrays["softmax"][row]), (arrays["memory"], arrays["own"][row])):
        sizes = np.abs(np.nan_to_num(weights))
        most = [i for i in np.argsort(-sizes, kind="stable")[:3] if sizes[i] > 0.005]
        held = ", ".join(f"{weights[i]:.2f} of “{names[i]}” at {i + 1}" for i in sorted(most))
        told.append(f"{name} reads {held or 'nothing'}")
    sought = ", ".join(f"“{names[i]}” at {i + 1}" for i in arrays["followers"])
    head = f"“{names[row]}” at {row + 1} asks what followed “{names[row]}” earlier ({sought or 'nothing yet'})"
    adds = "to less than 1e-9" if arrays["miss"] < 1e-9 else f"only to {arrays['miss']:.1e}"
    return f"{head}: {'; '.join(told)}. The contributions add up to what the layers read, {adds}."


def outcome(arrays: dict) -> str | None:
    """Which of ANSWERS holds for what followed the chosen letter, in a delta rule's read."""
    if "delta" not in arrays["memory"] or len(arrays["followers"]) < 2:
        return None
    old, new = (arrays["own"][arrays["token"] - 1][arrays["followers"][i]] for i in (0, -1))
    if abs(old - new) < 0.05:
        return ANSWERS[0]
    return ANSWERS[1] if new > old else ANSWERS[2]


OLDEST = ("the token's own", "that of the token before", "an older one")


def heaviest(arrays: dict) -> str | None:
    """Which of OLDEST holds for the last token's read from Titans' memory."""
    if "Titans" not in arrays["memory"] or arrays["token"] != len(arrays["own"]):
        return None
    row = [abs(w) for w in arrays["own"][-1]]
    return OLDEST[min(2, len(row) - 1 - row.index(max(row)))]


class WhoReadsWhom(View):
    """The maps of attention and of one other memory on the learner's text."""

    name = "who-reads-whom"
    title = "Which past token is in this answer?"
    prediction = Prediction(
        "A was followed by 1, by 4 and by 7. When A comes again, what will the delta rule's read hold?",
        outcome,
        options=ANSWERS,
        until="Choose the delta rule, and an A (or another letter) that has come twice before.",
        why="The delta rule takes out what stands under a key before it writes the new value, so only the newest "
        "is left.",
    )
    step_by = "token"
    width, height = 920, 420

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: text, memory, token."""
        return {
            "text": W.Text(value=TEXT, description="Your text"),
            "memory": W.Dropdown(options=list(READ_OUTS), description="Beside attention"),
            "token": W.IntSlider(value=len(TEXT) - 2, min=1, max=len(TEXT), description="Token (row)"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: retention, step, momentum, chunk, sharpness, similarity."""
        return {
            "retention": W.FloatSlider(value=0.9, min=0.5, max=1, step=0.01, description="Retention, where it fades"),
            "step": W.FloatSlider(value=1, min=0, max=1, step=0.05, description="Step of delta rules and Titans"),
            "momentum": W.FloatSlider(value=0, min=0, max=0.9, step=0.1, description="Momentum, for Titans"),
            "chunk": W.Dropdown(options=[1, 2, 4, 8], value=1, description="Chunk (tokens), for Titans"),
            "sharpness": W.FloatSlider(value=16, min=0, max=32, step=0.5, description="Sharpness of attention"),
            "similarity": W.FloatSlider(value=0, min=0, max=0.9, step=0.05, description="Cosine of two letters"),
        }

    def adjust(self, name):
        """Keeps the row inside the text."""
        slider, tokens = self.controls_by_name["token"], len(encode(self.settings["text"]))
        if name == "text" and 2 <= tokens <= LONGEST:
            slider.value = min(slider.value, tokens)
            slider.max = tokens

    compute, draw, read_out = pure(by_name(compute), draw, read_out)


class TitansReads(WhoReadsWhom):
    """The same maps, opened on Titans' memory with some momentum: see the ridge leave the diagonal."""

    name = "titans-reads"
    title = "Where does momentum put a past token's weight?"
    prediction = Prediction(
        "A write is carried on by momentum. In the last read of the text, whose value weighs most?",
        heaviest,
        options=OLDEST,
        until="Choose Titans with some momentum, and the last token.",
        why="The last token asks what followed its earlier copy, and that value was written several tokens ago.",
    )
    covers = True  # the maps have the last token's row too

    def __init__(self, strict: bool | None = None, **settings):
        """Opens on Titans with momentum, unless `settings` say otherwise."""
        first = {"memory": "Titans (one layer)", "momentum": 0.6, "step": 0.5, "retention": 0.9}
        super().__init__(strict, **{**first, **settings})
