"""What the course asks of every notebook. Each check takes a notebook and yields its faults, in words.

A check is a function of a `Book` (one notebook with its name and what nl_course exports) decorated with @check.
"""

import ast
import base64
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat

from nl_course.notebooks import is_core, number_of
from nl_course.views.kit.plot import PNG
from tools import pictures
from tools.run_notebooks import normalise

ROOT = Path(__file__).parents[2]
MOST_LINES, MEDIAN_LINES = 20, 7  # non-blank lines of a code cell
FURTHER_MEDIAN_LINES = 10  # of a further notebook, which holds what is too long for the core
TOUR_MEDIAN_LINES = 14  # the tour shows one idea whole in each of its few code cells
WORDS_PER_LINE, CELLS_PER_CELL = 7, 1.3  # least: words of text per line of code, text cells per code cell
MOST_BYTES = 300_000  # of a notebook without its pictures
WITHOUT_PICTURE = ("Entry check", "A machine that reads")  # widgets that hold no figure, by their first words
COVERED = ": Predict first. "  # what a view says that waits for a prediction: its picture would be the answer
CHECKS: list[Callable] = []


@dataclass
class Book:
    """One notebook; `folder` is where its relative paths start."""

    name: str
    notebook: nbformat.NotebookNode
    folder: Path

    @classmethod
    def read(cls, path: Path) -> "Book":
        return cls(path.name, nbformat.read(path, as_version=4), path.parent)

    @property
    def number(self) -> str:
        """The number that it shares with its further notebooks, such as "05"; "" for the tour."""
        return number_of(Path(self.name).stem)

    @property
    def is_core(self) -> bool:
        return is_core(Path(self.name).stem)

    @property
    def is_further(self) -> bool:
        return bool(self.number) and not self.is_core

    @cached_property
    def cells(self) -> list:
        return self.notebook.cells

    @cached_property
    def code(self) -> list:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @cached_property
    def prose(self) -> list:
        return [cell for cell in self.cells if cell.cell_type == "markdown"]

    def tree(self, cell) -> ast.Module:
        """The cell's syntax tree, with IPython's lines of magic left out; empty where it does not parse."""
        plain = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)
        try:
            return ast.parse(plain)
        except SyntaxError:
            return ast.Module(body=[], type_ignores=[])

    def defined(self, cell) -> list[str]:
        """Names of the functions and classes that a cell defines at its top level."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return [node.name for node in self.tree(cell).body if isinstance(node, kinds)]

    def imported(self) -> dict[str, str]:
        """Names imported from nl_course anywhere in the notebook -> the module they come from."""
        nodes = (node for cell in self.code for node in ast.walk(self.tree(cell)))
        froms = (n for n in nodes if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("nl_course"))
        return {alias.asname or alias.name: node.module for node in froms for alias in node.names}


def check(function: Callable[[Book], Iterator[str]]) -> Callable[[Book], Iterator[str]]:
    CHECKS.append(function)
    return function


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def lines(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def first(cell) -> str:
    """A cell's first line, to name it by."""
    return repr(cell.source.strip().split("\n")[0][:60])


@check
def pictures_have_alt_text(book):
    for cell in book.prose:
        alts = re.findall(r"!\[([^\]]*)\]\(", cell.source)
        for tag in re.findall(r"<img\b[^>]*>", cell.source, re.S):
            found = re.search(r"""\balt=(["'])(.*?)\1""", tag, re.S)
            alts.append(found.group(2) if found else "")
        for alt in alts:
            if len(alt.split()) < 4:
                yield f"a picture in {first(cell)} needs alt text that says what it shows, not {alt!r}."


@check
def code_cells_are_short(book):
    sizes = [lines(cell) for cell in book.code]
    for cell, size in zip(book.code, sizes):
        if size > MOST_LINES:
            yield f"{first(cell)} has {size} lines; at most {MOST_LINES}."
    most = FURTHER_MEDIAN_LINES if book.is_further else MEDIAN_LINES
    if not book.number:
        most = TOUR_MEDIAN_LINES
    if sizes and statistics.median(sizes) > most:
        yield f"the median code cell has {statistics.median(sizes):g} lines; at most {most}."


@check
def text_outweighs_code(book):
    words = sum(len(re.sub(r"<[^>]*>", " ", cell.source).split()) for cell in book.prose)
    size = max(1, sum(map(lines, book.code)))
    if words < WORDS_PER_LINE * size:
        yield f"{words} words of text beside {size} lines of code; at least {WORDS_PER_LINE} a line."
    if len(book.prose) < CELLS_PER_CELL * len(book.code):
        yield f"{len(book.prose)} text cells, {len(book.code)} code cells; at least {CELLS_PER_CELL} : 1."


