"""Still pictures in committed notebooks: kept while a figure shows the same, small, and with their colors."""

import base64
import io
import json

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from nl_course.views.kit import theme
from nl_course.views.kit.plot import PNG, STILL, plain
from tools import pictures
from tools.pictures import FINGERPRINT, fingerprint, illustrate
from tools.run_notebooks import normalise


def still(heights=(1.0, 3.0, 2.0), read_out="It rises.", name="a"):
    figure = plain(go.Figure(go.Scatter(y=heights, name=name)))
    return {"name": "chart", "read_out": read_out, "figure": json.dumps(figure)}


class Painter:
    """Counts what it is asked to paint."""

    painted = 0

    def paint(self, still):
        self.painted += 1
        return f"picture {self.painted}".encode()


def ran(*stills):
    """A notebook as a run leaves it: one output for each of the stills."""
    outputs = [new_output("display_data", data={"text/plain": "Chart: .", STILL: shown}) for shown in stills]
    notebook = new_notebook(cells=[new_code_cell("show", outputs=[output]) for output in outputs])
    for cell in notebook.cells:
        cell.outputs[0].data["application/vnd.jupyter.widget-view+json"] = {"model_id": "a"}
    return notebook


def test_a_fingerprint_is_of_what_is_seen():
    assert fingerprint(still()) == fingerprint(still((1.0, 3.0 + 1e-7, 2.0)))
    assert fingerprint(still((0.0, 3.0, 2.0))) == fingerprint(still((1e-17, 3.0, 2.0)))
    others = [still((1.0, 3.1, 2.0)), still(read_out="It falls."), still(name="b"), {**still(), "title": "A wave"}]
    assert len({fingerprint(other) for other in [still(), *others]}) == 5


def test_a_picture_stays_while_its_figure_shows_the_same():
    painter = Painter()
    first = ran(still(), still((1.0, 1.0)))
    illustrate(first, new_notebook(), painter)
    committed = normalise(first)
    assert painter.painted == 2 and STILL not in committed.cells[0].outputs[0].data
    again = ran(still((1.0, 1.0)), still((1.0, 3.0 + 1e-7, 2.0)), still((9.0, 9.0)))
    illustrate(again, committed, painter)
    shown = [base64.b64decode(cell.outputs[0].data[PNG]).decode() for cell in again.cells]
    assert shown == ["picture 2", "picture 1", "picture 3"]
    assert all(cell.outputs[0].metadata[FINGERPRINT] for cell in again.cells)
    nbformat.validate(normalise(again))


def test_a_covered_view_leaves_no_picture():
    painter, notebook = Painter(), ran(still(), {**still(), "covered": True})
    illustrate(notebook, new_notebook(), painter)
    assert painter.painted == 1 and [PNG in cell.outputs[0].data for cell in notebook.cells] == [True, False]


@pytest.fixture
def busy() -> tuple[bytes, Image.Image]:
    """A picture of many colors: paper, ink, a grid, the memories, and the steps between them that edges have."""
    styles = [theme.style(memory).color for memory in ("attention", "linear", "titans", "hope", "outer")]
    picture = Image.new("RGB", (300, 200), "white")
    for i, color in enumerate([theme.INK, theme.GRID, *styles]):
        stripe = Image.linear_gradient("L").resize((300, 20))
        picture.paste(Image.new("RGB", (300, 20), color), (0, 28 * i), stripe)
        picture.paste(Image.new("RGB", (300, 6), color), (0, 28 * i))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue(), picture


@pytest.mark.parametrize("apart", pictures.APART)
def test_a_small_picture_keeps_the_colors_that_mean_something(busy, apart):
    png, picture = busy
    small = Image.open(io.BytesIO(pictures.packed_with(png, apart)))
    before, after = np.asarray(picture).astype(int), np.asarray(small.convert("RGB")).astype(int)
    rows = range(0, 28 * 7, 28)
    assert (before[rows] == after[rows]).all()
    assert len(small.getcolors()) < len(picture.getcolors(1 << 24))
    assert np.linalg.norm(before - after, axis=-1).max() <= apart + 7  # Pillow looks colors up in steps of 4
