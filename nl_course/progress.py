"""What a learner has tried, solved and predicted, kept in their own copy of the course.

A copy made by `nl-course lab` holds a file `progress.jsonl`, to which checks and views add a line each time
something new happens: an exercise was tried or solved, a prediction was made. It is plain text, never leaves the
machine, and may be deleted at any time. Outside of a copy nothing is written.
"""

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from nl_course.errors import CourseError
from nl_course.files import parse_json, reason

COPY = ".nl_course_copy.json"  # in a copy: the manifest of what the course wrote there (app/lab.py)
FILE = "progress.jsonl"
TRIED, SOLVED, PREDICTED = "tried", "solved", "predicted"


@dataclass
class Progress:
    """What is known of a learner: name of an exercise or a view -> the day on which it first happened."""

    tried: dict[str, str] = field(default_factory=dict)
    solved: dict[str, str] = field(default_factory=dict)
    predicted: dict[str, str] = field(default_factory=dict)

    def days_of(self, what: str) -> dict[str, str]:
        """The days of one kind of event: TRIED, SOLVED or PREDICTED."""
        return {TRIED: self.tried, SOLVED: self.solved, PREDICTED: self.predicted}[what]


def copy_around(folder: str | os.PathLike | None = None) -> Path | None:
    """The learner's copy that `folder` (default: the current one) is, or lies in; None if there is none."""
    try:
        start = Path(folder or ".").expanduser().resolve()
        return next((place for place in (start, *start.parents) if (place / COPY).is_file()), None)
    except OSError:
        return None


def read(copy: Path) -> Progress:
    """The progress kept in a copy. Lines that are damaged, or that a later version wrote, are passed over.

    Raises CourseError if there is a file that cannot be read.
    """
    progress = Progress()
    for event in _events(copy / FILE):
        days = progress.days_of(event["what"])
        days.setdefault(event["name"], event["day"])
    return progress


def note(what: str, name: str) -> None:
    """Notes that an exercise was TRIED or SOLVED, or that a prediction was made in a view (PREDICTED).

    Only the first time counts. A file that cannot be read or written costs a warning, never the learner's work.
    """
    copy = copy_around()
    if copy is None:
        return
    try:
        if name in read(copy).days_of(what):
            return
        line = json.dumps({"what": what, "name": name, "day": date.today().isoformat()})
        with (copy / FILE).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except (CourseError, OSError) as error:
        said = reason(error) if isinstance(error, OSError) else error
        warnings.warn(f"your progress could not be kept in {copy / FILE}: {said}", stacklevel=2)


def _events(path: Path) -> Iterator[dict[str, str]]:
    """The events of a file, in order; none if there is no file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {reason(error)}.") from error
    for line in lines:
        try:
            event = parse_json(line)
        except ValueError:
            continue
        is_whole = isinstance(event, dict) and all(isinstance(event.get(key), str) for key in ("what", "name", "day"))
        if is_whole and event["what"] in (TRIED, SOLVED, PREDICTED):
            yield event
