"""Which percentages and decimals of a notebook's prose are held by what the notebook itself shows.

A number is *held* if the same `##` section shows it: a checked cell prints it, perhaps with more digits, or the code of
a cell sets it. So does another notebook to which the paragraph links. Where lines of the output name what the paragraph
speaks of, the number must stand in one of those lines: "MAG finds 89 %" is not held by an 89 in the row of MAL. A
number that a sentence takes from a paper is held by its source.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.notebooks.structure import Book, tags

DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?"
NUMBER = re.compile(rf"(?<![\w.])(?<!\d[,-])(?=\.?\d){DIGITS}(?:e[+-]?\d+)?(?!\w|\.\d)")
PERCENT = re.compile(r"\s?(?:%|percent\b)")
BETWEEN = re.compile(r"(?:,? (?:and|to|or|of) |, | ?/ ?|%, |% (?:and|to|or) )")  # "17, 5 and 2 %" are percentages all
CODE = r"```.*?```|`[^`]*`"
FORMULA = r"\$\$.*?\$\$|\$[^$]*\$"
MADE = r"<!-- (\w+) \d\d -->.*?<!-- /\1 -->"  # a table that a tool writes
ALT = r"!\[[^\]]*\]"
NOT_PROSE = re.compile(rf"{CODE}|{FORMULA}|{MADE}|{ALT}|<[^>]*>|\]\([^)]*\)", re.S)
OTHER = re.compile(r"\]\((\w+\.ipynb)")  # a link into another notebook, which may show the number
# "Equation 4.2", "exercise 6.1", "Llama 3.1": numbers that are names.
NAMES = re.compile(
    r"\b(?:[Ee]xercises?|[Ss]ections?|[Ee]quations?|[Ff]igures?|[Tt]ables?|[Aa]ppendix|arXiv:?|[Vv]ersion) [\d.]+"
    r"(?:(?:, | and | to | or )[\d.]+)*|\b[A-Z][\w-]*[ -]\d\.\d\b"
)
SOURCED = re.compile(r"\barXiv\b|\bet al\.|\(\w+ (?:19|20)\d\d\)|\b[Tt]he (?:paper|authors)(?:'s?)? \w+")
WORD = re.compile(r"[A-Za-z][A-Za-z-]{2,}")
# Words that name nothing.
COMMON = frozenset(
    ["the", "and", "for", "with", "from", "that", "this", "than", "are", "was", "its", "one", "two", "per", "after"],
)


@dataclass(frozen=True)
class Number:
    """A number as a sentence says it."""

    said: str
    value: float
    digits: int  # behind the point
    percent: bool

    def shifted(self, units: int) -> "Number":
        """The same with `units` more in its last digit."""
        value = self.value + units * 10.0**-self.digits
        return Number(f"{value:.{self.digits}f}{' %' * self.percent}", value, self.digits, self.percent)

    def is_among(self, shown: frozenset[float]) -> bool:
        """Whether one of the shown numbers is this one, rounded to its digits. 0.912 shows 91 %."""
        scales = (1.0, 100.0) if self.percent else (1.0, 0.01)
        half = 0.5000001 * 10.0**-self.digits
        return any(abs(abs(other) * scale - self.value) <= half for other in shown for scale in scales)


@dataclass(frozen=True)
class Line:
    """A line that a section shows: the words and the numbers in it."""

    words: frozenset[str]
    numbers: frozenset[float]


@dataclass(frozen=True)
class Said:
    """A number with the cell that says it, its sentence, its paragraph, and the lines that its section shows."""

    number: Number
    cell: str
    sentence: str
    paragraph: str
    lines: tuple[Line, ...]

    def shown(self) -> frozenset[float]:
        """The numbers that could hold it."""
        spoken = words_of(self.paragraph)
        near = [line for line in self.lines if line.words & spoken and line.numbers]
        return frozenset().union(*(line.numbers for line in near or self.lines))

    def is_held(self, number: Number | None = None) -> bool:
        """Whether its section holds it, or would hold `number` in its place."""
        return (number or self.number).is_among(self.shown())

    def is_sourced(self) -> bool:
        """Whether its sentence says whose number it is."""
        return bool(SOURCED.search(self.sentence))


def said_by(book: Book) -> Iterator[Said]:
    """Every decimal and percentage of a notebook's prose."""
    others = Others(book.folder)
    for cells in sections(book):
        lines = tuple(line for cell in cells for line in lines_of(cell))
        for cell in cells:
            if cell.cell_type == "markdown":
                for paragraph in re.split(r"\n\s*\n|\n(?=(?:[*-]|\d+\.|\|) )", cell.source):
                    elsewhere = tuple(chain.from_iterable(map(others.lines, OTHER.findall(paragraph))))
                    for number, sentence in numbers_said(paragraph):
                        yield Said(number, cell["id"], sentence, paragraph, lines + elsewhere)


class Others:
    """The lines that the other notebooks of a folder show; each is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, tuple[Line, ...]] = {}

    def lines(self, name: str) -> tuple[Line, ...]:
        """All lines that the notebook `name` shows; none if there is no such notebook."""
        path = self.folder / name
        if name not in self.known:
            cells = Book.read(path).cells if path.is_file() else []
            self.known[name] = tuple(line for cell in cells for line in lines_of(cell))
        return self.known[name]


def sections(book: Book) -> Iterator[list]:
    """The cells from one `##` heading to the next."""
    current: list = []
    for cell in book.cells:
        if cell.cell_type == "markdown" and re.search(r"(?m)^##\s", cell.source) and current:
            yield current
            current = []
        current.append(cell)
    yield current


def numbers_said(paragraph: str) -> Iterator[tuple[Number, str]]:
    """The decimals and percentages of a paragraph, each with its sentence."""
    for sentence in re.split(r"(?<=[.!?:]) ", " ".join(NOT_PROSE.sub(" ", paragraph).split())):
        plain = NAMES.sub(" ", sentence)
        of_percent, end = False, len(plain)
        # From the right, since the sign stands behind the last number of a list.
        for found in reversed(list(NUMBER.finditer(plain))):
            followed = plain[found.end() : end]
            of_percent = bool(PERCENT.match(followed)) or (of_percent and bool(BETWEEN.fullmatch(followed)))
            end = found.start()
            whole, _, decimals = found[0].replace(",", "").partition(".")
            if decimals or of_percent:
                value = float(f"{whole or 0}.{decimals or 0}")
                yield Number(found[0] + " %" * of_percent, value, len(decimals), of_percent), sentence


def lines_of(cell) -> Iterator[Line]:
    """The lines of a code cell's source and, where it is checked, of its stored text."""
    if cell.cell_type != "code":
        return
    yield from map(line_of, literals(cell.source))
    if "nbval-check-output" in tags(cell):
        for output in cell.outputs:
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            yield from map(line_of, text.splitlines())


def literals(source: str) -> Iterator[str]:
    """The lines of a source that set a number; none where it is not plain Python."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return
    lines = source.splitlines()
    for number in sorted({node.lineno for node in nodes if isinstance(node, ast.Constant)}):
        yield lines[number - 1]


def line_of(text: str) -> Line:
    """The words and numbers of a line."""
    return Line(words_of(text), frozenset(float(found[0].replace(",", "")) for found in NUMBER.finditer(text)))


def words_of(text: str) -> frozenset[str]:
    """The words of a text that can name something, in small letters."""
    return frozenset(word.lower() for word in WORD.findall(text)) - COMMON
