"""Where things stand in the course: cells, the headings above them, functions, tests."""

import ast
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import nbformat

from nl_course.notebooks import all_notebooks, label
from tools.run_notebooks import ROOT

DATA = Path(__file__).parent


class Lost(ValueError):
    """A name in the data that leads nowhere."""


@dataclass(frozen=True)
class Cell:
    """A cell and the heading that it stands under."""

    notebook: str
    id: str
    heading: str
    source: str

    @property
    def link(self) -> str:
        """Markdown that leads to the heading above the cell: `[03: Crosstalk](03_...ipynb#Crosstalk)`."""
        return f"[{label(self.notebook)}: {plain(self.heading)}]({self.notebook}.ipynb#{anchor(self.heading)})"


def plain(heading: str) -> str:
    """A heading without Markdown's marks, and without the number before a notebook's title."""
    return re.sub(r"[`*]", "", re.sub(r"^\d\d[b-z]? · ", "", heading))


def anchor(heading: str) -> str:
    """The fragment by which JupyterLab finds a heading."""
    return re.sub(r"[`*]", "", heading).replace(" ", "-").replace("(", "%28").replace(")", "%29")


@lru_cache
def cells() -> dict[str, Cell]:
    """All cells of the course by "notebook#id"."""
    found = {}
    for path in all_notebooks():
        heading = ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown" and (above := re.findall(r"^#+\s+(.+)$", cell.source, re.M)):
                heading = above[0]
            found[f"{path.stem}#{cell.id}"] = Cell(path.stem, cell.id, heading, cell.source)
    return found


def cell(name: str) -> Cell:
    if name not in cells():
        raise Lost(f"there is no cell {name!r}.")
    return cells()[name]


def function(name: str) -> str:
    """Markdown that leads to the file of "package.module:Name.attribute", which must exist."""
    module, _, path = name.partition(":")
    try:
        thing = import_module(module)
        for part in path.split(".") if path else []:
            thing = getattr(thing, part)
    except (ImportError, AttributeError) as error:
        raise Lost(f"there is no {name!r}: {error}.") from error
    file = module.replace(".", "/")
    file = f"{file}/__init__.py" if (ROOT / file).is_dir() else f"{file}.py"
    return f"[`{path or module}`](../{file})"


def test(name: str) -> str:
    """Markdown that leads to the file of "tests/file.py::name", which must exist."""
    file, _, wanted = name.partition("::")
    if not (ROOT / file).is_file():
        raise Lost(f"there is no test file {file!r}.")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    if wanted not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
        raise Lost(f"there is no test {wanted!r} in {file}.")
    return f"[`{wanted}`](../{file})"


def data(name: str) -> list[dict]:
    """The rows of a file of data: it stands beside this one, or in assets/ where the package reads it too."""
    here = DATA / f"{name}.json"
    path = here if here.is_file() else ROOT / "assets" / here.name
    return json.loads(path.read_text(encoding="utf-8"))
