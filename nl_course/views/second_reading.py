"""The second reading: what is left of a passage when it comes again?

The learner's passage, then a filler of so many bytes, then the passage again, read by a small TTT-E2E model (arXiv
2512.23675) that was trained through its inner loop, or by the same network trained with the loop at rest (dynamic
evaluation when it is switched on; its step is the best of a few on other books). Loss by byte of both readings; and of
a third, at the second one's place, where another passage stood in the beginning: what comes late in a text is cheaper
anyway, and only the rest is owed to the first reading.

Texts are read once and their states kept, so that a longer distance reads on from where a shorter one ended.
"""

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.files import asset
from nl_course.memories import Trace
from nl_course.nested import (
    NestedConfig,
    NestedLanguageModel,
    NestedState,
    reconfigured,
    with_inner_loop,
    without_inner_loop,
)
from nl_course.nested.steps import next_token_losses
from nl_course.tasks.text import encode
from nl_course.training.checkpoint import load_model, read_info
from nl_course.views.attention_reading import labels
from nl_course.views.inner_microscope import running_mean
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, pure

LEFT, RIGHT = (0.0, 0.66), (0.8, 1.0)
TOP, BOTTOM = (0.44, 1.0), (0.0, 0.28)
SMOOTH = 8  # bytes
E2E, FULL = theme.style("ttt-e2e"), theme.style("attention")

CHECKPOINTS = {"made for the loop": "reading-e2e", "plain": "reading-plain"}
TEXT = "Returns the inverse of a matrix, if there is one, and raises ValueError where the determinant is zero. "
OTHER = (
    "The shortest path from one node to all others is found by looking at the nearest node first, and then at the "
    "neighbours of that node which nobody has visited; edges of a negative weight are not allowed here. "
)
FILLER = (
    "A polynomial in several variables is kept as a sum of terms, and each of them holds a coefficient and the powers. "
    "The degree of a term is the sum of its powers, so that a constant has degree zero. Two graphs are isomorphic when "
    "the nodes of the first can be renamed to give the second; this is hard to decide for large graphs, but quick "
    "tests with degrees and triangles often show that they differ.\n\nParameters\n----------\nG : graph\n    The graph "
    "may be directed, and then the edges are followed one way only.\nweight : string or None\n    The name of the edge "
    "attribute with the cost of an edge. If it is missing, each edge counts as one.\n\nExamples\n--------\n"
    ">>> G = nx.path_graph(5)\n>>> list(nx.bfs_edges(G, 0))\n[(0, 1), (1, 2), (2, 3), (3, 4)]\n\nNotes\n-----\n"
    "Integration by parts is tried last, since it may go on for ever: the remaining integral can be as hard as the one "
    "we began with. The assumptions on symbols are used, for instance that x is real or that n is an odd whole number. "
)
SHORTEST, LONGEST, STEP = 16, 200, 64
FARTHEST = len(encode(FILLER)) // STEP * STEP
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
CLIPS = [("0.25", 0.25), ("1, as trained", 1.0), ("none", 0.0)]  # a list that holds None shows it as nothing chosen


class Text:
    """Two openings of one length, the passage and another one, (2, t), then the filler, side by side as two rows, as
    far as was asked; what the model kept at every distance so far."""

    def __init__(self, model: NestedLanguageModel, openings: Tensor):
        """Reads both openings."""
        self.model = model
        self.losses, state, norms = self._read(openings, None)
        self.kept = {0: (state, norms)}

    def then(self, passage: Tensor, distance: int) -> tuple[np.ndarray, NestedState, np.ndarray]:
        """The passage, after so much of the filler, in both rows: its losses (2, t - 1), the state after it, and the
        norms of all inner gradients so far (2, steps)."""
        if distance not in self.kept:
            nearest = max(d for d in self.kept if d < distance)
            state, norms = self.kept[nearest]
            _, state, more = self._read(encode(FILLER)[nearest:distance].expand(2, -1), state)
            self.kept[distance] = state, np.concatenate([norms, more], axis=1)
        state, norms = self.kept[distance]
        losses, after, more = self._read(passage.expand(2, -1), state)
        return losses, after, np.concatenate([norms, more], axis=1)

    @torch.no_grad()
    def _read(self, tokens: Tensor, state: NestedState | None) -> tuple[np.ndarray, NestedState, np.ndarray]:
        """The loss of every byte but the first (2, t - 1); the state after; and the norm of each inner gradient, the
        mean over its chunk, of all fast MLPs together (2, steps)."""
        clocked = self.model.clocked
        trace = Trace(only=[f"{name}.gradient_norm" for name, _, _ in clocked]) if clocked else None
        logits, state = self.model(tokens, state, trace)
        found = [trace[f"{name}.gradient_norm"] / level.config.chunk for name, level, _ in clocked]
        norms = torch.stack(found).square().sum(0).sqrt() if found else torch.zeros(2, 0)
        steps = (norms != 0).any(0)  # 0 at bytes that closed no chunk
        return next_token_losses(logits[:, :-1], tokens[:, 1:]).numpy(), state, norms[:, steps].numpy()


