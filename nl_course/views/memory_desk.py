"""The memory of one accelerator: weights, caches and states in it, how many users fit, how fast they go.

Everything is arithmetic on published shapes and data sheets (`nl_course.scaling`); speeds are upper bounds.
"""

import ipywidgets as W
import numpy as np

from nl_course.scaling import (
    accelerator,
    accelerators,
    cache_bytes,
    decode_step,
    memory_budget,
    model,
    models,
    readable_bytes,
    readable_tokens,
    state_is_own_cache,
    tokens_in,
)
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View

CONTEXTS = tuple(2**n for n in range(10, 24))  # 1k to 8M
READERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COUNTS = (1, 2, 4, 8, 16, 72)
OVERFLOW = "#B00020"
FORMATS = {"bf16": "16 bits", "fp8": "8 bits", "int4": "4 bits", "fp32": "32 bits"}
ASKED = {
    "model": "llama-3.1-8b",
    "context": 131072,
    "device": "h100",
    "count": 1,
    "weights": "bf16",
    "kv": "bf16",
}


def compute(settings: dict) -> dict:
    """The filled memory at the chosen settings, and the cache's size at every context of the slider.

    settings: model, context, readers, device, count, weights, kv (names and numbers as in `nl_course.scaling`).
    """
    s = dict(settings)
    shape, device = model(s["model"]), accelerator(s["device"])
    filled = memory_budget(shape, device, s["context"], s["readers"], s["count"], s["weights"], s["kv"])
    step = decode_step(shape, device, s["context"], s["readers"], s["count"], s["weights"], s["kv"])
    per_reader = tokens_in(shape, filled.weights / s["readers"], s["kv"])
    room = max(0.0, filled.usable - filled.weights) / s["readers"]
    fits_up_to = tokens_in(shape, room, s["kv"], everything=True)
    contexts = np.array(CONTEXTS)
    return {
        **s,
        "title": shape.title,
        "device_title": f"{s['count']} x {device.title}",
        "attention": shape.attention,
        "beyond": s["context"] > shape.max_context,
        "max_context": shape.max_context,
        "contexts": contexts,
        "cache": np.array([cache_bytes(shape, int(t), s["readers"], s["kv"]) for t in contexts]),
        "desk": filled,
        "step": step,
        "crossing": per_reader,
        "fits_up_to": fits_up_to,
        "state_is_own_cache": state_is_own_cache(shape, s["kv"]) if shape.is_hybrid else None,
    }


