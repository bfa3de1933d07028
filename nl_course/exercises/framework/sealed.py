"""The exercises of a student build, packed: checks judge as ever, and their parts can be neither read nor imported.

A check compares an answer with a reference, a function that stands beside it and does what was asked. In a class,
`from nl_course.exercises.ex01.core import full_attention` would be an answer. So a student build holds, in place of the
files of a folder `exNN/`, one text `checks.txt` and an `__init__.py` that loads it. While it loads, the modules inside
can import each other. Afterwards only what `exNN` itself exports is left.

This keeps honest people honest. Who takes a running program apart finds everything in it, here as anywhere.
"""

import base64
import importlib.util
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from nl_course.errors import CourseError

CHECKS = "checks.txt"
_LINE = 100  # letters per line of the packed text
_OWN = "__init__"  # in a pack: the module that says what its folder exports
_INIT = '''"""Exercises for a class: the checks stand packed in checks.txt, and no solution is among them."""

from nl_course.exercises.framework.sealed import unseal

globals().update(unseal(__file__, __name__))
'''


def seal(folder: Path) -> None:
    """Packs the Python files of one folder `exNN/` into `checks.txt`, and leaves an `__init__.py` that loads it. A
    folder that is packed already stays as it is."""
    if (folder / CHECKS).exists():
        return
    sources = {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.py"))}
    packed = base64.b64encode(zlib.compress(json.dumps(sources).encode(), 9)).decode()
    lines = [packed[start : start + _LINE] for start in range(0, len(packed), _LINE)]
    (folder / CHECKS).write_text("\n".join(lines) + "\n", "utf-8")
    for path in folder.glob("*.py"):
        path.unlink()
    (folder / "__init__.py").write_text(_INIT, "utf-8")


def sources_in(folder: Path) -> dict[str, str]:
    """Module name -> source of what `seal` packed in a folder. Raises CourseError if the text is damaged or missing."""
    path = folder / CHECKS
    try:
        return json.loads(zlib.decompress(base64.b64decode(path.read_bytes())))
    except (OSError, ValueError, zlib.error) as error:
        raise CourseError(
            f"the checks in {path} cannot be read; copy the file from the class's course again."
        ) from error


def unseal(init_file: str, package: str) -> dict[str, Any]:
    """What the packed folder of `init_file`, the package `package`, exports: name -> value. Its modules are gone from
    Python's list of modules afterwards. Raises CourseError if the text is damaged or missing."""
    sources = sources_in(Path(init_file).parent)
    own = sources.pop(_OWN)
    inside = {f"{package}.{name}": source for name, source in sources.items()}
    finder = _Finder(inside)
    exports: dict[str, Any] = {"__name__": package, "__file__": init_file}
    sys.meta_path.insert(0, finder)
    try:
        exec(compile(own, f"<{package}>", "exec"), exports)
    finally:
        sys.meta_path.remove(finder)
        for name in inside:
            sys.modules.pop(name, None)
            # An import leaves the module as an attribute of its package, too.
            vars(sys.modules[package]).pop(name.rpartition(".")[2], None)
    names = exports["__all__"]
    return {"__all__": names, **{name: exports[name] for name in names}}


class _Finder(MetaPathFinder):
    """Finds the packed modules while they are loaded."""

    def __init__(self, sources: Mapping[str, str]):
        self.sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The packed module of that name; None for every other one."""
        if name not in self.sources:
            return None
        return importlib.util.spec_from_loader(name, _Loader(self.sources[name]))


class _Loader(InspectLoader):
    """Loads one packed module from its source, which it shows to nobody: tracebacks have no line of it."""

    def __init__(self, source: str):
        self.source = source

    def get_source(self, fullname: str) -> None:
        """None: as for a module without source."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the source in the module."""
        exec(compile(self.source, f"<{module.__name__}>", "exec"), vars(module))