def compute(models: dict, rates: dict, kept: dict, settings: dict) -> dict:
    """Three readings of the passage, byte by byte, and the bytes of state after them.

    `models` and the `rates` of their inner loops by the name of the start; `kept`: what was read before, filled here.
    settings: text, distance, start, loop (on or off), factor of the rate, clip."""
    start, distance = check_choice("start", settings["start"], models), check_int("distance", settings["distance"])
    passage = encode(settings["text"])
    if not SHORTEST <= len(passage) <= LONGEST:
        raise CourseError(
            f"the passage must have {SHORTEST} to {LONGEST} bytes, not {len(passage)} (é and the like take two)."
        )
    if not 0 <= distance <= FARTHEST:
        raise CourseError(f"the distance must be 0 to {FARTHEST} bytes, not {distance}.")
    other = encode(OTHER)[: len(passage)]
    model = _paced(models, start, rates[start], settings)
    asked = (start, settings["loop"], *((settings["factor"], settings["clip"]) if settings["loop"] else ()))
    text = _text(kept, asked, model, torch.stack([passage, other]))
    (second, fresh), state, norms = text.then(passage, distance)
    state, tokens = state.rows([0]), 2 * len(passage) + distance
    fast = sum(w.numel() * w.element_size() for pair in state.fast.values() for w in pair)
    clip = settings["clip"] or float("inf")
    return {
        **settings,
        "names": labels(passage.numpy(), np.arange(len(passage))),
        "first": text.losses[0], "second": second, "fresh": fresh, "tokens": tokens,
        "steps": norms.shape[1], "clipped": int((norms[0] > clip).sum()), "rate": rates[start] * settings["factor"],
        "state": {"fast weights": fast, "window and open chunk": state.nbytes - fast},
        "full": full_cache(model.config, tokens), "window": model.config.options["window"],
        "reach": model.config.layers * (model.config.options["window"] - 1),  # of all layers' windows, stacked
    }  # fmt: skip


def _paced(models: dict, start: str, rate: float, settings: dict) -> NestedLanguageModel:
    """The network with its inner loop as asked; its chunk is that of the one that was trained with the loop."""
    model = models[start]
    if not settings["loop"]:
        return reconfigured(model, without_inner_loop(model.config))
    chunk = max(max(m.chunks, default=0) for m in models.values())
    return reconfigured(
        model, with_inner_loop(model.config, chunk, rate * settings["factor"], settings["clip"] or None)
    )


def _text(kept: dict, asked: tuple, model: NestedLanguageModel, openings: Tensor) -> Text:
    """The text with these openings, from `kept` if it was read before."""
    key = asked, bytes(openings[0].tolist())
    if key not in kept:
        while len(kept) >= 24:
            kept.pop(next(iter(kept)))
        kept[key] = Text(model, openings)
    return kept[key]


def full_cache(config: NestedConfig, tokens: int) -> int:
    """Bytes of all keys and values of so many tokens, in a network of the same layers without a window."""
    return config.layers * 2 * config.width * tokens * 4


