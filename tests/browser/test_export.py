"""A page and slides of the export in a real browser: plots draw themselves and move, keys turn slides, all offline."""

import nbformat
import pytest

from nl_course.export import cells, figures_file, fixed_files, pages, slides
from nl_course.export.running import run_notebook
from nl_course.files import course_root
from nl_course.views.kit.plot import plain
from nl_course.views.kit.short import rounded
from nl_course.views.one_tape import OneTape
from tools.browser import PATIENCE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One small notebook with a view, exported."""
    folder = tmp_path_factory.mktemp("export")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# A desk\n\nIts size is $2 L d$ bytes."),
        nbformat.v4.new_code_cell("from nl_course.views.one_tape import OneTape\n\nOneTape()"),
        nbformat.v4.new_code_cell("from nl_course.views.capacity import Capacity\n\nCapacity()"),
        nbformat.v4.new_markdown_cell("## And then"),
        nbformat.v4.new_code_cell("6 * 7"),
    ]
    nbformat.write(notebook, folder / "desk.ipynb")
    ran, wrong = run_notebook(folder / "desk.ipynb")
    assert not wrong
    contents = fixed_files(course_root())
    contents["figures/desk.js"] = figures_file(cells.figures(ran.cells, "desk"))
    for name, text in (("desk.html", pages.page), ("desk.slides.html", slides.page)):
        contents[name] = text(ran, "desk", {"desk": "A desk"}).encode()
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def page(browser):
    """A page without a network, which may load files alone and meets no error."""
    context = browser.new_context(offline=True)
    page, asked, wrong = context.new_page(), [], []
    page.set_default_timeout(PATIENCE * 1000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    context.close()
    assert not wrong and all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def drawn(page, revision: int) -> dict:
    """The view's figure once it shows this revision, and its sentence."""
    page.wait_for_selector(f".view [data-revision='{revision}']", state="attached")
    return page.evaluate("""() => {
      const view = document.querySelector(".view"), { data } = view.querySelector("[data-revision]");
      const traces = data.map(({ type, x, y, z }) => ({ type, x: x ?? null, y: y ?? null, z: z ?? null }));
      return { traces, said: view.querySelector("[role=status]").textContent };
    }""")


def live(**settings) -> dict:
    """The same of the live view."""
    view = OneTape(strict=True, **settings)
    traces = []
    for trace in rounded(plain(view.figure))["data"]:
        traces.append({key: trace.get(key) for key in ("type", "x", "y", "z")})
    return {"traces": traces, "said": view.readout}


def test_a_page_draws_its_plots_and_slides_turn_by_key(page, site):
    page.goto((site / "desk.html").as_uri())
    assert drawn(page, 0) == live()
    assert page.locator("math").count() == 1
    page.goto((site / "desk.slides.html").as_uri())
    drawn(page, 0)
    assert page.locator("#place").inner_text() == "1 of 2"
    page.keyboard.press("ArrowRight")
    assert page.locator("#place").inner_text() == "2 of 2" and page.url.endswith("#2")
    assert page.get_by_text("42", exact=True).is_visible() and not page.get_by_text("A desk").first.is_visible()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#place").inner_text() == "1 of 2"


@pytest.mark.parametrize("name", ["desk.html", "desk.slides.html"])
def test_controls_move_the_picture_and_its_sentence(page, site, name):
    page.goto((site / name).as_uri())
    opening = drawn(page, 0)
    filler = page.get_by_label("Filler: further pairs written")
    filler.focus()
    page.keyboard.press("ArrowRight")
    after, pairs = drawn(page, 1), page.locator(".stop").first.inner_text()
    assert after == live(filler=int(pairs)) and after != opening
    assert filler.get_attribute("aria-valuetext") == pairs
    again = page.get_by_label("Written again at the end")
    again.select_option(label="pair 3")
    assert drawn(page, 2) == live(filler=int(pairs), overwritten=3)
    filler.focus()
    page.keyboard.press("ArrowLeft")
    drawn(page, 3)
    again.select_option(label="none")
    assert drawn(page, 4) == opening
    if "slides" in name:  # keys in a control turn no slide
        assert page.locator("#place").inner_text() == "1 of 2"


def test_a_picture_that_answers_its_question_waits_for_a_button(page, site):
    page.goto((site / "desk.html").as_uri())
    page.wait_for_selector(".nl-covered [data-revision='0']", state="attached")
    view = page.locator(".view").nth(1)
    assert not view.locator("svg").first.is_visible() and not view.get_by_role("status").is_visible()
    view.get_by_role("button", name="Show me").press("Enter")
    assert view.locator("svg").first.is_visible() and view.get_by_role("status").is_visible()
    assert not view.get_by_role("button").is_visible() and page.locator(":focus").count() == 1


def test_a_phone_in_the_dark(browser, site):
    context = browser.new_context(viewport={"width": 360, "height": 700}, color_scheme="dark", offline=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto((site / "desk.html").as_uri())
    drawn(page, 0)
    ink, paper = page.evaluate("""() => {
      const { color, backgroundColor } = getComputedStyle(document.body);
      return [color, backgroundColor];
    }""")
    assert (ink, paper) == ("rgb(230, 232, 235)", "rgb(21, 24, 28)")
    fill = page.locator(".view .xtick text").first.evaluate("text => text.style.fill")
    assert fill == ink
    # The page itself never scrolls sideways; a wide figure scrolls in its own frame.
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    context.close()
