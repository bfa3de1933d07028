"""Clocks: who remembers what after the task changes?

A small language model of the course (`nl_course.nested`) reads symbols one by one. Only its two levels learn, each by
its own clock: after `period` symbols, one step of gradient descent down the model's own loss on them, as long as its
rate times their mean gradient. Nothing else moves, and nothing was trained beforehand. The stream says which symbol
follows which: by the old rule, from the switch on by a new one, and later by the old one again.

At every boundary of the fast clock the model is asked what follows each symbol, by the old rule and by the new one;
and once more with one level's weights put back to their start, which shows what that level holds.
"""

from functools import lru_cache

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel
from nl_course.nested.config import VARIANTS
from nl_course.nested.levels import FastWeights
from nl_course.nested.steps import GradAccumulator, boundary_step, next_token_losses, segment_gradients
from nl_course.seeding import seeded
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

BANDS = ((0.86, 1.0), (0.47, 0.78), (0.0, 0.36))
FAST, SLOW = theme.style("hope"), theme.style("ttt-e2e")
OLD, NEW = theme.style("attention"), theme.style("outer")._replace(dash="dash", marker="square")
GUESS = float(np.log(8))

SYMBOLS, WIDTH, HIDDEN, TOKENS = 8, 16, 24, 256
PERIODS = (8, 16, 32, 64)
NAMES = ("fast level", "slow level")


def rules(seed: int = 0) -> dict[str, Tensor]:
    """Which symbol follows which: two rings through all symbols that have no step in common. (SYMBOLS,) each."""
    generator, found = torch.Generator().manual_seed(seed), []
    while len(found) < 2:
        ring = torch.randperm(SYMBOLS, generator=generator)
        follows = torch.empty_like(ring)
        follows[ring] = ring.roll(-1)
        if not found or not (follows == found[0]).any():
            found.append(follows)
    return dict(zip(("old", "new"), found))


def stream(switch: int, back: int) -> Tensor:
    """The symbols, (TOKENS + 1,): the old rule until `switch`, the new one until `back`, then the old one."""
    if not 0 < switch < back <= TOKENS:
        raise CourseError(f"the old task must come back after the switch ({switch}), not at {back}.")
    both, symbols = rules(), [0]
    for place in range(TOKENS):
        rule = both["new" if switch <= place < back else "old"]
        symbols.append(int(rule[symbols[-1]]))
    return torch.tensor(symbols)


