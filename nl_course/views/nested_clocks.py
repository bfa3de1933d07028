"""Nested clocks: where does the gradient go?

A small HOPE of the course reads `TOKENS` tokens: self-modifying Titans whose memories move every 4 tokens, then two
levels that learn from the next token, every 8 and every 16. Then the outer loop takes the gradient of the summed loss.
That gradient is measured, in float64: at every boundary, as it arrives at each memory's weights, and at the starts,
which it reaches through all the writes in between. Nothing in the model is trained.

`passes` truncates: after that many boundaries in a row the path is cut, and earlier writes count as constants. `left`
says what a cut leaves. With "the start stays reachable" the weights are the start plus a constant, so the start still
gets the direct gradient. (That is how a truncated meta-gradient can reach a start at all.) With "nothing" the state is
a plain constant, and the start gets a gradient from the first stretch only.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import ipywidgets as W
import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.config import STOPS
from nl_course.memories.hope.layer import FastState
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel, NestedState
from nl_course.nested.steps import next_token_losses
from nl_course.seeding import seeded
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

# The reading that is drawn.
TOKENS, CHUNK, LEVELS = 32, 4, (8, 16)
BOUNDARIES = TOKENS // CHUNK
MEMORIES = ("key", "value", "step", "retention", "memory")
NAMES = (*MEMORIES, *(f"level of {c}" for c in LEVELS))
AT_LEFT, AT_RIGHT = (0.0, 0.60), (0.81, 1.0)
TOP, BOTTOM = (0.70, 1.0), (0.0, 0.52)

VOCAB, WIDTH, HIDDEN = 12, 8, 8
ALL = BOUNDARIES - 1  # passes all boundaries: no cut
LEFT = {"the start stays reachable": True, "nothing": False}


@lru_cache(maxsize=8)
def model(stop: str) -> NestedLanguageModel:
    """The untrained model, float64; the same weights whatever is stopped."""
    options = {
        "chunk": CHUNK,
        "stop_gradient": check_choice("stop-gradient", stop, STOPS),
        "start": "random",
        "conv": 2,
    }
    levels = tuple(LevelConfig(HIDDEN, chunk, 0.01) for chunk in LEVELS)
    with seeded(3), torch.no_grad():
        made = NestedLanguageModel(NestedConfig(VOCAB, WIDTH, 1, 1, levels, "self-modifying", options)).double()
        for name, weights in made.named_parameters():
            if name.endswith(("first", "last", "embedding.weight", "output.weight")):
                weights.normal_(std=weights.shape[-1] ** -0.5)
    return made


def text() -> Tensor:
    """The tokens, (1, TOKENS + 1): a pattern that comes again, with some noise."""
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randint(VOCAB, (8,), generator=generator).repeat(5)[: TOKENS + 1]
    noise = torch.randint(VOCAB, (TOKENS + 1,), generator=generator)
    return torch.where(torch.rand(TOKENS + 1, generator=generator) < 0.2, noise, pattern)[None]


def carried(state: NestedState) -> list[dict[str, Tensor]]:
    """What moves in a state: the weights of the two banks and of each level, fast one first, by their matrices."""
    memory = state.below[0]
    levels = [{"first": first, "last": last} for _, (first, last) in sorted(state.fast.items())]
    return [memory.others.anchor, memory.memory.anchor, *levels]


def by_memory(made: NestedLanguageModel, gradients: list[dict[str, Tensor]]) -> dict[str, float]:
    """Norms of gradients in the order of `carried`, by the names of the picture."""
    others, memory, *levels = gradients
    (bank, _), (read, _) = made.layers[0].memory.banks()
    apart = {**bank.spread(others), **read.spread(memory), **dict(zip(NAMES[len(MEMORIES) :], levels))}
    return {name: size(apart[name].values()) for name in NAMES}


def cut(state: NestedState, begun: NestedState, keep: bool) -> NestedState:
    """The same numbers with all writes so far constants; with `keep`, the way to the starts themselves stays open."""

    def constant(now: Tensor, start: Tensor) -> Tensor:
        """`now` as a constant; with `keep` it still depends on `start`."""
        return now.detach() + (start - start.detach()) if keep else now.detach()

    def fast(now: FastState, start: FastState) -> FastState:
        """The same for every weight of a memory, `now` beside its start."""
        parts = {}
        for field, weights in now.parts().items():
            begun_with = getattr(start, field)
            parts[field] = Weights({name: constant(w, begun_with[name]) for name, w in weights.items()})
        return FastState(**parts)

    memory, first = state.below[0], begun.below[0]
    moved = replace(memory, others=fast(memory.others, first.others), memory=fast(memory.memory, first.memory))
    levels = {n: tuple(map(constant, pair, begun.fast[n])) for n, pair in state.fast.items()}
    grad_accum = {n: tuple(map(Tensor.detach, pair)) for n, pair in state.grad_accum.items()}
    return replace(state, below=(moved,), fast=levels, grad_accum=grad_accum)


def fresh(state: NestedState) -> NestedState:
    """The same state, at a boundary of the memories, in tensors of its own at which gradients can be asked for. There
    the anchor and the running weights are the same numbers, and become the same tensors."""

    def own(t: Tensor) -> Tensor:
        """A tensor of its own at which a gradient can be asked for."""
        return t.view_as(t) if t.requires_grad else t.detach().requires_grad_(t.is_floating_point())

    state = state.map(own)
    memory = state.below[0]
    others = replace(memory.others, running=memory.others.anchor)
    read = replace(memory.memory, running=memory.memory.anchor)
    return replace(state, below=(replace(memory, others=others, memory=read),))


def measured(passes: int, left: str, stop: str) -> dict:
    """One reading and its backward pass: gradient norms at boundaries and at the starts, and the starts' gradients."""
    keep, made, tokens = LEFT[check_choice("what a cut leaves", left, LEFT)], model(stop), text()
    begun = made.init_state(1)
    state, loss, places = begun, 0.0, []
    for i in range(BOUNDARIES):
        if i and passes < ALL and i % (passes + 1) == 0:
            state = cut(state, begun, keep)
        state = fresh(state)
        places.append(carried(state))
        piece = slice(i * CHUNK, (i + 1) * CHUNK)
        logits, state = made(tokens[:, piece], state)
        loss = loss + next_token_losses(logits, tokens[:, 1:][:, piece]).sum()
    starts = starts_of(made)
    everything = [w for place in places for part in place for w in part.values()]
    everything += [w for group in starts.values() for w in group]
    found = torch.autograd.grad(loss, everything, allow_unused=True)
    found = iter([torch.zeros_like(w) if g is None else g for w, g in zip(everything, found, strict=True)])
    # The gradients come in the order in which they were asked for.
    arriving = []
    for place in places:
        of_place = [dict(zip(part, found)) for part in place]
        arriving.append(by_memory(made, of_place))
    gradients = {}
    for name, group in starts.items():
        gradients[name] = torch.cat([next(found).flatten() for _ in group])
    return {"arriving": arriving, "starts": gradients, "loss": float(loss.detach()) / TOKENS}


