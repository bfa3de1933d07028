"""Every notebook keeps the course's standard, and every check of it can fail."""

import base64
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nl_course.notebooks import all_notebooks
from nl_course.views.kit.plot import WIDGET
from tests.notebooks import structure
from tests.notebooks.structure import Book
from tools.run_notebooks import normalise

NOTEBOOKS = all_notebooks()
PROSE = "These words explain the idea at some length, ask the learner to predict, and say what it means. " * 4


@pytest.mark.parametrize("check", structure.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, check):
    assert list(check(Book.read(path))) == []


def test_nothing_is_defined_twice_in_the_course():
    books = [Book.read(path) for path in NOTEBOOKS]
    assert list(structure.twice_defined(books, structure.exported_names())) == []


def text(source, *more):
    return new_markdown_cell(source, metadata={"tags": list(more)} if more else {})


def code(source, *more, outputs=()):
    return new_code_cell(source, metadata={"tags": list(more)} if more else {}, outputs=list(outputs))


def printed(words):
    return new_output("stream", name="stdout", text=words)


@pytest.fixture
def good(tmp_path) -> Book:
    """A small notebook without a fault; tests spoil one thing each."""
    picture = tmp_path / "assets" / "previews" / "view.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"png")
    (tmp_path / "notebooks").mkdir()
    alt = "A line that rises with the number of tokens read"
    details = f"<details><summary>Static picture</summary><img src='../assets/previews/view.png' alt='{alt}'>"
    exercise = "def doubled(x):\n    ...\n\ncheck('1.{}', doubled)"
    cells = [
        text("# Title\nGoals: one. 20 minutes. What you need to know: nothing."),
        text("## A section\n" + PROSE),
        code("print(1 + 1)", "nbval-check-output", outputs=[printed("2\n")]),
        text(PROSE + " See [the paper](https://example.invalid/paper)."),
        code("from nl_course.views.kit.shell import View\n\nView()"),
        text(f"{details}</details>"),
        *[cell for i in "123" for cell in (text(PROSE), code(exercise.format(i), "exercise"))],
        text("What you can now say. Three questions to discuss. Further reading. Where the paper is silent: here."),
    ]
    cells += [text(PROSE)]
    cells[-2], cells[-1] = cells[-1], cells[-2]
    notebook = new_notebook(cells=cells, metadata={"nl_course": {"minutes": {"A section": 10}}})
    return Book("01_title.ipynb", normalise(notebook), tmp_path / "notebooks")


def faults(book: Book, name: str) -> list[str]:
    fresh = Book(book.name, book.notebook, book.folder)
    return list(getattr(structure, name)(fresh))


def test_a_good_notebook_passes_every_check(good):
    for check in structure.CHECKS:
        assert faults(good, check.__name__) == []
    assert list(structure.twice_defined([good], {"other": "nl_course.model"})) == []


def alter(number, **changes):
    def spoil(book):
        for name, value in changes.items():
            setattr(book.notebook.cells[number], name, value)

    return spoil


def retag(number, *tags):
    return alter(number, metadata=nbformat.from_dict({"tags": list(tags)}))


def add(cell):
    return lambda book: book.notebook.cells.insert(1, cell)


def minutes(value):
    return lambda book: book.notebook.metadata.update(nl_course={"minutes": value})


PNG = b"\x89PNG..."


def seen(png: bytes = b"", **metadata):
    """The output of a chart as it is committed, with a picture or without."""
    data = {"text/plain": "Chart: It rises.", **({"image/png": base64.b64encode(png).decode()} if png else {})}
    return new_output("display_data", data=data, metadata={"nl_course": "view", **metadata})