def draw(arrays: dict, figure) -> None:
    """Above: the memory as one stacked bar. Below: the cache as the context grows, with the two crossings marked."""
    filled, cache_style, weight_style = arrays["desk"], theme.style("attention"), theme.style("outer")
    state_style = theme.style("gated-delta")
    weights = min(filled.weights, filled.usable)
    states = min(filled.state + filled.tails, filled.usable - weights)
    cache = min(filled.cache + filled.index, filled.usable - weights - states)
    parts = [
        ("weights", weights, weight_style.color, ""),
        ("states", states, state_style.color, "\\"),
        ("cache", cache, cache_style.color, "/"),
        ("left", max(0.0, filled.left), "white", ""),
        ("kept free for buffers", filled.memory - filled.usable if filled.fits else 0.0, theme.MUTED, "."),
        ("does not fit", filled.weights + filled.kept - weights - states - cache, OVERFLOW, "x"),
    ]
    if not filled.state:
        parts = [part for part in parts if part[0] != "states"]
    for name, size, color, pattern in parts:
        figure.add_bar(
            x=[size / 1e9],
            y=["memory"],
            orientation="h",
            name=name,
            marker=dict(color=color, pattern=dict(shape=pattern), line=dict(color=theme.MUTED, width=1)),
            hovertemplate=f"{name}: %{{x:,.1f}} GB<extra></extra>",
        )
    shown = arrays["contexts"]
    lines = [
        ("cache of all users", shown, arrays["cache"], cache_style.color, "solid"),
        ("weights", shown, np.full(len(shown), filled.weights), weight_style.color, "dash"),
        ("usable memory", shown, np.full(len(shown), filled.usable), theme.INK, "dot"),
    ]
    if filled.state:
        level = np.full(len(shown), filled.state + filled.tails)
        lines.append(("states of all users", shown, level, state_style.color, "dashdot"))
    for name, x, y, color, dash in lines:
        figure.add_scatter(
            x=x, y=y / 1e9, mode="lines", name=name, line=dict(color=color, dash=dash), xaxis="x2", yaxis="y2",
            showlegend=False, hovertemplate=f"{name}: %{{y:,.3g}} GB at %{{x:,}} tokens<extra></extra>",
        )  # fmt: skip
        below = name.startswith("cache")  # this label stands under its rising line, the others above theirs
        figure.add_annotation(
            x=np.log10(x[-4 if below else -1]), y=np.log10(max(y[-4 if below else -1], 1) / 1e9), xref="x2", yref="y2",
            text=name, showarrow=False, xanchor="left" if below else "right", yanchor="top" if below else "bottom",
            font=dict(color=color, size=12), xshift=8 if below else 0,
        )  # fmt: skip
    marks = [("now", arrays["context"], filled.cache, "circle", cache_style.color)]
    if arrays["crossing"] <= shown[-1]:
        marks.append(("cache = weights", arrays["crossing"], filled.weights, "diamond", weight_style.color))
    if filled.weights < filled.usable and arrays["fits_up_to"] <= shown[-1]:
        room = filled.usable - filled.weights
        marks.append(("memory full", arrays["fits_up_to"], room, "x", theme.INK))
    if arrays["state_is_own_cache"]:
        marks.append(("cache = states", arrays["state_is_own_cache"], filled.state, "square", state_style.color))
    figure.add_scatter(
        x=[m[1] for m in marks], y=[m[2] / 1e9 for m in marks], text=[m[0] for m in marks], mode="markers+text",
        textposition=["top left", *["bottom right"] * (len(marks) - 1)], xaxis="x2", yaxis="y2",
        showlegend=False, name="marks",
        marker=dict(symbol=[m[3] for m in marks], color=[m[4] for m in marks], size=12),
        hovertemplate="%{text}: %{x:,.0f} tokens, %{y:,.3g} GB<extra></extra>",
    )  # fmt: skip
    figure.add_shape(
        type="line", x0=filled.usable / 1e9, x1=filled.usable / 1e9, y0=-0.5, y1=0.5,
        line=dict(color=theme.INK, dash="dot", width=2),
    )  # fmt: skip
    figure.update_layout(
        barmode="stack",
        xaxis=dict(title=f"GB in {arrays['device_title']}", anchor="y", range=[0, _end(filled) / 1e9]),
        yaxis=dict(domain=[0.80, 1.0], showticklabels=False, anchor="x"),
        xaxis2=dict(title="context of every user (tokens)", type="log", anchor="y2", **_ticks(shown)),
        yaxis2=dict(
            domain=[0.0, 0.54],
            title="GB",
            type="log",
            anchor="x2",
            exponentformat="none",
            separatethousands=True,
        ),
        legend=dict(orientation="h", x=0, xanchor="left", y=1.02, traceorder="normal"),
        margin=dict(t=48),
    )


def _end(filled) -> float:
    """The end of the axis, a little beyond what is there and what is needed."""
    return 1.02 * max(filled.memory, filled.weights + filled.cache)


def _ticks(contexts) -> dict:
    """Every second context as a tick."""
    some = [int(t) for t in contexts[::2]]
    return {"tickvals": some, "ticktext": [readable_tokens(t) for t in some]}


