"""The diagrams: files as tools/diagrams makes them, legible in any theme, with their places in the notebooks."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from nl_course.export import fixed_files
from nl_course.export.cells import with_links
from nl_course.notebooks import all_notebooks
from nl_course.views.kit.theme import SYMBOLS
from tools.diagrams.__main__ import FOLDER, contents
from tools.diagrams.everything import drawings
from tools.diagrams.shapes import INKS, SMALL, WIDTH, Drawing, Rect, crosses, text_width
from tools.run_notebooks import ROOT

DRAWINGS = {drawing.name: drawing for drawing in drawings()}
TINT = 0.1  # how much of a symbol's color a box has behind its text


def test_the_committed_files_are_what_the_module_makes():
    committed = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert committed == contents(), "run `python -m tools.diagrams`"


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_overlaps_and_every_text_fits_its_box(name):
    assert list(DRAWINGS[name].faults()) == []


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_file_fetches_nothing_runs_nothing_and_says_what_it_shows(name):
    text = (FOLDER / f"{name}.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    kinds = {element.tag.rsplit("}", 1)[1] for element in root.iter()}
    assert kinds <= {"svg", "title", "desc", "style", "rect", "circle", "polyline", "polygon", "text", "tspan"}
    assert len(re.findall(r"https?:", text)) == 1 and "url(" not in text and "@import" not in text  # one: the namespace
    assert len(text.encode()) < 20_000
    assert root.find("{*}desc").text == DRAWINGS[name].alt


def test_the_smallest_text_has_eleven_pixels_on_a_phone():
    assert SMALL * 360 / WIDTH >= 11


# -- the faults are found ----------------------------------------------------------------------------------------------
def bad(build) -> str:
    drawing = Drawing("bad", "A bad one", height=200)
    build(drawing)
    return "; ".join(drawing.faults())


@pytest.mark.parametrize(
    ("build", "fault"),
    [
        (lambda d: d.box(20, 60, 60, 30, "much too long for it"), "leaves its box"),
        (lambda d: d.text(20, 60, "tiny", size=9), "too small"),
        (lambda d: d.text(360, 60, "out of the page"), "leaves the page"),
        (lambda d: (d.text(20, 60, "one"), d.text(30, 62, "two")), "'one' lies on 'two'"),
        (lambda d: (d.step(4, 60, 60), d.text(50, 62, "two")), "'two' lies on 'step 4'"),
        (lambda d: (d.box(20, 60, 60, 30), d.text(60, 70, "across")), "across the edge"),
        (lambda d: (d.grid(20, 60, 60, 30, 3, 3, "W"), d.text(30, 70, "W")), "lies on a cell"),
        (lambda d: (d.box(20, 60, 60, 30), d.box(50, 70, 60, 30)), "overlap"),
        (lambda d: d.box(380, 60, 60, 30), "box at 380, 60 leaves the page"),
        (lambda d: (d.text(100, 60, "words"), d.arrow((50, 60), (300, 60))), "crosses 'words'"),
        (lambda d: (d.box(100, 60, 40, 40), d.arrow((50, 80), (300, 80))), "crosses the box"),
        (lambda d: d.arrow((50, 80), (300, 280)), "leaves the page"),
    ],
)
def test_each_fault_is_found(build, fault):
    assert fault in bad(build)


def test_what_is_well_drawn_has_no_fault():
    def build(d):
        outer = d.box(20, 50, 200, 100, frame=True)
        inner = d.box(30, 80, 80, 30, "the {k}", symbol="k")
        d.arrow(inner.right(), outer.right())

    assert bad(build) == ""
    assert crosses((0, 0), (10, 10), Rect(4, 4, 2, 2)) and not crosses((0, 0), (10, 0), Rect(4, 1, 2, 2))
    assert text_width("kk", 10) < text_width("kk", 10, bold=True) < text_width("kkk", 10)


# -- colors ------------------------------------------------------------------------------------------------------------
def channels(color: str) -> list[float]:
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def luminance(color: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [name for name in INKS if name != "paper"])
def test_every_color_can_be_read_on_paper_and_on_every_box(name, scheme):
    ink = channels(getattr(INKS[name], scheme))
    paper = channels(getattr(INKS["paper"], scheme))
    assert contrast(ink, paper) >= 5
    for symbol in SYMBOLS:
        behind = channels(getattr(INKS[symbol], scheme))
        box = [(1 - TINT) * p + TINT * b for p, b in zip(paper, behind)]
        # One box lies inside another at most.
        nested = [(1 - TINT) * p + TINT * b for p, b in zip(box, behind)]
        assert contrast(ink, box) >= 4.2, symbol
        assert contrast(ink, nested) >= 3.5, symbol


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_two_symbols_share_a_color(scheme):
    for one, other in combinations(SYMBOLS.values(), 2):
        apart = zip(channels(getattr(one, scheme)), channels(getattr(other, scheme)))
        assert sum(abs(a - b) for a, b in apart) > 0.3


def test_the_stage_wears_the_same_colors():
    palette = (ROOT / "nl_course/views/stage/js/palette.js").read_text("utf-8")
    for scheme in ("light", "dark"):
        line = re.search(rf"^  {scheme}: {{(.*)$", palette, re.M)[1]
        worn = dict(re.findall(r'(\w+): "(#\w+)"', line))
        for symbol, name in {"k": "key", "v": "value", "error": "error"}.items():
            assert worn[name] == getattr(SYMBOLS[symbol], scheme), f"{scheme} {name}"


# -- where they stand --------------------------------------------------------------------------------------------------
def shown() -> list[tuple[str, str, str]]:
    """(notebook, alt text, path) of every diagram that a notebook shows."""
    found = []
    for path in all_notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                pictures = re.findall(r"!\[([^\]]*)\]\((\.\./assets/diagrams/[^)]+)\)", cell.source)
                found += [(path.stem, alt, picture) for alt, picture in pictures]
    return found


def test_every_diagram_stands_in_a_notebook_with_its_own_alt_text():
    places = shown()
    assert {Path(picture).stem for _, _, picture in places} == set(DRAWINGS)
    for notebook, alt, picture in places:
        assert alt == DRAWINGS[Path(picture).stem].alt, f"{picture} in {notebook}"


def test_every_alt_text_describes_and_stays_short():
    for drawing in DRAWINGS.values():
        assert 20 <= len(drawing.alt.split()) <= 100 and not set("[]()*_`$") & set(drawing.alt), drawing.name


def test_exported_pages_carry_the_diagrams():
    files = fixed_files(ROOT)
    for _, _, picture in shown():
        page_path = re.search(r"\((.*)\)", with_links(f"![a]({picture})"))[1]
        assert files[page_path] == (ROOT / "notebooks" / picture).read_bytes()
