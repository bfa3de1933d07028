"""The course as static pages: formulas, links, plots without a kernel, slides, and no word to the network."""

import json
import os
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest

import nl_course.export
from nl_course.errors import CourseError
from nl_course.exercises.framework.engine import chapters, discussion, exercises_of
from nl_course.export import cells, chosen, export, pages, slides
from nl_course.export.maths import with_mathml
from nl_course.export.running import run_notebook
from nl_course.files import course_root
from nl_course.notebooks import all_notebooks
from nl_course.views.kit.plot import STILL
from nl_course.views.stage.widget import STAGE


class Page(HTMLParser):
    """What a page links to and loads, and the places in it that can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.loads, self.places, self.labels, self.figures = [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.places.update(values[key] for key in ("id", "name") if values.get(key))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if "data-figure" in values:
            self.figures.append(values["data-figure"])
        if tag in ("img", "script", "link", "iframe"):
            self.loads += [values[key] for key in ("src", "href") if values.get(key)]
        if tag == "img":
            self.labels.append(values.get("alt"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All pages as the notebooks stand, without running them."""
    folder = tmp_path_factory.mktemp("site")
    done = export(folder, run=False, say=lambda line: None)
    return done, {path.name: Page(path.read_text("utf-8")) for path in (*done.pages, *done.slides)}


def test_every_notebook_and_every_text_has_a_page(site):
    done, pages = site
    for path in all_notebooks():
        assert {f"{path.stem}.html", f"{path.stem}.slides.html"} <= set(pages)
    assert {"index.html", "contributing.html"} <= set(pages) and not done.failed
    assert len(done.slides) == len(all_notebooks())


def test_every_link_leads_somewhere(site):
    done, pages = site
    for name, page in pages.items():
        for link in page.links:
            target, _, place = link.partition("#")
            if re.match(r"https?:|mailto:", link) or (name.endswith(".slides.html") and not target):
                continue
            assert (done.folder / (target or name)).exists(), f"{name} links to {link}"
            if place:
                from urllib.parse import unquote

                assert unquote(place) in {unquote(p) for p in pages[target or name].places}, f"{name}: {link}"


def test_nothing_is_fetched_and_pictures_say_what_they_show(site):
    done, pages = site
    for name, page in pages.items():
        files = [load for load in page.loads if not load.startswith("data:")]  # a picture inside the page
        assert all((done.folder / load).is_file() for load in files), name
        assert all(page.labels), f"{name} has a picture without a text"
    assert (done.folder / "files" / "plotly.min.js").stat().st_size > 10**6


def test_no_answer_of_the_teachers_book_is_on_a_page(site):
    done, _ = site
    text = "\n".join(path.read_text("utf-8") for path in (*done.pages, *done.slides))
    for number in chapters():
        assert not any(escape(answer[:60]) in text for _, answer in discussion(number))
        assert not any(escape(exercise.aim[:60]) in text for exercise in exercises_of(number))


def test_no_formula_is_left_as_latex(site):
    done, _ = site
    for path in done.pages:
        text = re.sub(r"<(pre|code|script|math)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.S)
        assert not re.search(r"\$[^$\n]*\\[a-z]+|\\(frac|alpha|eta|sum)\b", text), path.name


def test_formulas_become_mathml_and_code_is_left_alone():
    text = with_mathml("rate $\\eta_t$ and\n$$W_t = \\alpha W\n$$\n`$HOME` costs $5 or $6.\n```\n$x$\n```")
    assert (
        text.count("<math") == 2
        and 'display="block"' in text
        and "\n" not in re.findall(r"<math.*?</math>", text, re.S)[1]
    )
    assert "`$HOME` costs $5 or $6." in text and "```\n$x$\n```" in text
    with pytest.raises(ValueError, match="cannot be read"):
        with_mathml("$\\frac{$")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[01](01_attention.ipynb)", "[01](01_attention.html)"),
        ("[x](notebooks/03_a.ipynb#cell)", "[x](03_a.html#cell)"),
        ("[x](../CONTRIBUTING.md)", "[x](contributing.html)"),
        ("[x](README.md#one)", "[x](index.html#one)"),
        ('<img src="../assets/previews/wave.png" alt="a">', '<img src="previews/wave.png" alt="a">'),
        ("![a](assets/previews/wave.png)", "![a](previews/wave.png)"),
        ("![a](../assets/diagrams/loops.svg)", "![a](diagrams/loops.svg)"),
        ("[LICENSE](LICENSE)", "[LICENSE](LICENSE)"),
        ("[`Rotary`](../nl_course/memories/attention/rope.py), so", "`Rotary`, so"),
        ("[arxiv](https://arxiv.org/abs/2501.00663)", "[arxiv](https://arxiv.org/abs/2501.00663)"),
        ("[here](#below)", "[here](#below)"),
    ],
)
def test_links_lead_to_pages(text, wanted):
    assert cells.with_links(text) == wanted


