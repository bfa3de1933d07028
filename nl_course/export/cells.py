"""A notebook's cells as HTML: Markdown, code, and what the code showed. Pages and slides are both made of these."""

import json
import re
from functools import lru_cache
from html import escape
from typing import Any

import nbformat
from nbconvert import HTMLExporter

from nl_course.export.maths import with_mathml
from nl_course.export.stage import stage
from nl_course.files import PICTURES
from nl_course.views.kit.plot import PNG, STILL, WIDGET, least_width
from nl_course.views.kit.short import rounded
from nl_course.views.stage.widget import STAGE

PLOTLY = "application/vnd.plotly.v1+json"
COVERED = "The picture is covered until you have predicted."
NO_GRID = "its pictures over all settings are too many for a page."
# A link, in Markdown or HTML. What it leads to may stand one folder up or down from here, and has no colon: an address
# of the web is left alone.
_LINK = re.compile(r"(?P<before>\]\(|href=\"|src=\")(?P<up>(?:\.\./|\./)*)(?P<path>[^)\"#\s:]+)(?P<rest>#[^)\"\s]*)?")
# A link to a file of the course that becomes no page: a reader looks it up by its name in the repository.
_FILE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./|\./)*(?:nl_course|tests|tools|assets)/[^)\s]*\)")


def as_html(cells: list[nbformat.NotebookNode], name: str, part: str = "all") -> str:
    """The cells' HTML. `name` is the notebook's; the ids of its plots are made from it. `part` is "all", or for code
    cells "code" or "output" alone."""
    notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    notebook.cells = [prepared(cell, name) for cell in cells]
    return _exporter(part).from_notebook_node(notebook)[0]


@lru_cache(maxsize=3)
def _exporter(part: str) -> HTMLExporter:
    """One for all: a new one would compile its templates anew, half a second for each of 600 slides."""
    return HTMLExporter(template_name="basic", exclude_output=part == "code", exclude_input=part == "output")


def prepared(cell: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """A copy of a cell, ready for static HTML."""
    cell = nbformat.from_dict(json.loads(json.dumps(cell)))
    if cell.cell_type == "markdown":
        anchor = f'<a id="{escape(cell.id)}"></a>\n\n' if cell.get("id") else ""
        cell.source = anchor + with_links(with_mathml(cell.source))
    elif cell.cell_type == "code":
        outputs = []
        for i, output in enumerate(cell.outputs):
            static = still(output, plot_name(cell, name, i))
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
    """An output without anything that would need a kernel, or None if nothing is left of it. `plot` is the name under
    which `figures` has its figure."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None  # warnings and progress bars are no part of the page
    if output.output_type == "error":
        return output
    data = output.get("data", {})
    # A view carries its plot beside the widget; the plot goes first, because the widget would stay empty.
    if STILL in data:
        return html_output(view(data[STILL], plot))
    if STAGE in data:
        return html_output(stage(data[STAGE], plot))
    if PLOTLY in data:
        return html_output(frame(plot))
    if WIDGET in data:
        text = str(data.get("text/plain", ""))
        if not text or text.startswith("<"):  # "<VBox ...>" says nothing to a reader
            return None
        return html_output(f"<p class='said'>{escape(text)}</p>")
    if PNG in data:  # a committed notebook's still picture; nothing was run
        output.metadata[PNG] = {"alt": str(data.get("text/plain", ""))}
    return output


def view(content: dict[str, Any], plot: str) -> str:
    """A view at the settings it opens with: title, question, the controls that move here, plot, and the sentence that
    says what it shows. A chart has only the last two. Where the plot answers the question, it is covered until a button
    is pressed."""
    grid = content.get("grid")
    parts = []
    kind = "view"
    if content.get("title"):
        kind += " nl-view"
        parts.append(f"<p><strong>{escape(content['title'])}</strong></p>")
    if content.get("question"):
        parts.append(f"<p class='asked'><em>Predict first.</em> {escape(content['question'])}</p>")
    if grid:
        inputs = "".join(control(axis, i) for i, axis in enumerate(grid["axes"]))
        parts.append(f"<div class='moves'>{inputs}</div>")
    if content.get("covered"):
        parts.append(f"<p class='nl-veil'>{COVERED} <button type='button'>Show me</button></p>")
        kind += " nl-covered"
    parts.append(frame(plot))
    status = " role='status'" if grid else ""
    said = f"<span class='nl-readout'{status}>{escape(content['read_out'])}</span>"
    parts.append(f"<figcaption>{said}{elsewhere(content)}</figcaption>")
    return f"<figure class='{kind}'>{''.join(parts)}</figure>"


def control(axis: dict[str, Any], place: int) -> str:
    """The slider or list of one axis of a grid; its value is the number of the stop."""
    about, label = f"data-axis='{place}' autocomplete='off'", escape(axis["label"])
    stops, at = axis["stops"], axis["at"]
    if axis["kind"] == "range":
        said = escape(stops[at])
        return (
            f"<label>{label} <input type='range' min='0' max='{len(stops) - 1}' value='{at}' "
            f"aria-valuetext='{said}' {about}> <span class='stop' aria-hidden='true'>{said}</span></label>"
        )
    options = "".join(
        f"<option value='{i}'{' selected' if i == at else ''}>{escape(words)}</option>" for i, words in enumerate(stops)
    )
    return f"<label>{label} <select {about}>{options}</select></label>"


def elsewhere(content: dict[str, Any]) -> str:
    """What can be moved in JupyterLab alone, and why nothing moves here, in a line of small print."""
    controls, grid = content.get("controls") or {}, content.get("grid")
    here = [axis["name"] for axis in grid["axes"]] if grid else []
    others = [label for name, label in controls.items() if name not in here]
    if not others:
        return ""
    words = f"In JupyterLab you can {'also ' if here else ''}move: {', '.join(others)}."
    if not here:
        words = f"This picture stands still here: {content.get('stays') or NO_GRID} {words}"
    return f"<br><small>{escape(words)}</small>"


def frame(plot: str) -> str:
    """Where `player.js` draws a figure."""
    return f"<div data-figure='{escape(plot)}'></div>"


def figures(cells: list[nbformat.NotebookNode], name: str) -> dict[str, dict]:
    """What `player.js` draws on a notebook's page and slides: each figure with its grid, by its name there."""
    found = {}
    for cell in cells:
        for i, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            if STILL in data:
                content = data[STILL]
                found[plot_name(cell, name, i)] = {
                    "figure": json.loads(content["figure"]),
                    "label": content.get("title") or content["read_out"],
                    "least_width": content["least_width"],
                    "said": content["read_out"],
                    "grid": content.get("grid"),
                }
            elif PLOTLY in data:
                drawing = {"data": data[PLOTLY]["data"], "layout": data[PLOTLY].get("layout", {})}
                shown = {"figure": rounded(drawing), "label": "", "least_width": least_width(drawing)}
                found[plot_name(cell, name, i)] = shown
    return found


def plot_name(cell: nbformat.NotebookNode, name: str, output: int) -> str:
    """The name of the figure in a cell's output, the same on the page and on the slides of the notebook `name`."""
    return f"{name}-{cell.get('id', '')}-{output}"


def html_output(html: str) -> nbformat.NotebookNode:
    """An output that shows this HTML."""
    return nbformat.v4.new_output("display_data", {"text/html": html})