def read_out(arrays: dict) -> str:
    """The memory in words."""
    filled, step = arrays["desk"], arrays["step"]
    users = "1 user" if arrays["readers"] == 1 else f"{arrays['readers']:,} users"
    limit = f" (beyond the model's own {readable_tokens(arrays['max_context'])})" if arrays["beyond"] else ""
    head = (
        f"{arrays['title']} ({arrays['attention']}) on {arrays['device_title']}: weights "
        f"{readable_bytes(filled.weights)}, {_kept(filled)} for {users} of "
        f"{readable_tokens(arrays['context'])} tokens{limit}. "
    )
    if filled.weights > filled.usable:
        return head + f"The weights alone need more than the {readable_bytes(filled.usable)} that are usable."
    fit = "1 such user fits" if filled.max_batch == 1 else f"{filled.max_batch:,} such users fit"
    if filled.fits:
        usable = f"the usable {readable_bytes(filled.usable)} (nine tenths of {readable_bytes(filled.memory)})"
        room = f"{readable_bytes(filled.left)} of {usable} are free. {fit}"
        speed = f". Each gets at most {step.tokens_per_second:.3g} tokens per second ({step.bound} sets the pace). "
    else:
        room, speed = f"That is {readable_bytes(-filled.left)} too much. {fit}", ". "
    crossing = arrays["crossing"]
    return (
        head
        + room
        + speed
        + (
            "With windows in every layer the cache never outweighs the weights."
            if crossing == np.inf
            else f"The cache outweighs the weights beyond {crossing:,.0f} tokens per user."
        )
        + _state_or_cache(arrays)
    )


def _kept(filled) -> str:
    """What is kept for all users, in words: the cache, and beside it what the model has."""
    parts = [f"cache {readable_bytes(filled.cache)}"]
    if filled.index:
        parts.append(f"keys of the indexer {readable_bytes(filled.index)}")
    if filled.state:
        parts.append(f"states {readable_bytes(filled.state)} (and {readable_bytes(filled.tails)} of convolutions)")
    return ", ".join(parts)


def _state_or_cache(arrays: dict) -> str:
    """For a hybrid: up to which length its states are the larger part of what is kept per user."""
    tokens = arrays["state_is_own_cache"]
    return "" if tokens is None else f" Up to {tokens:,.0f} tokens, the states of a user are larger than the cache."


class MemoryDesk(View):
    """How many users fit in this memory?"""

    name = "memory-desk"
    title = "The accelerator's memory: how many users fit?"
    height = 420
    prediction = Prediction(
        "Llama 3.1 8B, in 16 bits, on one H100 with 80 GB: how many users with 128k tokens each fit at once?",
        lambda arrays: arrays["desk"].max_batch if all(arrays[k] == v for k, v in ASKED.items()) else None,
        until="Set the context to 128k to find out.",
        why="The cache grows with the context: at 128k one reader takes about 17 GB of the 61 GB that the "
        "weights leave.",
    )
    moves = ("context", "readers")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: model, context."""
        tokens = [(readable_tokens(t), t) for t in CONTEXTS]
        return {
            "model": W.Dropdown(
                options=[(shape.title, name) for name, shape in models().items()],
                value="llama-3.1-8b",
                description="Model",
            ),
            "context": W.SelectionSlider(options=tokens, value=8192, description="Context (tokens)"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: readers, device, count, weights, kv."""
        formats = [(f"{text} ({name})", name) for name, text in FORMATS.items()]
        devices = [(device.title, name) for name, device in accelerators().items()]
        return {
            "readers": W.SelectionSlider(options=READERS, value=16, description="Users (batch)"),
            "device": W.Dropdown(options=devices, value="h100", description="Accelerator"),
            "count": W.SelectionSlider(options=COUNTS, value=1, description="How many of them"),
            "weights": W.Dropdown(options=formats, value="bf16", description="Weights in"),
            "kv": W.Dropdown(options=formats, value="bf16", description="Cache in"),
        }

    def compute(self, settings):
        """What the picture shows at these settings."""
        return compute(settings)

    def draw(self, arrays, figure):
        """Draws what `compute` returned into an empty figure."""
        draw(arrays, figure)

    def read_out(self, arrays):
        """The sentence under the picture."""
        return read_out(arrays)
