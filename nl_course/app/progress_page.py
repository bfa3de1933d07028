"""How far a learner has come: `nl-course progress [DIR]`, and a table in notebook 00.

progress_page()              # of the copy in which this notebook lies
progress_page("my_course")   # of the copy in that folder
"""

import argparse
import os
import re
from dataclasses import dataclass, field

from nl_course.errors import DONE, CourseError
from nl_course.exercises.framework.engine import chapters, exercises_of
from nl_course.progress import Progress, copy_around, read

NO_COPY = (
    "Progress is kept in a copy of the course of your own. `nl-course lab --copy my_course` makes one and opens it; "
    "the course's own folder stays as it is."
)

HEAD = ("notebook", "exercises", "solved", "tried, not solved yet")


@dataclass(frozen=True)
class ProgressPage:
    """Exercises per notebook, solved and open, as a table in a notebook and in a terminal."""

    progress: Progress
    ids: dict[str, list[str]] = field(default_factory=dict)  # notebook's number -> its exercises, in order

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Per notebook with exercises: its number, how many are solved, the solved ones, those that were tried only."""
        rows = []
        for number, ids in self.ids.items():
            solved = [id for id in ids if id in self.progress.solved]
            tried = [id for id in ids if id in self.progress.tried and id not in self.progress.solved]
            rows.append((number, f"{len(solved)} of {len(ids)}", ", ".join(solved) or "-", ", ".join(tried) or "-"))
        return rows

    def next_one(self) -> str:
        """A sentence about what is open: the first exercise that was tried in vain, else the first one not tried."""
        left = [id for ids in self.ids.values() for id in ids if id not in self.progress.solved]
        if not left:
            return "Every exercise is solved."
        tried = [id for id in left if id in self.progress.tried]
        return f"Exercise {tried[0]} is tried and not solved yet." if tried else f"Next: exercise {left[0]}."

    def said(self) -> str:
        """The sums, in words."""
        total = sum(map(len, self.ids.values()))
        solved = sum(id in self.progress.solved for ids in self.ids.values() for id in ids)
        views = len(self.progress.predicted)
        answered = f"predictions answered in {views} view{'s' * (views != 1)}"
        return f"{solved} of {total} exercises solved, {answered}. {self.next_one()}"

    def table(self) -> list[str]:
        """The table's lines, in Markdown."""
        rows = [HEAD, ("---",) * len(HEAD), *self.rows()]
        return [f"| {' | '.join(row)} |" for row in rows]

    def __repr__(self) -> str:
        form = "{:8}  {:9}  {:28}  {}"
        rows = [HEAD, *self.rows()]
        return "\n".join([self.said(), "", *(form.format(*row) for row in rows)])

    def _repr_markdown_(self) -> str:
        return "\n".join([self.said(), "", *self.table()])


@dataclass(frozen=True)
class NoCopy:
    """Stands in place of the page where there is no copy, and says how to make one."""

    def __repr__(self) -> str:
        return NO_COPY.replace("`", "")

    def _repr_markdown_(self) -> str:
        return NO_COPY


def progress_page(folder: str | os.PathLike | None = None) -> ProgressPage | NoCopy:
    """The progress kept in the learner's copy that is, or holds, `folder` (default: where this runs).

    Raises CourseError if `folder` was named and is not in a copy, or if its file cannot be read.
    """
    copy = copy_around(folder)
    if copy is None:
        if folder is not None:
            raise CourseError(f"{folder} is not in a copy of the course. {NO_COPY}")
        return NoCopy()
    return ProgressPage(read(copy), {f"{number:02d}": _ids(number) for number in chapters() if _ids(number)})


def _ids(chapter: int) -> list[str]:
    """The ids of a notebook's exercises, in the order of their numbers."""
    found = [exercise.id for exercise in exercises_of(chapter)]
    return sorted(found, key=lambda id: [int(part) for part in re.findall(r"\d+", id)])


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds `progress [DIR]` to the command line."""
    parser = commands.add_parser("progress", help="which exercises of your copy are solved, and which are open")
    parser.add_argument("folder", metavar="DIR", nargs="?", help="your copy of the course (default: where you are)")
    parser.set_defaults(run=run_progress)


def run_progress(arguments: argparse.Namespace) -> int:
    """Prints the page; returns the exit code."""
    print(progress_page(arguments.folder))
    return DONE
