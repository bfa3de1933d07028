"""Who handed in what: a folder with a notebook, or a folder of notebooks, for each learner."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nl_course.errors import CourseError
from nl_course.files import check_folder, reason
from nl_course.notebooks import all_notebooks

# In a notebook's file, where a quotation mark inside of a cell may have a backslash before it.
_CHECK = re.compile(r"""\bcheck\(\s*\\?["'](\d+\.\d+)\\?["']""")


@dataclass(frozen=True)
class Submission:
    """What one learner handed in."""

    learner: str
    notebooks: tuple[Path, ...]


def find_submissions(folder: str | os.PathLike) -> list[Submission]:
    """The submissions in a folder, by name: each notebook is one, named without its ending, and so is each folder, with
    all notebooks inside of it. Hidden files and Jupyter's own copies do not count.

    Raises CourseError if the folder is missing or holds none, or if two submissions have one name.
    """
    folder = check_folder(Path(folder).expanduser(), "the folder of submissions")
    if not folder.is_dir():
        raise CourseError(f"there is no folder {folder}.")
    found: dict[str, Submission] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not (path.is_dir() or path.suffix == ".ipynb"):
                continue
            learner = path.name if path.is_dir() else path.stem
            if learner in found:
                raise CourseError(f"{folder} holds two submissions called {learner!r}, a notebook and a folder.")
            inside = sorted(path.rglob("*.ipynb")) if path.is_dir() else [path]
            notebooks = [one for one in inside if not _is_hidden(one.relative_to(folder))]
            found[learner] = Submission(learner, tuple(notebooks))
    except OSError as error:
        raise CourseError(f"the folder {folder} cannot be read: {reason(error)}.") from error
    if not any(submission.notebooks for submission in found.values()):
        raise CourseError(f"{folder} holds no submissions; it should hold a notebook or a folder for each learner.")
    return list(found.values())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def exercises_asked(submissions: list[Submission]) -> list[str]:
    """The ids of the exercises that the submissions are about, in the course's order: of each notebook of the course
    all exercises, if a submission checks one of them. Raises CourseError if no submission checks any."""
    checked: set[str] = set()
    for submission in submissions:
        for path in submission.notebooks:
            checked |= checked_in(path)
    asked: set[str] = set()
    for path in all_notebooks():
        in_notebook = checked_in(path)
        if in_notebook & checked:
            asked |= in_notebook
    if not asked:
        raise CourseError('no submission checks an exercise of the course; a cell with check("1.1", ...) should.')
    return sorted(asked, key=in_course_order)


def in_course_order(exercise_id: str) -> tuple[int, int]:
    """What sorts "1.2" before "1.10"."""
    chapter, _, number = exercise_id.partition(".")
    return int(chapter), int(number)


def checked_in(path: Path) -> set[str]:
    """The ids in calls of check in a notebook's file; none where it cannot be read, which grading it will tell."""
    try:
        return set(_CHECK.findall(path.read_text("utf-8", errors="replace")))
    except OSError:
        return set()