def starts_of(made: NestedLanguageModel) -> dict[str, list[Tensor]]:
    """What the outer loop learns: every memory's and level's start, and W_q beside them."""
    layer = made.layers[0]
    found = {}
    for name in MEMORIES:
        found[name] = [w for key, w in layer.memory.start.items() if key.startswith(name)]
    for name, level in zip(NAMES[len(MEMORIES) :], layer.levels, strict=True):
        found[name] = [level.first, level.last]
    return {**found, "W_q": [layer.memory.query.weight]}


def size(gradients: Iterable[Tensor]) -> float:
    """The length of all gradients together."""
    return float(sum(g.square().sum() for g in gradients).sqrt())


@lru_cache(maxsize=1)
def exact() -> dict:
    """The measurement with nothing cut."""
    return measured(ALL, "nothing", "none")


def compute(moment: int, passes: int = ALL, left: str = "the start stays reachable", stop: str = "none") -> dict:
    """`moment`: 0 to BOUNDARIES reading forward, a chunk each; as many more backwards; the last one is the outer
    step."""
    if not 0 <= check_int("moment", moment) <= 2 * BOUNDARIES + 1:
        raise CourseError(f"the moment must be 0 to {2 * BOUNDARIES + 1}, not {moment}.")
    if not 0 <= check_int("boundaries passed", passes) <= ALL:
        raise CourseError(f"the gradient may pass 0 to {ALL} boundaries, not {passes}.")
    now, true = measured_once(passes, left, stop), exact()
    lost = {name: float((now["starts"][name] - g).norm() / g.norm()) for name, g in true["starts"].items()}
    every = [torch.cat([*map(each["starts"].get, NAMES)]) for each in (now, true)]
    return {
        "moment": moment, "passes": passes, "left": left, "stop": stop, "loss": now["loss"],
        "arriving": now["arriving"],
        "norms": {name: float(g.norm()) for name, g in now["starts"].items()},
        "exact": {name: float(g.norm()) for name, g in true["starts"].items()},
        "lost": lost, "lost_in_all": float((every[0] - every[1]).norm() / every[1].norm()),
        "cosine": float(torch.cosine_similarity(*every, dim=0)),
        "cuts": [i for i in range(1, BOUNDARIES) if passes < ALL and i % (passes + 1) == 0],
    }  # fmt: skip


