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
    stem = "03_memory_that_learns"
    stored = nbformat.read(course_root() / "notebooks" / f"{stem}.ipynb", as_version=4)
    contents[f"figures/{stem}.js"] = figures_file({})
    contents["long.slides.html"] = slides.page(stored, stem, {stem: "A memory"}).encode()
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
    assert page.locator("#place").inner_text() == "1 of 4"
    page.keyboard.press("End")
    assert page.locator("#place").inner_text() == "4 of 4" and page.url.endswith("#4")
    assert page.get_by_text("42", exact=True).is_visible() and not page.get_by_text("A desk").first.is_visible()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#place").inner_text() == "3 of 4"


# Slides on which something is cut off or must be scrolled, but for code, output and tables, which may.
OVERFLOWING = """() => [...document.querySelectorAll("section.slide")].filter((slide) => {
  const boxes = [slide, slide.querySelector(".idea"), ...slide.querySelectorAll(".part.figure, .part.text")];
  const fixed = boxes.filter((box) => !box.querySelector(":scope > table, :scope > pre"));
  const headless = !slide.querySelector("h1, h2")?.textContent.trim();
  const overflows = (box) => box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1;
  return headless || fixed.some(overflows);
}).map((slide) => `${slide.getAttribute("aria-label")}: ${slide.querySelector("h1, h2")?.textContent}`)"""


@pytest.mark.parametrize("name", ["desk.slides.html", "long.slides.html"])
def test_every_slide_has_a_heading_and_fits_the_screen(page, site, name):
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto((site / name).as_uri())
    if name == "desk.slides.html":
        drawn(page, 0)
    assert page.evaluate(OVERFLOWING) == []
    page.set_viewport_size({"width": 640, "height": 200})
    assert len(page.evaluate(OVERFLOWING)) > 2, "what does not fit is found"


def test_overview_notes_and_the_speakers_window(page, site):
    page.goto((site / "desk.slides.html").as_uri())
    drawn(page, 0)
    page.keyboard.press("o")
    assert page.locator("section.slide").last.is_visible() and page.locator("section.slide").first.is_visible()
    page.locator("section.slide").last.focus()
    page.keyboard.press("Enter")
    assert page.locator("#place").inner_text() == "4 of 4" and page.locator("section.slide:visible").count() == 1
    page.keyboard.press("Home")
    notes = page.locator("section.slide .notes").first
    assert not notes.is_visible()
    page.keyboard.press("n")
    assert notes.is_visible() and "Its size is" in notes.inner_text()
    with page.expect_popup() as opened:
        page.keyboard.press("s")
    speaker = opened.value
    assert "Its size is" in speaker.locator("#said").inner_text()
    page.keyboard.press("End")
    assert speaker.locator("#now").inner_text() == "And then"
    assert speaker.locator("#next").inner_text() == "Next: the end"
    speaker.close()
    page.emulate_media(media="print")
    assert all(slide.is_visible() for slide in page.locator("section.slide").all())


@pytest.mark.parametrize("name", ["desk.html", "desk.slides.html"])
def test_controls_move_the_picture_and_its_sentence(page, site, name):
    page.goto((site / name).as_uri() + ("#2" if "slides" in name else ""))
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
        assert page.locator("#place").inner_text() == "2 of 4"


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
