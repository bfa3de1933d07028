"""The measure of margins: what the probe notes, what it leaves alone, and what is judged as too close."""

import math
import os
import re

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_notebook

from tools import margin_probe, margins
from tools.margins import LEAST, REDUCED, ROOT, judge, main


@pytest.fixture
def run(monkeypatch):
    """The notes of a cell's code."""
    for module in (torch, np, torch.testing, math):
        for name in ("allclose", "isclose", "equal", "assert_close"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name))  # puts back what the probe wraps
    shell = InteractiveShell()
    probe = margin_probe.install(shell)

    def notes(code: str) -> list[dict]:
        probe.cell, probe.notes = "one", []
        shell.run_cell(code, store_history=False).raise_error()
        return probe.notes

    notes.names = shell.user_ns
    return notes


def only(findings: list) -> margins.Finding:
    (finding,) = findings
    return finding


def found(one: list[dict], other: list[dict] | None = None) -> margins.Finding:
    return only(judge("toy", {"one"}, one, one if other is None else other))


def test_a_tolerance_with_a_small_margin_is_weak_and_one_with_a_large_is_not(run):
    weak = found(run("apart = 2e-6\nprint(apart < 5e-6)"))
    assert weak.kind == "tolerance" and weak.margin == pytest.approx(2.5) and weak.weak
    assert str(weak).startswith("weak  tolerance margin      2.5  toy#one  apart < 5e-06")
    good = found(run("apart = 2e-6\nprint(apart < 1e-4)"))
    assert good.margin == pytest.approx(50) and not good.weak
    assert found(run("abs(3.0 - 3.0) < 1e-12")).margin == math.inf
    differs = found(run("0.004 > 1e-3"))
    assert differs.margin == pytest.approx(4) and differs.weak
    assert found(run("import torch\n(torch.tensor([1e-9, 3e-7]) < 1e-6).all()")).margin == pytest.approx(10 / 3)
    assert found(run("apart = 3e-6\napart < 1e-6 * max(5.5, 2.0)")).margin == pytest.approx(5.5 / 3)


@pytest.mark.parametrize(
    ("code", "margin"),
    [
        ("import torch\ntorch.allclose(torch.tensor([1.0]), torch.tensor([1.0 + 4e-6]))", 10.01 / 4.05),
        ("import torch\ntorch.allclose(torch.zeros(2), torch.tensor([0.0, 2e-3]), rtol=0, atol=1e-3)", 2),
        ("import torch\ntorch.testing.assert_close(torch.zeros(1), torch.full((1,), 2e-6))", 5),
        ("import math\nmath.isclose(1.0, 1.0 + 5e-10)", 2),
        ("import numpy as np\nnp.allclose(np.zeros(3), 4e-9)", 2.5),
    ],
)
def test_allclose_and_its_relatives_are_tolerances(run, code, margin):
    finding = found(run(code))
    assert finding.kind == "tolerance" and finding.margin == pytest.approx(margin, rel=0.05)


def test_an_order_is_judged_by_what_the_instructions_move(run):
    names = run.names

    def pair(code, one, other):
        names["x"] = one
        first = run(code)
        names["x"] = other
        return found(first, run(code))

    steady = pair("x < 0.5", 0.4, 0.400001)
    assert steady.kind == "order" and steady.ratio == pytest.approx(1.25) and not steady.weak
    assert pair("x < 0.5", 0.49, 0.485).weak  # moves by half of the way to the threshold
    turned = pair("x < 0.5", 0.49, 0.51)
    assert turned.flips and turned.weak and str(turned).startswith("FLIPS")
    close = pair("x < 0.5", 0.49, 0.49)
    assert not close.weak and str(close).startswith("near")
    assert pair("0.1 < x <= 0.5", 0.49, 0.485).weak
    assert pair("max({'a': 0.4, 'b': x}, key={'a': 0.4, 'b': x}.get)", 0.42, 0.41).weak
    assert not pair("sorted('ab', key={'a': 0.4, 'b': x}.get)", 0.8, 0.81).weak
    assert pair("import torch\ntorch.tensor([0.1, 0.4, x]).argmax()", 0.41, 0.415).weak
    assert pair("import torch\ntorch.tensor([x]).gt(0.5)", 0.49, 0.485).weak
    assert not pair("x < float('inf')", 0.4, 0.8).weak


