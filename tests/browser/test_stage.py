"""The stage in a browser, without a kernel: it draws, obeys keys, fits a phone, names its controls, asks nobody."""

import json
import re

import pytest

from nl_course.export import documents
from nl_course.export.stage import files as site_files
from nl_course.files import course_root
from nl_course.record.stage.recipe import learn_by_hand
from nl_course.record.stage.take import take
from nl_course.views.stage.bundle import page
from tests.record.test_stage import TEXT, model_of
from tools.browser import PATIENCE

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FRAMES = "() => [...document.querySelectorAll('.nl-stage canvas')].map((canvas) => canvas.toDataURL())"

# What one frame writes into its canvases, and what of it ends beyond their left or right edge. Upright words alone.
SAID = """() => {
  const said = [], cut = [], brush = CanvasRenderingContext2D.prototype, write = brush.fillText;
  brush.fillText = function (words, x, y) {
    const { actualBoundingBoxLeft: left, actualBoundingBoxRight: right } = this.measureText(words);
    said.push(words);
    if (!this.getTransform().b && (x - left < -1 || x + right > this.canvas.clientWidth + 1)) cut.push(words);
    write.call(this, words, x, y);
  };
  stage.show(stage.state.t);
  brush.fillText = write;
  return [said, cut];
}"""


def watched(browser):
    """A page that keeps what it asks for and what fails on it."""
    opened = browser.new_page(viewport={"width": 1056, "height": 800})
    opened.set_default_timeout(PATIENCE * 1000)
    opened.faults, opened.asked = [], []
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    return opened


@pytest.fixture(scope="module")
def stage(tmp_path_factory, browser):
    models = {
        "titans": {0: learn_by_hand(model_of()), 3: learn_by_hand(model_of())},
        "attention": {3: model_of("attention")},
    }
    path = tmp_path_factory.mktemp("stage") / "stage.html"
    path.write_text(page(json.dumps(take(TEXT, models))), "utf-8")
    opened = watched(browser)
    opened.goto(path.as_uri())
    opened.wait_for_function("() => window.stage?.state.t !== null")
    yield opened
    opened.close()
    assert opened.asked == [path.as_uri()]


@pytest.fixture(autouse=True)
def nothing_fails(stage):
    yield
    assert stage.faults == []


def place(stage) -> int:
    return stage.evaluate("() => window.stage.state.t")


def matching(pattern: str, texts: list[str]) -> list[str]:
    return [text for text in texts if re.fullmatch(pattern, text)]


def test_a_frame_is_a_function_of_its_place(stage):
    frames = []
    for t, phase in ((20, 0.7), (3, 1), (20, 0.7)):
        stage.evaluate("([t, phase]) => window.stage.show(t, phase)", [t, phase])
        frames.append(stage.evaluate(FRAMES))
    assert frames[0] == frames[2] != frames[1] and len(frames[0]) >= 5


def test_a_live_model_and_a_recording_draw_the_same_frame(stage):
    """The same take, once with a kernel that listens and once without one."""
    found = stage.evaluate(
        """([form]) => [true, false].map((live) => {
          const box = document.createElement("div");
          document.body.append(box);
          const twin = mountStage(box, structuredClone(form), { live });
          twin.show(12, 0.6);
          const frames = [...twin.root.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL());
          twin.destroy();
          box.remove();
          return frames;
        })""",
        [stage.evaluate("() => window.take")],
    )
    assert found[0] == found[1] and len(found[0]) >= 5


def test_keys_read_pause_and_step(stage):
    stage.evaluate("() => window.stage.show(5)")
    stage.focus(".nl-stage-text")
    stage.keyboard.press("ArrowRight")
    assert place(stage) == 6
    stage.keyboard.press("ArrowLeft")
    assert place(stage) == 5
    stage.keyboard.press("End")
    assert place(stage) == len(TEXT.text) - 1
    stage.keyboard.press("Home")
    stage.keyboard.press("Space")
    stage.wait_for_function("() => window.stage.state.t > 3")
    stage.keyboard.press("Space")
    paused = place(stage)
    stage.wait_for_timeout(150)
    assert place(stage) == paused and not stage.evaluate("() => window.stage.state.playing")
    assert f"Byte {paused + 1} of {len(TEXT.text)}" in stage.inner_text(".nl-stage-readout")


