"""Slides: an idea each, under a heading, the answer after its question, all of the text in the notes."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from nl_course.export import slides
from nl_course.notebooks import all_notebooks
from nl_course.views.kit.plot import WIDGET

BY_LABEL = {path.stem: path for path in all_notebooks()}
LONG = " ".join(f"Sentence {i} has a few more words than it needs to have." for i in range(12))


def printed(code, lines=1):
    return new_code_cell(code, outputs=[new_output("stream", name="stdout", text="it is 42\n" * lines)])


def of(*cells):
    return slides.split(list(cells), "x", "Title")


def kinds(deck):
    return [[kind for kind, _ in slide.parts] for slide in deck]


def test_an_answer_stands_on_the_slide_after_its_question():
    text = "## How much?\n\nWords.\n\n**Predict first.** Is it 42?"
    question, answer = of(new_markdown_cell(text), printed("f(1)"), new_markdown_cell("It is."))
    assert [question.heading, answer.heading] == ["How much?"] * 2 and not question.continued and answer.continued
    assert kinds([question, answer]) == [["text", "text"], ["code", "output", "text"]]
    assert "42" not in slides.slide_html(question, 1, 2).split("Is it 42?")[0]


def test_headings_begin_slides_and_each_slide_has_one():
    deck = of(new_markdown_cell("Before.\n\n## One\n\nWords.\n\n### Two\n\nMore."), printed("f()"), printed("g()"))
    assert [(slide.heading, slide.continued) for slide in deck] == [
        ("Title", False), ("One", False), ("Two", False), ("Two", True)]  # fmt: skip
    assert "<h2>Two <small>(continued)</small></h2>" in slides.slide_html(deck[-1], 4, 4)


def test_long_code_and_its_output_are_on_two_slides_and_a_figure_stands_alone():
    deck = of(new_markdown_cell("## A"), printed("\n".join(["x = 1"] * 12), 12))
    assert kinds(deck) == [["code"], ["output"]]
    shown = new_output("display_data", {WIDGET: {}, "text/plain": "A view: it is 3."})
    deck = of(new_markdown_cell("## A\n\nWords."), new_code_cell("from a import B\n\nB()", outputs=[shown]),
              new_markdown_cell("After."))  # fmt: skip
    assert kinds(deck) == [["text"], ["figure"], ["text"]] and "B()" in deck[1].notes[-1]
    assert kinds(of(new_code_cell("import torch\nfrom a import (\n    b,\n)"))) == []


def test_a_long_paragraph_is_led_by_its_first_sentence_and_told_whole_in_the_notes():
    (slide,) = of(new_markdown_cell(f"## A\n\n{LONG} **This** counts. And this does not."))
    ((_, shown),) = slide.parts
    assert "Sentence 0" in shown and "<strong>This</strong> counts." in shown and "Sentence 1 " not in shown
    assert "Sentence 11" in slide.notes[0] and "And this does not." in slide.notes[0]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two.", ["One.", "Two."]),
        ("Sun et al. 2023 say so. It holds.", ["Sun et al. 2023 say so.", "It holds."]),
        ("See Fig. A. Then go.", ["See Fig. A.", "Then go."]),
        ("**One. Two.** Three.", ["**One. Two.** Three."]),
        ("A (one. Two) b. C.", ["A (one. Two) b.", "C."]),
        ("Is $a. B$ so? Yes.", ["Is $a. B$ so?", "Yes."]),
    ],
)
def test_sentences(text, parts):
    assert slides.sentences(text) == parts


def test_blocks_keep_formulas_and_fences_whole_and_leave_out_what_is_folded():
    text = "A\nb\n\n$$x\n\ny$$\n```\n## no\n\nheading\n```\n\n<details>\n\nfolded\n</details>\n<!-- mark -->\n## C\nd"
    assert list(slides.blocks(text)) == ["A\nb", "$$x\n\ny$$\n```\n## no\n\nheading\n```", "## C", "d"]


@pytest.mark.parametrize("stem", ["03_memory_that_learns", "09_memory_tradeoffs"])
def test_a_notebook_of_the_course(stem):
    notebook = nbformat.read(BY_LABEL[stem], as_version=4)
    deck = slides.split(notebook.cells, stem, "Title")
    assert all(slide.heading.strip() and slide.parts and slide.notes for slide in deck)
    for slide in deck:
        asked = [i for i, (kind, html) in enumerate(slide.parts) if kind == "text" and "<strong>Predict" in html]
        assert asked in ([], [len(slide.parts) - 1]), f"{slide.heading}: something stands under its question"
    html = "".join("".join(slide.notes) for slide in deck)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for block in slides.blocks(cell.source):
                if not block.startswith("#"):
                    assert slides.as_text(block) in html, block
