"""A notebook's cells as HTML: Markdown, code, and what the code showed. Pages and slides are both made of these."""

import json
import re
from functools import lru_cache
from html import escape
from typing import Any

import nbformat
import plotly.io
from nbconvert import HTMLExporter

from nl_course.export.maths import with_mathml
from nl_course.files import PICTURES
from nl_course.views.kit.plot import STILL

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
# A link, in Markdown or HTML. What it leads to may stand one folder up or down from here, and has no colon: an address
# of the web is left alone.
_LINK = re.compile(r"(?P<before>\]\(|href=\"|src=\")(?P<up>(?:\.\./|\./)*)(?P<path>[^)\"#\s:]+)(?P<rest>#[^)\"\s]*)?")
# A link to a file of the course that becomes no page: a reader looks it up by its name in the repository.
_FILE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./|\./)*(?:nl_course|tests|tools|assets)/[^)\s]*\)")


def as_html(cells: list[nbformat.NotebookNode], name: str) -> str:
    """The cells' HTML. `name` is the notebook's; the ids of its plots are made from it."""
    notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    notebook.cells = [prepared(cell, name) for cell in cells]
    return _exporter().from_notebook_node(notebook)[0]


@lru_cache(maxsize=1)
def _exporter() -> HTMLExporter:
    """One for all: a new one would compile its templates anew, half a second for each of 600 slides."""
    return HTMLExporter(template_name="basic")


def prepared(cell: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """A copy of a cell, ready for static HTML."""
    cell = nbformat.from_dict(json.loads(json.dumps(cell)))
    if cell.cell_type == "markdown":
        anchor = f'<a id="{escape(cell.id)}"></a>\n\n' if cell.get("id") else ""
        cell.source = anchor + with_links(with_mathml(cell.source))
    elif cell.cell_type == "code":
        outputs = []
        for i, output in enumerate(cell.outputs):
            static = still(output, f"{name}-{cell.get('id', '')}-{i}")
            if static is not None:
                outputs.append(static)
        cell.outputs = outputs
    return cell


def with_links(text: str) -> str:
    """The text with its links as the pages need them: links to notebooks and Markdown lead to their pages, pictures
    stand in `previews` and `diagrams`, and a link to a file of the package becomes the file's name."""
    return _LINK.sub(_page_link, _FILE.sub(r"\1", text))


def _page_link(match: re.Match) -> str:
    path = match["path"]
    if path.startswith(tuple(f"assets/{kind}/" for kind in PICTURES)):
        target = path.removeprefix("assets/")
    elif path.endswith((".ipynb", ".md")):
        target = page_of(path)
    else:
        target = match["up"] + path
    return match["before"] + target + (match["rest"] or "")


def page_of(path: str) -> str:
    """The page that is made of a notebook or a Markdown file of the course."""
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    if stem == "README":
        return "index.html"
    if path.endswith(".ipynb"):
        return f"{stem}.html"
    return f"{stem.lower()}.html"


def still(output: nbformat.NotebookNode, plot: str) -> nbformat.NotebookNode | None:
    """An output without anything that would need a kernel, or None if nothing is left of it. `plot` is the id that a
    plot in it gets."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None  # warnings and progress bars are no part of the page
    if output.output_type == "error":
        return output
    data = output.get("data", {})
    # A view carries its plot beside the widget; the plot goes first, because the widget would stay empty.
    if STILL in data:
        return html_output(view(data[STILL], plot))
    if PLOTLY in data:
        return html_output(figure(data[PLOTLY], plot, ""))
    if WIDGET in data:
        text = str(data.get("text/plain", ""))
        if not text or text.startswith("<"):  # "<VBox ...>" says nothing to a reader
            return None
        return html_output(f"<p class='said'>{escape(text)}</p>")
    return output


def view(content: dict[str, Any], plot: str) -> str:
    """A view at the settings it opens with: title, question, plot, and the sentence that says what it shows. A chart
    has only the last two."""
    title = f"<p><strong>{escape(content['title'])}</strong></p>" if content["title"] else ""
    question = ""
    if content["question"]:
        question = f"<p class='asked'><em>Predict first.</em> {escape(content['question'])}</p>"
    drawing = figure(json.loads(content["figure"]), plot, content["read_out"])
    controls = ""
    if content["controls"]:
        controls = f"<br><small>In JupyterLab you can move: {escape(', '.join(content['controls']))}.</small>"
    return (
        f"<figure class='view'>{title}{question}{drawing}"
        f"<figcaption>{escape(content['read_out'])}{controls}</figcaption></figure>"
    )


def figure(drawing: dict[str, Any], plot: str, description: str) -> str:
    """A plotly figure, given as JSON, that stays live: readers can hover over it and zoom into it. `description` is
    what a screen reader says of it, if it is not empty."""
    plain = {key: drawing[key] for key in ("data", "layout", "frames") if drawing.get(key)}
    # Without a width of its own the figure is as wide as the page.
    plain["layout"] = {key: value for key, value in plain.get("layout", {}).items() if key != "width"}
    html = plotly.io.to_html(
        plain,
        include_plotlyjs=False,
        full_html=False,
        div_id=re.sub(r"\W", "-", plot),
        validate=False,
        config={"responsive": True, "displayModeBar": False},
    )
    label = f' role="img" aria-label="{escape(description)}"' if description else ""
    return f"<div class='plot'{label}>{html}</div>"


def html_output(html: str) -> nbformat.NotebookNode:
    """An output that shows this HTML."""
    return nbformat.v4.new_output("display_data", {"text/html": html})