def test_a_rounded_number_is_judged_by_its_distance_from_the_edge(run):
    names = run.names

    def pair(code, one, other):
        names["x"] = one
        first = run(code)
        names["x"] = other
        return found(first, run(code))

    assert not pair("f'{x:.2f}'", 0.123, 0.12301).weak
    assert pair("f'{x:.2f}'", 0.1249, 0.12495).weak
    assert not pair("f'{x:.2f}'", 0.125, 0.125).weak  # exact in both
    assert pair("f'{x:.0%}'", 0.1249, 0.12495).kind == "shown"
    assert not pair("f'{x:.0%}'", 0.12, 0.1201).weak
    assert pair("f'{x:+.1f}'", 1e-9, -1e-9).weak  # +0.0 or -0.0
    assert pair("round(x, 1)", 0.2499, 0.24995).weak
    assert pair("import numpy as np\nnp.array([0.0, x]).round(1)", 0.2499, 0.24995).weak
    assert pair("f'{x}'", 0.1, 0.1 + 1e-12).weak  # all digits are shown
    assert not pair("f'{x}'", 0.1, 0.1).weak


def test_whole_numbers_and_bits_are_exact(run):
    code = "import torch\n3 < 4, torch.arange(3) < 2, torch.equal(torch.ones(1), torch.ones(1)), 0.1 == 0.1, 'a' < 'b'"
    notes = run(code)
    assert [note["kind"] for note in notes] == ["exact"] * 4 and judge("toy", {"one"}, notes, notes) == []


def test_a_cell_does_the_same_with_the_probe(run):
    code = """
import torch
x = torch.tensor([0.2, 0.7])
held = {
    "chain": 0 < 1.5 < 2, "broken": 0 < 3.5 < 2, "elements": (x > 0.5).tolist(), "text": f"{x[0]:.1f} {1 < 2} {3!r:>3}",
    "round": (round(2.5), round(2.345, 2), x.round(decimals=1).tolist()), "sorted": sorted("ba", key=ord, reverse=True),
    "best": max([1.0, -3.0], key=abs), "none": max([], key=abs, default=None), "where": x.argmax().item(),
    "words": "a" < "b", "lists": [1, 2.0] < [1, 3.0], "inside": [y < 0.5 for y in x.tolist() if y > 0.1],
    "close": torch.allclose(x, x + 1), "width": f"{0.25:{6}.{1}f}",
}
"""
    plain = {}
    exec(code, plain)
    run(code)
    assert run.names["held"] == plain["held"]


@pytest.mark.slow
def test_a_planted_comparison_with_too_small_a_margin_is_found(tmp_path, capsys):
    path = tmp_path / "toy.ipynb"
    here = "import os\nimport torch\nx = torch.tensor(3e-7)"
    planted = "print('reduced', os.environ['ATEN_CPU_CAPABILITY'] if 'ATEN_CPU_CAPABILITY' in os.environ else None)"
    cells = [new_code_cell(here), new_code_cell(f"{planted}\nprint(bool(x < 1e-6))", id="close")]
    cells[1].metadata["tags"] = ["nbval-check-output"]
    nbformat.write(new_notebook(cells=cells), path)
    assert main([str(path)]) == 1
    said = capsys.readouterr().out
    assert re.search(r"weak  tolerance margin +3\.33  toy#close  x < 1e-06", said) and "1 tolerance" in said
    cells[1].source = "print(bool(x < 1e-5))"
    nbformat.write(new_notebook(cells=cells), path)
    assert main([str(path)]) == 0 and LEAST == 10


def test_make_portable_holds_the_same_instructions():
    text = (ROOT / "Makefile").read_text("utf-8")
    set_there = re.search(r"^REDUCED := (.*)$", text, re.MULTILINE)[1].split()
    assert dict(word.split("=") for word in set_there) == REDUCED and not os.environ.keys() & {"REDUCED"}
