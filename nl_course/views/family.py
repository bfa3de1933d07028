"""Choose a memory, an inner loss, a retention and an optimizer: what does the memory that you composed still know?

The composed memory (`nl_course/family`) writes the same tape as `one_tape`: eight pairs, filler, if you wish one of the
eight again; then every key is asked. Nothing is trained and every token has the same gates. Above stand its answers
beside those of three memories of the tape; below, how wrong it was about each pair just before and after the write.
"""

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor

from nl_course.family import ComposedConfig, composed, row_of
from nl_course.family.reference import OPTIMIZERS
from nl_course.memories.common.weights import Weights
from nl_course.tasks.pairs import Pairs
from nl_course.views import one_tape
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, pure
from nl_course.views.one_tape import NUMBER, PAIRS, TIE, Tape, judged, tape_of

YOURS = "yours"
BESIDE = ("linear (Hebb)", "delta rule", "delta with retention")
EXPANSION = 2  # hidden width of the two layers, in units of the key's
MEMORIES = {"a matrix": "matrix", "two layers": "mlp"}
LOSSES = {"inner product": "inner-product", "squared error": "squared", "Huber": "huber", "|error|³ (Moneta)": "l3"}
RETENTIONS = {
    "nothing fades": "none",
    "one gate": "scalar",
    "a gate per channel": "channel",
    "back to the start": "to-start",
}
STEPS = dict(zip(("descent", "descent with momentum", "Muon"), OPTIMIZERS, strict=True))


def start_of(config: ComposedConfig) -> Weights:
    """Weights of one text and one head in float64: a matrix of zeros, or a random first layer below one of zeros."""
    rng = torch.Generator().manual_seed(2)
    last = list(config.network.shapes(config.head_dim))[-1]
    start = Weights()
    for name, (inputs, outputs) in config.network.shapes(config.head_dim).items():
        spread = 0.0 if name == last else inputs**-0.5
        start[name] = spread * torch.randn(1, 1, inputs, outputs, generator=rng, dtype=torch.float64)
    return start


def with_outlier(tape: Tape, length: float) -> Tape:
    """The tape with the value that is written right after the eight pairs made so long."""
    if tape.writes <= PAIRS:
        return tape
    values = tape.pairs.values.clone()  # (1, n, d)
    values[:, PAIRS] *= length
    return Tape(Pairs(tape.pairs.keys, values), tape.retention, tape.sharpness, tape.last)


def gates_of(config: ComposedConfig, tape: Tape, step: float, momentum: float, keep: float) -> dict[str, Tensor | None]:
    """The same gates for every token. Channel by channel retention runs evenly from `keep` to 1, the same mean loss."""
    k = tape.pairs.keys[:, None]  # (1, 1, n, d)
    same = torch.ones_like(k[..., 0])  # (1, 1, n)
    kept = None
    if config.retention == "channel":
        kept = torch.linspace(max(0.0, 2 * keep - 1), 1.0, k.shape[-1], dtype=k.dtype).expand_as(k)  # (1, 1, n, d)
    elif config.retention != "none":
        kept = keep * same[..., None]  # (1, 1, n, 1)
    return dict(step=step * same, momentum=momentum * same, keep=kept)


@torch.no_grad()
def play(config: ComposedConfig, tape: Tape, **gates: float) -> tuple[Weights, Tensor, Tensor]:
    """The weights after the whole tape, and the squared error |M(k) - v|^2 of each pair before and after its write."""
    f, start = config.network, start_of(config)
    M, S, recent = start, start.map(torch.zeros_like), ()
    k, v = tape.pairs.keys[:, None], tape.pairs.values[:, None]  # (1, 1, n, d)
    if config.window > 1:
        nothing = torch.zeros_like(k[:, :, : config.window - 1])
        recent = (nothing, nothing, nothing[..., 0])
    rows = dict(q=k, k=k, v=v, **gates_of(config, tape, **gates))
    before, after = [], []
    for t in range(tape.writes):
        one = {name: None if x is None else x[:, :, t : t + 1] for name, x in rows.items()}
        before.append(2 * f.inner_loss(M, one["k"], one["v"], None))
        _, M, S, recent = composed(config, M, S, start, recent, **one, create_graph=False)
        after.append(2 * f.inner_loss(M, one["k"], one["v"], None))
    return M, torch.cat(before, dim=2)[0, 0], torch.cat(after, dim=2)[0, 0]


