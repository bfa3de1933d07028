"""How far each comparison in the notebooks is from turning out otherwise, measured with two sets of instructions.

    python -m tools.margins [--all] [NOTEBOOK ...]        (all of notebooks/ when none is named)

Every notebook runs twice: as this machine runs it, and with the instructions that any x86-64 machine has (REDUCED).
The numbers behind each comparison are noted (tools/margin_probe.py), and four things are asked of them:

tolerance   a quantity against a tiny literal, `allclose` and its relatives: bound / value, or value / bound where the
            claim is that the two differ, is at least 10 with both sets.
order       one measured quantity against another or against a threshold: it holds with both sets, and its distance
            from turning is at least 10 times what the sets move it by. Its ratio is reported where it is under 1.1.
shown       a number rounded for print: its distance from the next rounding edge is at least 10 times that too.
exact       whole numbers and equality to the last bit: counted.

A comparison that falls short is listed as weak and ends the command with 1. Cells whose output the tests do not
compare may print what they like; tolerances and orders in them are listed in brackets, because a later cell may print
what they found, and do not count.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from nl_course.notebooks import all_notebooks
from tools.run_notebooks import ROOT

# PyTorch's own kernels, MKL's and oneDNN's. Not every processor heeds MKL's first variable; all heed the second.
REDUCED = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
LEAST = 10.0  # a margin under it is weak
NEAR = 1.1  # an order whose ratio is under it is reported
PLANT = """import sys
sys.path.insert(0, {root!r})
from tools.margin_probe import install
install(get_ipython())"""


@dataclass(frozen=True)
class Finding:
    """The smallest margin of one comparison in one cell over all the times that it was made."""

    notebook: str
    cell: str
    checked: bool  # is the cell's output compared by the tests
    kind: str  # tolerance, order or shown
    source: str
    margin: float
    ratio: float  # of the two sides of an order; infinite for the others
    flips: bool  # another result with the other instructions
    times: int

    @property
    def weak(self) -> bool:
        """Does it fall short."""
        return self.flips or self.margin < LEAST

    @property
    def state(self) -> str:
        """The word that it is listed under."""
        if self.flips:
            return "FLIPS"
        if self.weak:
            return "weak"
        return "near" if self.ratio < NEAR else "good"

    def __str__(self) -> str:
        cell = self.cell if self.checked else f"({self.cell})"
        ratio = f"  ratio {self.ratio:.4g}" if math.isfinite(self.ratio) else ""
        source = " ".join(self.source.split())
        return f"{self.state:5} {self.kind:9} margin {self.margin:8.3g}{ratio}  {self.notebook}#{cell}  {source}"


def noted(path: Path, environment: dict[str, str]) -> list[dict]:
    """The notes of one run of a notebook with these environment variables; raises where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    cells = [new_code_cell(PLANT.format(root=str(ROOT)))]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cells += [new_code_cell(f"_margins_.cell = {cell['id']!r}"), cell]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "notes.json"
        notebook.cells = [*cells, new_code_cell(f"_margins_.save({str(kept)!r})")]
        where = {"metadata": {"path": str(path.parent)}}
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where)
        client.store_widget_state = False
        client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
        return json.loads(kept.read_text(encoding="utf-8"))


def judge(notebook: str, checked: set[str], one: list[dict], other: list[dict]) -> list[Finding]:
    """The findings from the notes of two runs. The n-th time of a comparison in one is held beside the n-th in the
    other."""
    runs = []
    for notes in (one, other):
        grouped = defaultdict(list)
        for note in notes:
            if note["kind"] != "exact":
                grouped[note["cell"], note["kind"], note["source"]].append(note)
        runs.append(grouped)
    findings = []
    for key in runs[0].keys() & runs[1].keys():
        cell, kind, source = key
        pairs = list(zip(runs[0][key], runs[1][key]))
        kinds = {"compare": "order", "ranked": "order", "close": "tolerance", "shown": "shown"}
        kind = "tolerance" if pairs[0][0].get("tolerance") else kinds[kind]
        if kind == "shown" and cell not in checked:
            continue
        measured = [measure(kind, *pair) for pair in pairs]
        margin = min(m for m, _ in measured)
        ratio = min(r for _, r in measured)
        flips = any(a.get("result") != b.get("result") for a, b in pairs)
        # a comparison that is made more often with one set than with the other depends on an earlier one that turned
        flips = flips or len(runs[0][key]) != len(runs[1][key])
        findings.append(Finding(notebook, cell, cell in checked, kind, source, margin, ratio, flips, len(pairs)))
    return findings