def read_out(arrays: dict) -> str:
    """What the second reading costs beside the first and beside one at its place, and the state it took."""
    first, second, fresh = (float(arrays[name].mean()) for name in ("first", "second", "fresh"))
    loop = "The inner loop is off: " if not arrays["loop"] else ""
    if not np.isfinite([first, second, fresh]).all():
        return f"At a step of {arrays['rate']:g} the fast weights blow up: no numbers are left."
    if arrays["loop"]:
        cut = f", {arrays['clipped']} of them clipped" if arrays["clip"] else ", none clipped"
        loop = f"{arrays['steps']} inner steps of size {arrays['rate']:g}{cut}. "
    size, full = sum(arrays["state"].values()) / 1000, arrays["full"] / 1000
    left = fresh - second
    where = "part of it still in the window"
    if arrays["distance"] >= arrays["window"]:
        gone = arrays["distance"] >= arrays["reach"]
        where = "beyond all windows together" if gone else "beyond one window, not all layers' together"
    return (
        f"{loop}{'T' if arrays['loop'] else 't'}he passage of {len(arrays['names'])} bytes costs {first:.2f} nats per "
        f"byte when it is first read, and {second:.2f} when it comes again after {arrays['distance']} other bytes "
        f"({where}). At the same place, never read before, it would cost {fresh:.2f}: the first reading "
        f"{'saves' if left >= 0 else 'costs'} {abs(left):.2f}, or {abs(left) / fresh:.0%}. The state holds "
        f"{size:,.0f} kB after {arrays['tokens']:,} bytes; a full cache of these layers would hold {full:,.0f} kB, and "
        "grows."
    )


def outcome(arrays: dict) -> float | None:
    """The second reading's share of the first, in percent, with the loop and the start made for it, far beyond what
    stacked windows reach; None otherwise."""
    asked = arrays["loop"] and arrays["start"] == next(iter(CHECKPOINTS))
    asked = asked and arrays["factor"] == arrays["clip"] == 1
    if not asked or arrays["distance"] < arrays["reach"]:
        return None
    return 100 * float(arrays["second"].mean() / arrays["first"].mean())


def draw(arrays: dict, figure) -> None:
    """Two bands over the passage's bytes, bars beside them."""
    place = np.arange(2, len(arrays["names"]) + 1)
    hover = "byte %{x} “%{text}”: %{y:.2f} nats<extra></extra>"
    lines = (
        ("first reading", arrays["first"], dict(color=theme.INK, width=2, dash="dot")),
        ("at the second's place, never read before", arrays["fresh"], dict(color=theme.MUTED, width=2, dash="dash")),
        ("second reading", arrays["second"], dict(color=E2E.color, width=3, dash=E2E.dash)),
    )
    for name, values, line in lines:
        figure.add_scatter(
            x=place, y=shown(running_mean(values, SMOOTH)), name=name, mode="lines", line=line,
            text=arrays["names"][1:], hovertemplate=hover,
        )  # fmt: skip
    saved = arrays["fresh"] - arrays["second"]
    figure.add_bar(
        x=place, y=shown(saved), name="saved by the first reading", xaxis="x2", yaxis="y2", showlegend=False,
        text=arrays["names"][1:], textposition="none", hovertemplate=hover,
        marker=dict(color=E2E.color, line=dict(width=0)),
    )  # fmt: skip
    for (name, size), pattern in zip(arrays["state"].items(), (E2E.pattern, "")):
        _state_bar(figure, "this state", size, name, name.split(" and ")[0], E2E.color, pattern)
    _state_bar(
        figure, "full cache", arrays["full"], "all keys and values", "all keys<br>and values", FULL.color, FULL.pattern
    )
    _arrange(arrays, figure)


