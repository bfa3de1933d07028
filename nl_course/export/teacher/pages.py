"""The teacher's book as HTML: a page per notebook, and a front page with the routes."""

import re
from collections.abc import Iterable, Mapping
from html import escape

from nbconvert.filters import markdown2html

from nl_course.exercises.framework.engine import Exercise
from nl_course.export.maths import with_mathml
from nl_course.export.pages import list_of_pages
from nl_course.export.teacher.book import Chapter, Live, Section
from nl_course.export.teacher.routes import WAYS, Part, Route, Sitting

WARNING = "For the teacher. These pages hold the answers; keep them apart from what learners see."
LEVELS = ("2", "1", "0")  # marks of each row of a rubric
KINDS = {"tour": "the tour", "core": "core", "further": "further"}
_LINK = re.compile(r"(?<!!)\[([^\[\]\n]+)\]\([^()\s]+\)")


def words(markdown: str) -> str:
    """Markdown as HTML, its formulas as MathML. Links become plain text: they would lead out of the book."""
    return markdown2html(with_mathml(_LINK.sub(r"\1", markdown)))


def inline(markdown: str) -> str:
    """The same without the paragraph around it, for one paragraph inside a line."""
    return re.sub(r"^<p>|</p>$", "", words(markdown).strip())


def plain(markdown: str) -> str:
    """A heading without marks."""
    return escape(re.sub(r"[`*]", "", markdown))


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of HTML cells under plain headings; a cell may hold any HTML."""
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in row)
        body += f"<tr>{cells}</tr>\n"
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def frame(title: str, body: str, chapters: Mapping[str, Chapter], here: str = "") -> str:
    """A page of the book, with the list of all its pages."""
    links = list_of_pages({stem: chapter.title for stem, chapter in chapters.items()}, here)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{escape(title)}: teacher's book</title>
<link rel="stylesheet" href="files/course.css">
</head>
<body>
<nav aria-label="The book"><a href="index.html">The teacher's book</a><ol>{links}</ol></nav>
<main>
<p><strong>{WARNING}</strong></p>
{body}
</main>
</body>
</html>
"""


# -- the front page -------------------------------------------------------------------------------------------
def front_page(chapters: Mapping[str, Chapter], routes: list[Route]) -> str:
    """What each notebook lets one say, its minutes, and the routes."""
    rows = []
    for stem, chapter in chapters.items():
        rows.append(
            (
                f'<a href="{stem}.html">{escape(chapter.title)}</a>',
                KINDS[chapter.kind],
                escape(chapter.sentence),
                f"{chapter.minutes} min",
                str(len(chapter.exercises)),
            )
        )
    columns = ("notebook", "kind", "the sentence to earn", "to read and try", "exercises")
    body = "<h1>The teacher's book</h1>\n"
    body += (
        "<p>Each notebook earns one sentence. A learner who can say it, and name the measurement behind it, is done "
        "with that notebook. Core notebooks need no further one.</p>"
    )
    body += f"<h2>The notebooks</h2>\n{table(columns, rows)}\n<h2>Three routes</h2>\n"
    body += (
        "<p>The minutes of each part are at least those that its sections are counted with. Where you show a section, "
        "its exercises are not counted.</p>"
    )
    body += "".join(route_html(route, chapters) for route in routes)
    return frame("Nested Learning", body, chapters)


def route_html(route: Route, chapters: Mapping[str, Chapter]) -> str:
    """A route with its sittings, each with a clock."""
    sittings = "".join(sitting_html(sitting, chapters) for sitting in route.sittings)
    return f"<h3>{escape(route.name)}: {clock(route.minutes)}</h3>\n<p>{escape(route.about)}</p>\n{sittings}"


def sitting_html(sitting: Sitting, chapters: Mapping[str, Chapter]) -> str:
    """One sitting's table: when each part begins, how long it is, what is done with what."""
    rows = []
    begun = 0
    for part in sitting.parts:
        rows.append((clock(begun), f"{part.minutes} min", WAYS[part.do], part_html(part, chapters)))
        begun += part.minutes
    title = f"<h4>{escape(sitting.title)}: {clock(sitting.minutes)}</h4>"
    return title + table(("begins", "takes", "how", "what"), rows)


def part_html(part: Part, chapters: Mapping[str, Chapter]) -> str:
    """What is done in a part, with links to the sections that it uses."""
    html = escape(part.words)
    if not part.notebook:
        return html
    chapter = chapters[part.notebook]
    links = [f'<a href="{part.notebook}.html">{escape(chapter.label)}</a>']
    for section in chapter.sections:
        if section.cell in part.cells:
            links.append(f'<a href="{part.notebook}.html#{section.cell}">{plain(section.title)}</a>')
    for id in part.exercises:
        links.append(f'<a href="{part.notebook}.html#exercise-{id}">exercise {id}</a>')
    return f"{html}<br><small>{' · '.join(links)}</small>"


