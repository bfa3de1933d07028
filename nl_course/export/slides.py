"""A notebook as slides for a lecture: one idea each, under a heading, with the text in the speaker's notes.

A slide begins at every heading, after every question "Predict first", and at every code cell that does not fit beside
what stands there already; so the answer is on the slide after its question. A slide that begins without a heading has
that of its section, with "continued". Long paragraphs are shown by their first sentence and by what is bold in them;
the notes hold all of the text. A view, a chart and the stage have a slide of their own.

What fits is reckoned in rows of text, coarsely; `files/course.css` lets code, output and tables that are longer than
their slide scroll in a box of their own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from math import ceil

import nbformat
from nbconvert.filters import markdown2html

from nl_course.export.cells import PLOTLY, as_html, with_links
from nl_course.export.maths import with_mathml
from nl_course.export.pages import head
from nl_course.views.kit.plot import PNG, STILL, WIDGET
from nl_course.views.stage.widget import STAGE

ROWS = 14  # of text that a slide of 1280 x 720 holds beside its heading
LETTERS = 92  # in a row
CODE_ROW = 0.75  # a line of code in rows of text
WORDS = 50  # of a paragraph that is shown whole
FIGURES = (STILL, STAGE, PLOTLY, WIDGET, PNG)
_HEADING = re.compile(r"(#{1,6})\s+(.+)")
_QUESTION = re.compile(r"\*\*Predict first")
# What stands between a sentence and the next one. "et al. 2020" and "Fig. 3" end none.
_BETWEEN = re.compile(r"(?<=[.?!])(?<!\bal\.)(?<!\bvs\.)(?<!\bFig\.)(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z*$`\[\"])")


@dataclass
class Slide:
    """A heading, whether it goes on with the slide before, its parts as (kind, HTML), and the speaker's notes.

    Kinds are "text", "code", "output" and "figure"; `rows` is how much of the slide they take.
    """

    heading: str
    level: int
    continued: bool = False
    parts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: float = 0.0

    def add(self, kind: str, html: str, rows: float) -> None:
        """Puts a part on the slide."""
        self.parts.append((kind, html))
        self.rows += rows

    @property
    def kinds(self) -> set[str]:
        """The kinds of its parts."""
        return {kind for kind, _ in self.parts}


class _Deck:
    """Slides as they are made, and the rules by which a new one begins."""

    def __init__(self, name: str, title: str):
        self.name = name
        self.slides = [Slide(title, 1)]
        self.closed = False  # a question was asked: what comes next belongs on the next slide
        self.last_text = ""  # the paragraph before the slide's first part, for the notes of slides without text

    @property
    def slide(self) -> Slide:
        """The one that is being filled."""
        return self.slides[-1]

    def go_on(self) -> None:
        """A new slide under the same heading; the present one is taken if it is empty."""
        if self.slide.parts:
            self.slides.append(Slide(self.slide.heading, self.slide.level, continued=True))
        self.closed = False

    def begin(self, heading: str, level: int) -> None:
        """A new slide under a heading of its own. One that held nothing but its heading is dropped."""
        if not self.slide.parts:
            self.slides.pop()
        self.slides.append(Slide(heading, level))
        self.closed = False

    def text(self, block: str) -> None:
        """A block of text that is no heading."""
        shown = lead(block)
        rows = rows_of(shown)
        if self.closed or "figure" in self.slide.kinds or self.slide.rows + rows > ROWS:
            self.go_on()
        self.slide.add("text", as_text(shown), rows)
        self.slide.notes.append(as_text(block))
        self.last_text = block
        self.closed = bool(_QUESTION.search(block))

    def code(self, cell: nbformat.NotebookNode) -> None:
        """A code cell: its source, then what it showed."""
        source = cell.source.strip("\n")
        has_figure = any(kind in output.get("data", {}) for output in cell.outputs for kind in FIGURES)
        needed = CODE_ROW * (source.count("\n") + 1) + 1
        shown = as_html([cell], self.name, "output")
        outputs = output_rows(cell) if re.search(r"<(pre|figure|img|p|div data)\b", shown) else 0.0
        if has_figure:
            if not is_plain_call(source):
                self._fit(needed)
                self.slide.notes += [] if self.slide.notes else self._before("")
                self.slide.add("code", as_html([cell], self.name, "code"), needed)
            self.go_on()
            self.slide.add("figure", shown, ROWS)
            self.slide.notes += self._before(source)
            return
        if not outputs and only_imports(source):
            return
        self._fit(needed + outputs)
        self.slide.notes += [] if self.slide.notes else self._before("")
        self.slide.add("code", as_html([cell], self.name, "code"), min(needed, ROWS))
        if outputs:
            if needed + outputs > ROWS + 2:
                self.go_on()
                self.slide.notes += self._before("")
            self.slide.add("output", shown, outputs)

    def _fit(self, rows: float) -> None:
        """Goes on to a new slide for code where the present one has some already, has asked, or has no room."""
        if self.closed or self.slide.kinds - {"text"} or self.slide.rows + rows > ROWS + 2:
            self.go_on()

    def _before(self, source: str) -> list[str]:
        """Notes for a slide without text: what was said just before, and code that is not shown."""
        notes = [f"<p><em>Said before.</em></p>{as_text(self.last_text)}"] if self.last_text else []
        if source:
            notes.append(f"<pre>{escape(source)}</pre>")
        return notes


def split(cells: list[nbformat.NotebookNode], name: str = "", title: str = "") -> list[Slide]:
    """The slides of a notebook's cells. `title` heads what stands before the first heading."""
    deck = _Deck(name, title)
    for cell in cells:
        if cell.cell_type == "code":
            deck.code(cell)
        elif cell.cell_type == "markdown":
            for block in blocks(cell.source):
                heading = _HEADING.fullmatch(block)
                if heading:
                    deck.begin(heading[2], len(heading[1]))
                else:
                    deck.text(block)
    return [slide for slide in deck.slides if slide.parts]


