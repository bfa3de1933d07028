"""The map of the course: what each memory keeps as tokens are read, and what one more token changes in it.

Everything is measured on real layers of one size: `state.nbytes` after each length, and the state's own tensors held
against themselves before and after one more token. A memory joins the map with one line in ON_THE_MAP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import ipywidgets as W
import torch

from nl_course.memories import Memory, State, build_memory
from nl_course.seeding import seeded
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View

WIDTH, HEADS = 32, 1
LATENT = dict(kv_rank=8, rope_dim=8, head_dim=8, value_dim=16)
LENGTHS = (1, 10, 100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Place:
    """A memory on the map: its label, its style's name in the theme, and how to build it."""

    label: str
    style: str
    build: Callable[[], Memory]


def _named(name: str, **options) -> Callable[[], Memory]:
    """A builder of the memory `name` at the map's size."""
    return lambda: build_memory(name, WIDTH, HEADS, **options)


ON_THE_MAP = (
    Place("attention", "attention", _named("attention")),
    Place("attention (latent cache)", "latent-attention", _named("latent-attention", **LATENT)),
    Place("attention (window 256)", "window", _named("attention", window=256)),
    Place("linear (Hebb)", "linear", _named("linear")),
    Place("delta rule", "delta", _named("delta")),
    Place("Kimi Delta Attention", "kda", _named("kda")),
    Place("TTT-Linear", "ttt-linear", _named("ttt-linear")),
    Place("TTT-MLP", "ttt-mlp", _named("ttt-mlp")),
    Place("Titans, memory alone (LMM)", "titans", _named("titans")),
    Place("Titans (MAC, segment 64)", "mac", _named("mac")),
    Place("Titans (MAG, window 64)", "mag", _named("mag")),
    Place("Titans (MAL, window 64)", "mal", _named("mal")),
    Place("self-modifying (HOPE)", "hope", _named("self-modifying", kind="linear", chunk=128)),
)


def _place(label: str) -> Place:
    """The place with this label."""
    return next(place for place in ON_THE_MAP if place.label == label)


@cache
def after(label: str, tokens: int) -> tuple[Memory, State]:
    """One layer and its state, float32, batch 1, after it has really read `tokens` random tokens."""
    with seeded(0):
        memory = _place(label).build()
    x = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(tokens))  # (1, tokens, WIDTH)
    with torch.no_grad():
        _, state = memory(x)
    return memory, state


def measured_bytes(label: str, tokens: int) -> int:
    """`state.nbytes` of one layer after it has read `tokens` tokens."""
    return after(label, tokens)[1].nbytes


def measure(lengths: tuple[int, ...] = (1, 1_000, 100_000)) -> dict[str, list[int]]:
    """Bytes of state of every memory on the map after each of `lengths`, by label. The longest takes seconds."""
    sizes = {}
    for place in ON_THE_MAP:
        sizes[place.label] = [measured_bytes(place.label, tokens) for tokens in lengths]
    return sizes


def _formula(place: Place, tokens: int) -> int:
    """`state_bytes` of the memory at that place."""
    with seeded(0):
        return place.build().state_bytes(tokens)


@dataclass(frozen=True)
class Change:
    """One tensor of a state, in numbers, before and after one more token: how many stayed, changed, came, left."""

    name: str
    kept: int
    rewritten: int
    added: int
    dropped: int


@cache
def one_more_token(label: str, tokens: int) -> list[Change]:
    """What one more token after `tokens` does to every tensor of the state, and to the weights (nothing)."""
    memory, before = after(label, tokens)
    weights = [p.detach().clone() for p in memory.parameters()]
    held = {name: t.clone() for name, t in before.tensors().items()}
    with torch.no_grad():
        _, then = memory(torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(1)), before)
    changes = [_change(name, held[name], t) for name, t in then.tensors().items() if t.numel()]
    moved = sum(int((p != old).sum()) for p, old in zip(memory.parameters(), weights, strict=True))
    total = sum(old.numel() for old in weights)
    return [*changes, Change("trained weights", total - moved, moved, 0, 0)]


