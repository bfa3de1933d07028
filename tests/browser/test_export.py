"""A page and slides of the export in a real browser: plots draw themselves, keys turn slides, nothing is fetched."""

import nbformat
import pytest

from nl_course.export import fixed_files, pages, slides
from nl_course.export.running import run_notebook
from nl_course.files import course_root

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One small notebook with a view, exported."""
    folder = tmp_path_factory.mktemp("export")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# A desk\n\nIts size is $2 L d$ bytes."),
        nbformat.v4.new_code_cell("from nl_course.views.state_map import StateMap\n\nStateMap()"),
        nbformat.v4.new_markdown_cell("## And then"),
        nbformat.v4.new_code_cell("6 * 7"),
    ]
    nbformat.write(notebook, folder / "desk.ipynb")
    ran, wrong = run_notebook(folder / "desk.ipynb")
    assert not wrong
    contents = fixed_files(course_root())
    for name, text in (("desk.html", pages.page), ("desk.slides.html", slides.page)):
        contents[name] = text(ran, "desk", {"desk": "A desk"}).encode()
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_page_draws_its_plots_and_slides_turn_by_key(lab, site):
    page = lab.browser.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((site / "desk.html").as_uri())
    page.wait_for_selector(".view .main-svg .trace", state="attached")
    assert page.locator("math").count() == 1
    page.goto((site / "desk.slides.html").as_uri())
    page.wait_for_selector(".view .main-svg .trace", state="attached")
    assert page.locator("#place").inner_text() == "1 of 2"
    page.keyboard.press("ArrowRight")
    assert page.locator("#place").inner_text() == "2 of 2" and page.url.endswith("#2")
    assert page.get_by_text("42").is_visible() and not page.get_by_text("A desk").first.is_visible()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#place").inner_text() == "1 of 2"
    assert not wrong and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
