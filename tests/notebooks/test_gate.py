"""The gate itself: a notebook run and normalised passes nbval, and one whose claim went wrong does not."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nl_course.views.kit.plot import STILL
from tools.run_notebooks import normalise, run, write

pytestmark = pytest.mark.slow
TOY = """from nl_course.views.kit.parts import Line
Line(text="a sentence")"""
NBVAL = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=180", "-p", "no:cacheprovider"]


def nbval(path):
    here = {**os.environ, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "pytest", *NBVAL, path.name]
    return subprocess.run(command, cwd=path.parent, env=here, capture_output=True, text=True)


def test_a_run_and_normalised_notebook_passes_nbval_until_its_claim_is_wrong(tmp_path):
    path = tmp_path / "claims.ipynb"
    claim = new_code_cell("print('one')\nprint('two')\n2 > 1", metadata={"tags": ["nbval-check-output"]})
    write(new_notebook(cells=[claim, new_code_cell("print('noise')"), new_code_cell(TOY)]), path)
    write(normalise(run(path)), path)
    once = path.read_bytes()
    write(normalise(run(path)), path)
    assert path.read_bytes() == once and b"noise\\n" not in once and b"a sentence" in once
    good = nbval(path)
    assert good.returncode == 0, good.stdout

    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].outputs[1].data["text/plain"] = "False"
    write(notebook, path)
    bad = nbval(path)
    assert bad.returncode == 1 and "Cell outputs differ" in bad.stdout


def test_a_curve_is_pictured_as_it_ended(tmp_path):
    path = tmp_path / "curve.ipynb"
    shown = "from nl_course.views.loss_curve import LossCurve\ncurve = LossCurve(steps=2)\ncurve"
    fed = "for step in (1, 2):\n    curve({'step': step, 'loss': 4.0 - step})"
    write(new_notebook(cells=[new_code_cell(shown), new_code_cell(fed)]), path)
    [output], fed = (cell.outputs for cell in run(path).cells)
    assert "Step 2: loss 2.50" in output.data[STILL]["read_out"] and fed == []
