"""One tape for all memories: what does each memory still know?

Eight pairs are written, then filler (further pairs that nobody asks for), then one of the eight again with a new value;
at last every key is asked. Rows are memories, columns the pairs. A cell says which value the memory's answer is nearest
to, and by how much: cosine with the right value less the best cosine with any other. Nothing is trained: these are the
memories' writing rules on unit vectors. The tape comes back in later notebooks; a memory joins with one line in ROWS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nl_course.errors import CourseError
from nl_course.memories.linear.kda_chunk import kda_chunked
from nl_course.memories.titans.chunk import Gates
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory
from nl_course.seeding import seeded
from nl_course.tasks.pairs import Pairs, attended, draw_pairs, written
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, pure

PAIRS = 8
WIDTHS = (16, 32, 64)
WINDOW = 32
TIE = 0.005  # a margin up to here is none: the answer is as near to another value
STEP, CHUNK, EXPANSION = 0.5, 8, 2  # of Titans' rows
NUMBER = 4  # bytes of a number that is kept in float32
ASKED_FILLER = 64  # the prediction asks about this much filler


@dataclass(frozen=True)
class Tape:
    """All that is written, oldest first: `pairs` (one row), the share `retention` that memories with retention keep at
    each write, attention's `sharpness`. `last[i]` is the place of key i's newest write."""

    pairs: Pairs
    retention: float
    sharpness: float
    last: tuple[int, ...]

    @property
    def writes(self) -> int:
        """How many pairs were written."""
        return self.pairs.keys.shape[1]

    @property
    def width(self) -> int:
        """The length of a key."""
        return self.pairs.keys.shape[2]

    @property
    def queries(self) -> Tensor:
        """The eight keys, (1, PAIRS, d)."""
        return self.pairs.keys[:, :PAIRS]

    def newest(self, count: int) -> Pairs:
        """The last `count` pairs of the tape."""
        return Pairs(self.pairs.keys[:, -count:], self.pairs.values[:, -count:])


@dataclass(frozen=True)
class Row:
    """A memory of the tape: its style's name in the theme, its answers (PAIRS, d) to the eight keys, and how many
    numbers it keeps by then."""

    style: str
    answers: Callable[[Tape], Tensor]
    numbers: Callable[[Tape], int]


def _matrix(rule: str, fades: bool) -> Callable[[Tape], Tensor]:
    """The answers of one matrix that `rule` writes, with the tape's retention or none."""
    return lambda tape: (tape.queries @ written(tape.pairs, rule, 1.0, tape.retention if fades else 1.0))[0]