def test_a_film_is_what_reading_shows(stage):
    """Frame by frame, to its end, at the speed that was asked for."""
    total = stage.evaluate("() => { window.stage.film(0, 5); return window.stage.seconds().reduce((a, b) => a + b); }")
    places = []
    for share in (0, 0.5, 0.9, 1.01):
        over = stage.evaluate("s => window.stage.film(s, 5)", share * total)
        places.append(place(stage))
    assert places == sorted(places) and places[0] == 0 < places[2] < places[3] == len(TEXT.text) - 1 and over
    assert stage.locator(".nl-stage-controls select").first.input_value() == "5"
    assert stage.evaluate("() => window.stage.state.playing") is False


def test_a_film_announces_that_it_slows_down_for_the_fact(stage):
    """The words stand there from the fact's first byte to the first one after it, and not when nothing moves."""
    fact = stage.evaluate("() => window.take.fact")
    seen = """t => {
      window.stage.film(0, 10);
      const before = window.stage.seconds().slice(0, t).reduce((a, b) => a + b, 0);
      window.stage.film(before + window.stage.seconds()[t] / 2, 10);
      return window.stage.state.t === t && getComputedStyle(document.querySelector(".nl-stage-slow")).visibility;
    }"""
    for t, wanted in ((-1, "hidden"), (0, "visible"), (fact["last"] + 1 - fact["first"], "visible")):
        assert stage.evaluate(seen, fact["first"] + t) == wanted
    assert stage.evaluate(seen, fact["last"] + 2) == "hidden"
    stage.evaluate("t => window.stage.show(t)", fact["first"])
    assert not stage.locator(".nl-stage-slow").is_visible()


def test_numbers_on_the_canvases_are_whole_states(stage):
    """While a write is on its way no number between two states is shown, and a probability says of what it is one."""
    texts = """([t, phase]) => {
      const said = [];
      const plain = CanvasRenderingContext2D.prototype.fillText;
      CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        said.push(String(text));
        return plain.call(this, text, ...rest);
      };
      window.stage.show(t, phase);
      CanvasRenderingContext2D.prototype.fillText = plain;
      return said;
    }"""
    asked, mid, done = (stage.evaluate(texts, given) for given in ([25, 1], [20, 0.4], [20, 1]))
    assert matching(r"[\d,]+ bytes", mid) == matching(r"[\d,]+ bytes", done) != []
    assert matching(r"[\d.]+ → [\d.]+", mid) == [] and len(matching(r"[\d.]+ → [\d.]+", done)) == 1
    assert len(matching(rf"· {TEXT.answer}: \d+ %", asked)) == 2


def test_the_lines_of_the_gates_grow_as_it_reads(stage):
    line = "() => document.querySelector('.nl-stage-gate canvas').toDataURL()"
    stage.evaluate("() => window.stage.show(3)")
    short = stage.evaluate(line)
    stage.evaluate("() => window.stage.show(25)")
    assert stage.evaluate(line) != short


def test_a_turned_gate_changes_the_write(stage):
    stage.evaluate("() => window.stage.show(20)")
    before = stage.evaluate(FRAMES)
    stage.locator(".nl-stage-gates input").first.fill("3")
    assert "with your gates" in stage.inner_text(".nl-stage-readout") and stage.evaluate(FRAMES) != before
    stage.get_by_role("button", name="As learned").click()
    assert stage.evaluate(FRAMES) == before


def test_the_outer_dial_and_the_scissors(stage):
    stage.locator(".nl-stage-steps").fill("0")
    assert stage.evaluate("() => window.stage.state.checkpoint") == 0
    assert "trained 0 outer steps" in stage.inner_text(".nl-stage-about")
    stage.get_by_role("button", name="Unfold one outer step").click()
    stage.wait_for_function("() => window.stage.outer.state.fold === 0")
    reached = stage.inner_text(".nl-stage-told")
    stage.get_by_label("cut before byte").fill("20")
    told = stage.inner_text(".nl-stage-told")
    assert told != reached and "start of the memory 0.00 of" in told