def compute(
    memory: str = "matrix", loss: str = "squared", retention: str = "none", optimizer: str = "descent",
    window: int = 1, forget: str = "first", filler: int = 32, overwritten: int = 0, step: float = 1.0,
    momentum: float = 0.5, keep: float = 0.97, threshold: float = 1.0, outlier: float = 1.0, width: int = 32,
    seed: int = 0,
) -> dict:  # fmt: skip
    """`answered`, `margin`, `right` and `bytes` as in `one_tape.compute`, for the composed memory and those beside it;
    `before` and `after` (writes,), the squared error about each pair around its write; `name`, whose choices these
    are, or None."""
    config = ComposedConfig(
        width, 1, memory, loss, retention, optimizer, window, forget, threshold, EXPANSION, max_step=2.0
    )  # fmt: skip
    tape = with_outlier(tape_of(filler, overwritten, width, retention=keep, seed=seed), outlier)
    M, before, after = play(config, tape, step=step, momentum=momentum, keep=keep)
    answers = {YOURS: config.network.read(M, tape.queries[:, None], None)[0, 0]}
    numbers = sum(w.numel() for w in M.values()) * (1 + config.has_momentum) + (window - 1) * (2 * width + 1)
    size = {YOURS: numbers}
    for name in BESIDE:
        answers[name] = one_tape.ROWS[name].answers(tape)
        size[name] = one_tape.ROWS[name].numbers(tape)
    answered, margin = {}, {}
    for name, answer in answers.items():
        answered[name], margin[name] = judged(tape, overwritten, answer)
    row = row_of(config)
    return {
        "filler": filler,
        "overwritten": overwritten,
        "age": [tape.writes - 1 - place for place in tape.last],
        "answered": answered,
        "margin": margin,
        "right": {name: int((m > TIE).sum()) for name, m in margin.items()},
        "bytes": {name: NUMBER * count for name, count in size.items()},
        "before": before.numpy(),
        "after": after.numpy(),
        "name": None if row is None else row.name,
        "here": row is not None and row.here,
    }


def draw(arrays: dict, figure) -> None:
    """Above the table of answers, below the error about each pair before and after its own write."""
    names, pairs = list(arrays["margin"]), np.arange(1, PAIRS + 1)
    cells = []
    for name in names:
        cells.append([one_tape.cell(*one) for one in zip(arrays["answered"][name], arrays["margin"][name])])
    figure.add_heatmap(
        z=[arrays["margin"][name] for name in names], x=pairs, y=names, text=cells, texttemplate="%{text}", xgap=2,
        ygap=2, colorscale=[[0, "#F0A58F"], [0.5, "#FFFFFF"], [1, "#8FC3F0"]], zmid=0, zmin=-0.8, zmax=0.8,
        textfont=dict(size=11, color=theme.ON_PALE), hovertemplate="%{y}, pair %{x}: margin %{z:.3f}<extra></extra>",
        colorbar=dict(thickness=10, y=0.77, len=0.5, title=dict(text="margin", side="right", font=dict(size=12))),
    )  # fmt: skip
    writes = np.arange(1, len(arrays["before"]) + 1)
    for what, color, dash in (("before", theme.MUTED, "dot"), ("after", theme.INK, "solid")):
        figure.add_scatter(
            x=writes, y=arrays[what], mode="lines", line=dict(color=color, dash=dash), name=f"{what} its write",
            xaxis="x2", yaxis="y2", hovertemplate=f"write %{{x}}: error {what} %{{y:.2f}}<extra></extra>",
        )  # fmt: skip
    ticks = [f"pair {p}<br>age {age}" for p, age in zip(pairs, arrays["age"])]
    if arrays["overwritten"]:
        ticks[arrays["overwritten"] - 1] += "<br>rewritten"
    figure.update_layout(
        margin=dict(l=60, r=16, t=16, b=48),
        xaxis=dict(tickvals=pairs, ticktext=ticks, tickangle=0, showgrid=False, anchor="y"),
        yaxis=dict(domain=(0.54, 1), autorange="reversed", showgrid=False),
        xaxis2=dict(anchor="y2", title="writes of the tape, in order"),
        yaxis2=dict(domain=(0, 0.34), anchor="x2", title="squared error", rangemode="tozero"),
        legend=dict(y=0.34, yanchor="bottom", x=1, xanchor="right"),
    )  # fmt: skip