@lru_cache(maxsize=128)
def measured_once(passes: int, left: str, stop: str) -> dict:
    """`measured`, remembered."""
    return measured(passes, left, stop)


def read_out(arrays: dict) -> str:
    """The clocks so far, and what of the gradient arrives, in words."""
    moment, lost, norms = arrays["moment"], arrays["lost"], arrays["norms"]
    read = min(moment, BOUNDARIES) * CHUNK
    writes = [max(read - 1, 0) // c for c in (CHUNK, *LEVELS)]
    if moment <= BOUNDARIES:
        return (
            f"After {read} of {TOKENS} tokens (loss {arrays['loss']:.3f} nats a token in all): by the next token the "
            f"memories have moved {read // CHUNK} times, the levels {writes[1]} and {writes[2]} times, the outer loop "
            "not yet. No gradient has flowed back."
        )
    back = moment - BOUNDARIES
    if moment <= 2 * BOUNDARIES:
        place = BOUNDARIES - back
        row = arrays["arriving"][place]
        most = max(row, key=row.get)
        return (
            f"The outer gradient has come back to the weights as they stood after {place * CHUNK} tokens; most of it "
            f"arrives at {most}, {row[most]:.3g}. The least is at {min(row, key=row.get)}, {min(row.values()):.3g}."
        )
    silent = [name for name, value in norms.items() if value < 1e-12]
    heard = (
        f"No gradient at all reaches {', '.join(silent)}. "
        if silent
        else f"A gradient reaches all {len(norms)} starts. "
    )
    if arrays["lost_in_all"] < 1e-9:
        return f"{heard}Nothing is cut: this is the exact meta-gradient, and finite differences agree with it."
    worst = max(NAMES, key=lost.get)
    beyond = " (above 100%: worse than no gradient at all)" if arrays["lost_in_all"] > 1 else ""
    share = f"{arrays['lost_in_all']:.0%}"
    return (
        f"{heard}Of the exact gradient at all starts {share} is lost{beyond}: the difference's length over its own. "
        f"The cosine of the two is {arrays['cosine']:.2f}. Most is lost at {worst}, {lost[worst]:.0%}; at the memory "
        f"that is read, {lost['memory']:.0%}; at key, {lost['key']:.0%}."
    )


ANSWERS = ("no gradient at all", "some gradient, but another one", "the same gradient")


def outcome(arrays: dict) -> str | None:
    """What the key memory's start gets when no boundary is passed and the start stays reachable."""
    if arrays["passes"] or arrays["left"] != "the start stays reachable" or arrays["stop"] != "none":
        return None
    if arrays["norms"]["key"] < 1e-12:
        return ANSWERS[0]
    return ANSWERS[2] if arrays["lost"]["key"] < 1e-6 else ANSWERS[1]


def draw(arrays: dict, figure) -> None:
    """Three panels of one reading and one backward pass, as far as `moment` has come."""
    clocks = {"tokens": 1, f"memories, {CHUNK}": CHUNK, **{f"level, {c}": c for c in LEVELS}}
    read = min(arrays["moment"], BOUNDARIES) * CHUNK
    for row, (name, period) in enumerate(clocks.items()):
        ticks = np.arange(period, TOKENS + 1, period)
        done = ticks <= read
        figure.add_scatter(
            x=ticks, y=[name] * len(ticks), mode="markers", name=name, showlegend=False,
            marker=dict(symbol="line-ns-open" if row == 0 else "diamond", size=9 + row,
                        color=np.where(done, theme.style("hope").color, theme.GRID)),
            hovertemplate=name + ": %{x}<extra></extra>",
        )  # fmt: skip
    learned = arrays["moment"] > 2 * BOUNDARIES
    figure.add_scatter(
        x=[TOKENS + 2], y=["training"], mode="markers", name="training", showlegend=False,
        marker=dict(symbol="star", size=14, color=theme.style("outer").color if learned else theme.GRID),
        hovertemplate="the outer step<extra></extra>",
    )  # fmt: skip
    _back(arrays, figure)
    _starts(arrays, figure, learned)
    _arrange(arrays, figure, read)


def _back(arrays: dict, figure) -> None:
    """log10 of the gradient's norm at every boundary that it has come back to."""
    come = max(0, arrays["moment"] - BOUNDARIES)
    rows = np.array([list(map(row.get, NAMES)) for row in arrays["arriving"]]).T  # (names, boundaries)
    shown = rows.astype(object)
    first = max(BOUNDARIES - come, 0)
    shown[:, :first] = None  # what is not there is None: NaN is no JSON
    logs = np.full(rows.shape, None)
    there = (rows >= 1e-12) & (np.arange(BOUNDARIES) >= first)
    logs[there] = np.log10(rows[there])
    figure.add_heatmap(
        z=logs.tolist(), x=np.arange(BOUNDARIES) * CHUNK, y=list(NAMES), xaxis="x2", yaxis="y2",
        colorscale=theme.SIZES, customdata=shown, name="gradient", zmin=-4, zmax=1, xgap=2, ygap=2,
        colorbar=dict(title=dict(text="log10 |g|", side="top"), len=0.5, y=0.26, x=0.62, xanchor="left", thickness=10),
        hovertemplate="%{y}, after %{x} tokens: %{customdata:.3g}<extra></extra>",
    )  # fmt: skip


def _starts(arrays: dict, figure, learned: bool) -> None:
    """Bars of the gradient norm at each start, exact and with the cuts."""
    names, outer = list(arrays["exact"]), theme.style("outer")
    exact = [arrays["exact"][name] for name in names]
    now = [arrays["norms"][name] if learned else 0 for name in names]
    figure.add_bar(
        y=names, x=exact, orientation="h", name="exact", xaxis="x3", yaxis="y3", marker=dict(color=theme.GRID),
        hovertemplate="%{y}: %{x:.3g} exact<extra></extra>",
    )  # fmt: skip
    figure.add_bar(
        y=names, x=now, orientation="h", name="with the cuts", xaxis="x3", yaxis="y3", customdata=[
            arrays["lost"][name] for name in names],
        marker=dict(color=outer.color, pattern=dict(shape="/")),
        hovertemplate="%{y}: %{x:.3g}, lost %{customdata:.0%}<extra></extra>",
    )  # fmt: skip


def _arrange(arrays: dict, figure, read: int) -> None:
    """Axes, the place read so far, and the cuts."""
    span = dict(range=[-2.4, TOKENS + 3.5], showgrid=False, domain=AT_LEFT)
    figure.update_layout(
        barmode="group", bargap=0.25,
        xaxis=dict(anchor="y", showticklabels=False, **span),
        yaxis=dict(domain=TOP, autorange="reversed", showgrid=False),
        xaxis2=dict(anchor="y2", title="weights as they stood after so many tokens", dtick=CHUNK, **span),
        yaxis2=dict(domain=BOTTOM, anchor="x2", autorange="reversed", showgrid=False),
        xaxis3=dict(domain=AT_RIGHT, anchor="y3", title="gradient norm at start", type="log", range=[-3.2, 2],
                    tickvals=[0.001, 0.1, 10], tickangle=0),
        yaxis3=dict(domain=(0.0, 1.0), anchor="x3", autorange="reversed"),
        margin=dict(l=90, r=20, t=46, b=50),
    )  # fmt: skip
    figure.add_shape(type="line", x0=read, x1=read, y0=0, y1=1, xref="x", yref="y domain",
                     line=dict(color=theme.INK, width=1))  # fmt: skip
    for boundary in arrays["cuts"]:
        at = boundary * CHUNK - CHUNK / 2
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, xref="x2", yref="y2 domain",
                         line=dict(color=theme.style("outer").color, width=3, dash="dot"))  # fmt: skip
    figure.add_annotation(
        xref="paper", yref="paper", x=0.0, y=0.585, xanchor="left", showarrow=False,
        text="the gradient that comes back" + (", cut at the dotted lines" if arrays["cuts"] else ""),
    )  # fmt: skip


