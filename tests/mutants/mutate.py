"""Mutations of the package: one is applied to a copy of nl_course, and tests run on the copy instead of the package.

`mutants.toml` holds them, each with the tests that must be red under it. `test_mutants.py` tests those tests.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "nl_course"

# The copy is imported before pytest puts the repository in front of everything.
RUN = f"""
import sys
folder, *arguments = sys.argv[1:]
sys.path.insert(0, folder)
import {PACKAGE}
assert {PACKAGE}.__file__.startswith(folder), {PACKAGE}.__file__
import pytest
sys.exit(pytest.main(arguments))
"""


@dataclass(frozen=True)
class Mutant:
    """One careless edit; the head of mutants.toml says what the fields are."""

    name: str
    of: str
    kind: str
    file: str
    old: str
    new: str
    why: str
    red: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file that it changes, in the package itself."""
        return ROOT / PACKAGE / self.file

    def places(self) -> int:
        """How often the old line stands in its file. It must be once: otherwise the mutant is stale."""
        if not self.path.exists():
            return 0
        return len(self._pattern().findall(self.path.read_text()))

    def mutated(self) -> str:
        """The file with the new line in place of the old one."""
        # A function, since a string would have its backslashes read.
        return self._pattern().sub(lambda match: match[1] + self.new, self.path.read_text())

    def _pattern(self) -> re.Pattern:
        # A comment behind the line may change without a word here.
        return re.compile(rf"(?m)^( *){re.escape(self.old)}(?:  #.*)?$")


class Outcome(NamedTuple):
    """How a run of tests ended: pytest's exit code, the tests that failed (not those in error), and what it printed."""

    code: int
    failed: list[str]
    output: str


def all_mutants() -> list[Mutant]:
    """The mutants of mutants.toml, in its order."""
    with open(Path(__file__).with_name("mutants.toml"), "rb") as file:
        rows = tomllib.load(file)["mutant"]
    return [Mutant(**row | {"red": tuple(row.get("red", ()))}) for row in rows]


def copy_package(folder: Path, mutant: Mutant | None = None) -> None:
    """Copies nl_course into `folder`, with the mutation in it."""
    copy = folder / PACKAGE
    # With the compiled files, which spare each run the compiling of 200 modules ...
    shutil.copytree(ROOT / PACKAGE, copy)
    (folder / "assets").symlink_to(ROOT / "assets")  # which the package looks for beside itself
    if mutant is not None:
        # ... but not that of the changed file: Python would take it if size and second of writing were the same.
        changed = copy / mutant.file
        for compiled in changed.parent.glob(f"__pycache__/{changed.stem}.*"):
            compiled.unlink()
        changed.write_text(mutant.mutated())


def run_tests(folder: Path, tests: Sequence[str], *options: str, seconds: float = 300) -> Outcome:
    """Runs tests (ids from the repository's root) with the package that lies in `folder`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {
        "PYTHONPATH": str(folder),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),  # what fails here is no example for the others
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    quiet = ["-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=short", "-rfE", "-q", *options]
    command = [sys.executable, "-c", RUN, str(folder), *quiet, *tests]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    failed = re.findall(r"(?m)^FAILED (.*?)(?: - .*)?$", done.stdout)
    return Outcome(done.returncode, failed, done.stdout)
