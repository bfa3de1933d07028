"""A notebook as slides: each text starts a slide, and the code and pictures after it stand on the same one."""

import re
from html import escape

import nbformat

from nl_course.export.cells import as_html
from nl_course.export.pages import head

# A text that is folded away as a whole, such as a picture's description.
_FOLDED = re.compile(r"^\s*<details>.*</details>\s*$", re.S)


def split(cells: list[nbformat.NotebookNode]) -> list[list[nbformat.NotebookNode]]:
    """The cells of each slide. A new slide begins at every text; one that is folded away stays off the slides."""
    slides: list[list[nbformat.NotebookNode]] = []
    for cell in cells:
        is_text = cell.cell_type == "markdown"
        if is_text and _FOLDED.match(cell.source):
            continue
        if is_text or not slides:
            slides.append([])
        slides[-1].append(cell)
    return slides


def page(notebook: nbformat.NotebookNode, name: str, titles: dict[str, str]) -> str:
    """The HTML of all slides of a notebook, one of them visible at a time; arrow keys turn them. `titles` are the
    notebooks' titles by name."""
    slides = split(notebook.cells)
    sections = "".join(
        f'<section class="slide" aria-label="{i} of {len(slides)}">{as_html(slide, name)}</section>\n'
        for i, slide in enumerate(slides, 1)
    )
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
<a href="{name}.html">as a page</a>
</nav>
<script src="files/slides.js"></script>
</body>
</html>
"""
