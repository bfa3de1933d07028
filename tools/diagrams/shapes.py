"""Boxes, arrows, texts and numbered steps, and the SVG that shows them.

    drawing = Drawing("wave", "What a wave does", height=120)
    left = drawing.box(20, 40, 100, 36, "the key {k}", symbol="k")
    right = drawing.box(260, 40, 120, 36, "the memory {W}", symbol="W")
    drawing.arrow(left.right(), right.left(), symbol="k")
    drawing.svg()

A drawing is 400 units wide. Shown 360 pixels wide, its smallest text still has 11. In a text `{k}` is the letter k in
the color of k, and `{error:v - k W}` has the words after the colon in the color of the error; the symbols' colors are
those of `nl_course/views/kit/theme.py`. The picture follows the reader's light or dark scheme by a media query, and
brings its own paper, so that it can be read on any page.

`faults` says what a reader would stumble over: a text that leaves its box, things on top of each other, an arrow
through a text or a box. The widths of letters are those of DejaVu Sans, the widest font that a browser takes here.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from nl_course.views.kit.theme import PAPER, SYMBOLS, Ink

WIDTH = 400
SHOWN = 440  # pixels, where there is room
TEXT, SMALL, TITLE = 13, 12.5, 15  # font sizes
LEADING = 1.32  # from one line to the next, in font sizes
MARGIN = 6

INKS = {"paper": PAPER, "ink": Ink("#1B1F24", "#EEF0F2"), "quiet": Ink("#565D66", "#AEB5BE"), **SYMBOLS}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"

# Widths of letters in font sizes; all others are 0.64 wide.
_WIDTHS = {"iIjlJ'": 0.3, " ,.:;|/ft": 0.39, "-()[]r!": 0.42, "sczvkxyLFTY": 0.59, "w%M@": 0.98, "mW": 0.99}
_WIDTHS |= {"+=<>−×←→·≤≥": 0.84, "QOGNDUAVHKX": 0.79}
_WIDTH_OF = {letter: width for letters, width in _WIDTHS.items() for letter in letters}
_BOLD = 1.13  # bold letters are wider by this factor

_MARKED = re.compile(r"\{(\w+)(?::([^}]*))?\}")
Point = tuple[float, float]


@dataclass(frozen=True)
class Rect:
    """A rectangle, x to the right and y down."""

    x: float
    y: float
    w: float
    h: float

    def left(self, share: float = 0.5) -> Point:
        """The point on the left side, `share` of the way down."""
        return self.x, self.y + share * self.h

    def right(self, share: float = 0.5) -> Point:
        """The point on the right side, `share` of the way down."""
        return self.x + self.w, self.y + share * self.h

    def top(self, share: float = 0.5) -> Point:
        """The point on the upper side, `share` of the way to the right."""
        return self.x + share * self.w, self.y

    def bottom(self, share: float = 0.5) -> Point:
        """The point on the lower side, `share` of the way to the right."""
        return self.x + share * self.w, self.y + self.h

    def holds(self, other: "Rect", room: float = 0) -> bool:
        """Whether the other one lies inside, at least `room` from every side."""
        across = self.x + room <= other.x and other.x + other.w <= self.x + self.w - room
        return across and self.y + room <= other.y and other.y + other.h <= self.y + self.h - room

    def meets(self, other: "Rect", room: float = 0) -> bool:
        """Whether the two overlap, or come nearer than `room`."""
        across = self.x < other.x + other.w + room and other.x < self.x + self.w + room
        return across and self.y < other.y + other.h + room and other.y < self.y + self.h + room


@dataclass(frozen=True)
class Box(Rect):
    """A rounded rectangle. A `frame` is drawn round other things; a `new` one is what a drawing is about."""

    symbol: str = ""
    frame: bool = False
    new: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Cell(Rect):
    """A number of a matrix; the fuller, the darker."""

    symbol: str
    shade: float


@dataclass(frozen=True)
class Text:
    """One line of text; `inside` is the box that must hold it."""

    x: float
    y: float  # of the line's middle
    words: str
    size: float = TEXT
    anchor: str = "start"
    symbol: str = "ink"
    bold: bool = False
    inside: Rect | None = None

    @property
    def plain(self) -> str:
        """The text without its marks."""
        return _MARKED.sub(lambda found: found[2] or found[1], self.words)

    @property
    def rect(self) -> Rect:
        """The room that the text takes."""
        width = text_width(self.plain, self.size, self.bold)
        if not self.bold:  # its marked parts are
            marked = "".join(found[2] or found[1] for found in _MARKED.finditer(self.words))
            width += (_BOLD - 1) * text_width(marked, self.size)
        shift = {"start": 0, "middle": 0.5, "end": 1}[self.anchor]
        return Rect(self.x - shift * width, self.y - 0.6 * self.size, width, 1.2 * self.size)


@dataclass(frozen=True)
class Arrow:
    """A line through points, with a head at its end unless `head` is False."""

    points: tuple[Point, ...]
    symbol: str = "ink"
    dashed: bool = False
    head: bool = True
    thick: float = 1.8


@dataclass
class Drawing:
    """A picture under construction. `name` names its file; `alt` says to somebody who cannot see it what it shows."""

    name: str
    title: str
    height: float
    alt: str = ""
    boxes: list[Box] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    steps: list[tuple[Rect, Text]] = field(default_factory=list)

    def __post_init__(self):
        self.text(WIDTH / 2, 20, self.title, size=TITLE, anchor="middle", bold=True)

    # -- what a picture is made of -------------------------------------------------------------------------------------
    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        words: str = "",
        symbol: str = "",
        size: float = TEXT,
        frame: bool = False,
        new: bool = False,
        faint: bool = False,
        bold: bool = False,
    ) -> Box:
        """A box with lines of text in its middle."""
        box = Box(x, y, w, h, symbol, frame, new, faint)
        self.boxes.append(box)
        lines = words.split("\n") if words else []
        ink = "quiet" if faint else "ink"
        for number, line in enumerate(lines):
            middle = y + h / 2 + (number - (len(lines) - 1) / 2) * LEADING * size
            self.text(x + w / 2, middle, line, size=size, anchor="middle", inside=box, bold=bold, symbol=ink)
        return box

    def text(self, x: float, y: float, words: str, **how) -> None:
        """Lines of text, the middle of the first at y. `how`: the fields of `Text`."""
        size = how.get("size", TEXT)
        for number, line in enumerate(words.split("\n")):
            self.texts.append(Text(x, y + number * LEADING * size, line, **how))

    def arrow(self, *points: Point, **how) -> None:
        """An arrow through these points. `how`: the fields of `Arrow`."""
        self.arrows.append(Arrow(points, **how))

    def step(
        self, number: int, x: float, y: float, words: str = "", anchor: str = "start", size: float = SMALL
    ) -> None:
        """A numbered step: its number in a disk at (x, y), its words beside it."""
        disk = Rect(x - 9, y - 9, 18, 18)
        self.steps.append((disk, Text(x, y, str(number), size=SMALL, anchor="middle", symbol="paper", bold=True)))
        if words:
            self.text(x + 13, y, words, size=SMALL, bold=True)

    def grid(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        columns: int,
        rows: int,
        symbol: str,
        new: int = 0,
        shades: tuple[float, ...] = (),
    ) -> Rect:
        """A matrix as a grid of cells; its last `new` columns are drawn full. `shades`: how full each row is."""
        across, down = w / columns, h / rows
        for column in range(columns):
            for row in range(rows):
                shade = shades[row] if shades else 0.3
                if column >= columns - new:
                    shade = 0.95
                self.cells.append(Cell(x + column * across, y + row * down, across - 1.5, down - 1.5, symbol, shade))
        return Rect(x, y, w - 1.5, h - 1.5)

    # -- what would be in a reader's way -------------------------------------------------------------------------------
    def faults(self) -> Iterator[str]:
        """What a reader would stumble over, in words."""
        page = Rect(0, 0, WIDTH, self.height)
        blocks = [(text.rect, text.plain) for text in self.texts]
        blocks += [(disk, f"step {number.words}") for disk, number in self.steps]
        for text in self.texts:
            if text.inside is not None and not text.inside.holds(text.rect, room=2):
                yield f"{text.plain!r} leaves its box"
            if text.size < SMALL:
                yield f"{text.plain!r} is too small to be read"
        for index, (rect, words) in enumerate(blocks):
            if not page.holds(rect, room=MARGIN - 2):
                yield f"{words!r} leaves the page"
            for other, others in blocks[index + 1 :]:
                if rect.meets(other):
                    yield f"{words!r} lies on {others!r}"
            for box in self.boxes:
                if rect.meets(box) and not box.holds(rect):
                    yield f"{words!r} lies across the edge of a box at {box.x:g}, {box.y:g}"
            for cell in self.cells:
                if rect.meets(cell):
                    yield f"{words!r} lies on a cell at {cell.x:g}, {cell.y:g}"
        # Arrows may enter a box that holds other boxes.
        solid = []
        for box in self.boxes:
            if not box.frame and not any(box.holds(other) for other in self.boxes if other is not box):
                solid.append(box)
        for index, box in enumerate(self.boxes):
            if not page.holds(box, room=2):
                yield f"a box at {box.x:g}, {box.y:g} leaves the page"
            for other in self.boxes[index + 1 :]:
                if box.meets(other) and not (box.holds(other) or other.holds(box)):
                    yield f"boxes at {box.x:g}, {box.y:g} and {other.x:g}, {other.y:g} overlap"
        for arrow in self.arrows:
            for start, end in zip(arrow.points, arrow.points[1:]):
                for rect, words in blocks:
                    if crosses(start, end, rect):
                        yield f"an arrow from {start} to {end} crosses {words!r}"
                for box in solid:
                    inner = Rect(box.x + 2, box.y + 2, box.w - 4, box.h - 4)
                    if crosses(start, end, inner):
                        yield f"an arrow from {start} to {end} crosses the box at {box.x:g}, {box.y:g}"
                if not all(page.holds(Rect(x, y, 0, 0), room=2) for x, y in (start, end)):
                    yield f"an arrow from {start} to {end} leaves the page"

    # -- the picture ---------------------------------------------------------------------------------------------------
    def svg(self) -> str:
        """The file's text."""
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {number_of(self.height)}" '
            f'width="{SHOWN}" height="{number_of(SHOWN * self.height / WIDTH)}" role="img">',
            f"<title>{escape(Text(0, 0, self.title).plain)}</title>",
            f"<desc>{escape(self.alt)}</desc>",
            f"<style>{style_sheet()}</style>",
            f'<rect class="page" width="{WIDTH}" height="{number_of(self.height)}" rx="8"/>',
        ]
        lines += [box_svg(box) for box in self.boxes]
        lines += [cell_svg(cell) for cell in self.cells]
        lines += [arrow_svg(arrow) for arrow in self.arrows]
        for disk, number in self.steps:
            lines.append(f'<circle class="disk" cx="{number_of(disk.x + 9)}" cy="{number_of(disk.y + 9)}" r="9"/>')
            lines.append(text_svg(number))
        lines += [text_svg(text) for text in self.texts]
        return "\n".join([*lines, "</svg>", ""])


