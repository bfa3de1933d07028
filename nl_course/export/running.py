"""Runs a notebook for export: its views also hand over what they show, as a plot that needs no kernel."""

import os
from pathlib import Path

import nbformat

SECONDS = 600  # the longest that a cell may take


def run_notebook(path: Path, jobs: int = 1) -> tuple[nbformat.NotebookNode, str]:
    """The notebook with fresh outputs, and what failed in one line, or "". The file itself is left as it is.

    `jobs` notebooks run at once, and each takes its share of the cores: threads that wait for a core keep it busy, and
    so cost more than they bring. An OMP_NUM_THREADS that is set already wins.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from nl_course.views.kit.plot import GRIDS, STILLS

    notebook = nbformat.read(path, as_version=4)
    # Outputs of an earlier run must not pass for those of a cell that this run did not reach.
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where)
    client.store_widget_state = False
    try:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        client.execute(env={"OMP_NUM_THREADS": str(threads), **os.environ, STILLS: "1", GRIDS: "1"})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return notebook, str(error).strip().splitlines()[-1]
    return notebook, ""
