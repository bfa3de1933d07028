"""Routes through the course for a teacher: what to do, for how long, in which order. They stand in `routes.json`.

A route has sittings, a sitting has parts, and the minutes of its parts add up to the sitting's. A part names the
notebook that it uses, the sections of it (by the id of the cell with the heading; none means all of them) and the
exercises that are done in class. It takes at least the minutes that those are counted with in the notebook.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from nl_course.errors import CourseError
from nl_course.export.teacher.book import EXERCISE_MINUTES, Chapter
from nl_course.files import read_json

WAYS = {  # how a part is done -> what the book calls it
    "show": "you show, the class predicts",
    "try": "everyone at a machine",
    "home": "at home",
    "talk": "all together",
    "rest": "break",
}


@dataclass(frozen=True)
class Part:
    """One thing to do: how (a key of WAYS), for how many minutes, with what."""

    do: str
    minutes: int
    words: str
    notebook: str = ""
    cells: tuple[str, ...] = ()
    exercises: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sitting:
    """What is done in one go, or in one week; `minutes` is what its parts must add up to."""

    title: str
    minutes: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Route:
    """A way through the course: for whom, and what they can say afterwards."""

    name: str
    about: str
    sittings: tuple[Sitting, ...]

    @property
    def minutes(self) -> int:
        """Of all sittings."""
        return sum(sitting.minutes for sitting in self.sittings)


def read_routes(chapters: Mapping[str, Chapter]) -> list[Route]:
    """The routes of `routes.json`, checked against the notebooks. Raises CourseError, naming the part, for one that
    does not fit them."""
    routes = []
    data = read_json(Path(str(resources.files("nl_course.export.teacher") / "routes.json")), "routes")
    for entry in data:
        sittings = []
        for sitting in entry["sittings"]:
            parts = []
            for part in sitting["parts"]:
                lists = {name: tuple(part.get(name, ())) for name in ("cells", "exercises")}
                parts.append(Part(**{**part, **lists}))
            sittings.append(Sitting(sitting["title"], sitting["minutes"], tuple(parts)))
        routes.append(Route(entry["name"], entry["about"], tuple(sittings)))
    faults = [fault for route in routes for fault in misfits(route, chapters)]
    if faults:
        raise CourseError(f"routes.json: {faults[0]}")
    return routes


def misfits(route: Route, chapters: Mapping[str, Chapter]) -> list[str]:
    """What is wrong with a route, a sentence per fault: sums of minutes, names that lead nowhere, too little time."""
    faults = []
    for sitting in route.sittings:
        where = f"{route.name}, {sitting.title}"
        spent = sum(part.minutes for part in sitting.parts)
        if spent != sitting.minutes:
            faults.append(f"{where}: the parts take {spent} minutes, and {sitting.minutes} are given.")
        for part in sitting.parts:
            place = f"{where}, {part.words!r}"
            wrong = unknown(part, chapters)
            if wrong:
                faults.append(f"{place}: {wrong}")
            elif counted(part, chapters) > part.minutes:
                least = counted(part, chapters)
                faults.append(f"{place}: {part.minutes} minutes are given, and its sections take {least}.")
    return faults


def unknown(part: Part, chapters: Mapping[str, Chapter]) -> str:
    """What a part names that is not there, in words; "" where all is."""
    if part.do not in WAYS:
        return f"there is no way {part.do!r} to do a part."
    if not part.notebook:
        return ""
    if part.notebook not in chapters:
        return f"there is no notebook {part.notebook!r}."
    chapter = chapters[part.notebook]
    cells = {section.cell for section in chapter.sections}
    ids = {exercise.id for exercise in chapter.exercises}
    for what, names, known in (("section", part.cells, cells), ("exercise", part.exercises, ids)):
        for name in names:
            if name not in known:
                return f"{part.notebook} has no {what} {name!r}."
    return ""


def counted(part: Part, chapters: Mapping[str, Chapter]) -> int:
    """The minutes that a part's sections and exercises are counted with. Whoever works through whole sections does
    their exercises too; in shown ones, only those that the part names are done."""
    if not part.notebook:
        return 0
    chapter = chapters[part.notebook]
    sections = [section for section in chapter.sections if not part.cells or section.cell in part.cells]
    if part.exercises or part.do == "show":
        shown = sum(section.shown_minutes for section in sections) if part.cells else 0
        return shown + EXERCISE_MINUTES * len(part.exercises)
    return sum(section.minutes for section in sections)
