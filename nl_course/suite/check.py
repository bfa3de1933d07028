"""A memory of your own, in one file, through the suite: `nl-course check-memory my_memory.py`.

The file names its class MEMORY and its config's class CONFIG (a frozen dataclass with `width` and `heads`, all else
with defaults); GROWS = True says that the state may grow with the text. `copy_template` writes one to begin with.
"""

import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass, is_dataclass
from pathlib import Path

from nl_course.errors import CourseError
from nl_course.files import write_atomically
from nl_course.memories import Memory
from nl_course.suite.case import WIDTH, Case
from nl_course.suite.properties import PROPERTIES

TEMPLATE = Path(__file__).with_name("template.py")
HEADS = 2


@dataclass(frozen=True)
class Mine:
    """A learner's memory: the class, its config's class, and whether its state may grow with the text."""

    name: str
    memory: type[Memory]
    config: type
    grows: bool = False

    def build(self, width: int, heads: int, **options) -> Memory:
        return self.memory(self.config(width=width, heads=heads, **options))

    def case(self) -> Case:
        """The memory at the suite's size, width 8 and two heads."""
        return Case(self.name, lambda: self.build(WIDTH, HEADS), grows=self.grows)


@dataclass(frozen=True)
class Report:
    """What the suite found: (property, "" where it holds, else what was seen), in the order of trying."""

    name: str
    found: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The names of the properties that do not hold."""
        return [name for name, seen in self.found if seen]

    def __str__(self) -> str:
        held = len(self.found) - len(self.failed)
        lines = [f"{self.name}: {held} of {len(self.found)} properties hold."]
        for name, seen in self.found:
            lines.append(f"  {'does not hold' if seen else 'holds':13}  {name}")
            lines += [f"                 {line}" for line in seen.splitlines()]
        return "\n".join(lines)

    __repr__ = __str__


def copy_template(path: str | os.PathLike = "my_memory.py") -> Path:
    """Writes the file to begin with, a correct and poor memory, and returns its path. A file that is there is left."""
    path = Path(path)
    if not path.exists():
        text = TEMPLATE.read_text(encoding="utf-8")
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def load_memory(path: str | os.PathLike) -> Mine:
    """The memory that a file defines. Raises CourseError where the file is missing, fails or lacks a name."""
    path = Path(path)
    if not path.is_file():
        raise CourseError(f"there is no file {str(path)!r}; `nl-course check-memory --template {path}` writes one.")
    module = _run(path)
    memory, config = (getattr(module, name, None) for name in ("MEMORY", "CONFIG"))
    if not (isinstance(memory, type) and issubclass(memory, Memory)):
        raise CourseError(f"{path.name} must say MEMORY = YourMemory, a subclass of nl_course.memories.Memory.")
    if not (isinstance(config, type) and is_dataclass(config)):
        raise CourseError(f"{path.name} must say CONFIG = YourConfig, a dataclass with the fields width and heads.")
    mine = Mine(path.stem, memory, config, bool(getattr(module, "GROWS", False)))
    try:
        mine.build(WIDTH, HEADS)
    except Exception as error:
        raise CourseError(
            f"{path.name}: MEMORY(CONFIG(width={WIDTH}, heads={HEADS})) fails with {_said(error)}"
        ) from error
    return mine


def _run(path: Path):
    """The file as a module, run anew each time; its name is kept, so that its states can be pickled."""
    name = f"nl_course_learners_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CourseError(f"{path.name} cannot be run: {_said(error)}") from error
    return module


def check_memory(memory: str | os.PathLike | Mine) -> Report:
    """The suite on a learner's memory, given by its file (or loaded already)."""
    return check_case((memory if isinstance(memory, Mine) else load_memory(memory)).case())


def check_case(case: Case) -> Report:
    """Every property on one memory, also after one has failed."""
    found = []
    for name, holds in PROPERTIES:
        try:
            holds(case)
            found.append((name, ""))
        except AssertionError as error:
            found.append((name, _first(str(error)) or "it does not hold"))
        except Exception as error:  # the learner's own code failed: say where
            found.append((name, _said(error)))
    return Report(case.name, tuple(found))


def _said(error: Exception) -> str:
    """An error's kind and words, and the line of the learner's file that it came from."""
    places = [place for place in traceback.extract_tb(error.__traceback__) if "nl_course" not in place.filename]
    own = [place for place in places if "site-packages" not in place.filename and "torch" not in place.filename]
    at = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {_first(str(error))}{at}"


def _first(text: str, lines: int = 4) -> str:
    return "\n".join([line for line in text.strip().splitlines() if line.strip()][:lines])


def add_command(commands) -> None:
    """`nl-course check-memory`."""
    parser = commands.add_parser("check-memory", help="does a memory of your own keep what every memory must?")
    parser.add_argument("file", metavar="FILE", help="a Python file that says MEMORY and CONFIG")
    parser.add_argument("--template", action="store_true", help="write a file to begin with, if there is none")
    parser.set_defaults(run=_command)


def _command(options) -> int:
    if options.template:
        there = Path(options.file).exists()
        print(f"{copy_template(options.file)}: {'was there already, and is left' if there else 'written'}.")
        return 0
    report = check_memory(options.file)
    print(report)
    return 0 if report.passed else 1
