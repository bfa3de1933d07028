"""What grading says: a table for the teacher, a CSV for the grade book, a page for each learner."""

import csv
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nl_course.app.grading.outcome import VERDICTS, Outcome
from nl_course.errors import CourseError
from nl_course.files import check_folder, reason, write_atomically

Grades = Mapping[str, Sequence[Outcome]]  # learner -> an outcome per exercise, in the same order for all
SIGNS = {"passed": "1", "failed": "0", "refused": "!", "empty": "-", "unreadable": "?", "missing": "."}
_HEAD = ("learner", "points", "of")
_MADE_BY = '<meta name="generator" content="nl-course grade">'
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would take for the beginning of a formula
_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0; border-bottom: 1px solid #8888; }
pre { white-space: pre-wrap; border-left: 3px solid #8888; padding-left: 1rem; }
"""


# -- the table ------------------------------------------------------------------------------------------------
def table(grades: Grades) -> str:
    """A line per learner with a sign per exercise, what the signs mean, and where answers failed, the most frequent
    property first."""
    ids = _ids(grades)
    width = max(len("learner"), *map(len, grades))
    lines = ["  ".join([f"{'learner':{width}}", *ids, "points"])]
    for learner, outcomes in grades.items():
        signs = [f"{SIGNS[outcome.verdict]:>{len(outcome.exercise)}}" for outcome in outcomes]
        lines.append("  ".join([f"{learner:{width}}", *signs, f"{_points(outcomes)} of {len(ids)}"]))
    lines += ["", ", ".join(f"{SIGNS[verdict]} {words}" for verdict, words in VERDICTS.items())]
    return "\n".join([*lines, *_where_they_failed(grades)])


def _where_they_failed(grades: Grades) -> list[str]:
    failed: dict[tuple[str, str], list[str]] = {}
    for learner, outcomes in grades.items():
        for outcome in outcomes:
            if outcome.verdict == "failed":
                failed.setdefault((outcome.exercise, outcome.fails or "it stopped"), []).append(learner)
            elif outcome.verdict in ("refused", "unreadable"):
                failed.setdefault((outcome.exercise, _without_id(outcome)), []).append(learner)
    most_first = sorted(failed.items(), key=lambda item: -len(item[1]))
    lines = [f"  {exercise}  {name}: {', '.join(learners)}" for (exercise, name), learners in most_first]
    return ["", "Where answers failed:", *lines] if lines else []


def _without_id(outcome: Outcome) -> str:
    """The words for the learner, which a line that begins with the exercise's id need not repeat."""
    return outcome.text.removeprefix(outcome.exercise).strip().rstrip(".")


# -- the CSV --------------------------------------------------------------------------------------------------
def csv_text(grades: Grades) -> str:
    """A row per learner: name, points, how many there are to be had; then for each exercise the points, the verdict
    and the property that failed."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = []
    for exercise_id in _ids(grades):
        columns += [f"{exercise_id} points", f"{exercise_id} verdict", f"{exercise_id} property"]
    writer.writerow([*_HEAD, *columns])
    for learner, outcomes in grades.items():
        name = f"'{learner}" if learner.startswith(_FORMULA) else learner
        cells = []
        for outcome in outcomes:
            cells += [outcome.points, VERDICTS[outcome.verdict], outcome.fails]
        writer.writerow([name, _points(outcomes), len(outcomes), *cells])
    return stream.getvalue()


# -- the pages ------------------------------------------------------------------------------------------------
def page(learner: str, outcomes: Sequence[Outcome], titles: Mapping[str, str]) -> str:
    """One learner's feedback as an HTML page that needs no other file. `titles` names the exercises."""
    rows, parts = [], []
    for outcome in outcomes:
        title = html.escape(titles[outcome.exercise])
        verdict = html.escape(VERDICTS[outcome.verdict])
        fails = html.escape(outcome.fails)
        rows.append(
            f'<tr><th scope="row">{outcome.exercise}</th><td>{title}</td><td>{verdict}</td><td>{fails}</td></tr>'
        )
        parts.append(f"<h2>{outcome.exercise} {title}</h2>\n<pre>{html.escape(outcome.text)}</pre>")
    name = html.escape(learner)
    head = "".join(f'<th scope="col">{word}</th>' for word in ("Exercise", "Title", "Verdict", "What does not hold"))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"{_MADE_BY}\n<title>Feedback for {name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>Feedback for {name}</h1>",
            f"<p>{_points(outcomes)} of {len(outcomes)} exercises solved.</p>",
            f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>",
            *rows,
            "</tbody>\n</table>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


# -- writing --------------------------------------------------------------------------------------------------
def check_csv(path: str | os.PathLike) -> Path:
    """Returns the path if grades may be written there: nothing is there, or grades of an earlier time are. Raises
    CourseError for any other file."""
    path = Path(path).expanduser()
    check_folder(path.parent, "the folder of the CSV file")
    _check_ours(path, ",".join(_HEAD))
    return path


def check_pages(folder: str | os.PathLike, learners: Sequence[str]) -> Path:
    """Returns the folder if a page for each learner may be written there. Raises CourseError where a file of one of
    their names was not written by grading."""
    folder = check_folder(Path(folder).expanduser(), "the folder of the feedback")
    for learner in learners:
        _check_ours(folder / f"{learner}.html", _MADE_BY)
    return folder


def _check_ours(path: Path, mark: str) -> None:
    """Raises CourseError if something stands at `path` whose beginning has not the mark of what grading writes."""
    if not os.path.lexists(path):
        return
    try:
        is_ours = path.is_file() and mark in path.read_text("utf-8", errors="replace")[:1000]
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {reason(error)}.") from error
    if not is_ours:
        raise CourseError(f"{path} exists already and is not of `nl-course grade`; choose another place.")


def write(path: Path, text: str) -> None:
    """Writes a file as UTF-8. Raises CourseError if that fails."""
    try:
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{path} could not be written: {reason(error)}.") from error


def _ids(grades: Grades) -> list[str]:
    return [outcome.exercise for outcome in next(iter(grades.values()))]


def _points(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.points for outcome in outcomes)