@check
def nothing_is_fetched(book):
    tag = r"<(?:img|script|link|iframe|source|video|audio|embed|object)\b[^>]*?(?:src|href|data)\s*=\s*[\"']?\s*"
    remote = rf"(?is){tag}(?:https?:)?//|!\[[^\]]*\]\(\s*<?(?:https?:)?//|url\(\s*[\"']?(?:https?:)?//|@import"
    fetches = r"https?://|\burlopen\b|\brequests\.|\bload_dataset\b|^\s*[!%]\s*(?:pip|conda|wget|curl)\b|\bcdn\b"
    for cell in book.cells:
        pattern = remote if cell.cell_type == "markdown" else rf"(?im){fetches}"
        if found := re.search(pattern, cell.source):
            yield f"{first(cell)} fetches something: {found.group().strip()[:60]!r}."


@check
def metadata_and_outputs_are_clean(book):
    if "widgets" in book.notebook.metadata:
        yield "it stores widget state; run `make notebooks`."
    for cell in book.code:
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{first(cell)} stores an error: {output.ename}."
            if any("plotly" in kind for kind in output.get("data", {})):
                yield f"{first(cell)} stores a plotly figure; show a chart or a view."
    normal = normalise(nbformat.from_dict(book.notebook.copy()))
    if nbformat.writes(normal) != nbformat.writes(book.notebook):
        yield "it is not in its committed form; run `make notebooks`."
    pngs = sum(len(output.get("data", {}).get(PNG, "")) for cell in book.code for output in cell.outputs)
    if (size := len(nbformat.writes(book.notebook).encode()) - pngs) > MOST_BYTES:
        yield f"it has {size:,} bytes; at most {MOST_BYTES:,}."
    if any(cell.get("attachments") for cell in book.cells):
        yield "it has pictures attached to cells; put them under assets/."


@check
def local_pictures_exist(book):
    for cell in book.prose:
        found = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", cell.source)
        found += re.findall(r"""<img\b[^>]*?\bsrc=["']([^"']+)""", cell.source, re.S)
        for path in found:
            if "//" not in path and not (book.folder / path).is_file():
                yield f"the picture {path} of {first(cell)} is missing; run `make shots`."


@check
def outputs_have_their_picture(book):
    for cell in book.code:
        for output in cell.outputs:
            said = output.get("data", {}).get("text/plain", "")
            if "nl_course" not in output.get("metadata", {}) or said.startswith(WITHOUT_PICTURE) or COVERED in said:
                continue
            picture = base64.b64decode(output.data.get(PNG, ""))
            if not picture.startswith(b"\x89PNG") or pictures.FINGERPRINT not in output.metadata:
                yield f"{first(cell)} shows a figure but stores no picture of it; run `make notebooks`."
            elif len(picture) > pictures.MOST_BYTES:
                yield f"the picture of {first(cell)} has {len(picture):,} bytes; at most {pictures.MOST_BYTES:,}."


@check
def views_have_a_static_picture(book):
    from_views = {name for name, module in book.imported().items() if module.startswith("nl_course.views")}
    for here, after in zip(book.cells, [*book.cells[1:], None]):
        if here.cell_type != "code":
            continue
        calls = [node.func for node in ast.walk(book.tree(here)) if isinstance(node, ast.Call)]
        for view in {c.id for c in calls if isinstance(c, ast.Name) and c.id in from_views and c.id[0].isupper()}:
            text = after.source if after is not None and after.cell_type == "markdown" else ""
            if "<details>" not in text or "../assets/previews/" not in text:
                yield f"the view {view} needs its static picture in <details> in the next cell."


@check
def cells_are_tagged(book):
    for cell in book.cells:
        for tag in {"core", "extra"} & set(tags(cell)):
            yield f"{first(cell)} is tagged {tag}: what is optional says so in words, or stands in a further notebook."
    checked = [cell for cell in book.code if "nbval-check-output" in tags(cell)]
    if not checked:
        yield "no cell is tagged nbval-check-output: nothing that it claims is compared."
    for cell in checked:
        text = "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs)
        if not text.strip():
            yield f"{first(cell)} is to be compared but stores no text; run `make notebooks`."
        for bad in re.findall(r"\d\.\d{7,}|\b0x[0-9a-f]{6,}|\b\d+(?:\.\d+)?\s?(?:ms|µs|seconds?)\b", text):
            yield f"{first(cell)} is to be compared but prints {bad!r}, which differs between machines."


