"""A million books: what is still known of the first book?

Trained models of the course read real books on and on, with a fact in the first one (`nl-course record books`). Shown
are the bytes of each state and the bytes moved to read so far, by formula, which equals what was measured as far as it
was; and how many facts of the first book are still answered, which has no formula: it is shown as far as it was
measured, and beyond that the picture is hatched and the words say so. Beside them the third way, a text index on disk.
"""

import json
import math
from functools import cache

import ipywidgets as W
import numpy as np

from nl_course.errors import check_choice, check_min
from nl_course.files import asset
from nl_course.model import LanguageModel, ModelConfig
from nl_course.scaling import accelerator
from nl_course.seeding import seeded
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

HATCH = "not measured"
RECALL, KEPT = (0.0, 0.60), (0.70, 1.0)  # where the two panels stand
MOST_READ = 10**7  # bytes, the end of the recall's axis

RUN = "runs/books.json"
INDEX = "index on disk"
BOOKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1_000, 10_000, 100_000, 1_000_000)
SIZES = {  # bytes of a book
    "a module's docstrings (5 kB)": 5_000,  # near the mean of the shelf that was read
    "a novel (600 kB)": 600_000,  # about 105,000 English words
}
SHAPE = {"width": 64, "layers": 2, "heads": 2}  # of all models: those of the recipe `needle`
DEVICE = "h100"
FIXED = ("TTT-Linear", "Titans (LMM)", "Titans (MAG)", "Titans (MAC)", "Titans (MAL)")
ASKED = FIXED[:4]  # a question has four answers at most
GRID = np.geomspace(512, BOOKS[-1] * max(SIZES.values()), 120)
STYLES = {
    "attention, whole cache": "attention",
    "whole cache, rotary": "gqa",
    "attention, window 64": "window",
    "TTT-Linear": "ttt-linear",
    "Titans (LMM)": "titans",
    "Titans (MAG)": "mag",
    "Titans (MAC)": "mac",
    "Titans (MAL)": "mal",
}


@cache
def recorded() -> dict:
    """The recording, `assets/runs/books.json`."""
    return json.loads(asset(RUN).read_text(encoding="utf-8"))


@cache
def reader(name: str) -> LanguageModel:
    """A model of that shape, without its trained weights: for its formula of `state_bytes`."""
    found = recorded()["models"][check_choice("memory", name, recorded()["models"])]
    config = ModelConfig(**SHAPE, **{key: found[key] for key in ("hidden", "memory", "options", "conv")})
    with seeded(0):
        return LanguageModel(config)


def state_bytes(name: str, read: float) -> float:
    """Bytes kept after `read` bytes of text: of a model's state by its formula, of the index in the measured
    proportion to its text."""
    check_min("bytes read", read, 0)
    if name == INDEX:
        last = recorded()["index"]["first"][-1]
        return read * last["disk_bytes"] / last["bytes"]
    return reader(name).state_bytes(round(read))


def moved_bytes(name: str, read: float) -> float:
    """Bytes of state moved from and to memory to read so far, a byte at a time. A cache is read at every byte as far as
    it has grown; a state of fixed size is read at every byte and written at every byte, which is the most: in chunks it
    is written less often."""
    now, half = state_bytes(name, read), state_bytes(name, read / 2)
    if name in FIXED:
        return 2 * read * now
    return read * (half if now > 1.5 * half else now)


def rows_of(name: str) -> list[dict]:
    """What was recorded of a memory, or of the index, at each length."""
    if name == INDEX:
        return recorded()["index"]["first"]
    return recorded()["models"][check_choice("memory", name, recorded()["models"])]["first"]


def known(name: str, read: float) -> dict | None:
    """The recorded row at the longest length that is at most `read`; None below the shortest. `beyond` is true where
    the recording ended before."""
    rows = rows_of(name)
    passed = [row for row in rows if row["bytes"] <= read]
    return {**passed[-1], "beyond": read >= 2 * rows[-1]["bytes"]} if passed else None


