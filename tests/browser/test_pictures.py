"""Still pictures of figures, drawn in a real browser: small, whole, and shown where no kernel has answered yet."""

import io
import json

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from nl_course.views.kit import theme
from nl_course.views.kit.plot import plain
from tools.pictures import MOST_BYTES, WIDTH, Painter

pytestmark = pytest.mark.browser


def still(figure, title=""):
    return {"name": "a", "title": title, "read_out": "It rises, and falls.", "figure": json.dumps(plain(figure))}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.fixture
def painter(browser):
    with Painter(browser) as painter:
        yield painter


def test_a_picture_has_the_figure_its_title_and_its_sentence(painter):
    color = theme.style("titans").color
    bars = go.Figure(go.Bar(y=[1.0, 3.0, 2.0], marker=dict(color=color)), layout=dict(height=300))
    picture = pixels(painter.paint(still(bars)))
    titled = pixels(painter.paint(still(bars, "A wave")))
    assert picture.shape[1] == WIDTH and 320 < picture.shape[0] < 350 and titled.shape[0] > picture.shape[0] + 20
    is_bar = (picture == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1)
    assert is_bar.mean() > 0.1 and (picture[310:] < 100).any(), "bars in the figure, words under it"
    assert (picture[0, 0] == 255).all()


def test_whatever_it_shows_a_picture_is_small(painter):
    noise = np.random.default_rng(0).normal(size=(300, 600))
    png = painter.paint(still(go.Figure(go.Heatmap(z=noise, colorscale="Viridis"), layout=dict(height=420))))
    assert len(png) <= MOST_BYTES and pixels(png).shape[1] < WIDTH
    after = painter.paint(still(go.Figure(go.Bar(y=[1.0]))))
    assert pixels(after).shape[1] == WIDTH, "the next one has its size again"
