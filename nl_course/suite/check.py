"""A memory of your own, in one file, through the suite: `nl-course check-memory my_memory.py`.

The file names its class MEMORY and its config's class CONFIG (a frozen dataclass with `width` and `heads`, all else
with defaults); GROWS = True says that the state may grow with the text. `copy_template` writes one to begin with.
"""

import argparse
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nl_course.errors import DONE, FOUND, CourseError, check_min, is_out_of_memory
from nl_course.files import check_file, write_atomically
from nl_course.limits import TimeUp, limits
from nl_course.memories import MEMORIES, Memory
from nl_course.suite.case import WIDTH, Case
from nl_course.suite.properties import PROPERTIES

TEMPLATE = Path(__file__).with_name("template.py")
HEADS = 2  # at the suite's size
SECONDS = 300.0  # that all properties together may take; the template needs two, the slowest memory here a minute
# Where a traceback passes through code that the learner did not write; "<" begins names of no files.
NOT_THE_LEARNERS = (
    f"{Path(__file__).resolve().parent.parent}{os.sep}",
    f"{Path(torch.__file__).resolve().parent}{os.sep}",
    "<",
)


@dataclass(frozen=True)
class OwnMemory:
    """A learner's memory: the class, its config's class, and whether its state may grow with the text."""

    name: str
    memory: type[Memory]
    config: type
    grows: bool = False

    def build(self, width: int, heads: int, **options: Any) -> Memory:
        """The memory at a model's width and heads; `options` are further fields of its config."""
        return self.memory(self.config(width=width, heads=heads, **options))

    def case(self) -> Case:
        """The memory at the suite's size, width 8 and two heads."""
        return Case(self.name, lambda: self.build(WIDTH, HEADS), grows=self.grows)


@dataclass(frozen=True)
class Report:
    """The suite's results on the memory `name`: (property, "" where it holds, else what was seen), in the order of
    trying."""

    name: str
    results: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        """Whether every property holds."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The names of the properties that do not hold."""
        return [name for name, seen in self.results if seen]

    def __str__(self) -> str:
        holding = len(self.results) - len(self.failed)
        lines = [f"{self.name}: {holding} of {len(self.results)} properties hold."]
        for name, seen in self.results:
            lines.append(f"  {'does not hold' if seen else 'holds':13}  {name}")
            lines += [f"                 {line}" for line in seen.splitlines()]
        return "\n".join(lines)

    __repr__ = __str__


def copy_template(path: str | os.PathLike = "my_memory.py") -> Path:
    """Writes the file to begin with, a correct and poor memory, and returns its path. A file that is there is left.

    Raises CourseError for a name that is not that of a Python file.
    """
    path = _python_file(path)
    if not os.path.lexists(path):
        text = TEMPLATE.read_text(encoding="utf-8")
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def load_memory(path: str | os.PathLike, seconds: float = SECONDS) -> OwnMemory:
    """The memory that a file defines. Raises CourseError where the file is missing, fails, lacks a name, or is still
    running after so many seconds (0: as long as it takes)."""
    path = _python_file(path)
    if not os.path.lexists(path):
        raise CourseError(f"there is no file {str(path)!r}; `nl-course check-memory --template {path}` writes one.")
    check_file(path, "file with a memory")
    try:
        with limits(check_min("seconds", seconds, 0)):
            return _load(path)
    except TimeUp as error:
        raise CourseError(f"{path.name} was still running after {seconds:g} seconds{_place(error)}.") from error


@contextmanager
def registered(own: OwnMemory) -> Iterator[str]:
    """Inside, a learner's memory is among MEMORIES under its name, so that models can be built of it and loaded.

    Raises CourseError for the name of one of the course's memories.
    """
    if own.name in MEMORIES:
        raise CourseError(f"the course has a memory called {own.name!r} already; give the file another name.")
    MEMORIES[own.name] = (own.memory, own.config)
    try:
        yield own.name
    finally:
        del MEMORIES[own.name]