def measured(name: str) -> dict[str, list]:
    """What was recorded of a memory or the index, a list per column, by bytes read."""
    columns = {"read": "bytes", "recall": "accuracy", "low": "low", "high": "high"}
    rows = rows_of(name)
    by_column = {column: [] for column in columns}
    for row in rows:
        for column, key in columns.items():
            by_column[column].append(row[key])
    by_column["bytes"] = [row.get("state_bytes", row.get("disk_bytes")) for row in rows]
    return by_column


@cache
def kept_along(name: str) -> np.ndarray:
    """Bytes kept at each length of GRID."""
    return np.array([state_bytes(name, at) for at in GRID])


def compute(books: float, book: str, memory: str, facts: int) -> dict:
    """Lines over all lengths for every memory, and where the chosen number of books stands."""
    names = [*recorded()["models"], INDEX]
    size = SIZES[check_choice("book", book, SIZES)]
    read = books * size
    now = known(memory, read)
    return {
        "books": books,
        "size": size,
        "read": read,
        "memory": memory,
        "facts": facts,
        "grid": GRID,
        "state": {name: kept_along(name) for name in names},
        "measured": {name: measured(name) for name in names},
        "here": {name: known(name, read) for name in names},
        "now": now,
        "kept": {name: state_bytes(name, read) for name in names},
        "seconds": {n: moved_bytes(n, read) / (accelerator(DEVICE).bandwidth_tb_s * 1e12) for n in names if n != INDEX},
    }


def outcome(arrays: dict) -> str | None:
    """The memory of fixed size that answers most facts when one book of docstrings has been read."""
    if arrays["books"] != 1 or arrays["size"] != min(SIZES.values()):
        return None
    return max(ASKED, key=lambda name: arrays["here"][name]["accuracy"])


def readable(count: float, units=("bytes", "kB", "MB", "GB", "TB", "PB", "EB")) -> str:
    """Three digits and a decimal unit."""
    power = min(len(units) - 1, int(math.log10(max(count, 1)) / 3))
    return f"{count / 1000**power:,.3g} {units[power]}"