def output(**data):
    return nbformat.v4.new_output("display_data", data)


def test_a_stage_moves_on_its_page_without_a_kernel():
    live = {"take": {"text": "</script>"}, "unfolded": False}
    html = cells.still(output(**{STAGE: live, cells.WIDGET: {}}), "a stage").data["text/html"]
    assert 'id="a-stage"' in html and "mountStage(" in html and html.count("</script>") == 2
    recorded = cells.still(output(**{STAGE: {"take": None, "unfolded": True}, cells.WIDGET: {}}), "b").data["text/html"]
    assert "...window.recordedTake, unfolded: true" in recorded and 'src="files/stage.js"' in recorded


def test_the_front_page_has_the_stage_in_place_of_its_film(site):
    done, _ = site
    front = (done.folder / "index.html").read_text("utf-8")
    assert "mountStage(" in front and "stage.gif" not in front
    script = (done.folder / "files" / "stage.js").read_text("utf-8")
    assert "window.recordedTake ??= {" in script and not re.search(r"^(export|import)", script, re.MULTILINE)


def a_view(**more) -> dict:
    """What a view hands over when a notebook is run for export."""
    drawn = go.Figure(go.Scatter(y=[1, 3, 2]), layout={"width": 900, "height": 300})
    axes = [{"name": "height", "label": "Height <m>", "kind": "range", "stops": ["1", "3"], "at": 1},
            {"name": "kind", "label": "Drawn as", "kind": "select", "stops": ["line", "bars"], "at": 0}]  # fmt: skip
    controls = {"height": "Height <m>", "kind": "Drawn as", "name": "Name"}
    return {"name": "wave", "title": "A <b> wave", "question": "How high?", "controls": controls, "stays": "",
            "read_out": "It is 3 high.", "figure": drawn.to_json(), "least_width": 820,
            "grid": {"axes": axes, "changes": "packed"}, **more}  # fmt: skip


def test_a_view_stands_with_its_question_its_controls_and_its_sentence():
    html = cells.still(output(**{STILL: a_view(), cells.WIDGET: {}}), "one").data["text/html"]
    assert "A &lt;b&gt; wave" in html and "How high?" in html and "data-figure='one'" in html
    assert "<span class='nl-readout' role='status'>It is 3 high.</span>" in html
    assert "nl-covered" not in html and "<button" not in html
    assert "In JupyterLab you can also move: Name." in html
    assert re.search(r"<label>Height &lt;m&gt; <input type='range' min='0' max='1' value='1' aria-valuetext='3'", html)
    assert re.search(r"<label>Drawn as <select[^>]*><option value='0' selected>line</option><option value='1'>", html)


def test_a_view_that_answers_its_question_is_covered():
    html = cells.still(output(**{STILL: a_view(covered=True)}), "one").data["text/html"]
    assert "nl-view nl-covered" in html and re.search(r"class='nl-veil'>[^<]+ <button type='button'>Show me<", html)


def test_a_view_that_does_not_move_says_so():
    content = a_view(grid=None, stays="it trains a model.")
    html = cells.still(output(**{STILL: content}), "one").data["text/html"]
    assert "<input" not in html and "<select" not in html and "How high?" in html
    assert "stands still here: it trains a model. In JupyterLab you can move: Height &lt;m&gt;, Drawn as, Name." in html
    html = cells.still(output(**{STILL: a_view(grid=None)}), "one").data["text/html"]
    assert f"stands still here: {cells.NO_GRID} In" in html