@check
def minutes_are_given(book):
    minutes = book.notebook.metadata.get("nl_course", {}).get("minutes", {})
    headings = re.findall(r"(?m)^##\s+(.+?)\s*$", "\n".join(cell.source for cell in book.prose))
    if not minutes:
        yield 'its metadata lack nl_course: {"minutes": {"section title": minutes}}.'
    for title, value in minutes.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            yield f"the minutes of {title!r} must be a number above 0, not {value!r}."
        if title not in headings:
            yield f"the minutes name a section {title!r} that is not among its ## headings."


@check
def it_opens_and_closes_as_all_do(book):
    opening = book.cells[0] if book.cells else None
    closing = book.cells[-1] if book.cells else None
    last = ("what you can now say", "discuss", "further reading", "where the paper is silent")
    for cell, place, wanted in (
        (opening, "first", ("goals", "minutes", "what you need to know")),
        (closing, "last", last if book.is_core else last[:1]),
    ):
        if cell is None or cell.cell_type != "markdown":
            yield f"the {place} cell must be text."
            continue
        for phrase in wanted:
            if phrase not in cell.source.lower():
                yield f"the {place} cell lacks {phrase!r}."
    if opening is not None and not re.match(r"# \S", opening.source):
        yield "the first cell must begin with the title, as # ..."


@check
def exercises_are_checked(book):
    exercises = [(i, cell) for i, cell in enumerate(book.cells) if "exercise" in tags(cell)]
    asked = {}  # in the order of the page
    for i, cell in exercises:
        if cell.cell_type != "code":
            continue
        following = next((c.source for c in book.cells[i + 1 :] if c.cell_type == "code"), "")
        called = re.findall(r"""\bcheck\(\s*["'](\d+\.\d+)["']""", cell.source + "\n" + following)
        if not called:
            yield f'the exercise {first(cell)} is not checked: check("1.1", ...) must follow.'
        asked |= dict.fromkeys(called)
    if list(asked) != sorted(asked, key=lambda a: [int(part) for part in a.split(".")]):
        yield f"its exercises are numbered in another order than they come: {', '.join(asked)}."
    if book.is_core and book.number != "00" and len(asked) < 3:
        yield f"it checks {len(asked)} exercises; at least 3."
    for other in sorted(a for a in asked if not book.number or int(a.split(".")[0]) != int(book.number)):
        yield f"the exercise {other} belongs to another notebook."


@check
def no_paths_of_one_machine(book):
    path = r"(?<![\w./>)-])(?:/(?:home|Users|root|tmp|work|mnt|private|media|opt|var)/[\w.-]+|[A-Z]:\\\w+)"
    for cell in book.cells:
        outputs = cell.get("outputs", [])
        printed = "".join(o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in outputs)
        if found := re.search(path, cell.source + "\n" + printed):
            yield f"{first(cell)} names a path of one machine: {found.group()!r}."


def twice_defined(books: list[Book], exported: dict[str, str]) -> Iterator[str]:
    """Definitions that stand twice in the course, or rebuild what nl_course exports without saying so.

    A function is built once, in a cell tagged `builds:NAME`, and imported from nl_course ever after. Stubs in
    exercise cells are the learner's and count as none. `exported` maps a name to its module.
    """
    seen: dict[str, str] = {}
    for book in books:
        imported = {}
        for cell in book.code:
            if "exercise" in tags(cell):
                continue
            builds = {tag.removeprefix("builds:") for tag in tags(cell) if tag.startswith("builds:")}
            for name in book.defined(cell):
                if name in seen:
                    yield f"{book.name}: {name} was defined before, in {seen[name]}; import it from nl_course."
                elif name in imported:
                    yield f"{book.name}: {name} is imported and then defined again."
                elif name in exported and name not in builds:
                    yield f"{book.name}: {exported[name]} has {name}; import it, or tag the cell builds:{name}."
                seen.setdefault(name, book.name)
            for name in sorted(builds - set(book.defined(cell))):
                yield f"{book.name}: a cell is tagged builds:{name} but does not define it."
            for name in sorted(builds - set(exported)):
                yield f"{book.name}: it builds {name}, which nl_course does not export for later notebooks."
            for node in ast.walk(book.tree(cell)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nl_course"):
                    imported.update({alias.asname or alias.name: node.module for alias in node.names})


def exported_names() -> dict[str, str]:
    """Public functions and classes at the top level of nl_course's modules -> the module."""
    names = {}
    for path in sorted((ROOT / "nl_course").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module.split(".")[1:2] in (["exercises"], ["views"], ["cli"], ["_course"]):
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                names[node.name] = module
    return names