def blocks(text: str) -> Iterator[str]:
    """The headings, paragraphs, lists, tables, formulas and fenced pieces of a text. What is folded away, and marks for
    tools, are left out."""
    text = re.sub(r"<details>.*?</details>|<!--.*?-->", "", text, flags=re.S)
    block: list[str] = []
    inside = ""  # what ends the fence or the formula that the line stands in
    for line in [*text.split("\n"), ""]:
        is_heading = not inside and _HEADING.fullmatch(line.strip())
        is_end = not inside and (not line.strip() or is_heading)
        if is_end:
            if block:
                yield "\n".join(block)
            block = []
            if is_heading:
                yield line.strip()
            continue
        block.append(line)
        for mark in ("```", "$$"):
            is_odd = line.count(mark) % 2 == 1
            if is_odd and inside in ("", mark):
                inside = "" if inside else mark
    if block:
        yield "\n".join(block)


def lead(block: str) -> str:
    """What a slide shows of a block: a long paragraph's first sentence and those with something bold; all of a short
    one, of a question, and of what is no paragraph."""
    is_paragraph = re.match(r"\s*([A-Za-z(\"'`\[]|\*\S)", block) and "$$" not in block and "```" not in block
    if not is_paragraph or _QUESTION.search(block) or len(block.split()) <= WORDS:
        return block
    first, *others = sentences(block)
    return " ".join([first, *(sentence for sentence in others if "**" in sentence)])


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph of Markdown. What is bold, in brackets, code or a formula is not cut."""
    found: list[str] = []
    for piece in _BETWEEN.split(" ".join(paragraph.split())):
        if found and not is_whole(found[-1]):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


def is_whole(text: str) -> bool:
    """Whether all marks that a text opens are closed in it."""
    pairs = all(text.count(mark) % 2 == 0 for mark in ("**", "$", "`"))
    brackets = all(text.count(a) == text.count(b) for a, b in ("()", "[]"))
    return pairs and brackets


def rows_of(block: str) -> float:
    """About how many rows a block of text takes on a slide."""
    if "![" in block or "<img" in block:
        return 10.0
    lines = block.split("\n")
    if block.lstrip().startswith("|"):
        return min(10.0, sum(max(1, ceil(len(line) / 110)) for line in lines[1:]) * 1.1)
    if "$$" in block:
        return 2.5 * block.count("$$") / 2 + 0.4 * len(lines)
    if "```" in block:
        return CODE_ROW * len(lines) + 1
    if re.match(r"\s*([*+-]|\d+\.)\s", block):
        items = re.split(r"(?m)^\s*(?:[*+-]|\d+\.)\s", block)[1:]
        return sum(ceil(len(item) / LETTERS) + 0.15 for item in items) + 0.4
    return ceil(len(re.sub(r"\]\([^)]*\)", "", block)) / LETTERS) + 0.5


def output_rows(cell: nbformat.NotebookNode) -> float:
    """About how many rows the printed output of a cell takes."""
    rows = 0.0
    for output in cell.outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        if output.get("name") != "stderr":
            lines = "".join(text).strip("\n").split("\n")
            rows += CODE_ROW * sum(max(1, ceil(len(line) / 130)) for line in lines) + 0.7
    return rows


def only_imports(source: str) -> bool:
    """Whether a cell's code imports and does nothing else."""
    lines = [line for line in source.split("\n") if line.strip() and not line.startswith((" ", ")", "#"))]
    return all(line.startswith(("import ", "from ")) for line in lines)