def test_outputs_need_no_kernel():
    of_chart = a_view()
    for name in ("title", "question", "controls", "grid", "stays"):
        del of_chart[name]
    html = cells.still(output(**{STILL: of_chart, cells.WIDGET: {}}), "a chart").data["text/html"]
    assert "data-figure='a chart'" in html and "you can" not in html and "<strong>" not in html
    drawing = json.loads(of_chart["figure"])
    alone = cells.still(output(**{cells.PLOTLY: drawing}), "two").data["text/html"]
    assert "data-figure='two'" in alone
    sentence = cells.still(output(**{cells.WIDGET: {}, "text/plain": "A wave: it is 3 high."}), "three")
    assert "it is 3 high" in sentence.data["text/html"]
    assert cells.still(output(**{cells.WIDGET: {}, "text/plain": "<VBox>"}), "four") is None
    assert cells.still(nbformat.v4.new_output("stream", name="stderr", text="noise"), "five") is None
    committed = cells.still(output(**{"image/png": "iVBO", "text/plain": "Chart: <b> it rises."}), "six")
    html = cells.as_html([nbformat.v4.new_code_cell("chart", outputs=[committed])], "a")
    assert 'src="data:image/png;base64,iVBO"' in html and 'alt="Chart: &lt;b&gt; it rises."' in html
    text = output(**{"text/plain": "42"})
    assert cells.still(text, "six") is text


def test_page_and_slides_share_one_file_of_figures():
    drawing = json.loads(a_view()["figure"])
    outputs = [output(**{"text/plain": "1"}), output(**{STILL: a_view()}), output(**{cells.PLOTLY: drawing})]
    cell = nbformat.v4.new_code_cell("x", outputs=outputs, id="here")
    found = cells.figures([nbformat.v4.new_markdown_cell("text"), cell], "03_x")
    assert list(found) == ["03_x-here-1", "03_x-here-2"]
    first, second = found.values()
    assert first["grid"]["changes"] == "packed" and first["said"] == "It is 3 high." and first["label"] == "A <b> wave"
    assert second["figure"]["data"][0]["y"] == [1, 3, 2]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    for text in (pages.page(notebook, "03_x", {"03_x": "X"}), slides.page(notebook, "03_x", {"03_x": "X"})):
        shown = Page(text)
        assert shown.figures == list(found)
        assert [load for load in shown.loads if load.startswith("figures/")] == ["figures/03_x.js"]
    text = nl_course.export.figures_file(found).decode()
    assert json.loads(text[text.index("{}, ") + 4 : -3]) == found


def test_a_notebook_is_named_by_its_beginning_and_bad_input_is_refused(tmp_path):
    root = course_root()
    assert [path.stem for path in chosen(root, ["03", "00_start_here.ipynb"])] == [
        "00_start_here",
        "03_memory_that_learns",
    ]
    with pytest.raises(CourseError, match="notebook"):
        chosen(root, ["99"])
    with pytest.raises(CourseError, match="own folder"):
        export(root / "assets" / "site")
    with pytest.raises(CourseError, match="jobs"):
        export(tmp_path, jobs=0)


# -- whose files -----------------------------------------------------------------------------------------------
@pytest.fixture
def small(tmp_path, monkeypatch):
    """A course of one notebook, to be exported in no time: the path it is exported to."""
    root = tmp_path / "course"
    (root / "notebooks").mkdir(parents=True)
    (root / "assets" / "previews").mkdir(parents=True)
    (root / "assets" / "previews" / "view.png").write_bytes(b"picture")
    (root / "README.md").write_text("# The course\n")
    (root / "LICENSE").write_text("MIT\n")
    write(root / "notebooks" / "00_start.ipynb", "1 + 1")
    monkeypatch.setattr(nl_course.export, "course_root", lambda: root)
    return tmp_path / "site"


