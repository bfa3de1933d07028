"""Capacity: how much does a d x d matrix hold?

Random unit keys and values are written one after the other and asked again. Left, error or share of right
answers against the number of pairs, with the theory's line for Hebb's rule, (n - 1) / d, and the learner's own
draws; right, the same answers by age, newest first; below it the bytes kept. All is measured as the controls move.
"""

from functools import lru_cache

import ipywidgets as W
import numpy as np

from nl_course.errors import check_choice
from nl_course.tasks.pairs import Pairs, attended, draw_pairs, recalled, written
from nl_course.views.kit import theme
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View, by_name, pure

LOADS = (4, 8, 16, 32, 64, 128, 256)  # numbers of pairs
WIDTHS = (16, 32, 64)
ANSWERS = 512  # behind each point of a line, in as many independent draws as that takes (32 at most)
MEMORIES = {"Hebb": "linear", "delta rule": "delta", "attention": "attention"}
MEASURES = ("right answers", "squared error")
NUMBER = 4  # bytes of a number that is kept in float32


def kept_bytes(memory: str, pairs: int, width: int) -> int:
    """What is kept after `pairs` pairs, in float32: a matrix, or a key and a value for each pair."""
    return NUMBER * (2 * pairs * width if memory == "attention" else width * width)


@lru_cache(maxsize=256)
def _drawn(pairs: int, width: int, similarity: float, rows: int, seed: int) -> Pairs:
    """`draw_pairs`, remembered."""
    return draw_pairs(pairs, width, similarity, rows, seed)


