"""A notebook's cells as HTML: Markdown, code, and what the code showed. Pages and slides are both made of these."""

import json
import re
from html import escape

import nbformat
import plotly.io
from nbconvert import HTMLExporter

from nl_course.export.maths import with_mathml
from nl_course.views.kit.shell import STILL

PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
# Links between what becomes pages; a notebook or a text may stand one folder up or down from what links to it.
_LINK = re.compile(r"(?P<before>\]\(|href=\"|src=\")(?P<up>(?:\.\./|\./)*)(?P<path>[^)\"#\s:]+)(?P<rest>#[^)\"\s]*)?")

# The course's files that are no page: a name to look up there, nothing to follow from a page.
_FILE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./|\./)*(?:nl_course|tests|tools|assets)/[^)\s]*\)")


def as_html(cells: list, name: str) -> str:
    """The cells' HTML; `name` is the notebook's, from which the names of its plots are made."""
    notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    notebook.cells = [prepared(cell, name) for cell in cells]
    return HTMLExporter(template_name="basic").from_notebook_node(notebook)[0]


def prepared(cell, name: str):
    """A copy of a cell, ready for static HTML."""
    cell = nbformat.from_dict(json.loads(json.dumps(cell)))
    if cell.cell_type == "markdown":
        anchor = f'<a id="{escape(cell.id)}"></a>\n\n' if cell.get("id") else ""
        cell.source = anchor + with_links(with_mathml(cell.source))
    elif cell.cell_type == "code":
        shown = (still(output, f"{name}-{cell.get('id', '')}-{i}") for i, output in enumerate(cell.outputs))
        cell.outputs = [output for output in shown if output is not None]
    return cell


def with_links(text: str) -> str:
    """Links to notebooks and to Markdown become links to their pages, pictures stand in `previews`, and of a link to a
    file of the package its name is left."""

    def replaced(found: re.Match) -> str:
        path, rest = found["path"], found["rest"] or ""
        if path.startswith("assets/previews/"):
            path = path.removeprefix("assets/")
        elif path.endswith((".ipynb", ".md")):
            path = page_of(path)
        else:
            path = found["up"] + path
        return found["before"] + path + rest

    return _LINK.sub(replaced, _FILE.sub(r"\1", text))


def page_of(path: str) -> str:
    """The page that is made of a notebook or a Markdown file of the course."""
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return "index.html" if stem == "README" else f"{stem if path.endswith('.ipynb') else stem.lower()}.html"


def still(output, plot: str):
    """An output without anything that would need a kernel, or None if nothing is left of it."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if output.output_type == "error":
        return output
    data = output.get("data", {})
    if STILL in data:
        return html_output(view(data[STILL], plot))
    if PLOTLY in data:
        return html_output(figure(data[PLOTLY], plot, ""))
    if WIDGET in data:
        said = str(data.get("text/plain", ""))
        return html_output(f"<p class='said'>{escape(said)}</p>") if said and not said.startswith("<") else None
    return output


def view(shown: dict, plot: str) -> str:
    """A view at the settings it opens with: title, question, plot, and the sentence that says what it shows."""
    asked = f"<p class='asked'><em>Predict first.</em> {escape(shown['question'])}</p>" if shown["question"] else ""
    drawn = figure(json.loads(shown["figure"]), plot, shown["read_out"])
    moved = ", ".join(shown["controls"])
    return (
        f"<figure class='view'><p><strong>{escape(shown['title'])}</strong></p>{asked}{drawn}"
        f"<figcaption>{escape(shown['read_out'])}<br><small>In JupyterLab you can move: {escape(moved)}."
        "</small></figcaption></figure>"
    )


def figure(drawn: dict, plot: str, said: str) -> str:
    """A plotly figure that stays live: it can be hovered over and zoomed into."""
    plain = {key: drawn[key] for key in ("data", "layout", "frames") if drawn.get(key)}
    plain["layout"] = {key: value for key, value in plain.get("layout", {}).items() if key != "width"}  # as the page is
    html = plotly.io.to_html(
        plain, include_plotlyjs=False, full_html=False, div_id=re.sub(r"\W", "-", plot), validate=False,
        config={"responsive": True, "displaylogo": False},
    )  # fmt: skip
    label = f' role="img" aria-label="{escape(said)}"' if said else ""
    return f"<div class='plot'{label}>{html}</div>"


def html_output(html: str):
    return nbformat.v4.new_output("display_data", {"text/html": html})
