"""`make notebooks`: runs every notebook in place and normalises it; a diff then shows what an author changed.

    python -m tools.run_notebooks [--no-run] [NOTEBOOK ...]        (all of notebooks/ when none is named)

Kept are the text of cells tagged `nbval-check-output`, which the tests compare, and of each chart and view its sentence
and its still picture (tools/pictures.py), which are what a reader without a front end sees. All other output and widget
state go.
A notebook with a failing cell is left as it was, and the failure is printed.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from nl_course.export.running import LATEST, with_latest
from nl_course.files import write_atomically
from nl_course.notebooks import all_notebooks
from nl_course.views.kit.plot import PNG, STILLS, WIDGET
from tools.browser import NoBrowser
from tools.pictures import FINGERPRINT, Painter, illustrate

ROOT = Path(__file__).parents[1]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_KEYS = {"tags", "nl_course", "jupyter", "editable", "slideshow"}


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Changes the notebook into its committed form, and returns it. Doing so twice changes nothing more."""
    course = notebook.metadata.get("nl_course", {})
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, "nl_course": course}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken, counted = set(), 0
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict({k: cell.metadata[k] for k in sorted(cell.metadata) if k in CELL_KEYS})
        cell.source = cell.source.strip("\n")
        if not cell.get("id") or cell["id"] in taken:
            cell["id"] = f"cell-{number}"
        taken.add(cell["id"])
        if cell.cell_type == "code":
            counted += 1
            cell.execution_count = counted  # nbval takes a cell without a count for one that never ran
            checked = "nbval-check-output" in cell.metadata.get("tags", [])
            cell.outputs = _joined([kept for o in cell.outputs if (kept := _kept(o, checked, counted))])
    return notebook


def _kept(output, checked: bool, count: int):
    """The part of an output that is committed, or None."""
    if output.output_type == "stream":
        return output if checked and output.name == "stdout" else None
    data = output.get("data", {})
    metadata = output.get("metadata", {})
    view = {"nl_course": "view"} if WIDGET in data or metadata.get("nl_course") else {}
    if "text/plain" not in data or not (checked or view):
        return None
    kept = {"text/plain": data["text/plain"]}
    if PNG in data and FINGERPRINT in metadata:
        kept[PNG] = data[PNG]
        view[FINGERPRINT] = metadata[FINGERPRINT]
    extra = {"execution_count": count} if output.output_type == "execute_result" else {}
    return nbformat.from_dict({"output_type": output.output_type, "data": kept, "metadata": view, **extra})


def _joined(outputs: list) -> list:
    """Pieces of printed text, which arrive as the kernel's timing has it, as one."""
    joined = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Writes a notebook whole or not at all."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


# The kernel's own peak memory in bytes: /proc on Linux, else what the system's accounting says (bytes on macOS).
PEAK = """
from pathlib import Path as _Path
try:
    _lines = _Path("/proc/self/status").read_text().splitlines()
    print(next(int(_line.split()[1]) * 1024 for _line in _lines if _line.startswith("VmHWM")))
except FileNotFoundError:
    import resource as _resource
    print(_resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss)
"""


def run(path: Path, seconds: int = 600) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; raises CellExecutionError or CellTimeoutError where a cell fails.

    Prints how long it took, kernel start included, and the most memory that its kernel held.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(LATEST), nbformat.v4.new_code_cell(PEAK)]
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=seconds, kernel_name="python3", resources=where)
    client.store_widget_state = False
    begun = time.perf_counter()
    client.execute(env={**os.environ, STILLS: "1"})
    peak = int(notebook.cells.pop().outputs[0].text)
    with_latest(notebook, notebook.cells.pop())
    print(f"{path.name}: {time.perf_counter() - begun:.0f} s, at most {peak / 1e6:.0f} MB")
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to run (default: all)")
    parser.add_argument("--no-run", action="store_true", help="only normalise what is stored")
    options = parser.parse_args()
    os.environ.setdefault("NL_COURSE_STRICT", "1")
    failed = 0
    with Painter() as painter:
        for path in options.notebooks or all_notebooks():
            before = nbformat.read(path, as_version=4)
            try:
                notebook = before if options.no_run else run(path)
                illustrate(notebook, before, painter)
            except (CellExecutionError, CellTimeoutError) as wrong:
                print(f"{path.name}: left as it was, because a cell failed.\n{wrong}", file=sys.stderr)
                failed += 1
                continue
            except NoBrowser as missing:
                print(f"{path.name}: PICTURES ARE MISSING: {missing}", file=sys.stderr)
                failed += 1
            write(normalise(notebook), path)
            print(f"{path.name}: {'normalised' if options.no_run else 'run and normalised'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