def _python_file(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.suffix != ".py":
        raise CourseError(f"{str(path)!r} must be a Python file, whose name ends in .py.")
    return path


def _load(path: Path) -> OwnMemory:
    module = _run(path)
    memory, config = getattr(module, "MEMORY", None), getattr(module, "CONFIG", None)
    if not (isinstance(memory, type) and issubclass(memory, Memory)):
        raise CourseError(f"{path.name} must say MEMORY = YourMemory, a subclass of nl_course.memories.Memory.")
    if not (isinstance(config, type) and is_dataclass(config)):
        raise CourseError(f"{path.name} must say CONFIG = YourConfig, a dataclass with the fields width and heads.")
    own = OwnMemory(path.stem, memory, config, bool(getattr(module, "GROWS", False)))
    # Built once here, since a file that cannot even be built has no properties to try.
    try:
        own.build(WIDTH, HEADS)
    except (Exception, SystemExit) as error:
        raise CourseError(
            f"{path.name}: MEMORY(CONFIG(width={WIDTH}, heads={HEADS})) fails with {_in_words(error)}"
        ) from error
    return own


def _run(path: Path) -> ModuleType:
    """The file as a module, run anew each time; its name is kept, so that its states can be pickled."""
    name = f"nl_course_learners_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CourseError(f"{path.name} cannot be run: {_in_words(error)}") from error
    return module


def check_memory(memory: str | os.PathLike | OwnMemory, seconds: float = SECONDS) -> Report:
    """The suite on a learner's memory, given by its file (or loaded already). The file, and then all properties
    together, may take so many seconds (0: as long as it takes)."""
    own = memory if isinstance(memory, OwnMemory) else load_memory(memory, seconds)
    return check_case(own.case(), seconds)


def check_case(case: Case, seconds: float = SECONDS) -> Report:
    """Every property on one memory, also after one has failed, until so many seconds are used up (0: until all have
    been tried)."""
    seen: dict[str, str] = {}
    trying = ""
    try:
        with limits(check_min("seconds", seconds, 0)):
            for trying, holds in PROPERTIES:
                seen[trying] = _try(holds, case)
    except TimeUp as error:
        seen[trying] = f"it was still running when the check's {seconds:g} seconds were used up{_place(error)}"
    untried = "not tried, since the time was used up"
    return Report(case.name, tuple((name, seen.get(name, untried)) for name, _ in PROPERTIES))


def _try(holds: Callable[[Case], None], case: Case) -> str:
    """What is seen where a property does not hold; "" where it holds."""
    try:
        holds(case)
    except AssertionError as error:
        return _first_lines(str(error)) or "it does not hold"
    except (Exception, SystemExit) as error:  # the learner's own code failed: say where
        return _in_words(error)
    return ""


def _in_words(error: BaseException) -> str:
    """An error's kind and words, and the line of the learner's file that it came from."""
    words = _first_lines(str(error))
    if is_out_of_memory(error):
        words = "it asks for more memory than there is"
    elif isinstance(error, SystemExit):
        words = "it ends the program"
    return f"{type(error).__name__}: {words}{_place(error)}"


def _place(error: BaseException) -> str:
    """The last line of the learner's own code that an error came through, in brackets; "" if it came through none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(NOT_THE_LEARNERS)]
    own = [frame for frame in own if "site-packages" not in frame.filename]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _first_lines(text: str, count: int = 4) -> str:
    """The first lines that say something: torch's messages can fill a page."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return "\n".join(lines[:count])


def add_command(commands: Any) -> None:
    """`nl-course check-memory`."""
    parser = commands.add_parser("check-memory", help="does a memory of your own keep what every memory must?")
    parser.add_argument("file", metavar="FILE", help="a Python file that says MEMORY and CONFIG")
    parser.add_argument("--template", action="store_true", help="write a file to begin with, if there is none")
    parser.add_argument(
        "--time-limit", type=float, default=SECONDS, metavar="SECONDS",
        help="how long all properties together may take (default: %(default)g); 0 for no limit",
    )  # fmt: skip
    parser.set_defaults(run=_command)


def _command(options: argparse.Namespace) -> int:
    if options.template:
        was_there = os.path.lexists(options.file)
        path = copy_template(options.file)
        print(f"{path}: {'was there already, and is left' if was_there else 'written'}.")
        return DONE
    report = check_memory(options.file, check_min("--time-limit", options.time_limit, 0))
    print(report)
    return DONE if report.passed else FOUND
