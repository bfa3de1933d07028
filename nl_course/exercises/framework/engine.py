"""What an exercise is, and how an answer is checked: property by property, naming the first that fails.

An exercise is complete where it stands, in the folder `exNN/` of its notebook: task, stub, properties, hints, solution,
and what the usual wrong answers reveal. Each folder exports a tuple `EXERCISES` (and mostly `DISCUSSION`, pairs of
question and answer), collected in its `core.py`; it is loaded when one of its exercises is first asked for.

    check("1.2", my_function)     hint("1.2")     hint("1.2", 3)     solution("1.2")     task("1.2")

A check never raises for what a learner wrote: an error inside the answer is told in words. So is a loop without an end,
after a minute; `check("1.2", my_function, seconds=600)` waits longer, and `seconds=0` for ever.
"""

import ast
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from types import ModuleType

from nl_course import progress
from nl_course.errors import CourseError, check_choice, check_min, is_out_of_memory
from nl_course.exercises.framework.answer import Answer, Failed, Miss, NotAttempted, Stopped
from nl_course.exercises.framework.show import Page, Verdict, say
from nl_course.limits import TimeUp, limits
from nl_course.seeding import seeded

__all__ = [
    *("Exercise", "Miss", "Property", "Wrong"),
    *("check", "hint", "solution", "task"),
    *("chapters", "discussion", "exercise", "exercises_of"),
]

SECONDS = 60.0  # that a check may take; with the solutions it takes a few at most


@dataclass(frozen=True)
class Property:
    """What must hold of a right answer. `test(answer)` calls it, and raises Miss where it does not hold.

    `name` reads as a statement ("no query reads the future"); `hint` is the number of the hint that helps.
    """

    name: str
    test: Callable[[Callable], None]
    hint: int = 1


@dataclass(frozen=True)
class Wrong:
    """A typical wrong answer, what it reveals, and the name of the property that must reject it."""

    answer: Callable
    reveals: str
    fails: str


@dataclass(frozen=True)
class Exercise:
    """One exercise. `aim`, `solution` and `wrong` are the teacher's part: a student build leaves them out.

    task        Markdown: what to write, with the shapes and units of every argument and of the result
    stub        source text of the notebook's cell: one function whose body is `...`
    properties  in the order in which they are tried; a later one may rely on the earlier ones
    hints       three, from a nudge to nearly all of it
    solution    a real function (its source is shown, under the stub's name); checks never call it
    """

    id: str
    title: str
    task: str
    stub: str
    properties: tuple[Property, ...]
    hints: tuple[str, str, str]
    aim: str = ""
    solution: Callable | None = None
    wrong: tuple[Wrong, ...] = field(default=())

    def __post_init__(self):
        names = [p.name for p in self.properties]
        broken = [
            ("id", re.fullmatch(r"\d+\.\d+", self.id)),
            ("hints (three, none empty)", len(self.hints) == 3 and all(h.strip() for h in self.hints)),
            ("properties (one or more, each name once)", names and len(set(names)) == len(names)),
            ("properties' hint numbers", all(p.hint in (1, 2, 3) for p in self.properties)),
            ("wrong answers' properties", all(w.fails in names for w in self.wrong)),
        ]
        for what, fine in broken:
            if not fine:
                raise CourseError(f"exercise {self.id!r} has bad {what}.")

    @cached_property
    def definition(self) -> ast.FunctionDef:
        """The stub's function, parsed."""
        return next(node for node in ast.parse(self.stub).body if isinstance(node, ast.FunctionDef))

    def check(self, answer: Callable, seconds: float = SECONDS) -> Verdict:
        """Tries the properties on `answer` in order, each with torch's random numbers from the same seed. All together
        may take so many seconds (0: as long as they take)."""
        check_min("seconds", seconds, 0)
        if answer is None or answer is Ellipsis or answer is NotImplemented:
            return Verdict(self.id, "empty", f"{self.id} not attempted yet.")
        if not callable(answer):
            kind = type(answer).__name__
            return self._failed("", f"  check needs the function itself, not a value of type {kind}.")
        arguments = self.definition.args
        answer = Answer(answer, [a.arg for a in [*arguments.args, *arguments.kwonlyargs]])
        tried = self.properties[0]
        try:
            with limits(seconds):
                for tried in self.properties:
                    with seeded(0):
                        tried.test(answer)
        except NotAttempted:
            return Verdict(self.id, "empty", f"{self.id} not attempted yet.")
        except TimeUp as error:
            told = self._explain(Stopped(error, answer.place(error)), answer, tried)
            told += f'\n  check("{self.id}", ..., seconds={10 * seconds:g}) waits longer.'
            return self._failed(tried.name, told, f"After {seconds:g} seconds it was still running when this was tried")
        except Stopped as failure:
            told = self._explain(failure, answer, tried)
            return self._failed(tried.name, told, "It stopped when this was tried")
        except Failed as failure:
            return self._failed(tried.name, self._explain(failure, answer, tried))
        except Exception as error:
            if is_out_of_memory(error):  # what it returned fits, but nothing more beside it
                told = self._explain(Stopped(error, answer.place(error)), answer, tried)
                return self._failed(tried.name, told, "It stopped when this was tried")
            # The check could not use what the answer returned.
            failure = Miss("a result of the kind that the task asks for", answer.last_result)
            return self._failed(tried.name, self._explain(failure, answer, tried))
        verified = "\n".join(f"  - {prop.name}" for prop in self.properties)
        head = f"{self.id} solved. Verified, with sizes drawn at random:"
        return Verdict(self.id, "passed", f"{head}\n{verified}")

    def _explain(self, failure: Failed, answer: Answer, prop: Property) -> str:
        if isinstance(failure, Stopped):
            lines = [f"  in words: {failure.words}"]
            lines += [f"  {failure.last_line}"] if failure.last_line else []
            lines += [f"  at {failure.place}"] if failure.place else []
        else:
            lines = [f"  expected: {failure.expected}", f"  got:      {failure.got}"]
        size = getattr(failure, "size", None) or answer.last_call
        return "\n".join([f"  called with: {size}", *lines, f'  hint("{self.id}", {prop.hint}) helps here.'])

    def _failed(self, name: str, explanation: str, said: str = "This does not hold") -> Verdict:
        head = f"{self.id} not yet. {said}: {name}." if name else f"{self.id} not yet."
        return Verdict(self.id, "failed", f"{head}\n{explanation}", fails=name)

    def solution_source(self) -> str:
        """The solution's source under the name that the stub uses; an empty string in a student build."""
        if self.solution is None:
            return ""
        source = inspect.getsource(self.solution)
        return re.sub(rf"\b{re.escape(self.solution.__name__)}\b", self.definition.name, source).rstrip()