def test_what_a_hand_asks_for_reaches_the_kernel(stage):
    """The learner's own text, a fact put elsewhere, and a gate turned, as a widget would send them."""
    stage.evaluate(
        """() => {
          const box = document.createElement("div");
          box.id = "live";
          document.body.append(box);
          window.asked = [];
          const form = { ...structuredClone(window.take), plain: "The sea is grey." };
          window.twin = mountStage(box, form, { live: true, request: (kind, data) => window.asked.push([kind, data]) });
        }"""
    )
    live = stage.locator("#live")
    live.get_by_label("is", exact=True).fill("99")
    live.get_by_label("is", exact=True).press("Tab")
    live.locator(".nl-stage-letter").last.click()
    live.locator(".nl-stage-chip").click()
    live.locator(".nl-stage-gate input").first.fill("2")
    (first, fact), (second, moved), (third, gains) = stage.evaluate("() => window.asked")
    stage.evaluate("() => { window.twin.destroy(); document.querySelector('#live').remove(); }")
    assert (first, second, third) == ("text", "text", "gains")
    assert fact == {"text": "The sea is grey.", "key": "crate", "answer": "99", "place": len("The sea is")}
    assert moved["place"] > fact["place"] and gains == {"step": 2, "momentum": 1, "keep": 1}


def test_every_control_has_a_name(stage):
    nameless = stage.evaluate(
        """() => [...document.querySelectorAll(".nl-stage :is(button, input, select, canvas, [role])")].filter((node) =>
          !node.getAttribute("aria-label") && !node.labels?.length
          && !(node.tagName === "BUTTON" && node.textContent.trim())
          && node.getAttribute("role") !== "status" && !node.closest("button[aria-label]"))
          .map((node) => node.outerHTML)"""
    )
    assert nameless == []


def test_it_fits_a_phone(stage):
    stage.set_viewport_size({"width": 360, "height": 700})
    stage.wait_for_function("() => document.querySelector('.nl-stage-narrow')")
    assert stage.evaluate("() => document.documentElement.scrollWidth") <= 360
    stage.set_viewport_size({"width": 1056, "height": 800})
    stage.wait_for_function("() => !document.querySelector('.nl-stage-narrow')")


@pytest.mark.parametrize("width", [304, 360, 560, 720, 932, 1056])
def test_its_words_end_within_their_pictures(stage, width):
    stage.set_viewport_size({"width": width, "height": 800})
    stage.wait_for_function("width => Math.abs(stage.root.clientWidth - width) < 40", arg=width)
    said, cut = stage.evaluate(SAID)
    assert len(said) > 20 and cut == []
    stage.set_viewport_size({"width": 1056, "height": 800})
    stage.wait_for_function("() => !document.querySelector('.nl-stage-narrow')")


def test_it_keeps_its_dark_paper_in_print(stage):
    ground = "() => ['backgroundColor', 'color'].map((name) => getComputedStyle(stage.root)[name])"
    stage.emulate_media(media="print")
    assert stage.evaluate(ground) == ["rgba(0, 0, 0, 0)", "rgb(27, 31, 36)"]
    stage.evaluate("() => { stage.root.dataset.theme = 'dark'; }")
    assert stage.evaluate(ground) == ["rgb(21, 24, 28)", "rgb(236, 239, 243)"]
    stage.evaluate("() => { stage.root.dataset.theme = 'light'; }")
    stage.emulate_media(media="screen")


def test_the_sites_front_page_shows_it_from_a_disk(stage, tmp_path):
    page = tmp_path / "index.html"
    page.write_text(documents.pages(course_root(), {"00_start_here": "00"})["index.html"], "utf-8")
    for name, content in site_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    opened = watched(stage.context.browser)
    opened.goto(page.as_uri())
    opened.wait_for_selector(".nl-stage canvas")
    assert "72148" in opened.inner_text(".nl-stage-text") and opened.faults == []
    assert all(url.startswith("file:") for url in opened.asked)
    assert "stage.gif" not in opened.content()
    opened.close()