@lru_cache(maxsize=1024)
def measured(
    memory: str, pairs: int, width: int, similarity: float = 0.0, sharpness: float = 8.0, rows: int = 0, seed: int = 0
) -> dict:
    """Mean "squared error", share of "right answers" by argmax, and that share "by age", newest first. `rows` 0 draws
    until ANSWERS keys were asked."""
    drawn = _drawn(pairs, width, similarity, rows or min(32, max(2, ANSWERS // pairs)), seed)
    if memory == "attention":
        reads = attended(drawn, drawn.keys, sharpness)
    else:
        reads = drawn.keys @ written(
            drawn, MEMORIES[check_choice("memory", memory, MEMORIES)].replace("linear", "hebb")
        )
    found = recalled(drawn, reads)
    return {
        "squared error": found.error.mean().item(),
        "right answers": found.right.double().mean().item(),
        "by age": found.by_age.numpy(),
    }


def by_groups(values: np.ndarray, groups: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Means over at most `groups` runs of neighboring ages, and the age in the middle of each."""
    runs = np.array_split(np.arange(len(values)), min(groups, len(values)))
    return np.array([run.mean() for run in runs]), np.array([values[run].mean() for run in runs])


def compute(
    width: int, pairs: int, similarity: float = 0.0, measure: str = "right answers", sharpness: float = 8.0,
    draws: int = 1,
) -> dict:  # fmt: skip
    """Lines over all of LOADS, theory where it speaks (random keys), `draws` single draws at `pairs`, recall by age."""

    def at(memory: str, n: int, *draw: int) -> dict:
        """`measured` of a memory at `n` pairs."""
        # Only attention has a sharpness: what the matrices do is remembered when it moves.
        return measured(memory, n, width, similarity, sharpness if memory == "attention" else 0.0, *draw)

    here = {name: at(name, pairs) for name in MEMORIES}
    lines, points, kept = {}, {}, {}
    for name in MEMORIES:
        lines[name] = [at(name, n)[measure] for n in LOADS]
        points[name] = [at(name, pairs, 1, 100 + i)[measure] for i in range(draws)]
        kept[name] = [kept_bytes(name, n, width) for n in LOADS]
    return {
        "width": width,
        "pairs": pairs,
        "similarity": similarity,
        "measure": measure,
        "lines": lines,
        "theory": [(n - 1) / width for n in LOADS],
        "points": points,
        "here": here,
        "age": {name: by_groups(here[name]["by age"]) for name in MEMORIES},
        "bytes": kept,
    }


def draw(arrays: dict, figure) -> None:
    """Left the measure against pairs, right recall by age above the bytes kept."""
    errors = arrays["measure"] == "squared error"
    for name, memory in MEMORIES.items():
        look = theme.style(memory)
        line = dict(color=look.color, dash=look.dash, width=2)
        marker = dict(color=look.color, symbol=look.marker, size=7)
        figure.add_scatter(x=LOADS, y=arrays["lines"][name], name=name, mode="lines+markers", line=line, marker=marker)
        own = dict(color="white", symbol="diamond", size=10, line=dict(color=look.color, width=2))
        figure.add_scatter(
            x=[arrays["pairs"]] * len(arrays["points"][name]), y=arrays["points"][name], name="single draws",
            mode="markers", marker=own, showlegend=False,
        )  # fmt: skip
        age, share = arrays["age"][name]
        figure.add_scatter(
            x=age, y=share, name=f"{name} by age", mode="lines+markers", line=line, marker=marker,
            xaxis="x2", yaxis="y2", showlegend=False,
        )  # fmt: skip
        figure.add_scatter(
            x=LOADS, y=arrays["bytes"][name], name=f"{name} bytes", mode="lines", line=line, xaxis="x3", yaxis="y3",
            showlegend=False,
        )  # fmt: skip
    if errors:
        figure.add_scatter(
            x=LOADS, y=arrays["theory"], name="theory for Hebb, random keys: (n - 1) / d", mode="lines",
            line=dict(color=theme.INK, width=1),
        )  # fmt: skip
    loads = dict(type="log", tickvals=LOADS, ticktext=[str(n) for n in LOADS], title="pairs written")
    titles = ((0, 1, "By load"), (0.58, 1, f"By age, {arrays['pairs']} pairs written"), (0.58, 0.36, "Bytes kept"))
    figure.update_layout(
        margin=dict(l=58, r=16, t=52, b=48), legend=dict(y=1.06, x=0, xanchor="left"),
        xaxis=dict(**loads, domain=(0, 0.5)),
        yaxis=dict(title="mean squared error" if errors else "share right, by the nearest value",
                   type="log" if errors else "linear", range=[-3, 1] if errors else [-0.03, 1.05],
                   dtick=1 if errors else None),
        xaxis2=dict(domain=(0.58, 1), anchor="y2", title="pairs written after it (0: the newest)"),
        yaxis2=dict(domain=(0.6, 1), anchor="x2", range=[-0.05, 1.08], title="share right"),
        xaxis3=dict(**loads, anchor="y3") | dict(domain=(0.58, 1)),
        yaxis3=dict(domain=(0, 0.36), anchor="x3", type="log", title="bytes", exponentformat="SI", dtick=1),
        shapes=[
            dict(type="line", x0=arrays["width"], x1=arrays["width"], y0=0, y1=1, xref="x", yref="paper",
                 line=dict(color=theme.MUTED, width=1, dash="dash"))
        ],
        annotations=[
            dict(text=text, x=x, y=y, xref="paper", yref="paper", xanchor="left", yanchor="bottom", showarrow=False)
            for x, y, text in titles
        ] + [
            dict(text="n = d", x=np.log10(arrays["width"]), y=0, xref="x", yref="paper", xanchor="left",
                 yanchor="bottom", showarrow=False, font=dict(color=theme.MUTED))
        ],
    )  # fmt: skip


def read_out(arrays: dict) -> str:
    """Load, right answers and errors, newest beside oldest, bytes."""
    n, d, here = arrays["pairs"], arrays["width"], arrays["here"]
    told = []
    for name in MEMORIES:
        _, share = arrays["age"][name]
        told.append(
            f"{name} {here[name]['right answers']:.0%} right (newest {share[0]:.0%}, oldest {share[-1]:.0%}; "
            f"squared error {here[name]['squared error']:.2f})"
        )
    law = f"; the theory says {(n - 1) / d:.2f} for Hebb" if arrays["similarity"] == 0 else ""
    matrix, cache = (kept_bytes(name, n, d) for name in ("Hebb", "attention"))
    return (
        f"{n} pairs in width {d}, keys' mean cosine {arrays['similarity']:.2f}: {', '.join(told)}{law}. "
        f"A matrix keeps {matrix:,} bytes however much is written, attention {cache:,} by now."
    )


def outcome(arrays: dict) -> str | None:
    """Who answers more often, once twice as many pairs as the width were written under random keys."""
    if arrays["pairs"] != 2 * arrays["width"] or arrays["similarity"] > 0:
        return None
    hebb, delta = (arrays["here"][name]["right answers"] for name in ("Hebb", "delta rule"))
    if abs(hebb - delta) < 0.05:
        return "both alike"
    return "Hebb" if hebb > delta else "delta rule"


class Capacity(View):
    """Load, width and likeness of the keys; recall by load and by age; bytes."""

    name = "capacity"
    title = "How much does a d x d matrix hold?"
    prediction = Prediction(
        "Twice as many pairs as the matrix is wide, random keys, each written once: who answers more of them?",
        outcome,
        options=("Hebb", "delta rule", "both alike"),
        until="Set the pairs to twice the width, with random keys (cosine 0).",
        why="Hebb blurs all pairs a little, which the nearest answer survives; each delta write takes away what "
        "older pairs had written.",
    )
    covers = True  # the curves by load go on to twice the width
    width, height = 920, 420
    continuous = False
    moves = ("pairs", "similarity", "measure")

    def controls(self) -> dict[str, W.Widget]:
        """Controls in sight: pairs, similarity."""
        return {
            "pairs": W.SelectionSlider(options=LOADS, value=64, description="Pairs written (n)"),
            "similarity": W.FloatSlider(value=0, min=0, max=0.9, step=0.1, description="Mean cosine of the keys"),
        }

    def more_controls(self) -> dict[str, W.Widget]:
        """Controls folded away: sharpness, measure, width, draws."""
        return {
            "sharpness": W.FloatSlider(value=8, min=0, max=32, step=0.5, description="Sharpness of attention"),
            "measure": W.ToggleButtons(options=MEASURES, description="Measure"),
            "width": W.SelectionSlider(options=WIDTHS, value=64, description="Width of the matrix (d)"),
            "draws": W.IntSlider(value=1, min=1, max=5, description="Single draws shown (diamonds)"),
        }

    compute, draw, read_out = pure(by_name(compute), draw, read_out)
