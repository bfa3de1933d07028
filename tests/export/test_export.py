"""The course as static pages: formulas, links, plots without a kernel, slides, and no word to the network."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest

import nl_course.export
from nl_course.errors import CourseError
from nl_course.export import cells, chosen, export, slides
from nl_course.export.maths import with_mathml
from nl_course.export.running import run_notebook
from nl_course.files import course_root
from nl_course.notebooks import all_notebooks
from nl_course.views.kit.plot import STILL


class Page(HTMLParser):
    """What a page links to and loads, and the places in it that can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.loads, self.places, self.labels = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.places.update(values[key] for key in ("id", "name") if values.get(key))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
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
        assert all((done.folder / load).is_file() for load in page.loads), name
        assert all(page.labels), f"{name} has a picture without a text"
    assert (done.folder / "files" / "plotly.min.js").stat().st_size > 10**6


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


def test_outputs_need_no_kernel():
    drawn = go.Figure(go.Scatter(y=[1, 3, 2]), layout={"width": 900, "height": 300})
    shown = {"name": "wave", "title": "A <b> wave", "question": "How high?", "controls": ["Height"],
             "read_out": "It is 3 high.", "figure": drawn.to_json()}  # fmt: skip
    html = cells.still(output(**{STILL: shown, cells.WIDGET: {}}), "plot one").data["text/html"]
    assert "A &lt;b&gt; wave" in html and "How high?" in html and html.count("It is 3 high.") == 2
    assert 'id="plot-one"' in html and "Plotly.newPlot" in html and "cdn" not in html.lower() and "900" not in html
    of_chart = {**shown, "title": "", "question": "", "controls": []}
    html = cells.still(output(**{STILL: of_chart, cells.WIDGET: {}}), "a chart").data["text/html"]
    assert "Plotly.newPlot" in html and "you can move" not in html and "<strong>" not in html
    alone = cells.still(output(**{cells.PLOTLY: json.loads(drawn.to_json())}), "two").data["text/html"]
    assert "Plotly.newPlot" in alone
    sentence = cells.still(output(**{cells.WIDGET: {}, "text/plain": "A wave: it is 3 high."}), "three")
    assert "it is 3 high" in sentence.data["text/html"]
    assert cells.still(output(**{cells.WIDGET: {}, "text/plain": "<VBox>"}), "four") is None
    assert cells.still(nbformat.v4.new_output("stream", name="stderr", text="noise"), "five") is None
    text = output(**{"text/plain": "42"})
    assert cells.still(text, "six") is text


def test_slides_begin_at_texts_and_leave_out_what_is_folded():
    new = nbformat.v4
    deck = slides.split(
        [
            new.new_markdown_cell("# One"), new.new_code_cell("1"), new.new_code_cell("2"),
            new.new_markdown_cell("<details><summary>s</summary>\n\npicture\n</details>"),
            new.new_code_cell("3"), new.new_markdown_cell("two"),
        ]
    )  # fmt: skip
    assert [[cell.source for cell in slide] for slide in deck] == [["# One", "1", "2", "3"], ["two"]]


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
    path = write(tmp_path / "a.ipynb", "from nl_course.views.state_map import StateMap\nStateMap()", "1 / 0", "2")
    before = path.read_bytes()
    notebook, wrong = run_notebook(path)
    assert "ZeroDivisionError" in wrong and path.read_bytes() == before
    html = cells.as_html(notebook.cells, "a")
    assert "Plotly.newPlot" in html and "In JupyterLab you can move" in html and "division by zero" in html
    assert "widget-view" not in html and not re.search(r'(src|href)="https?:', html)
