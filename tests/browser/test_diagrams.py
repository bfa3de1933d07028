"""The diagrams as a browser draws them: texts are no wider than was reckoned, and dark pages get a dark picture."""

import io

import pytest

from tools.diagrams.everything import drawings
from tools.diagrams.shapes import INKS, WIDTH

pytestmark = pytest.mark.browser
DRAWINGS = {drawing.name: drawing for drawing in drawings()}
# Every text with the room that it really takes, in the drawing's own units.
MEASURE = """() => [...document.querySelectorAll('text')].map(text => {
  const { x, y, width, height } = text.getBBox();
  return [text.textContent, x, y, width, height];
})"""


@pytest.fixture(scope="module")
def page(lab):
    page = lab.browser.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_text_is_wider_than_the_module_thinks(page, name):
    drawing = DRAWINGS[name]
    page.set_content(drawing.svg())
    allowed = {}
    for text in drawing.texts:
        allowed[text.plain] = max(text.rect.w, allowed.get(text.plain, 0))
    for words, x, _, width, _ in page.evaluate(MEASURE):
        assert width <= allowed.get(words, 18) + 1.5, words  # letters are rounded to pixels; boxes have 4 to spare
        assert x >= 0 and x + width <= WIDTH, words


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_follows_the_page_it_stands_on(lab, tmp_path, scheme):
    from PIL import Image

    (tmp_path / "loops.svg").write_text(DRAWINGS["two-loops"].svg(), "utf-8")
    picture = '<img src="loops.svg" width="360">'
    (tmp_path / "page.html").write_text(f'<meta name="color-scheme" content="light dark">{picture}')
    context = lab.browser.new_context(color_scheme=scheme, viewport={"width": 400, "height": 700})
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    photograph = Image.open(io.BytesIO(page.locator("img").screenshot())).convert("RGB")
    context.close()
    assert photograph.width == 360
    assert "#{:02X}{:02X}{:02X}".format(*photograph.getpixel((180, 6))) == getattr(INKS["paper"], scheme)
