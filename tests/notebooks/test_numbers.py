"""Numbers in prose are held by what the notebook shows; the check that says so can fail."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nl_course.notebooks import all_notebooks, label, number_of
from tests.notebooks.numbers import Said, numbers_said, said_by
from tests.notebooks.structure import Book

# Of 05 to 09: (label of the notebook, cell, number as said) -> why nothing in its section need hold it.
NOT_HELD: dict[tuple[str, str, str], str] = {}
# The same -> why any number near it would be held as well.
LOOSELY_HELD: dict[tuple[str, str, str], str] = {
    ("05", "35-two-lessons-the-write-pe", "0.8"): "a rule of thumb for the momentum of the cells above it",
}
UNITS = (1, -1, 3, -3, 7, -7)  # of a number's last digit: how a slip may change it
BOOKS = [path for path in all_notebooks() if "05" <= number_of(path.stem) <= "09"]
TABLE = "         numbers  words\nMAG      0.893    0.57\nMAL      0.594    0.91\n"


def book(tmp_path, *texts, printed=TABLE, source="show(retention=0.95)"):
    """A notebook of one section: a cell that prints, then the texts."""
    output = new_output("stream", name="stdout", text=printed)
    code = new_code_cell(source, metadata={"tags": ["nbval-check-output"]}, outputs=[output])
    cells = [new_markdown_cell("## One"), code, *map(new_markdown_cell, texts)]
    return Book("05_x.ipynb", new_notebook(cells=cells), tmp_path)


def said(tmp_path, text, **how) -> list[Said]:
    return list(said_by(book(tmp_path, text, **how)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It finds 91 % and then 0.5.", ["0.5", "91 %"]),
        ("It finds 17, 5 and 2 %.", ["17 %", "2 %", "5 %"]),
        ("Of 8 pairs 3 are found in 2,048 bytes.", []),
        ("Exercise 6.1, equation 4.2 and Llama 3.1 are names; so are `0.25`, $x = 0.5$ and [this](a.html#4.5).", []),
        ("A loss of 1.7 nats; a rate of .0025.", [".0025", "1.7"]),
        ("1,234.5 tokens", ["1,234.5"]),
    ],
)
def test_decimals_and_percentages_are_found(text, found):
    assert sorted(number.said for number, _ in numbers_said(text)) == found


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("MAG finds 89 %.", True),
        ("MAG finds 90 %.", False),
        ("MAG finds 59 %.", False),  # that is MAL's
        ("MAL finds 59 and 91 %.", True),
        ("A retention of 0.95 is set here.", True),
        ("A retention of 0.85 is set here.", False),
        ("MAG finds 0.89.", True),
        ("MAG finds 0.8.", False),
    ],
)
def test_what_the_section_shows_holds_a_number(tmp_path, text, held):
    numbers = said(tmp_path, text)
    assert numbers and all(number.is_held() for number in numbers) is held


def test_another_section_holds_nothing_and_a_linked_notebook_does(tmp_path):
    import nbformat

    apart = said(tmp_path, "## Two\n\nMAG finds 89 %.")
    assert not apart[0].is_held()
    other = book(tmp_path)
    nbformat.write(other.notebook, tmp_path / "05b_other.ipynb")
    linked = said(tmp_path, "## Two\n\nMAG finds 89 % ([05b](05b_other.ipynb#One)).")
    assert linked[0].is_held() and not linked[0].is_held(linked[0].number.shifted(1))


def test_a_source_holds_the_number_of_its_sentence_only(tmp_path):
    numbers = said(tmp_path, "The paper reports 12 % (arXiv 2501.00663). We found 34 %.")
    assert {number.number.said: number.is_sourced() for number in numbers} == {"12 %": True, "34 %": False}


def test_a_cell_that_is_not_checked_holds_nothing_it_prints(tmp_path):
    loose = book(tmp_path, "MAG finds 89 %.")
    loose.code[0].metadata.tags = []
    assert not next(said_by(loose)).is_held()


def named(path, choose) -> dict[tuple[str, str, str], str]:
    """The numbers of a notebook that `choose` picks, each with its sentence."""
    found = filter(choose, said_by(Book.read(path)))
    return {(label(path.stem), one.cell, one.number.said): one.sentence for one in found}


def of(path, reasons) -> set[tuple[str, str, str]]:
    """The exceptions that belong to a notebook."""
    return {key for key in reasons if key[0] == label(path.stem)}


def stands_alone(one: Said) -> bool:
    return not one.is_held() and not one.is_sourced()


def is_loose(one: Said) -> bool:
    """Whether a slip in its last digit would not be noticed, whichever slip it is."""
    return one.is_held() and all(one.is_held(one.number.shifted(units)) for units in UNITS)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: label(path.stem))
def test_every_number_is_held_by_its_section_or_by_a_source(path):
    found = named(path, stands_alone)
    assert not found.keys() - NOT_HELD.keys(), found
    assert not of(path, NOT_HELD) - found.keys(), "these hold by now: take them out"


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: label(path.stem))
def test_a_slip_in_a_held_number_would_be_noticed(path):
    found = named(path, is_loose)
    assert not found.keys() - LOOSELY_HELD.keys(), found
    assert not of(path, LOOSELY_HELD) - found.keys(), "these are noticed by now: take them out"


def test_a_wrong_number_and_a_loose_one_are_told(tmp_path):
    wrong, right = said(tmp_path, "MAG finds 91 %."), said(tmp_path, "MAG finds 89 %.")
    assert [*map(stands_alone, wrong + right)] == [True, False]
    crowded = "MAG " + " ".join(f"{tenths / 10}" for tenths in range(20))
    assert [*map(is_loose, said(tmp_path, "MAG has 0.8.", printed=crowded) + right)] == [True, False]