def text_width(words: str, size: float, bold: bool = False) -> float:
    """How wide a text is at most."""
    factor = _BOLD if bold else 1.0
    return factor * size * sum(_WIDTH_OF.get(letter, 0.64) for letter in words)


def crosses(start: Point, end: Point, rect: Rect) -> bool:
    """Whether the line between two points touches the inside of a rectangle (Liang and Barsky 1984)."""
    (x, y), (x_end, y_end) = start, end
    dx, dy = x_end - x, y_end - y
    first, last = 0.0, 1.0
    sides = ((-dx, x - rect.x), (dx, rect.x + rect.w - x), (-dy, y - rect.y), (dy, rect.y + rect.h - y))
    for toward, distance in sides:
        if toward == 0:
            if distance <= 0:
                return False
            continue
        share = distance / toward
        if toward < 0:
            first = max(first, share)
        else:
            last = min(last, share)
    return last - first > 1e-9


def style_sheet() -> str:
    """The colors for light and dark, and what each class wears."""
    light = ";".join(f"--{name}:{ink.light}" for name, ink in INKS.items())
    dark = ";".join(f"--{name}:{ink.dark}" for name, ink in INKS.items())
    rules = [
        f":root{{{light}}}",
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}",
        f"@media print{{:root{{{light}}}}}",
        f"text{{font-family:{FONTS};dominant-baseline:central}}",
        ".page{fill:var(--paper)}.disk{fill:var(--ink)}",
        ".box{fill:var(--ink);fill-opacity:.04;stroke:var(--quiet);stroke-width:1.3}",
        ".frame{fill:none;stroke-dasharray:5 4}.faint{fill:none;stroke-dasharray:2 3}.new{stroke-width:3.2}",
    ]
    for name in SYMBOLS:
        rules.append(f".box.{name}{{fill:var(--{name});fill-opacity:.1;stroke:var(--{name})}}")
    for name in INKS:
        rules.append(f".t-{name}{{fill:var(--{name})}}.a-{name}{{stroke:var(--{name});fill:none}}")
    return "".join(rules)


