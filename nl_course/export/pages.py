"""A notebook as one page to read, with the way to the others at its side."""

import re
from html import escape
from pathlib import Path

import nbformat

from nl_course.export.cells import as_html


def page(notebook, name: str, titles: dict[str, str]) -> str:
    """The whole page of a notebook."""
    around = f'<p class="where"><a href="{name}.slides.html">as slides</a></p>'
    return frame(titles[name], around + as_html(notebook.cells, name) + before_and_after(name, titles), name, titles)


def frame(title: str, body: str, name: str, titles: dict[str, str]) -> str:
    """A page's head, the list of all pages, and the body."""
    here = 'aria-current="page"'
    links = "".join(
        f'<li><a href="{stem}.html" {here if stem == name else ""}>{escape(said)}</a></li>'
        for stem, said in titles.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="stylesheet" href="files/course.css">
<script src="files/plotly.min.js"></script>
</head>
<body>
<nav aria-label="The course"><a href="index.html">The course</a><ol>{links}</ol></nav>
<main>
{body}
</main>
</body>
</html>
"""


def before_and_after(name: str, titles: dict[str, str]) -> str:
    stems = list(titles)
    at = stems.index(name)
    before = f'<a rel="prev" href="{stems[at - 1]}.html">{escape(titles[stems[at - 1]])}</a>' if at else ""
    after = ""
    if at + 1 < len(stems):
        after = f'<a rel="next" href="{stems[at + 1]}.html">{escape(titles[stems[at + 1]])}</a>'
    return f'<footer class="turn">{before}<span></span>{after}</footer>'


def title_of(path: Path) -> str:
    """The first heading of a notebook."""
    for cell in nbformat.read(path, as_version=4).cells:
        if found := re.search(r"^#\s+(.+)$", cell.source, re.M):
            return found[1].replace("`", "")
    return path.stem.replace("_", " ")