def measure(kind: str, one: dict, other: dict) -> tuple[float, float]:
    """(margin, ratio) of one comparison with both sets; infinite where nothing can turn it."""
    if kind == "tolerance":
        return min(tolerance_margin(one), tolerance_margin(other)), math.inf
    if kind == "shown":
        return min(map(shown_margin(one), one["values"], other["values"])), math.inf
    margins = [distance(abs(a), abs(a - b)) for a, b in zip(one["gaps"], other["gaps"])]
    ratios = [ratio(gap, size) for gap, size in zip(one["gaps"], one["sizes"])]
    return min(margins), min(ratios)


def tolerance_margin(note: dict) -> float:
    """How many times the bound lies beyond the value, or the value beyond the bound."""
    if "share" in note:
        share = note["share"]
        return (1 / share if share else math.inf) if note["result"] else share
    return min(ratio(gap, size) for gap, size in zip(note["gaps"], note["sizes"]))


def ratio(gap: float, size: float) -> float:
    """Of the larger to the smaller of two numbers of one sign, whose difference and larger size these are."""
    smaller = size - abs(gap)
    return size / smaller if smaller > 0 else math.inf


def distance(to_edge: float, moved: float) -> float:
    """How many times what was moved would still not reach the edge."""
    if math.isinf(to_edge):
        return math.inf
    return to_edge / moved if moved else math.inf


def shown_margin(note: dict):
    """The function (value, other value) -> margin for a number rounded to the note's decimals."""

    def margin(value: float, other: float) -> float:
        moved = abs(value - other)
        if not math.isfinite(value) or note["decimals"] is None:
            return math.inf if value == other or value != value != other != other else 0.0
        scaled = value * 10 ** note["decimals"]
        to_edge = abs(scaled - math.floor(scaled) - 0.5)
        if abs(scaled) < 0.5 and min(value, other) < 0:  # shown as zero, with its sign
            to_edge = min(to_edge, abs(scaled))
        return distance(to_edge / 10 ** note["decimals"], moved)

    return margin


def margins_of(path: Path) -> tuple[list[Finding], int]:
    """The findings of one notebook, and how many exact comparisons it makes."""
    notebook = nbformat.read(path, as_version=4)
    checked = {cell["id"] for cell in notebook.cells if "nbval-check-output" in cell.metadata.get("tags", [])}
    one, other = noted(path, {}), noted(path, REDUCED)
    exact = {(note["cell"], note["source"]) for note in one if note["kind"] == "exact"}
    return judge(path.stem, checked, one, other), len(exact)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to measure (default: all)")
    parser.add_argument("--all", action="store_true", help="list the good ones too")
    options = parser.parse_args(arguments)
    weak = 0
    for path in options.notebooks or all_notebooks():
        findings, exact = margins_of(path)
        for finding in sorted(findings, key=lambda f: (f.kind, f.margin)):
            if options.all or finding.weak or finding.ratio < NEAR:
                print(finding)
        counts = Counter(finding.kind for finding in findings)
        told = ", ".join(f"{counts[kind]} {kind}" for kind in ("tolerance", "order", "shown"))
        short = sum(finding.weak and finding.checked for finding in findings)
        print(f"{path.stem}: {told}, {exact} exact; {short} weak", flush=True)
        weak += short
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
