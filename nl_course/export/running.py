"""Runs a notebook for export: its views also hand over what they show, as a plot that needs no kernel."""

import json
import os
from pathlib import Path

import nbformat

from nl_course.views.kit.plot import GRIDS, STILL, STILLS, WIDGET

SECONDS = 600  # the longest that a cell may take
# The last cell of a run: a curve that was shown empty, and grew in the cells after it, is exported as it ended.
LATEST = "from nl_course.views.kit.plot import latest as _latest\n\nprint(_latest())"


def with_latest(notebook: nbformat.NotebookNode, latest: nbformat.NotebookNode) -> None:
    """Gives each widget among a notebook's outputs the picture that it had when the cell `latest`, LATEST, ran."""
    stills = json.loads("".join(output.text for output in latest.outputs if output.get("name") == "stdout"))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            model = data.get(WIDGET, {}).get("model_id")
            if model in stills:
                data[STILL] = nbformat.from_dict(stills[model])


def run_notebook(path: Path, jobs: int = 1) -> tuple[nbformat.NotebookNode, str]:
    """The notebook with fresh outputs, and what failed in one line, or "". The file itself is left as it is.

    `jobs` notebooks run at once, and each takes its share of the cores: threads that wait for a core keep it busy, and
    so cost more than they bring. An OMP_NUM_THREADS that is set already wins.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    # Outputs of an earlier run must not pass for those of a cell that this run did not reach.
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    notebook.cells.append(nbformat.v4.new_code_cell(LATEST))
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where)
    client.store_widget_state = False
    try:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        client.execute(env={"OMP_NUM_THREADS": str(threads), **os.environ, STILLS: "1", GRIDS: "1"})
        with_latest(notebook, notebook.cells[-1])
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return notebook, str(error).strip().splitlines()[-1]
    finally:
        notebook.cells.pop()
    return notebook, ""