def again(folder):
    return export(folder, run=False, say=lambda line: None)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_export_is_brought_up_to_date_and_what_is_added_to_it_stays(small):
    again(small)
    first = contents(small)
    assert {"index.html", "00_start.html", "00_start.slides.html", "LICENSE"} <= {path.name for path in first}
    (small / "CNAME").write_text("mine")
    (small.parent / "course" / "LICENSE").write_text("MIT, newer\n")
    again(small)
    assert (small / "LICENSE").read_text() == "MIT, newer\n" and (small / "CNAME").read_text() == "mine"
    (small.parent / "empty").mkdir()
    assert again(small.parent / "empty").pages


@pytest.mark.parametrize("name", ["LICENSE", "CITATION.cff", "index.html", "anything.txt", ".hidden"])
def test_a_folder_with_files_of_somebody_else_is_refused_before_work_begins(small, name, monkeypatch):
    small.mkdir()
    (small / name).write_text("mine")
    monkeypatch.setattr(nl_course.export, "run_notebook", lambda *arguments: pytest.fail("work began"))
    with pytest.raises(CourseError, match="holds files, and no list of an earlier export"):
        export(small)
    assert contents(small) == {small / name: b"mine"}


@pytest.mark.parametrize("name", ["LICENSE", "index.html", "00_start.html", "files/course.css", "previews/view.png"])
@pytest.mark.parametrize("how", ["changed", "link", "folder"])
def test_a_page_that_is_not_as_the_export_left_it_is_refused(small, name, how):
    again(small)
    theirs = small.parent / "theirs"
    (small / name).rename(theirs)  # even if it holds what the page held, a link is not followed
    held = theirs.read_bytes()
    if how == "changed":
        (small / name).write_text("mine")
    elif how == "link":
        (small / name).symlink_to(theirs)
    else:
        (small / name).mkdir()
    before = contents(small)
    with pytest.raises(CourseError, match=rf"{name} is not as an export left it"):
        again(small)
    assert contents(small) == before and theirs.read_bytes() == held


def test_a_folder_inside_that_is_a_link_is_not_written_through(small):
    again(small)
    (small / "files").rename(small.parent / "elsewhere")
    (small / "files").symlink_to(small.parent / "elsewhere")
    before = contents(small.parent / "elsewhere")
    with pytest.raises(CourseError, match=r"files/.* is not as an export left it"):
        again(small)
    assert contents(small.parent / "elsewhere") == before


@pytest.mark.parametrize("damage", ["{", "[]", "[" * 10**5, '{"LICENSE": 5}'])
def test_a_damaged_list_proves_nothing(small, damage):
    again(small)
    (small / ".nl_course_export.json").write_text(damage)
    before = contents(small)
    with pytest.raises(CourseError, match=r"no list of an earlier export|is not as an export left it"):
        again(small)
    assert contents(small) == before


def write(path: Path, *sources: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, path)
    return path


@pytest.mark.slow
def test_notebooks_that_run_at_once_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    notebook, wrong = run_notebook(
        write(tmp_path / "a.ipynb", "import os\nprint(os.environ['OMP_NUM_THREADS'])"), jobs=2
    )
    assert not wrong and notebook.cells[0].outputs[0].text == "3\n"


@pytest.mark.slow
def test_views_are_live_plots_in_what_was_run_and_failures_are_said(tmp_path):
    path = write(tmp_path / "a.ipynb", "from nl_course.views.one_tape import OneTape\nOneTape()", "1 / 0", "2")
    before = path.read_bytes()
    notebook, wrong = run_notebook(path)
    assert "ZeroDivisionError" in wrong and path.read_bytes() == before
    html = cells.as_html(notebook.cells, "a")
    ((name, figure),) = cells.figures(notebook.cells, "a").items()
    assert Page(html).figures == [name] and "division by zero" in html
    assert [axis["name"] for axis in figure["grid"]["axes"]] == ["filler", "overwritten"] and figure["grid"]["changes"]
    assert html.count("data-axis=") == 2
    assert "widget-view" not in html and not re.search(r'(src|href)="https?:', html)