def lasting(seconds: float) -> str:
    """A time in words, in the unit that suits it."""
    units = (("years", 3.156e7), ("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
    name, unit = next(((name, unit) for name, unit in units if seconds >= unit), ("seconds", 1))
    return f"{seconds / unit:,.3g} {name}"


def read_out(arrays: dict) -> str:
    """What is kept, what it cost, and what is known, or that this was not measured."""
    name, read, now, facts = arrays["memory"], arrays["read"], arrays["now"], arrays["facts"]
    told = f"After {arrays['books']:,} books ({readable(read)}) {name} keeps {readable(arrays['kept'][name])}"
    told += (
        ""
        if name == INDEX
        else f", and moving its state for it takes {lasting(arrays['seconds'][name])} of an H100's bandwidth"
    )
    if now is None:
        return f"{told}. The first fact has not been read yet."
    share = f"{now['right']} of {now['asked']} facts of the first book answered [{now['low']:.0%} to {now['high']:.0%}]"
    if now["beyond"]:
        return (
            f"{told}. What it still knows of the first book was NOT measured here: the recording ends at "
            f"{now['bytes']:,} bytes, with {share}."
        )
    low, high = (round(facts * now[end]) for end in ("low", "high"))
    return (
        f"{told}. Measured at {now['bytes']:,} bytes: {share}. Asked {facts} such facts, each in a reading of its own, "
        f"expect {facts * now['accuracy']:.0f} right, {low} to {high}."
    )


def look(name: str) -> theme.Style:
    """A memory's style, or that of the index on disk."""
    return theme.style("index" if name == INDEX else STYLES[name])


def draw(arrays: dict, figure) -> None:
    """Left, the facts still answered; right, the bytes kept, by formula, with markers where measured."""
    chosen = arrays["memory"]
    for name, kept in arrays["state"].items():
        style, some = look(name), arrays["measured"][name]
        line = dict(color=style.color, dash=style.dash, width=4 if name == chosen else 1.5)
        marker = dict(color=style.color, symbol=style.marker, size=9 if name == chosen else 6)
        figure.add_scatter(
            x=arrays["grid"], y=kept, name=f"{name}, kept", mode="lines", line=line, xaxis="x2", yaxis="y2",
            showlegend=False,
        )  # fmt: skip
        figure.add_scatter(
            x=some["read"], y=some["bytes"], name=f"{name}, measured", mode="markers", marker=marker, xaxis="x2",
            yaxis="y2", showlegend=False,
        )  # fmt: skip
        above = [high - share for high, share in zip(some["high"], some["recall"])]
        below = [share - low for low, share in zip(some["low"], some["recall"])]
        error = dict(array=above, arrayminus=below, visible=name == chosen, thickness=1.5, width=4)
        figure.add_scatter(
            x=some["read"], y=some["recall"], name=name, mode="lines+markers", line=line, marker=marker, error_y=error,
            cliponaxis=False,
        )  # fmt: skip
    _axes(arrays, figure)
    _unmeasured(arrays, figure)


def _axes(arrays: dict, figure) -> None:
    """Two panels, both against bytes read on a log scale."""
    read = dict(type="log", exponentformat="SI", title="bytes read")
    here = dict(type="line", y0=0, y1=1, line=dict(color=theme.INK, width=1.5, dash="dot"))
    at = max(arrays["read"], 10**2.6)
    places = (("x", "y"), ("x2", "y2")) if at <= MOST_READ else (("x2", "y2"),)
    figure.update_layout(
        margin=dict(l=64, r=16, t=84, b=52), legend=dict(y=1.04, x=0, xanchor="left", font=dict(size=12)),
        xaxis=dict(read, domain=RECALL, anchor="y", range=[2.6, math.log10(MOST_READ)], dtick=1),
        yaxis=dict(range=[-0.03, 1.04], title="facts of the first book answered", tickformat=".0%"),
        xaxis2=dict(read, domain=KEPT, anchor="y2", range=[2.6, 12.1], dtick=3),
        yaxis2=dict(anchor="x2", type="log", exponentformat="power", dtick=3, title="bytes kept"),
        shapes=[dict(here, x0=at, x1=at, xref=x, yref=f"{y} domain") for x, y in places],
    )  # fmt: skip


def _unmeasured(arrays: dict, figure) -> None:
    """Hatches what the recording of the chosen memory does not reach."""
    last = arrays["measured"][arrays["memory"]]["read"][-1]
    figure.add_scatter(
        x=[last, last, MOST_READ, MOST_READ], y=[0, 1, 1, 0], fill="toself", mode="lines", line=dict(width=0),
        name=HATCH, fillpattern=dict(shape="/", fgcolor=theme.MUTED, bgcolor="white", size=10, solidity=0.08),
        opacity=0.5, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    words = f"{arrays['memory']}:<br>not measured<br>beyond {last:,} bytes"
    end = math.log10(MOST_READ)
    middle = (math.log10(last) + end) / 2
    figure.add_annotation(text=words, x=middle, y=0.55, showarrow=False, bgcolor="white", font=dict(size=12))
    if arrays["read"] > MOST_READ:
        figure.add_annotation(
            text="you stand<br>far to the right", x=end, y=0.9, xanchor="right", showarrow=False, bgcolor="white",
            font=dict(size=12),
        )  # fmt: skip


class MillionBooks(View):
    """Books read against state, cost and recall of the first book."""

    name = "million-books"
    title = "What is still known of the first book?"
    prediction = Prediction(
        "One fact, then one book of docstrings to its end: which memory of fixed size still answers most often?",
        outcome,
        options=ASKED,
        until="Set the books to 1, of a module's docstrings.",
        why="Look at the curves where one book ends. Why that memory loses the fact most slowly was not found out.",
    )
    covers = True  # the picture has the recall after one book too
    width, height = 900, 420

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: books, memory, facts."""
        return {
            "books": W.SelectionSlider(options=[(f"{n:,}", n) for n in BOOKS], value=10, description="Books read"),
            "memory": W.Dropdown(options=[*recorded()["models"], INDEX], value="TTT-Linear", description="Memory"),
            "facts": W.IntSlider(value=20, min=5, max=100, step=5, description="Facts asked"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: book."""
        return {"book": W.Dropdown(options=list(SIZES), description="A book is")}

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