def _change(name: str, old: torch.Tensor, new: torch.Tensor) -> Change:
    """What became of one tensor of a state."""
    if old.shape != new.shape:
        return Change(name, old.numel(), 0, new.numel() - old.numel(), 0)
    columns = old.shape[-2] if old.dim() > 2 else 1
    if columns > 1 and torch.equal(old[..., 1:, :], new[..., :-1, :]):  # a full window: all moved up by one
        return Change(name, old.numel() - old.numel() // columns, 0, old.numel() // columns, old.numel() // columns)
    rewritten = int((old != new).sum())
    return Change(name, old.numel() - rewritten, rewritten, 0, 0)


class StateMap(View):
    """Bars: bytes each memory keeps. Below: what one more token did to the chosen memory's state."""

    name = "state-map"
    title = "What does each memory keep?"
    height = 620
    prediction = Prediction(
        "From 1,000 to 100,000 tokens read: by what factor does attention's memory grow?",
        lambda arrays: (
            arrays["bytes"]["attention"] / measured_bytes("attention", 1_000) if arrays["tokens"] == 100_000 else None
        ),
        until="Move to 100,000 tokens.",
        why="Attention keeps a key and a value for every token and drops none.",
    )

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: tokens, memory."""
        return {
            "tokens": W.SelectionSlider(
                options=[(f"{n:,}", n) for n in LENGTHS], value=1_000, description="Tokens read"
            ),
            "memory": W.Dropdown(options=[p.label for p in ON_THE_MAP], description="One more token for"),
        }

    def compute(self, settings):
        """What the picture shows at these settings."""
        tokens = settings["tokens"]
        return {
            "tokens": tokens,
            "memory": settings["memory"],
            "bytes": {place.label: measured_bytes(place.label, tokens) for place in ON_THE_MAP},
            "changes": one_more_token(settings["memory"], tokens),
        }

    def draw(self, arrays, figure):
        """Draws what `compute` returned into an empty figure."""
        for place in ON_THE_MAP:
            look = theme.style(place.style)
            size = arrays["bytes"][place.label]
            figure.add_bar(
                x=[size], y=[place.label], orientation="h", text=[_size(size)], textposition="outside",
                cliponaxis=False, marker=dict(color=look.color, pattern=dict(shape=look.pattern)), showlegend=False,
            )  # fmt: skip
        names = [_told(change) for change in arrays["changes"]]
        kinds = [("kept", theme.GRID, ""), ("rewritten", "#C12D86", "x"), ("added", "#1437DC", "/")]
        for kind, color, pattern in kinds:
            shares = [getattr(c, kind) / (c.kept + c.rewritten + c.added) for c in arrays["changes"]]
            figure.add_bar(
                x=shares, y=names, orientation="h", name=kind, xaxis="x2", yaxis="y2",
                marker=dict(color=color, pattern=dict(shape=pattern), line=dict(color=theme.MUTED, width=1)),
            )  # fmt: skip
        # By the formula, which equals the measurement: reading 100,000 tokens would take seconds before anything shows.
        top = 2 * max(_formula(place, LENGTHS[-1]) for place in ON_THE_MAP)
        figure.update_layout(
            barmode="stack",
            xaxis=dict(type="log", range=[1.5, torch.tensor(float(top)).log10().item() + 0.4],
                       title="bytes of state, one layer, one reader (log scale)", exponentformat="SI", dtick=1),
            yaxis=dict(domain=[0.56, 1.0], autorange="reversed"),
            xaxis2=dict(anchor="y2", range=[0, 1], tickformat=".0%", title="share of the numbers"),
            yaxis2=dict(anchor="x2", domain=[0.0, 0.3], autorange="reversed"),
            legend=dict(y=0.33, x=1.0),
            annotations=[dict(text=f"What token {arrays['tokens'] + 1:,} does inside: {arrays['memory']}", x=0, y=0.42,
                              xref="paper", yref="paper", showarrow=False, font=dict(size=14), xanchor="left")],
        )  # fmt: skip

    def read_out(self, arrays):
        """The sentence under the picture."""
        sizes = sorted(arrays["bytes"].items(), key=lambda item: item[1])
        inside = [c for c in arrays["changes"] if c.name != "trained weights"]
        added, rewritten = sum(c.added for c in inside), sum(c.rewritten for c in inside)
        dropped = sum(c.dropped for c in inside)
        did = [f"adds {added} numbers"] if added else []
        did += [f"drops {dropped}"] if dropped else []
        did += [f"rewrites {rewritten}"] if rewritten else []
        return (
            f"After {arrays['tokens']:,} tokens: {', '.join(f'{label} {_size(size)}' for label, size in sizes)}. "
            f"Token {arrays['tokens'] + 1:,} in {arrays['memory']} {' and '.join(did) or 'changes nothing'}, "
            f"and leaves all {arrays['changes'][-1].kept:,} trained weights as they are."
        )


def _told(change: Change) -> str:
    """A tensor's name and how many of its numbers came, went or changed."""
    counts = (("added", change.added), ("dropped", change.dropped), ("rewritten", change.rewritten))
    told = [f"{count:,} {word}" for word, count in counts if count]
    return f"{change.name}: {', '.join(told) or 'as it was'}"


def _size(count: int) -> str:
    """Bytes in three digits and a decimal unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