# ---------------------------------------------------------------------------------- where exercises are


def chapters() -> list[int]:
    """The numbers of the notebooks that have a folder `exNN/`."""
    package = import_module("nl_course.exercises")
    found = (re.fullmatch(r"ex(\d\d)", module.name) for module in pkgutil.iter_modules(package.__path__))
    return sorted(int(match[1]) for match in found if match)


def _module(chapter: int) -> ModuleType:
    return import_module(f"nl_course.exercises.ex{chapter:02d}")


def exercises_of(chapter: int) -> tuple[Exercise, ...]:
    """The exercises of one notebook, in order."""
    if chapter not in chapters():
        known = ", ".join(map(str, chapters()))
        raise CourseError(f"notebook {chapter!r} has no exercises; these have: {known}.")
    return tuple(getattr(_module(chapter), "EXERCISES", ()))


def discussion(chapter: int) -> tuple[tuple[str, str], ...]:
    """Discussion questions of one notebook with their answers (empty in a student build)."""
    exercises_of(chapter)
    return tuple(getattr(_module(chapter), "DISCUSSION", ()))


def exercise(id: str) -> Exercise:
    """The exercise of that id. Raises CourseError, with a guess, where there is none."""
    if not isinstance(id, str):
        raise CourseError(f'an exercise is named by text, such as "1.2", not by {id!r}.')
    id = id.strip()
    chapter = id.partition(".")[0]
    known = chapters()
    if chapter.isdecimal() and int(chapter) in known:
        known = [int(chapter)] if exercises_of(int(chapter)) else known
    found = {e.id: e for number in known for e in exercises_of(number)}
    return found[check_choice("exercise", id, found)]


# ------------------------------------------------------------------------------- what a notebook calls

_hints_given: dict[str, int] = {}


def check(id: str, answer: Callable, seconds: float = SECONDS) -> Verdict:
    """Checks `answer`, prints the verdict, and returns it (`.passed` is True or False). An answer that has not finished
    after so many seconds has not passed; with 0 it may take as long as it likes. A learner's copy of the course notes
    that the exercise was tried or solved."""
    asked = exercise(id)
    verdict = asked.check(answer, seconds)
    if verdict.status != "empty":
        progress.note(progress.SOLVED if verdict.passed else progress.TRIED, asked.id)
    say(str(verdict))
    return verdict.shown()


def hint(id: str, number: int | None = None) -> None:
    """Prints the next hint, or the hint of that number (1 to 3)."""
    asked = exercise(id)
    given = _hints_given.get(asked.id, 0)
    if number is None:
        number = min(given + 1, 3)
    elif isinstance(number, bool) or number not in (1, 2, 3):
        raise CourseError(f"hint number {number!r} does not exist; choose 1, 2 or 3.")
    _hints_given[asked.id] = max(given, number)
    say(f"{asked.id}, hint {number} of 3. {asked.hints[number - 1].strip()}")
    if given == 3:
        say(f'That was the last hint. solution("{asked.id}") shows one way to do it.')


def solution(id: str) -> Page:
    """Shows one solution, as source."""
    asked = exercise(id)
    source = asked.solution_source()
    if not source:
        return Page(
            "This copy of the course carries no solutions: it was made for a class; the teacher has them. "
            f'The three hints are here: `hint("{asked.id}")`.'
        )
    return Page(f"**{asked.id} {asked.title}: one solution**\n\n```python\n{source}\n```", plain=source)


def task(id: str) -> Page:
    """Shows what is asked."""
    asked = exercise(id)
    return Page(f"**Exercise {asked.id}: {asked.title}**\n\n{asked.task.strip()}")
