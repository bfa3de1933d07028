"""Runs a notebook for export: its views also hand over what they show, as a plot that needs no kernel."""

import os
from pathlib import Path

import nbformat

SECONDS = 600  # the longest that a cell may take


def run_notebook(path: Path, jobs: int = 1) -> tuple[nbformat.NotebookNode, str]:
    """(the notebook with fresh outputs, what failed in one line or ""). The file stays as it is. `jobs` run at once:
    each takes its share of the cores, since threads that wait for a core busily cost more than they bring."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from nl_course.views.kit.shell import STILLS

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where)
    client.store_widget_state = False
    try:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        client.execute(env={"OMP_NUM_THREADS": str(threads), **os.environ, STILLS: "1"})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as wrong:
        return notebook, str(wrong).strip().splitlines()[-1]
    return notebook, ""
