"""A loss curve that grows while training runs: give it to `train` as `on_step`.

    curve = LossCurve(steps=300, title="A first transformer")
    curve                                                 # the cell's last line shows it
    train(model, stream, config, held_out=..., on_step=curve)

    LossCurve.of(metrics, label="recorded on ...")        # the same picture of a run that is over

Where no front end answers it still collects, and `repr(curve)` says in a sentence what it shows.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

import ipywidgets as W
import plotly.graph_objects as go

from nl_course.views.kit import theme
from nl_course.views.kit.parts import Line
from nl_course.views.kit.plot import Plot, still, still_later

EVERY = 0.25  # seconds between two redraws


class LossCurve:
    """Training loss of every step (thin), its running mean (thick), held-out loss (diamonds); nats per token.

    `name` is the page's name for it, by which its still picture is found."""

    def __init__(
        self, steps: int | None = None, title: str = "Loss", vocab: int | None = 256, label: str = "live",
        name: str = "loss-curve",
    ):  # fmt: skip
        """An empty curve of `steps` steps (None: as many as come); a call with a line of metrics adds to it."""
        self.title, self.label, self.vocab, self.name = title, label, vocab, name
        self.steps, self.losses, self.held_out = [], [], []
        self._drawn = -math.inf
        outer = theme.style("outer")
        self.figure = go.Figure(layout=dict(width=820, height=340))
        thin = dict(color=outer.color, width=1)
        self.figure.add_scatter(x=[], y=[], mode="lines", name="each step", line=thin, opacity=0.35)
        self.figure.add_scatter(x=[], y=[], mode="lines", name="running mean", line=dict(color=outer.color, width=3))
        diamonds = dict(color=theme.INK, symbol="diamond", size=10)
        self.figure.add_scatter(x=[], y=[], mode="markers", name="held-out books", marker=diamonds, cliponaxis=False)
        self.figure.update_layout(
            title=f"{title} ({label})", xaxis_title="step", yaxis_title="loss (nats per token)",
            xaxis_range=None if steps is None else [0, steps],
        )  # fmt: skip
        if vocab:
            blind = dict(color=theme.MUTED, dash="dot", width=1)
            self.figure.add_hline(y=math.log(vocab), line=blind, annotation_text=f"blind guess: ln {vocab}")
        self._readout = Line()
        self.over = W.IntSlider(value=20, min=1, max=100, description="Running mean over (steps)")
        self.over.style.description_width, self.over.layout.width = "initial", "440px"
        self.over.observe(lambda change: self.draw(), "value")
        self._plot = Plot(self.figure, title)
        self.widget = W.VBox([self.over, self._plot, self._readout], layout=W.Layout(overflow="visible"))
        self.widget.add_class("nl-view")
        self.widget.add_class(f"nl-{name}")
        self.draw()

    @classmethod
    def of(cls, metrics: Iterable[dict], **options) -> "LossCurve":
        """The curve of a finished run from its lines of metrics (`step`, `loss`, here and there `held_out_loss`)."""
        curve = cls(**options)
        for line in metrics:
            curve.add(line)
        curve.draw()
        return curve

    def __call__(self, metrics: dict) -> None:
        """One step's metrics; redraws a few times a second, and whenever held-out data was looked at."""
        self.add(metrics)
        if "held_out_loss" in metrics or time.monotonic() - self._drawn > EVERY:
            self.draw()

    def add(self, metrics: dict) -> None:
        """Takes in one step's metrics without drawing."""
        self.steps.append(metrics["step"])
        self.losses.append(metrics["loss"])
        if "held_out_loss" in metrics:
            self.held_out.append((metrics["step"], metrics["held_out_loss"]))

    @property
    def smooth(self) -> list[float]:
        """The mean of each step's loss and those before it, of as many steps as the slider says (fewer at the start,
        and in a recording that kept every so many steps)."""
        sums = [0.0, *accumulate(self.losses)]
        firsts = (bisect_right(self.steps, step - self.over.value) for step in self.steps)
        return [(sums[stop] - sums[first]) / (stop - first) for stop, first in enumerate(firsts, 1)]

    def draw(self) -> None:
        """Brings the picture and its sentence up to date."""
        self._drawn = time.monotonic()
        for trace, ys in zip(self.figure.data, (self.losses, self.smooth)):
            trace.x, trace.y = list(self.steps), list(ys)
        self.figure.data[2].x = [step for step, _ in self.held_out]
        self.figure.data[2].y = [loss for _, loss in self.held_out]
        self._plot.show(self.figure)
        self._readout.text = self.readout

    @property
    def readout(self) -> str:
        """What the curve says, in a sentence."""
        if not self.steps:
            return "No step has been taken yet."
        loss = self.smooth[-1]
        text = f"Step {self.steps[-1]:,}: loss {loss:.2f} nats per token, {self.losses[0]:.2f} at the start"
        if self.held_out:
            text += f"; {self.held_out[-1][1]:.2f} on books held out"
        if self.vocab:
            text += f"; perplexity {math.exp(loss):.1f}, a blind guess has {self.vocab}"
        return text + "."

    def __repr__(self) -> str:
        """Its title and the sentence under it."""
        return f"{self.title} ({self.label}): {self.readout}"

    def still(self) -> dict:
        """What the curve shows now, for a page without a kernel; see `plot.still`."""
        self.draw()
        return still(self.name, repr(self), self.figure)

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The curve, and what stands in its place without a front end."""
        still_later(self.widget, self.still)
        return {**self.widget._repr_mimebundle_(**kwargs), **self.still(), "text/plain": repr(self)}