def _half_fades(tape: Tape) -> Tensor:
    """The delta rule with a retention for every channel of the key (KDA): the first half keeps all, the others fade."""
    k, v = tape.pairs.keys[:, None], tape.pairs.values[:, None]  # (1, 1, writes, d)
    retention = torch.ones_like(k)
    retention[..., tape.width // 2 :] = tape.retention
    empty = k.new_zeros(1, 1, tape.width, tape.width)
    _, S = kda_chunked(k, k, v, torch.ones_like(k[..., 0]), retention.log(), empty, chunk=64)
    return tape.queries[0] @ S[0, 0]


def _square(tape: Tape) -> int:
    """The numbers of a matrix of width x width."""
    return tape.width**2


@cache
def neural_memory(width: int, layers: int) -> NeuralMemory:
    """Titans' memory in float64, untrained: random layers, but for the last, which is zero."""
    config = NeuralConfig(width, 1, layers, EXPANSION, chunk=CHUNK, conv=0, persistent=0)
    with seeded(layers):
        neural = NeuralMemory(config).double().requires_grad_(False)
    neural.start[f"W{layers}"].zero_()
    return neural


def _titans(layers: int) -> Row:
    """It writes with step and momentum STEP, in chunks of CHUNK, and keeps its weights, momentum and anchor."""

    def answers(tape: Tape) -> Tensor:
        """The memory's answers to the eight keys, (PAIRS, d)."""
        neural, k, v = neural_memory(tape.width, layers), tape.pairs.keys[:, None], tape.pairs.values[:, None]
        half = torch.full_like(k[..., 0], STEP)
        gates = Gates(half, half.log(), torch.full_like(half, tape.retention).log())
        _, state = neural.learn(k, k, v, gates, neural.init_state(1))
        return neural.read(state.memory, tape.queries[:, None])[0, 0]

    return Row("titans", answers, lambda tape: neural_memory(tape.width, layers).state_numbers)


def _looked_up(tape: Tape) -> Tensor:
    """The value filed last under the key nearest to each question."""
    alike = tape.queries[0] @ tape.pairs.keys[0].T
    newest = torch.arange(tape.writes)
    place = torch.where(alike >= alike.max(1, keepdim=True).values - 1e-9, newest, -1).max(1).values
    return tape.pairs.values[0, place]


ROWS: dict[str, Row] = {
    "attention": Row(
        "attention",
        lambda tape: attended(tape.pairs, tape.queries, tape.sharpness)[0],
        lambda tape: 2 * tape.writes * tape.width,
    ),
    f"attention (window {WINDOW})": Row(
        "window",
        lambda tape: attended(tape.newest(WINDOW), tape.queries, tape.sharpness)[0],
        lambda tape: 2 * min(tape.writes, WINDOW) * tape.width,
    ),
    "linear (Hebb)": Row("linear", _matrix("hebb", False), _square),
    "Hebb with retention": Row("retnet", _matrix("hebb", True), _square),
    "delta rule": Row("delta", _matrix("delta", False), _square),
    "delta with retention": Row("gated-delta", _matrix("delta", True), _square),
    "delta, half fades (KDA)": Row("kda", _half_fades, _square),
    "Titans (1 layer)": _titans(1),
    "Titans (2 layers)": _titans(2),
    "index on disk": Row("index", _looked_up, lambda tape: 2 * tape.writes * tape.width),
}


def tape_of(
    filler: int, overwritten: int = 0, width: int = 32, similarity: float = 0.0, retention: float = 0.99,
    sharpness: float = 16.0, seed: int = 0,
) -> Tape:  # fmt: skip
    """Eight pairs, `filler` further ones, and pair `overwritten` (1 to 8, 0 for none) once more with a new value."""
    if not 0 <= overwritten <= PAIRS:
        raise CourseError(f"the pair written again must be 1 to {PAIRS}, or 0 for none, not {overwritten}.")
    drawn = draw_pairs(PAIRS + filler + 1, width, similarity, seed=seed)
    keys, last = drawn.keys[:, :-1], list(range(PAIRS))
    if overwritten:
        keys = torch.cat([keys, keys[:, overwritten - 1 : overwritten]], dim=1)
        last[overwritten - 1] = PAIRS + filler
    return Tape(Pairs(keys, drawn.values[:, : keys.shape[1]]), retention, sharpness, tuple(last))


def judged(tape: Tape, overwritten: int, answers: Tensor) -> tuple[list[int], np.ndarray]:
    """Of a memory's answers (PAIRS, d): the place on the tape of the value nearest to each, and each margin (PAIRS,).
    Candidates are the eight pairs' values, the new one included."""
    places = [*range(PAIRS), *([tape.last[overwritten - 1]] if overwritten else [])]
    candidates = tape.pairs.values[0, places]
    right = torch.tensor([places.index(place) for place in tape.last])
    alike = normalize(answers, dim=-1) @ candidates.T
    own = alike.gather(1, right[:, None])[:, 0]
    best = alike.scatter(1, right[:, None], -2.0).max(dim=1).values
    return [places[i] for i in alike.argmax(dim=1)], (own - best).numpy()


def compute(filler: int, overwritten: int = 0, rows: tuple[str, ...] = tuple(ROWS), **settings) -> dict:
    """By memory of `rows`: `answered` (place on the tape of the value nearest to each answer), `margin` (PAIRS,) and
    `bytes`."""
    tape = tape_of(filler, overwritten, **settings)
    answered, margin = {}, {}
    for name in rows:
        answered[name], margin[name] = judged(tape, overwritten, ROWS[name].answers(tape))
    return {
        "filler": filler,
        "width": tape.width,
        "overwritten": overwritten,
        "age": [tape.writes - 1 - place for place in tape.last],
        "answered": answered,
        "margin": margin,
        "right": {name: int((m > TIE).sum()) for name, m in margin.items()},
        "bytes": {name: NUMBER * ROWS[name].numbers(tape) for name in rows},
    }


def said(place: int) -> str:
    """The name of an answer: 3 for the third pair's value, "new" for the one written at the end."""
    return str(place + 1) if place < PAIRS else "new"


def cell(answered: int, margin: float) -> str:
    """What stands in a cell of the table."""
    if not np.isfinite(margin):
        return "blown<br>up"
    if abs(margin) <= TIE:
        return "tie<br>0.00"
    return f"right<br>{margin:.2f}" if margin > 0 else f"says {said(answered)}<br>{margin:.2f}"


def draw(arrays: dict, figure) -> None:
    """Left the table of answers, right the bytes of each memory's state."""
    names, pairs = list(arrays["margin"]), np.arange(1, PAIRS + 1)
    cells = [list(map(cell, arrays["answered"][name], arrays["margin"][name])) for name in names]
    figure.add_heatmap(
        z=[arrays["margin"][name] for name in names], x=pairs, y=names, text=cells, texttemplate="%{text}", xgap=2,
        ygap=2, colorscale=[[0, "#F0A58F"], [0.5, "#FFFFFF"], [1, "#8FC3F0"]], zmid=0, zmin=-0.8, zmax=0.8,
        textfont=dict(size=11, color=theme.ON_PALE), hovertemplate="%{y}, pair %{x}: margin %{z:.3f}<extra></extra>",
        colorbar=dict(thickness=10, x=0.7, title=dict(text="margin", side="right", font=dict(size=12))),
    )  # fmt: skip
    for name in names:
        look, size = theme.style(ROWS[name].style), arrays["bytes"][name]
        figure.add_bar(
            x=[size], y=[name], orientation="h", xaxis="x2", yaxis="y2", name=name, text=[f"{size:,}"],
            textposition="outside", cliponaxis=False, showlegend=False,
            marker=dict(color=look.color, pattern=dict(shape=look.pattern)),
        )  # fmt: skip
    ticks = [f"pair {p}<br>age {age}" for p, age in zip(pairs, arrays["age"])]
    if arrays["overwritten"]:
        ticks[arrays["overwritten"] - 1] += "<br>rewritten"
    figure.update_layout(
        margin=dict(l=60, r=16, t=16, b=64), bargap=0.35,
        xaxis=dict(domain=(0, 0.69), tickvals=pairs, ticktext=ticks, tickangle=0, showgrid=False,
                   title="age: writes since this pair's newest value"),
        yaxis=dict(autorange="reversed", showgrid=False),
        xaxis2=dict(domain=(0.83, 0.93), anchor="y2", title="bytes of state", nticks=3, rangemode="tozero"),
        yaxis2=dict(anchor="x2", autorange="reversed", showticklabels=False, matches="y"),
    )  # fmt: skip


def read_out(arrays: dict) -> str:
    """How many of the eight each memory answers, with which bytes, and what became of the value written again."""
    counts = [f"{name} {arrays['right'][name]} ({arrays['bytes'][name]:,} bytes)" for name in arrays["right"]]
    text = f"Right of {PAIRS}, after {arrays['filler']} further pairs in width {arrays['width']}: {', '.join(counts)}."
    if arrays["overwritten"]:
        i = arrays["overwritten"] - 1
        new = [name for name, margin in arrays["margin"].items() if margin[i] > TIE]
        text += (
            f" Pair {i + 1} was written again at the end: its new value comes from {', '.join(new) or 'none of them'}."
        )
    return text


class OneTape(View):
    """Eight pairs, filler, one of them again, and every memory's answers."""

    name = "one-tape"
    title = "One tape, all memories: what does each still know?"
    prediction = Prediction(
        f"After {ASKED_FILLER} further pairs in width 32: how many of the eight will the delta rule still answer?",
        lambda a: (
            a["right"]["delta rule"] if (a["filler"], a["width"], a["overwritten"]) == (ASKED_FILLER, 32, 0) else None
        ),
        until=f"Drag the filler to {ASKED_FILLER}.",
        why="Each delta write takes out what stood along its key, and 64 further pairs write over all 32 directions.",
    )
    width, height = 920, 420
    rows = tuple(ROWS)[:7]

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: filler, overwritten."""
        again = [("none", 0), *((f"pair {i}", i) for i in range(1, PAIRS + 1))]
        return {
            "filler": W.IntSlider(value=32, min=0, max=256, step=8, description="Filler: further pairs written"),
            "overwritten": W.Dropdown(options=again, value=0, description="Written again at the end"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: width, similarity, retention, sharpness, seed."""
        return {
            "width": W.SelectionSlider(options=WIDTHS, value=32, description="Width (d)"),
            "similarity": W.FloatSlider(value=0, min=0, max=0.9, step=0.1, description="Mean cosine of the keys"),
            "retention": W.FloatSlider(
                value=0.97, min=0.8, max=1, step=0.01, description="Retention, where there is one"
            ),
            "sharpness": W.FloatSlider(value=16, min=0, max=32, step=0.5, description="Sharpness of attention"),
            "seed": W.IntSlider(value=0, min=0, max=20, description="Another tape"),
        }

    def compute(self, settings):
        """What the picture shows at these settings."""
        return compute(**settings, rows=self.rows)

    draw, read_out = pure(draw, read_out)


class LongerTape(OneTape):
    """The same tape with the rows that came later."""

    name = "one-tape-later"
    height = 420
    rows = tuple(ROWS)[:9]


class LastTape(OneTape):
    """The same tape with all rows: an index on disk neither keeps all in memory nor learns it, it looks it up."""

    name = "one-tape-last"
    height = 420
    rows = tuple(ROWS)