def shown(values: np.ndarray) -> np.ndarray:
    """Losses that fit the axis; what has no number is left out."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), values.clip(-8, 8), np.nan)


def _state_bar(figure, where: str, size: int, name: str, label: str, color: str, pattern: str) -> None:
    """A bar of bytes with its label inside."""
    figure.add_bar(
        x=[where], y=[size / 1000], name=name, xaxis="x3", yaxis="y3", showlegend=False,
        marker=dict(
            color=color, line=dict(color="white", width=1),
            pattern=dict(shape=pattern, fillmode="overlay", fgcolor="white", size=10, solidity=0.1),
        ),
        text=[label], textposition="inside", insidetextanchor="middle", textangle=0,
        textfont=dict(color="white", size=12),
        hovertemplate=f"{name}: %{{y:,.0f}} kB<extra></extra>",
    )  # fmt: skip


def _arrange(arrays: dict, figure) -> None:
    """Axes and headings."""
    count = len(arrays["names"])
    span = dict(range=[0.5, count + 0.5], showgrid=False)
    ticks = dict(dtick=10)
    if count <= 80:
        ticks = dict(tickvals=np.arange(1, count + 1), ticktext=arrays["names"], tickfont=dict(size=11), tickangle=0)
    titles = (
        (LEFT[0], TOP[1] + 0.1, f"Loss by byte, mean of the last {SMOOTH} (nats)"),
        (LEFT[0], BOTTOM[1], "What the first reading saves at each byte (nats)"),
        (RIGHT[0] - 0.03, TOP[1] + 0.1, f"State after {arrays['tokens']:,} bytes (kB)"),
    )
    figure.update_layout(
        barmode="stack", bargap=0.15, margin=dict(l=54, r=12, t=78, b=44),
        legend=dict(x=0, y=1.0, xanchor="left", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(domain=LEFT, anchor="y", showticklabels=False, **span),
        yaxis=dict(domain=TOP, rangemode="tozero", title="nats"),
        xaxis2=dict(domain=LEFT, anchor="y2", title="bytes of the passage", **span, **ticks),
        yaxis2=dict(domain=BOTTOM, anchor="x2", title="nats", nticks=5, zeroline=True, zerolinecolor=theme.MUTED),
        xaxis3=dict(domain=RIGHT, anchor="y3"),
        yaxis3=dict(domain=(0.0, 1.0), anchor="x3", title="kB", rangemode="tozero"),
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ],
    )  # fmt: skip


class SecondReading(View):
    """A passage read twice, on the recorded networks or on `models` ({start: model}) with `rates` ({start: rate})."""

    name = "second-reading"
    title = "What is left of a passage when it comes again?"
    prediction = Prediction(
        "The window holds 64 bytes. When the passage comes again after 256 other bytes, and nothing of it is in any "
        "window: what does it cost, in percent of the first reading?",
        outcome,
        until="Set the distance to 256 bytes or more, with the start made for the loop, the loop on and its own step.",
        why="No window reaches back that far: what is saved stands in the fast weights, and the bytes in between "
        "have written over part of it.",
    )
    continuous = False
    width, height = 920, 420

    def __init__(self, models: dict | None = None, rates: dict | None = None, strict: bool | None = None, **settings):
        """`models`, and the `rates` of their inner loops, by start; default: the course's checkpoints."""
        if models is None:
            paths = {start: asset(f"checkpoints/{name}.safetensors") for start, name in CHECKPOINTS.items()}
            models = {start: load_model(path) for start, path in paths.items()}
            rates = {start: read_info(path)["info"]["rate"] for start, path in paths.items()}
        self.models, self.rates = models, rates
        self.kept: dict[tuple, Text] = {}
        super().__init__(strict, **settings)

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: text, distance, start, loop."""
        return {
            "text": W.Text(value=TEXT, description="Your passage", layout=W.Layout(width="640px", max_width="100%")),
            "distance": W.IntSlider(value=STEP, min=0, max=FARTHEST, step=STEP, description="Bytes in between"),
            "start": W.ToggleButtons(options=list(self.models), description="Start"),
            "loop": W.Checkbox(value=True, description="Inner loop on"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: factor, clip."""
        factors = [(f"x {factor:g}", factor) for factor in FACTORS]
        return {
            "factor": W.Dropdown(options=factors, value=1.0, description="Inner step"),
            "clip": W.Dropdown(options=CLIPS, value=1.0, description="Clip of the gradient"),
        }

    def compute(self, settings):
        """What the picture shows at these settings."""
        return compute(self.models, self.rates, self.kept, settings)

    draw, read_out = pure(draw, read_out)
