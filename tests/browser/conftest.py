"""A copy of the notebooks in a real JupyterLab. Without a browser: one loud line, or failure if required."""

import os
import sys
import textwrap
import warnings
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.browser import Lab, NoBrowser, chromium
from tools.shots import copy_course

ROOT = Path(__file__).parents[2]
TOY = """
import ipywidgets as W, numpy as np
from nl_course.views.kit.shell import Prediction, View

class Wave(View):
    name, title, step_by = "wave", "How often does a wave repeat?", "frequency"
    prediction = Prediction(
        "How many crests at 4?", lambda a: a["crests"] if a["crests"] == 4 else None, until="Set it to 4."
    )
    def controls(self):
        return {"frequency": W.IntSlider(value=2, min=1, max=9, description="Frequency (crests per second)")}
    def more_controls(self):
        return {"kind": W.Dropdown(options=["line", "bars", "map"], description="Drawn as")}
    def compute(self, settings):
        t = np.linspace(0, 1, 200)
        return {"t": t, "y": np.sin(2 * np.pi * settings["frequency"] * t), "crests": settings["frequency"],
                "kind": settings["kind"]}
    def draw(self, a, figure):
        if a["kind"] == "map":
            figure.add_heatmap(z=np.outer(a["y"], a["y"])[::10, ::10], colorscale="Viridis")
        else:
            add = figure.add_scatter if a["kind"] == "line" else figure.add_bar
            add(x=a["t"], y=a["y"], marker=dict(color=np.abs(a["y"])))
        figure.update_layout(xaxis_title=f"time (s), {a['crests']} crests")
        if a["crests"] > 3:
            figure.add_annotation(text="fast", x=0.5, y=1, showarrow=False)
    def read_out(self, a):
        return f"The wave has {a['crests']} crests."
"""


def save(path: Path, *cells) -> None:
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(notebook, path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The notebooks and their previews, copied, with recorded runs for live trainings; and three toys."""
    folder = copy_course(tmp_path_factory.mktemp("browser") / "course")
    (folder / "toy_view.py").write_text(textwrap.dedent(TOY))
    show = "from toy_view import Wave\n\nWave()"
    save(folder / "toy.ipynb", new_markdown_cell("# Toy"), new_code_cell(show), new_code_cell("1 + 1"))
    save(folder / "failing.ipynb", new_code_cell("1 / 0"))
    remote = "![far](http://example.invalid/far.png)"
    save(folder / "remote.ipynb", new_markdown_cell(remote), new_code_cell("1"))
    return folder


@pytest.fixture(scope="session")
def browser():
    """One for all tests: Playwright runs once per process."""
    try:
        with chromium() as browser:
            yield browser
    except NoBrowser as missing:
        if os.environ.get("NL_COURSE_REQUIRE_BROWSER") == "1":
            pytest.fail(str(missing))
        warnings.warn(f"BROWSER TESTS SKIPPED: {missing}", stacklevel=1)
        pytest.skip(f"BROWSER TESTS SKIPPED: {missing}")


@pytest.fixture(scope="session")
def lab(folder, browser):
    with Lab(folder, browser) as lab:
        yield lab


@pytest.fixture(scope="session")
def axe() -> Path:
    """The script of axe-core, which finds what keyboards and screen readers cannot use."""
    script = Path(sys.prefix) / "axe/node_modules/axe-core/axe.min.js"
    if not script.is_file():
        missing = "ACCESSIBILITY IS NOT TESTED: axe-core is missing; install npm, then: make -B .venv/.ready"
        warnings.warn(missing, stacklevel=1)
        pytest.skip(missing)
    return script