def clock(minutes: int) -> str:
    """Minutes as hours and minutes: 95 -> "1:35"."""
    return f"{minutes // 60}:{minutes % 60:02d}"


# -- a notebook's page ----------------------------------------------------------------------------------------
def chapter_page(stem: str, chapters: Mapping[str, Chapter], site: str | None = None) -> str:
    """All that the book says of one notebook."""
    chapter = chapters[stem]
    parts = [f"<h1>{escape(chapter.title)}</h1>"]
    parts.append(f"<blockquote><p><strong>{escape(chapter.sentence)}</strong></p></blockquote>")
    earned = "; ".join(plain(heading) for heading in chapter.earned)
    parts.append(f"<p>That is the sentence to earn. It is earned under: {earned}.</p>")
    if site:
        page = escape(f"{site.rstrip('/')}/{stem}")
        parts.append(f'<p><a href="{page}.html">The page</a> and <a href="{page}.slides.html">the slides</a>.</p>')
    parts.append("<h2>Minutes</h2>")
    parts.append(minutes_table(chapter))
    for section in chapter.sections:
        parts.append(section_html(section))
    if chapter.discussion:
        parts.append("<h2>Questions to discuss, with answers</h2><ol>")
        for question, answer in chapter.discussion:
            parts.append(f"<li><strong>{inline(question)}</strong>{words(answer)}</li>")
        parts.append("</ol>")
    parts.append(rubric(chapter))
    return frame(chapter.title, "\n".join(parts), chapters, stem)


def minutes_table(chapter: Chapter) -> str:
    """Minutes per section, with exercises and without."""
    rows = []
    for section in chapter.sections:
        link = f'<a href="#{section.cell}">{plain(section.title)}</a>'
        ids = ", ".join(exercise.id for exercise in section.exercises)
        rows.append((link, f"{section.minutes} min", f"{section.shown_minutes} min", ids))
    shown = sum(section.shown_minutes for section in chapter.sections)
    rows.append((f"All, {KINDS[chapter.kind]}", f"{chapter.minutes} min", f"{shown} min", ""))
    return table(("section", "with exercises", "shown, without them", "exercises"), rows)


def section_html(section: Section) -> str:
    """What to show, to ask and to set in one section; "" where the book has nothing to say of it."""
    parts = []
    for live in section.live:
        parts.append(live_html(live))
    for question, answer in section.asked:
        told = f"<p><em>What comes out.</em> {inline(answer)}</p>" if answer else ""
        parts.append(f"<p><em>Ask before you run the cell.</em> {inline(question)}</p>{told}")
    for exercise in section.exercises:
        parts.append(exercise_html(exercise))
    anchor = f'<h2 id="{escape(section.cell)}">{plain(section.title)}</h2>'
    if not parts:
        return f'<p id="{escape(section.cell)}" hidden></p>'
    return anchor + "\n".join(parts)


def live_html(live: Live) -> str:
    """A view to show live: what it asks first, and what to do then."""
    html = f"<p><strong>Show live: {escape(live.title)}</strong></p>"
    if live.question:
        why = f" A wrong prediction is told: {escape(live.why)}" if live.why else ""
        html += f"<p>It asks first: {escape(live.question)} Then: {escape(live.until)}{why}</p>"
    return html


def exercise_html(exercise: Exercise) -> str:
    """An exercise with its aim, what wrong answers reveal, and a solution that is folded away."""
    rows = [(inline(wrong.reveals), inline(wrong.fails)) for wrong in exercise.wrong]
    revealed = table(("a wrong answer reveals", "it is stopped by"), rows)
    return (
        f'<h3 id="exercise-{exercise.id}">Exercise {exercise.id}: {plain(exercise.title)}</h3>'
        f"<p><em>Aim.</em> {inline(exercise.aim)}</p>{revealed}"
        f"<details><summary>One solution</summary><pre>{escape(exercise.solution_source())}</pre></details>"
    )


def rubric(chapter: Chapter) -> str:
    """Two marks for the sentence, for each exercise and for each question: what earns both, one, none."""
    rows = [
        (
            f"The sentence: <em>{escape(chapter.sentence)}</em>",
            "says it in words of their own, with a number or a picture from one of the places above, and where it ends",
            "says it, without a measurement",
            "says something else, or nothing",
        )
    ]
    for exercise in chapter.exercises:
        first = escape(exercise.properties[0].name)
        rows.append(
            (
                f"Exercise {exercise.id}: {plain(exercise.title)}",
                f"its check passes: all {len(exercise.properties)} properties hold",
                f"some hold, in the order in which they are tried; the first is: {first}",
                "not attempted, or the first does not hold",
            )
        )
    for question, _ in chapter.discussion:
        rows.append(
            (
                f"Discussed: {inline(question)}",
                "makes the point of the answer above, and says on what it depends",
                "makes the point, or says on what it depends",
                "neither",
            )
        )
    columns = ("what is looked at", *(f"{level} marks" for level in LEVELS))
    return f"<h2>Rubric: {2 * len(rows)} marks</h2>{table(columns, rows)}"
