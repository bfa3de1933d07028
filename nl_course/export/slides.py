"""A notebook as slides: every text opens one, and the code and pictures after it are on it."""

import re
from html import escape

from nl_course.export.cells import as_html

_FOLDED = re.compile(r"^\s*<details>.*</details>\s*$", re.S)


def split(cells: list) -> list[list]:
    """The cells, slide by slide. A new slide begins at every text; one that is folded away stays off the slides."""
    slides: list[list] = []
    for cell in cells:
        if cell.cell_type == "markdown":
            if not _FOLDED.match(cell.source):
                slides.append([cell])
        elif slides:
            slides[-1].append(cell)
        else:
            slides.append([cell])
    return slides


def page(notebook, name: str, titles: dict[str, str]) -> str:
    """All slides of a notebook, one in sight at a time; arrow keys turn them."""
    slides = split(notebook.cells)
    shown = "".join(
        f'<section class="slide" aria-label="{i} of {len(slides)}">{as_html(slide, name)}</section>\n'
        for i, slide in enumerate(slides, 1)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(titles[name])}: slides</title>
<link rel="stylesheet" href="files/course.css">
<script src="files/plotly.min.js"></script>
</head>
<body class="slides">
{shown}
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
