"""What is said of these memories, and what the course can say to it: supported, contradicted or open, with the place.

The claims, `assets/claims.json`, are those of a popular account of Nested Learning, attention and the demand for fast
memory (November 2025), in our words. A place is a cell of a notebook, "09_memory_tradeoffs#the-loads", or a paper. A
test follows every link.

    table()                     # all of them, as a table for a notebook
    by_verdict("open")
"""

import json
from dataclasses import dataclass
from functools import cache

from nl_course.errors import check_choice
from nl_course.files import asset
from nl_course.notebooks import label

VERDICTS = ("supported", "contradicted", "open")


@dataclass(frozen=True)
class Claim:
    """`said`: the claim. `shown`: what is known, in a sentence or two. `cells` "notebook#cell", `papers` as cited."""

    said: str
    verdict: str
    shown: str
    cells: tuple[str, ...] = ()
    papers: tuple[str, ...] = ()

    def __post_init__(self):
        check_choice("verdict", self.verdict, VERDICTS)


@cache
def claims() -> tuple[Claim, ...]:
    """All of `assets/claims.json`, in its order."""
    rows = json.loads(asset("claims.json").read_text(encoding="utf-8"))["claims"]
    return tuple(Claim(**{**row, "cells": tuple(row["cells"]), "papers": tuple(row["papers"])}) for row in rows)


def by_verdict(verdict: str) -> list[Claim]:
    """The claims of one verdict."""
    return [claim for claim in claims() if claim.verdict == check_choice("verdict", verdict, VERDICTS)]


def link(cell: str) -> str:
    """A Markdown link to a cell, as JupyterLab follows it."""
    notebook, name = cell.split("#")
    return f"[{label(notebook)}]({notebook}.ipynb#cell-id={name})"


def table() -> str:
    """All claims as a Markdown table."""
    rows = ["| claim | mark | what is known | where |", "|---|---|---|---|"]
    for claim in claims():
        links = list(dict.fromkeys(link(cell) for cell in claim.cells))  # each once, in order
        where = ", ".join([*links, *claim.papers]) or "no source found"
        rows.append(f"| {claim.said} | **{claim.verdict}** | {claim.shown} | {where} |")
    return "\n".join(rows)