LONG = "\n".join(f"x{i} = {i}" for i in range(21))
FIGURE = new_output("display_data", data={"application/vnd.plotly.v1+json": {}})
ERROR = new_output("error", ename="ValueError", evalue="no", traceback=[])
SPOILED = [
    ("pictures_have_alt_text", add(text("![](../assets/previews/view.png)")), "needs alt text"),
    ("pictures_have_alt_text", add(text("<img src='a.png'>")), "needs alt text"),
    ("pictures_have_alt_text", add(text("<img src='a.png' alt='a plot'>")), "not 'a plot'"),
    ("code_cells_are_short", add(code(LONG)), "21 lines; at most 20"),
    ("code_cells_are_short", lambda b: [add(code(LONG[:70]))(b) for _ in range(7)], "median code cell has 10"),
    ("text_outweighs_code", lambda b: [add(code(LONG[:70]))(b) for _ in range(9)], "words of text"),
    ("text_outweighs_code", lambda b: [add(code("1"))(b) for _ in range(9)], "at least 1.3 : 1"),
    ("nothing_is_fetched", add(text("<img alt='x' src='https://a.invalid/a.png'>")), "https://a.inv"),
    ("nothing_is_fetched", add(text("<script async src=//a.invalid/a.js></script>")), "<script"),
    ("nothing_is_fetched", add(text("![a map of it](http://a.invalid/a.png)")), "http://"),
    ("nothing_is_fetched", add(code("figure.write_html('a', include_plotlyjs='cdn')")), "'cdn'"),
    ("nothing_is_fetched", add(code("%pip install einops")), "%pip"),
    ("nothing_is_fetched", add(code("read('https://a.invalid')")), "https://"),
    ("metadata_and_outputs_are_clean", lambda b: b.notebook.metadata.update(widgets={}), "widget state"),
    ("metadata_and_outputs_are_clean", alter(2, outputs=[ERROR]), "stores an error: ValueError"),
    ("metadata_and_outputs_are_clean", alter(2, outputs=[FIGURE]), "plotly figure"),
    ("metadata_and_outputs_are_clean", alter(2, execution_count=7), "not in its committed form"),
    ("metadata_and_outputs_are_clean", add(text("word " * 70_000)), "at most 300,000"),
    ("metadata_and_outputs_are_clean", alter(1, attachments={"a.png": {"image/png": ""}}), "attached"),
    ("outputs_have_their_picture", add(code("chart", outputs=[seen()])), "stores no picture"),
    ("outputs_have_their_picture", add(code("chart", outputs=[seen(PNG)])), "stores no picture"),
    ("outputs_have_their_picture", add(code("chart", outputs=[seen(PNG * 4000, picture="a1")])), "at most 25,000"),
    ("local_pictures_exist", add(text("![a map of it](../assets/previews/none.png)")), "none.png"),
    ("local_pictures_exist", add(text("<img src='gone.png' alt='x'>")), "gone.png"),
    ("views_have_a_static_picture", lambda b: b.notebook.cells.pop(5), "View needs its static picture"),
    ("cells_are_tagged", retag(3, "core"), "is tagged core"),
    ("cells_are_tagged", retag(3, "extra"), "is tagged extra"),
    ("cells_are_tagged", retag(2), "nothing that it claims is compared"),
    ("cells_are_tagged", alter(2, outputs=[]), "stores no text"),
    ("cells_are_tagged", alter(2, outputs=[printed("0.12345678")]), "'0.12345678'"),
    ("cells_are_tagged", alter(2, outputs=[printed("took 3.2 ms")]), "'3.2 ms'"),
    ("cells_are_tagged", alter(2, outputs=[printed("<f at 0x7f00aa00bb>")]), "0x7f00aa00bb"),
    ("minutes_are_given", minutes({}), "lack nl_course"),
    ("minutes_are_given", minutes({"A section": 0}), "above 0"),
    ("minutes_are_given", minutes({"Another": 3}), "'Another' that is not among"),
    ("it_opens_and_closes_as_all_do", lambda b: b.notebook.cells.pop(0), "lacks 'goals'"),
    ("it_opens_and_closes_as_all_do", lambda b: b.notebook.cells.pop(), "lacks 'discuss'"),
    ("it_opens_and_closes_as_all_do", lambda b: b.notebook.cells.append(code("1")), "last cell must be text"),
    ("it_opens_and_closes_as_all_do", lambda b: b.notebook.cells.clear(), "first cell must be text"),
    ("exercises_are_checked", lambda b: b.notebook.cells.pop(7), "checks 2 exercises; at least 3"),
    ("exercises_are_checked", alter(7, source="def doubled(x): ..."), "checks 2 exercises"),
    ("exercises_are_checked", alter(11, source="def doubled(x): ..."), "is not checked"),
    ("exercises_are_checked", alter(7, source="check('2.1', doubled)"), "2.1 belongs to another"),
    ("exercises_are_checked", alter(7, source="check('1.10', doubled)"), "numbered in another order than they come"),
    ("no_paths_of_one_machine", add(code("open('/home/me/data')")), "/home/me"),
    ("no_paths_of_one_machine", alter(2, outputs=[printed("in /tmp/abc")]), "/tmp/abc"),
    ("no_paths_of_one_machine", add(text("See C:\\Users")), "C:"),
]


@pytest.mark.parametrize(("name", "spoil", "said"), SPOILED)
def test_a_spoiled_notebook_is_found_out(good, name, spoil, said):
    spoil(good)
    found = faults(good, name)
    assert any(said in fault for fault in found)


def test_every_check_was_shown_to_fail():
    assert {name for name, _, _ in SPOILED} == {check.__name__ for check in structure.CHECKS}


def book(name: str, *cells) -> Book:
    return Book(name, new_notebook(cells=list(cells)), Path())


def closing_with(words):
    return alter(-1, source=words)


def test_a_further_notebook_and_the_tour_need_no_exercises_and_no_questions(good):
    for place in (11, 9, 7):
        good.notebook.cells.pop(place)  # an exercise; its text stays
    closing_with("What you can now say: much.")(good)
    for name in ("01b_title.ipynb", "tour.ipynb"):
        free = Book(name, good.notebook, good.folder)
        assert faults(free, "it_opens_and_closes_as_all_do") == faults(free, "exercises_are_checked") == []
    assert "lacks 'discuss'" in faults(good, "it_opens_and_closes_as_all_do")[0]