def read_out(arrays: dict) -> str:
    """What the composed memory is called, what it answers beside the others, and what a write does to its own error."""
    called = "No row of the family has these choices."
    if arrays["name"]:
        called = f"These choices are {arrays['name']}{'' if arrays['here'] else ', as far as the picker goes'}."
    counts = [f"{name} {arrays['right'][name]} ({arrays['bytes'][name]:,} bytes)" for name in arrays["right"]]
    text = f"{called} Right of {PAIRS}, after {arrays['filler']} further pairs: {', '.join(counts)}."
    before, after = arrays["before"].mean(), arrays["after"].mean()
    if np.isfinite(after):
        text += f" Squared error about a pair, mean of all writes: {before:.2f} before its write, {after:.2f} after."
    else:
        text += " The writes blew up."
    if arrays["overwritten"]:
        i = arrays["overwritten"] - 1
        verdict = "comes" if arrays["margin"][YOURS][i] > TIE else "does not come"
        text += f" The new value of pair {i + 1} {verdict} from yours."
    return text


def outcome(arrays: dict) -> int | None:
    """How many Huber's loss answers where the question was asked; None elsewhere."""
    return arrays["right"][YOURS] if arrays["asked"] else None


class Family(View):
    """The four choices, on the tape of `one_tape`."""

    name = "family"
    title = "Four choices make a memory: what does yours still know?"
    prediction = Prediction(
        "One value on the tape is ten times as long as the others. The delta rule (a matrix, squared error, nothing "
        "fades, descent with step 1) then answers fewer of the eight. How many does it answer with Huber's loss?",
        outcome,
        until="Set the outlier to 10, look, and then change the loss to Huber.",
        why="Huber's gradient stops growing with the error, so one long value can no longer push the other pairs "
        "aside.",
    )
    continuous = False
    width, height = 920, 420
    moves = ("loss", "outlier", "filler")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: memory, loss, retention, optimizer, outlier."""
        return {
            "memory": W.Dropdown(options=list(MEMORIES.items()), value="matrix", description="Memory"),
            "loss": W.Dropdown(options=list(LOSSES.items()), value="squared", description="Inner loss"),
            "retention": W.Dropdown(options=list(RETENTIONS.items()), value="none", description="Retention"),
            "optimizer": W.Dropdown(options=list(STEPS.items()), value="descent", description="Inner optimizer"),
            "outlier": W.SelectionSlider(options=(1, 3, 10, 30), value=1, description="Outlier: one value's length"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: filler, window, step, keep, momentum, threshold, forget, overwritten, seed."""
        again = [("none", 0), *((f"pair {i}", i) for i in range(1, PAIRS + 1))]
        return {
            "filler": W.IntSlider(value=16, min=0, max=96, step=8, description="Filler: further pairs written"),
            "window": W.SelectionSlider(options=(1, 2, 4, 8), value=1, description="Summed over the last pairs"),
            "step": W.FloatSlider(value=1, min=0.05, max=2, step=0.05, description="Step of a write"),
            "keep": W.FloatSlider(value=0.97, min=0.5, max=1, step=0.01, description="Share kept, with a gate"),
            "momentum": W.FloatSlider(value=0.5, min=0, max=0.95, step=0.05, description="Momentum, with one"),
            "threshold": W.FloatSlider(value=1, min=0.1, max=3, step=0.1, description="Huber: straight from here on"),
            "forget": W.Dropdown(
                options=[("after forgetting", "first"), ("before forgetting", "last")], value="first",
                description="Gradient taken",
            ),
            "overwritten": W.Dropdown(options=again, value=0, description="Written again at the end"),
            "seed": W.IntSlider(value=0, min=0, max=20, description="Another tape"),
        }  # fmt: skip

    def compute(self, settings):
        """`compute`, and whether these are the settings that the prediction asks for."""
        asked = settings["loss"] == "huber" and settings["outlier"] == 10 and settings["filler"] == 16
        plain = settings["memory"] == "matrix" and settings["retention"] == "none"
        asked = asked and plain and settings["optimizer"] == "descent" and settings["step"] == 1
        return {**compute(**settings), "asked": asked and settings["window"] == 1}

    draw, read_out = pure(draw, read_out)
