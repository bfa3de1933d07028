"""A notebook as one page to read, with links to the others."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

import nbformat

from nl_course.export.cells import as_html
from nl_course.notebooks import label


def page(notebook: nbformat.NotebookNode, name: str, titles: dict[str, str]) -> str:
    """The whole page of the notebook called `name`. `titles` are the notebooks' titles by name, in reading order."""
    to_slides = f'<p class="where"><a href="{name}.slides.html">as slides</a></p>'
    body = to_slides + as_html(notebook.cells, name) + before_and_after(name, titles)
    return frame(titles[name], body, name, titles, head(name))


def head(name: str) -> str:
    """What draws the figures of the notebook called `name`, for its page's head: plotly, the figures, the player."""
    scripts = ("files/plotly.min.js", f"figures/{name}.js", "files/player.js")
    return "".join(f'<script src="{path}" defer></script>\n' for path in scripts)


def frame(title: str, body: str, name: str, titles: dict[str, str], scripts: str = "") -> str:
    """A page of HTML: its head, the list of all notebooks with this one marked, and the body."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="stylesheet" href="files/kit.css">
<link rel="stylesheet" href="files/course.css">
{scripts}</head>
<body>
<nav aria-label="The course"><a href="index.html">The course</a><ol>{list_of_pages(titles, name)}</ol></nav>
<main>
{body}
</main>
</body>
</html>
"""


def list_of_pages(titles: Mapping[str, str], here: str) -> str:
    """A list item per notebook: its short label, which a pointer that rests on it spells out. `here` is marked."""
    links = ""
    for stem, title in titles.items():
        mark = 'aria-current="page"' if stem == here else ""
        links += f'<li><a href="{stem}.html" title="{escape(title)}" {mark}>{escape(label(stem))}</a></li>'
    return links


def before_and_after(name: str, titles: dict[str, str]) -> str:
    """The links at a page's end, to the notebook before and the one after."""
    stems = list(titles)
    index = stems.index(name)
    before = ""
    after = ""
    if index > 0:
        previous = stems[index - 1]
        before = f'<a rel="prev" href="{previous}.html">{escape(titles[previous])}</a>'
    if index + 1 < len(stems):
        following = stems[index + 1]
        after = f'<a rel="next" href="{following}.html">{escape(titles[following])}</a>'
    return f'<footer class="turn">{before}<span></span>{after}</footer>'


def title_of(path: Path) -> str:
    """The first heading of a notebook; without one, its file's name."""
    for cell in nbformat.read(path, as_version=4).cells:
        heading = re.search(r"^#\s+(.+)$", cell.source, re.M)
        if heading:
            return heading[1].replace("`", "")
    return path.stem.replace("_", " ")
