"""Which rows there are, in which order, and how the time is shared.

A section that needs less than its share leaves the rest to those after it. Within a section the rows that matter most
come first, so that what is not reached is what was least asked for: the longest texts, and what is compiled.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nl_course.benches.gpu.contestants import BESIDE, OURS, PEERS, TINY_TOKENS
from nl_course.benches.gpu.counts import PASSES
from nl_course.benches.gpu.guard import NOT_REACHED, Worker

MEASURES = "nl_course.benches.gpu.measures"
PRESETS_125M = (
    "125m",
    "gated-delta-125m",
    "kda-125m",
    "ttt-linear-125m",
    "ttt-mlp-125m",
    "titans-125m",
    "mac-125m",
    "mag-125m",
    "mal-125m",
    "ttt-e2e-125m",
    "hope-attention-125m",
    "self-modifying-125m",
    "hope-125m",
)
SMALLEST = 0.5  # seconds that must be left for a row to be begun
WIDTH, HEADS = 768, 12


@dataclass(frozen=True)
class Row:
    """A row: what is said about it, and the function and arguments that measure it ("module:function")."""

    about: dict[str, Any]
    call: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """Rows that share a part of the time; none takes longer than `longest` seconds."""

    name: str
    share: float
    longest: float
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Sizes:
    """How large everything is: "full" on a GPU, "tiny" for a trial on a CPU."""

    name: str
    contexts: tuple[int, ...]
    tokens: int  # of a pass, all rows together, so that every context is the same work
    decoded_at: int
    square: int  # rows of the matrices whose product is the roofline
    presets: tuple[str, ...]
    steps: int
    batch: int
    length: int
    patience: float = 1.0  # by which the longest that a row may take is multiplied


SIZES = {
    "full": Sizes("full", (2048, 8192, 32768), 32768, 16384, 8192, PRESETS_125M, 100, 4, 4096),
    "tiny": Sizes("tiny", (TINY_TOKENS,), 2 * TINY_TOKENS, 16, 64, ("micro", "ttt-linear-micro"), 2, 1, 16, 30),
}
# Of the whole time, the suite's tests first. What is compiled comes last: it takes longest and is the least certain.
SHARES = {
    "suite": 0.22,
    "rates": 0.02,
    "passes": 0.25,
    "training": 0.18,
    "decode": 0.08,
    "peers": 0.07,
    "decode compiled": 0.08,
    "passes compiled": 0.10,
}


def sections(sizes: Sizes, device: str) -> list[Section]:
    """Every section but the suite's, which is no matter of rows that are measured here."""
    names = list(OURS)
    first, *_ = sizes.contexts
    at_first = [_layer(name, which, first, sizes, device, "compiled") for name in names for which in PASSES]
    rates = Row({"name": "matrix products and copies"}, f"{MEASURES}:rates", {"device": device, "size": sizes.square})
    longest_and_rows = {
        "rates": (15, [rates]),
        "passes": (20, list(_passes(names, sizes, device))),
        "training": (20, [_training(name, sizes, device) for name in sizes.presets]),
        "decode": (20, [_decode(name, sizes, device, "eager") for name in names]),
        "peers": (20, list(_peers(sizes, device))),
        "decode compiled": (30, list(_decode_compiled(names, sizes, device))),
        "passes compiled": (45, at_first),
    }
    planned = []
    for name, (longest, rows) in longest_and_rows.items():
        planned.append(Section(name, SHARES[name], longest * sizes.patience, rows))
    return planned


def _passes(names: list[str], sizes: Sizes, device: str) -> Iterator[Row]:
    """Every contestant at the first context, then all of them at the next."""
    for context in sizes.contexts:
        for name in names:
            for which in PASSES:
                yield _layer(name, which, context, sizes, device, "eager")


def _layer(name: str, which: str, context: int, sizes: Sizes, device: str, how: str) -> Row:
    texts = max(1, sizes.tokens // context)
    arguments = {"which": which, "context": context, "rows": texts}
    about = {"name": OURS[name].title, "contestant": name, **arguments, "how": how}
    told = {"name": name, **arguments, "device": device, "how": how, "sizes": sizes.name}
    return Row(about, f"{MEASURES}:layer", told)


def _decode(name: str, sizes: Sizes, device: str, how: str) -> Row:
    about = {"name": OURS[name].title, "contestant": name, "context": sizes.decoded_at, "how": how}
    told = {"name": name, "context": sizes.decoded_at, "device": device, "how": how, "sizes": sizes.name}
    return Row(about, f"{MEASURES}:decode", told)


def _decode_compiled(names: list[str], sizes: Sizes, device: str) -> Iterator[Row]:
    for how in ("compiled", "CUDA graphs"):
        if how == "compiled" or device == "cuda":
            for name in names:
                yield _decode(name, sizes, device, how)


def _peers(sizes: Sizes, device: str) -> Iterator[Row]:
    width, heads = (WIDTH, HEADS) if sizes.name == "full" else (16, 2)
    for context in sizes.contexts:
        for name in PEERS:
            for which in PASSES:
                texts = max(1, sizes.tokens // context)
                arguments = {"which": which, "context": context, "rows": texts}
                told = {"name": name, **arguments, "device": device, "width": width, "heads": heads}
                yield Row({"name": name, "beside": BESIDE[name], **arguments}, f"{MEASURES}:other", told)


def _training(preset: str, sizes: Sizes, device: str) -> Row:
    settings = {"preset": preset, "steps": sizes.steps, "rows": sizes.batch, "length": sizes.length}
    about = {"name": preset, "rows": sizes.batch, "context": sizes.length}
    return Row(about, f"{MEASURES}:training", {**settings, "device": device})


def run(
    planned: list[Section],
    worker: Worker,
    seconds: float,
    shares_begin: float,
    on_row: Callable[[dict[str, Any]], None],
    meanwhile: Callable[[Row], None] = lambda row: None,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Measures the rows of `planned`, one after another, and hands each to `on_row` as it comes: what is said about it,
    its "status", and figures or a "reason".

    The whole has `seconds`, of which the share `shares_begin` is spent already; `meanwhile` is called with each row
    while it is measured. A row that its section has no time left for is "not reached".
    """
    share = shares_begin
    begin = now() - shares_begin * seconds
    for section in planned:
        share += section.share
        until = begin + share * seconds
        for row in section.rows:
            left = until - now()
            if left < SMALLEST:
                answer = {"status": NOT_REACHED, "reason": f"the time of {section.name!r} was used up"}
            else:
                allowed = min(left, section.longest)
                arguments = dict(row.arguments)
                if not row.call.endswith(":rates"):
                    arguments["seconds"] = allowed / 3
                answer = worker.measure(row.call, arguments, allowed, lambda row=row: meanwhile(row))
            on_row({"section": section.name, **row.about, **answer})