@lru_cache(maxsize=64)
def model(periods: tuple[int, ...], rates: tuple[float, ...], variant: str) -> NestedLanguageModel:
    """An untrained model of one block: each symbol by itself (attention that sees one symbol), then the two levels."""
    levels = tuple(LevelConfig(HIDDEN, c, r, learn_rate=False) for c, r in zip(periods, rates, strict=True))
    config = NestedConfig(
        SYMBOLS, WIDTH, 1, 1, levels, options={"window": 1}, tied=False, variant=variant, reduction="mean"
    )
    with seeded(1):  # its weights are replaced below
        built = NestedLanguageModel(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # plain random weights of a size at which the levels can learn
        for weight in built.parameters():
            if weight.dim() == 2:
                weight.normal_(std=weight.shape[-1] ** -0.5, generator=generator)
        built.embedding.weight.normal_(generator=generator)
        built.head.weight.normal_(std=0.2, generator=generator)  # so that at first it guesses
    return built.requires_grad_(False)


class Learner:
    """The model's levels as they are at one place of the stream, and what they answer."""

    def __init__(self, built: NestedLanguageModel):
        """The levels at their start, and each symbol mixed by itself."""
        self.model, self.block = built, built.layers[0]
        self.start: FastWeights = {c.name: (c.level.first, c.level.last) for c in built.clocked}
        self.fast = dict(self.start)
        self.accumulators = self.nothing()
        alone = torch.arange(SYMBOLS)[None]
        self.alone, _ = self.block.mix(built.embedding(alone), self.block.init_state(1), None)

    def nothing(self) -> dict[str, GradAccumulator]:
        """No gradients yet, for each level."""
        return {name: GradAccumulator(None, first.dtype) for name, (first, _) in self.start.items()}

    @torch.no_grad()
    def losses(self, fast: FastWeights) -> dict[str, float]:
        """The mean loss over all symbols under each rule, with these weights."""
        logits = self.model.logits(self.block.run_levels(self.alone, fast, {}))
        return {name: next_token_losses(logits, follows[None]).mean().item() for name, follows in rules().items()}

    def read(self, symbols: Tensor, targets: Tensor, position: int) -> Tensor:
        """One segment, (n,) each, that ends after `position` symbols, and the boundary at its end. Its losses (n,)."""
        h, _ = self.block.mix(self.model.embedding(symbols[None]), self.block.init_state(1), None)

        def run(x, passes):
            """The logits of the levels on x; they carry no state."""
            return self.model.logits(self.block.run_levels(x, self.fast, passes)), None

        grads, logits, _ = segment_gradients(run, h, targets[None], second_order=False, keep_graph=False)
        for name, level_grad in grads.items():
            self.accumulators[name].add(level_grad)
        levels = self.model.clocked
        with torch.no_grad():
            self.fast = boundary_step(self.model.config, levels, self.fast, self.accumulators, position)
            ended = [c.name for c in levels if position % c.chunk == 0]
            self.accumulators |= {name: empty for name, empty in self.nothing().items() if name in ended}
            return next_token_losses(logits, targets[None])[0]


def compute(fast: int, slow: int, fast_rate: float, slow_rate: float, switch: int, back: int, variant: str) -> dict:
    """One reading of the stream: what changed when, and what every part answers at each boundary."""
    for period in (check_int("period", fast, 1), check_int("period", slow, 1)):
        if period % min(fast, slow):
            raise CourseError(f"the slow period must be a multiple of the fast one, not {slow} of {fast}.")
    check_min("rate", fast_rate, 0)
    check_min("rate", slow_rate, 0)
    check_choice("variant", variant, VARIANTS)
    symbols, learner = stream(switch, back), Learner(model((fast, slow), (fast_rate, slow_rate), variant))
    names, size = list(learner.start), min(fast, slow)
    places, paid, asked, without = [0], [], [learner.losses(learner.fast)], [[] for _ in names]
    changed, moved = [[] for _ in names], [[0.0] for _ in names]
    for first in range(0, TOKENS, size):
        before, last = dict(learner.fast), first + size
        paid.append(learner.read(symbols[first:last], symbols[first + 1 : last + 1], last))
        places.append(last)
        asked.append(learner.losses(learner.fast))
        for i, name in enumerate(names):
            step = distance(learner.fast[name], before[name])
            if step:
                changed[i].append(last)
            moved[i].append(distance(learner.fast[name], learner.start[name]))
            without[i].append(learner.losses({**learner.fast, name: learner.start[name]}))
    alone = {rule: [] for rule in ("old", "new")}
    for found in without:  # of one level put back: at the start, then at every boundary
        for rule, losses in alone.items():
            losses.append([answers[rule] for answers in (asked[0], *found)])
    return {
        "periods": (fast, slow), "rates": (fast_rate, slow_rate), "switch": switch, "back": back, "variant": variant,
        "places": np.array(places), "paid": torch.cat(paid).numpy(), "changed": changed, "moved": np.array(moved),
        "old": np.array([a["old"] for a in asked]), "new": np.array([a["new"] for a in asked]),
        "without": {rule: np.array(losses) for rule, losses in alone.items()},
        "end": learner.fast,
    }  # fmt: skip


def distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """The length of the difference between two levels' weights."""
    return sum((x - y).square().sum() for x, y in zip(a, b)).sqrt().item()


def at(arrays: dict, place: int) -> int:
    """The number of the last boundary that is not after `place`."""
    return int(np.searchsorted(arrays["places"], place, side="right")) - 1


def read_out(arrays: dict) -> str:
    """How often each level moved, and the loss on the old task at the switch, at its return, and level by level."""
    counts = [len(places) for places in arrays["changed"]]
    first, then = at(arrays, arrays["switch"]), at(arrays, arrays["back"])
    old, new, without = arrays["old"], arrays["new"], arrays["without"]["old"][:, then]
    if not np.isfinite(old).all():
        return f"At these rates the levels blow up: no numbers are left. The fast level moved {counts[0]} times."
    return (
        f"In {TOKENS} symbols the {NAMES[0]} moved {counts[0]} times and the {NAMES[1]} {counts[1]} times. At "
        f"the switch the loss on the old task was {old[first]:.2f} (guessing: {np.log(SYMBOLS):.2f}); when the "
        f"new task "
        f"had been learned, to {new[then]:.2f}, it was {old[then]:.2f}. Then the {NAMES[0]} put back to its "
        f"start gives "
        f"{without[0]:.2f} on the old task, the {NAMES[1]} put back {without[1]:.2f}. After the old task came "
        f"back, "
        f"the stream's first {len(returned(arrays))} symbols cost {returned(arrays).mean():.2f} each, those at the "
        f"very beginning {arrays['paid'][: len(returned(arrays))].mean():.2f}."
    )


def returned(arrays: dict) -> np.ndarray:
    """The losses of the stream's first symbols after the old task came back, at most 32."""
    return arrays["paid"][arrays["back"] :][:32]


ANSWERS = ("the fast level", "the slow level", "neither: it is gone")


def outcome(arrays: dict) -> str | None:
    """Whose weights still hold the old task when the new one has been learned; None until the slow clock
    was slow and the new task learned."""
    then, guess = at(arrays, arrays["back"]), np.log(SYMBOLS)
    if arrays["periods"][1] < 4 * arrays["periods"][0] or not arrays["new"][then] < 0.7 * guess:
        return None
    without_fast, without_slow = arrays["without"]["old"][:, then]
    if min(without_fast, without_slow) > 0.95 * guess:
        return ANSWERS[2]
    return ANSWERS[1] if without_fast < without_slow else ANSWERS[0]


def draw(arrays: dict, figure) -> None:
    """Three bands over the same axis of symbols."""
    places = arrays["places"]
    looks = (("fast level", FAST, "line-ns-open"), ("slow level", SLOW, "diamond"))
    for i, (name, look, symbol) in enumerate(looks):
        figure.add_scatter(
            x=arrays["changed"][i], y=[1 - i] * len(arrays["changed"][i]), name=f"{name} moves", mode="markers",
            marker=dict(color=look.color, symbol=symbol, size=11, line=dict(width=2, color=look.color)),
            showlegend=False, hovertemplate="after symbol %{x}<extra></extra>",
        )  # fmt: skip
    for name, values, look in (("old task", arrays["old"], OLD), ("new task", arrays["new"], NEW)):
        figure.add_scatter(
            x=places, y=shown(values), name=name, mode="lines+markers", xaxis="x2", yaxis="y2",
            line=dict(color=look.color, dash=look.dash, width=2), marker=dict(symbol=look.marker, size=5),
        )  # fmt: skip
    without = arrays["without"]["old"]
    for (name, look, _), values in zip((looks[1], looks[0]), without):  # without the fast one the slow one is left
        figure.add_scatter(
            x=places, y=shown(values), name=f"old task, {name} alone", mode="lines+markers", xaxis="x3", yaxis="y3",
            line=dict(color=look.color, dash=look.dash, width=2),
            marker=dict(symbol="diamond" if name.startswith("slow") else "circle", size=5),
        )  # fmt: skip
    _arrange(arrays, figure)


def shown(values) -> np.ndarray:
    """Losses as they fit the axis; what has no number is left out."""
    values = np.asarray(values, dtype=float)
    return np.where(np.isfinite(values), np.minimum(values, 6), np.nan)


def _arrange(arrays: dict, figure) -> None:
    """Axes, headings, the time of the new task, and the loss of guessing."""
    last = int(arrays["places"][-1])
    span = dict(range=[-4, last + 4], showgrid=False)
    titles = (
        (BANDS[0][1], "When the weights change"),
        (BANDS[1][1], "Loss of the whole model, asked by either rule (dotted: guessing)"),
        (BANDS[2][1], "What one level holds of the old task: the other put back to its start"),
    )
    shapes = [
        dict(type="rect", x0=arrays["switch"], x1=arrays["back"], y0=0, y1=1, xref="x", yref="paper", layer="below",
             fillcolor=theme.GRID, line=dict(width=0)),
        *(dict(type="line", x0=0, x1=1, y0=GUESS, y1=GUESS, xref=f"x{i} domain", yref=f"y{i}",
               line=dict(color=theme.INK, width=1, dash="dot")) for i in (2, 3)),
    ]  # fmt: skip
    words = [
        dict(text=text, x=0, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
        for y, text in titles
    ]
    words.append(
        dict(text="the new task", x=(arrays["switch"] + arrays["back"]) / 2, y=1.0, xref="x", yref="paper",
             yanchor="bottom", showarrow=False)
    )  # fmt: skip
    loss = dict(title="nats a symbol", rangemode="tozero")
    figure.update_layout(
        margin=dict(l=84, r=12, t=64, b=46),
        legend=dict(x=1, y=1.05, xanchor="right", yanchor="bottom", orientation="h", font=dict(size=12)),
        xaxis=dict(**span, showticklabels=False, anchor="y"),
        yaxis=dict(domain=BANDS[0], tickvals=[1, 0], ticktext=["fast level", "slow level"], range=[-0.6, 1.6]),
        xaxis2=dict(**span, showticklabels=False, anchor="y2"),
        yaxis2=dict(**loss, domain=BANDS[1]),
        xaxis3=dict(**span, anchor="y3", title="symbols read"),
        yaxis3=dict(**loss, domain=BANDS[2]),
        shapes=shapes, annotations=words,
    )  # fmt: skip


class Clocks(View):
    """Two levels with clocks of their own, a task that changes and comes back."""

    name = "clocks"
    title = "Who remembers what after the task changes?"
    prediction = Prediction(
        "Both levels learn the old task, then the new one. At the moment when the old task comes back: which "
        "level's "
        "weights, by themselves, still know most of it?",
        outcome,
        options=ANSWERS,
        until="Let the slow period be four times the fast one or more, and the new task be learned.",
        why="A level keeps what it has learned until its clock ticks: the slow one has hardly moved since the "
        "switch, the fast one often.",
    )
    width, height = 920, 420
    moves = ("fast", "slow", "variant")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: fast, slow, back."""
        return {
            "fast": W.Dropdown(options=PERIODS, value=8, description="Fast level: period (symbols)"),
            "slow": W.Dropdown(options=PERIODS, value=64, description="Slow level: period (symbols)"),
            "back": W.IntSlider(value=184, min=168, max=248, step=8, description="The old task comes back at"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: fast rate, slow rate, switch, variant."""
        return {
            "fast_rate": W.FloatSlider(value=1.0, min=0, max=3, step=0.25, description="Fast level: rate"),
            "slow_rate": W.FloatSlider(value=8.0, min=0, max=12, step=0.5, description="Slow level: rate"),
            "switch": W.IntSlider(value=128, min=32, max=160, step=8, description="The task changes at symbol"),
            "variant": W.Dropdown(options=VARIANTS, value="sequential", description="How the levels are joined"),
        }

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
