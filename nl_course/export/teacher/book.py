"""What the teacher's book says of each notebook, collected from where it is written already."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import nbformat

from nl_course.errors import CourseError
from nl_course.exercises.framework.engine import Exercise, chapters, discussion, exercises_of
from nl_course.files import asset, read_json
from nl_course.notebooks import TOUR, is_core, label, number_of

EXERCISE_MINUTES = 8  # of a section's minutes, what each exercise in it takes (tools/index/minutes.py)
_SECTION = re.compile(r"(?m)^##\s+(.+?)\s*$")
_HEADING = re.compile(r"(?m)^#+\s+(.+?)\s*$")
_ASKED = re.compile(r"\*\*Predict first[^*]*\*\*")
_FOLDED = re.compile(r"<details>.*?</details>", re.S)
_CHECKED = re.compile(r"\bcheck\(\s*[\"'](\d+\.\d+)[\"']")


@dataclass(frozen=True)
class Live:
    """A view to show: its title, the question that it asks first, what to do with the controls, and why a wrong
    prediction is wrong. The last three are empty for a view that asks nothing."""

    title: str
    question: str = ""
    until: str = ""
    why: str = ""


@dataclass
class Section:
    """A `##` section: the id of the cell with its heading, its minutes with exercises, and what happens in it."""

    title: str
    cell: str
    minutes: int
    asked: list[tuple[str, str]] = field(default_factory=list)  # "Predict first": question and answer, as Markdown
    live: list[Live] = field(default_factory=list)
    exercises: list[Exercise] = field(default_factory=list)

    @property
    def shown_minutes(self) -> int:
        """Its minutes where nobody does the exercises, at least 1."""
        return max(1, self.minutes - EXERCISE_MINUTES * len(self.exercises))


@dataclass
class Chapter:
    """A notebook as a teacher sees it. `earned` names the headings above the cells that earn the sentence."""

    stem: str
    title: str
    sentence: str
    earned: list[str]
    sections: list[Section]
    discussion: list[tuple[str, str]]

    @property
    def minutes(self) -> int:
        """Of all sections, exercises included."""
        return sum(section.minutes for section in self.sections)

    @property
    def exercises(self) -> list[Exercise]:
        """Of all sections, in the order in which they are met."""
        return [exercise for section in self.sections for exercise in section.exercises]

    @property
    def kind(self) -> str:
        """ "tour", "core" or "further"."""
        if self.stem == TOUR:
            return "tour"
        return "core" if is_core(self.stem) else "further"

    @property
    def label(self) -> str:
        """What it is called in tables: "05", "05b", "tour"."""
        return label(self.stem)


def check_answers_are_here() -> None:
    """Raises CourseError in a student build, which carries neither aims nor answers."""
    for number in chapters():
        if any(not exercise.aim for exercise in exercises_of(number)):
            raise CourseError(
                "this copy of the course was made for a class and holds no answers; make the teacher's book from the "
                "course itself."
            )


def chapter(path: Path) -> Chapter:
    """All that the book says of the notebook at `path`. Raises CourseError where its sentence is missing."""
    notebook = nbformat.read(path, as_version=4)
    told = _sentences().get(path.stem)
    if told is None:
        raise CourseError(f"assets/sentences.json has no sentence for the notebook {path.stem!r}.")
    sections = sections_of(notebook)
    return Chapter(
        stem=path.stem,
        title=title_of(notebook, path.stem),
        sentence=told["sentence"],
        earned=headings_above(notebook.cells, {name.partition("#")[2] for name in told["cells"]}),
        sections=sections,
        discussion=discussed_in(path),
    )


def discussed_in(path: Path) -> list[tuple[str, str]]:
    """The discussion questions of the notebook at `path` with their answers. A core notebook also has those of its
    chapter that no notebook asks."""
    number = number_of(path.stem)
    if not number or int(number) not in chapters():
        return []
    asked = {}  # notebook of the chapter -> its questions
    for beside in sorted(path.parent.glob(f"{number}*.ipynb")):
        closing = nbformat.read(beside, as_version=4).cells[-1].source
        asked[beside.stem] = set(questions_at_the_end(closing))
    anywhere = set().union(*asked.values())
    found = []
    for question, answer in discussion(int(number)):
        is_mine = bare(question) in asked[path.stem]
        if is_mine or (is_core(path.stem) and bare(question) not in anywhere):
            found.append((question, answer))
    return found


@lru_cache(maxsize=1)
def _sentences() -> dict[str, dict]:
    """Notebook -> its entry in assets/sentences.json: the sentence, and the cells that earn it."""
    return {entry["notebook"]: entry for entry in read_json(asset("sentences.json"), "list of sentences")}


def title_of(notebook: nbformat.NotebookNode, stem: str) -> str:
    """A notebook's first heading, without its marks; its file's name where it has none."""
    for cell in notebook.cells:
        if heading := re.search(r"(?m)^#\s+(.+?)\s*$", cell.source):
            return heading[1].replace("`", "")
    return stem.replace("_", " ")


def headings_above(cells: list[nbformat.NotebookNode], ids: set[str]) -> list[str]:
    """The headings that the cells of these ids stand under, each once, in reading order."""
    found: list[str] = []
    heading = ""
    for cell in cells:
        headings = _HEADING.findall(cell.source) if cell.cell_type == "markdown" else []
        if headings:
            heading = headings[0] if cell.id in ids else headings[-1]
        if cell.id in ids and heading not in found:
            found.append(heading)
        if headings:
            heading = headings[-1]
    return found


def sections_of(notebook: nbformat.NotebookNode) -> list[Section]:
    """The `##` sections of a notebook in reading order. What stands before the first one belongs to none."""
    minutes = notebook.metadata.get("nl_course", {}).get("minutes", {})
    known = {exercise.id: exercise for number in chapters() for exercise in exercises_of(number)}
    sections: list[Section] = []
    views: dict[str, type] = {}
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for title in _SECTION.findall(cell.source):
                sections.append(Section(title, cell.id, int(minutes.get(title, 1))))
            if sections:
                sections[-1].asked += asked_in(notebook.cells, i)
        elif sections:
            sections[-1].live += live_in(cell.source, views)
            for id in _CHECKED.findall(cell.source):
                if id in known and "exercise" in cell.metadata.get("tags", []):
                    sections[-1].exercises.append(known[id])
    return sections


def asked_in(cells: list[nbformat.NotebookNode], index: int) -> Iterator[tuple[str, str]]:
    """The questions "Predict first" of a text, each with its answer: the first paragraph of the next text that is not
    a view's still picture, folded away."""
    for paragraph in paragraphs(cells[index].source):
        if _ASKED.search(paragraph):
            texts = [cell.source for cell in cells[index + 1 :] if cell.cell_type == "markdown"]
            answer = next((first for text in texts for first in paragraphs(_FOLDED.sub("", text))), "")
            yield _ASKED.sub("", paragraph).strip(), "" if answer.startswith("#") else answer