def number_of(value: float) -> str:
    """A number as short as it can be written, to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def box_svg(box: Box) -> str:
    """A box as SVG."""
    marks = {"frame": box.frame, "new": box.new, "faint": box.faint}
    classes = ["box", box.symbol, *(name for name, on in marks.items() if on)]
    return f'<rect class="{" ".join(filter(None, classes))}" {place(box)} rx="{12 if box.frame else 6}"/>'


def cell_svg(cell: Cell) -> str:
    """A cell of a grid as SVG."""
    return f'<rect class="t-{cell.symbol}" fill-opacity="{cell.shade:g}" {place(cell)} rx="1"/>'


def place(rect: Rect) -> str:
    """Position and size as attributes."""
    values = {"x": rect.x, "y": rect.y, "width": rect.w, "height": rect.h}
    return " ".join(f'{name}="{number_of(value)}"' for name, value in values.items())


def arrow_svg(arrow: Arrow) -> str:
    """An arrow as SVG: its line, which ends inside the head, and the head."""
    *before, (x_from, y_from), (x, y) = arrow.points
    length = math.hypot(x - x_from, y - y_from)
    ux, uy = (x - x_from) / length, (y - y_from) / length
    size = 5 + 1.6 * arrow.thick
    end = (x - 0.7 * size * ux, y - 0.7 * size * uy) if arrow.head else (x, y)
    points = " ".join(f"{number_of(px)},{number_of(py)}" for px, py in [*before, (x_from, y_from), end])
    dash = ' stroke-dasharray="5 4"' if arrow.dashed else ""
    line = f'<polyline class="a-{arrow.symbol}" points="{points}" stroke-width="{arrow.thick:g}"{dash}/>'
    if not arrow.head:
        return line
    bx, by = x - size * ux, y - size * uy
    half = 0.45 * size
    corners = [(x, y), (bx - half * uy, by + half * ux), (bx + half * uy, by - half * ux)]
    head = " ".join(f"{number_of(px)},{number_of(py)}" for px, py in corners)
    return f'{line}<polygon class="t-{arrow.symbol}" points="{head}"/>'


def text_svg(text: Text) -> str:
    """A line of text as SVG, each marked part in its color."""
    parts = []
    end = 0
    for found in _MARKED.finditer(text.words):
        parts.append(escape(text.words[end : found.start()], quote=False))
        words = escape(found[2] or found[1], quote=False)
        parts.append(f'<tspan class="t-{found[1]}" font-weight="700">{words}</tspan>')
        end = found.end()
    parts.append(escape(text.words[end:], quote=False))
    weight = ' font-weight="700"' if text.bold else ""
    where = f'x="{number_of(text.x)}" y="{number_of(text.y)}" font-size="{number_of(text.size)}"'
    return f'<text class="t-{text.symbol}" {where} text-anchor="{text.anchor}"{weight}>{"".join(parts)}</text>'