def test_the_cells_of_a_further_notebook_may_be_longer(good):
    long = code("\n".join(f"x{i} = {i}" for i in range(10)))
    good.notebook.cells[1:1] = [long] * 9
    assert "median code cell has 10 lines; at most 7" in faults(good, "code_cells_are_short")[0]
    assert faults(Book("01b_title.ipynb", good.notebook, good.folder), "code_cells_are_short") == []
    good.notebook.cells[1:1] = [code(long.source + "\ny = 1")] * 20
    assert "at most 10" in faults(Book("01b_title.ipynb", good.notebook, good.folder), "code_cells_are_short")[0]


@pytest.mark.parametrize(("size", "numbered", "tour"), [(7, False, False), (14, True, False), (15, True, True)])
def test_code_cells_of_the_tour_may_be_twice_as_long(good, size, numbered, tour):
    for _ in range(7):
        add(code("\n".join(LONG.splitlines()[:size])))(good)
    for name, found in (("01_title.ipynb", numbered), ("tour.ipynb", tour)):
        assert bool(faults(Book(name, good.notebook, good.folder), "code_cells_are_short")) == found


def test_an_exercise_stays_with_its_number(good):
    assert faults(Book("01b_title.ipynb", good.notebook, good.folder), "exercises_are_checked") == []
    for name in ("02b_title.ipynb", "tour.ipynb"):
        wrong = faults(Book(name, good.notebook, good.folder), "exercises_are_checked")
        assert [fault.split(" belongs")[0] for fault in wrong] == [f"the exercise 1.{n}" for n in "123"]


def test_definitions_that_stand_twice_are_found():
    known = {"softmax": "nl_course.memories.attention.attention"}
    built = code("def softmax(x):\n    return x", "builds:softmax")
    assert list(structure.twice_defined([book("01", built)], known)) == []
    assert "tag the cell builds:softmax" in next(structure.twice_defined([book("01", code(built.source))], known))
    twice = [book("01", built), book("02", built)]
    assert "was defined before, in 01" in next(structure.twice_defined(twice, known))
    assert "does not export" in next(structure.twice_defined([book("01", built)], {}))
    empty = code("1", "builds:softmax")
    assert "does not define it" in next(structure.twice_defined([book("01", empty)], known))
    imports = code("from nl_course.memories.attention.attention import softmax")
    assert "then defined again" in next(structure.twice_defined([book("01", imports, built)], known))


def test_exported_names_are_those_of_the_package():
    names = structure.exported_names()
    assert names["Memory"] == "nl_course.memories.base" and "_FAMILIES" not in names


def test_normalising_keeps_claims_and_sentences_only():
    view = new_output("execute_result", data={WIDGET: {"model_id": "a"}, "text/plain": "A view: 2 crests."})
    drawn = new_output("display_data", data={**view.data, "image/png": "iVBO"}, metadata={"picture": "a1"})
    other = new_output("display_data", data={"text/plain": "<Figure>", "image/png": "iVBO"})
    claim = new_output("execute_result", data={"text/plain": "3", "text/html": "<b>3</b>"}, execution_count=7)
    cells = [
        code("claim", "nbval-check-output", outputs=[printed("a\n"), printed("b\n"), claim]),
        code("print(time)", outputs=[printed("3.1 s"), new_output("stream", name="stderr", text="warning")]),
        code("View()", outputs=[view, drawn, other]),
        text("two  \nlines"),
    ]
    cells[0].metadata["execution"] = {"iopub.status.busy": "now"}
    notebook = normalise(new_notebook(cells=cells, metadata={"widgets": {"state": {}}, "nl_course": {"a": 1}}))
    outputs = [cell.get("outputs") for cell in notebook.cells]
    assert [o.get("text") or o.data for o in outputs[0]] == ["a\nb\n", {"text/plain": "3"}]
    assert outputs[1] == [] and outputs[2][0].data == {"text/plain": "A view: 2 crests."}
    assert notebook.cells[3].source == "two  \nlines"
    assert outputs[2][0].metadata == {"nl_course": "view"} and len(outputs[2]) == 2
    assert outputs[2][1].data == {"text/plain": "A view: 2 crests.", "image/png": "iVBO"}
    assert outputs[2][1].metadata == {"nl_course": "view", "picture": "a1"}
    assert "widgets" not in notebook.metadata and notebook.metadata.nl_course == {"a": 1}
    assert [set(cell.metadata) for cell in notebook.cells] == [{"tags"}, set(), set(), set()]
    before = nbformat.writes(notebook)
    nbformat.validate(notebook)
    assert nbformat.writes(normalise(notebook)) == before