def paragraphs(text: str) -> Iterator[str]:
    """What stands between blank lines."""
    for part in re.split(r"\n\s*\n", text):
        if part.strip():
            yield part.strip()


def live_in(source: str, views: dict[str, type]) -> Iterator[Live]:
    """The views that a code cell shows. `views` holds those imported so far by name; what the cell imports is added."""
    try:
        tree = ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nl_course.views"):
            module = import_module(node.module)
            for alias in node.names:
                thing = getattr(module, alias.name, None)
                if isinstance(thing, type) and getattr(thing, "title", ""):
                    views[alias.asname or alias.name] = thing
    shown = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            name = getattr(called, "id", "")
            if name in views and name not in shown:
                shown.append(name)
    for name in shown:
        asks = getattr(views[name], "prediction", None)
        if asks is None:
            yield Live(views[name].title)
        else:
            yield Live(views[name].title, asks.question, asks.until, asks.why)


def questions_at_the_end(closing: str) -> list[str]:
    """The numbered questions to discuss of a notebook's closing cell, as plain words."""
    parts = re.split(r"questions? to discuss", closing, flags=re.IGNORECASE)
    if len(parts) == 1:
        return []
    found = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\n\n|\Z)", parts[-1], flags=re.MULTILINE | re.DOTALL)
    return [bare(question) for question in found]


def bare(text: str) -> str:
    """A text without links, emphasis, code marks and line breaks, so that the notebook's wording and the exercises' can
    be compared."""
    unlinked = re.sub(r" \(\[[^\]]+\]\([^)]+\)\)", "", text)  # a link in brackets is an aside
    return " ".join(re.sub(r"[*`]", "", unlinked).split())