class NestedClocks(View):
    """Token clock, chunk clocks and training clock in one timeline, and the gradient that comes back through them."""

    name = "nested-clocks"
    title = "Where does the gradient go?"
    prediction = Prediction(
        "The gradient may pass no boundary at all, but at a cut the start stays reachable. What reaches the start of "
        "the key memory?",
        outcome,
        options=ANSWERS,
        until="Set the boundaries passed to 0.",
        why="Until the first boundary all reads use the start, so the key memory acts through its writes alone, "
        "and a cut makes each write a constant.",
    )
    step_by = "moment"
    continuous = False
    width, height = 920, 420

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: moment, passes."""
        last = 2 * BOUNDARIES + 1
        return {
            "moment": W.IntSlider(value=last, min=0, max=last, description="Moment (read, then back, then learn)"),
            "passes": W.IntSlider(value=ALL, min=0, max=ALL, description=f"Boundaries passed ({ALL}: all)"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: left, stop."""
        stops = [("nothing", "none"), ("targets of its own", "targets"), ("errors and inputs", "first-order"),
                 ("whole writes", "write")]  # fmt: skip
        return {
            "left": W.Dropdown(options=list(LEFT), value=next(iter(LEFT)), description="What a cut leaves"),
            "stop": W.Dropdown(options=stops, value="none", description="Stop-gradient on"),
        }

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