def is_plain_call(source: str) -> bool:
    """Whether a cell's code only imports something and calls it: what it shows says as much."""
    lines = [line for line in source.split("\n") if line.strip() and not line.startswith(("import ", "from ", "#"))]
    return len(lines) == 1


def as_text(block: str) -> str:
    """A block of Markdown as HTML."""
    return markdown2html(with_links(with_mathml(block)))


def slide_html(slide: Slide, number: int, of: int) -> str:
    """One slide with its notes."""
    heading = re.sub(r"^<p>|</p>$", "", as_text(slide.heading).strip())
    goes_on = " <small>(continued)</small>" if slide.continued else ""
    tag = "h1" if slide.level == 1 else "h2"
    parts = "".join(f'<div class="part {kind}">{html}</div>\n' for kind, html in slide.parts)
    notes = "".join(slide.notes)
    return (
        f'<section class="slide" aria-label="{number} of {of}"><{tag}>{heading}{goes_on}</{tag}>\n'
        f'<div class="idea">\n{parts}</div>\n<aside class="notes" aria-label="Notes">{notes}</aside></section>\n'
    )


def page(notebook: nbformat.NotebookNode, name: str, titles: dict[str, str]) -> str:
    """The HTML of all slides of a notebook, one of them visible at a time; arrow keys turn them. `titles` are the
    notebooks' titles by name."""
    slides = split(notebook.cells, name, escape(titles[name]))
    sections = "".join(slide_html(slide, i, len(slides)) for i, slide in enumerate(slides, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(titles[name])}: slides</title>
<link rel="stylesheet" href="files/kit.css">
<link rel="stylesheet" href="files/course.css">
{head(name)}</head>
<body class="slides">
{sections}
<nav class="turn-slides" aria-label="Slides">
<button id="back" aria-label="Slide before">&#8592;</button>
<span id="place" aria-live="polite"></span>
<button id="on" aria-label="Next slide">&#8594;</button>
<button id="overview" title="key O">Overview</button>
<button id="notes" title="key N">Notes</button>
<button id="speaker" title="key S">Speaker's window</button>
<a href="{name}.html">as a page</a>
</nav>
<script src="files/slides.js"></script>
</body>
</html>
"""
