"""What the process of one submission does: it reads the notebooks, and checks one answer after another.

The checks are those of the installed package, whatever the notebook imports or redefines. Solutions are taken from the
exercises before an answer runs.
"""

import os
import sys
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch

from nl_course.app.grading.answers import Cell, Unreadable, cut_out, read_cells
from nl_course.app.grading.outcome import Allowance, Outcome, best
from nl_course.app.grading.screen import MODULE, Refused, Untouched, Watched, refused, safe_builtins
from nl_course.errors import is_out_of_memory
from nl_course.exercises.framework.engine import Exercise, Property, exercise
from nl_course.limits import TimeUp, limits

# Sent to the parent, as (kind, value).
BEGUN, TRYING, DONE, FAULT = "begun", "trying", "done", "fault"
Tell = Callable[[str, object], None]


def work(connection: Connection, folder: str, paths: list[str], ids: list[str], allowance: Allowance) -> None:
    """Checks the exercises `ids` of the notebooks `paths`, in the empty folder `folder`; sends what it does as it goes:
    the id of an exercise, the name of each property that is tried, the Outcome. An error outside of an answer is a
    fault of the course, and is sent as such."""
    os.chdir(folder)
    _silence()
    _limit_memory(allowance.memory)
    torch.set_num_threads(1)
    untouched = Untouched()

    def tell(kind: str, value: object) -> None:
        """Sends one message."""
        connection.send((kind, value))

    notebooks = [_read(Path(path)) for path in paths]
    for exercise_id in ids:
        tell(BEGUN, exercise_id)
        asked = exercise(exercise_id)
        outcomes = [Outcome(exercise_id, "missing", f"{exercise_id} was not handed in.")]
        try:
            for cells in notebooks:
                outcomes.append(outcome_in(asked, cells, allowance, untouched, tell))
        except Exception as error:
            if not is_out_of_memory(error):
                tell(FAULT, f"{exercise_id}: {traceback.format_exc()}")
            raise
        tell(DONE, best(outcomes))
    connection.close()


def outcome_in(
    asked: Exercise, cells: list[Cell] | str, allowance: Allowance, untouched: Untouched, tell: Tell
) -> Outcome:
    """The outcome of one exercise in one notebook, which is given by its cells, or by why it cannot be read. `tell`
    gets (TRYING, the name of a property) before each is tried."""
    if isinstance(cells, str):
        return Outcome(asked.id, "unreadable", cells)
    try:
        code = cut_out(cells, asked.id, asked.definition.name)
    except Unreadable as error:
        return Outcome(asked.id, "unreadable", f"{asked.id} cannot be read: {error}")
    if code is None:
        return Outcome(asked.id, "missing", f"{asked.id} was not handed in.")
    words = refused([*code.statements, (code.where, code.answer)])
    if words:
        return Outcome(asked.id, "refused", f"{asked.id} not accepted. {words}.")
    tried: list[str] = []
    namespace = types.ModuleType(MODULE).__dict__
    namespace["__builtins__"] = safe_builtins()
    try:
        with limits(allowance.seconds):
            answer = code.run(namespace)
        if callable(answer):
            answer = Watched(answer)
        verdict = _watched_exercise(asked, tried, tell).check(answer, allowance.seconds)
        outcome = Outcome(asked.id, verdict.status, verdict.text, verdict.fails, _held(verdict.status, tried, asked))
    except Refused as error:
        outcome = Outcome(asked.id, "refused", f"{asked.id} not accepted: {error}.")
    except TimeUp:
        words = f"The cell that defines the answer was still running after {allowance.seconds:g} seconds."
        outcome = Outcome(asked.id, "failed", f"{asked.id} not yet. {words}")
    except (Exception, SystemExit) as error:
        words = f"The cell that defines the answer stopped: {type(error).__name__}: {error}"
        outcome = Outcome(asked.id, "failed", f"{asked.id} not yet. {words}")
    changed = untouched.changed()
    if changed:
        words = f"it replaces {', '.join(changed[:3])}, which its check relies on"
        return Outcome(asked.id, "refused", f"{asked.id} not accepted: {words}.")
    return outcome


def _watched_exercise(asked: Exercise, tried: list[str], tell: Tell) -> Exercise:
    """The exercise without its solution. It notes and tells the name of each property that is tried."""

    def told(tested: Property) -> Property:
        """A property that tells its name before it is tried."""

        def test(answer: Callable) -> None:
            """The property's own test."""
            tried.append(tested.name)
            tell(TRYING, tested.name)
            tested.test(answer)

        return replace(tested, test=test)

    return replace(asked, properties=tuple(map(told, asked.properties)), solution=None, wrong=())


def _held(status: str, tried: list[str], asked: Exercise) -> int:
    """How many properties held: all of a right answer, else those that were tried before the last one."""
    return len(asked.properties) if status == "passed" else max(len(tried) - 1, 0)


def _read(path: Path) -> list[Cell] | str:
    """The notebook's cells, or in words why there are none."""
    try:
        return read_cells(path)
    except Unreadable as error:
        return str(error)


def _silence() -> None:
    """What an answer prints goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _limit_memory(memory: int) -> None:
    """On Linux, asking for more than so many bytes from here on is a MemoryError. Elsewhere the parent looks at it."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    most = psutil.Process().memory_info().vms + memory
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(ValueError, OSError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
