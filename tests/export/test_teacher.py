"""The teacher's book holds all that is written for teachers, once, and learners never get it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nl_course.errors import CourseError
from nl_course.exercises.framework.engine import chapters, discussion, exercises_of
from nl_course.export.teacher import book, pages, write_book
from nl_course.export.teacher.routes import Part, Route, Sitting, misfits, read_routes
from nl_course.files import asset, course_root, read_json
from nl_course.notebooks import all_notebooks

EXERCISES = [exercise for number in chapters() for exercise in exercises_of(number)]


class Page(HTMLParser):
    """A page's words, its links and the places in it."""

    def __init__(self, text: str):
        super().__init__()
        self.said, self.links, self.places = "", [], set()
        self.feed(text)
        self.said = " ".join(self.said.split())
        self.letters = letters(self.said)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.places.add(values.get("id"))
        if tag == "a":
            self.links.append(values["href"])

    def handle_data(self, data):
        self.said += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The whole book: its folder, and each page by name."""
    folder = tmp_path_factory.mktemp("book")
    return folder, {path.name: Page(path.read_text("utf-8")) for path in write_book(folder)}


@pytest.fixture(scope="module")
def known():
    return {path.stem: book.chapter(path) for path in all_notebooks()}


def letters(text):
    """A text's letters and digits alone, so that marks of Markdown and line breaks make no difference."""
    return re.sub(r"[\W_]", "", text)


def said_in(text, written):
    """The pages that say a text; of one with formulas, its longest part without."""
    part = max(text.split("$"), key=len)
    return [name for name, page in written.items() if letters(part) in page.letters]


def test_every_exercise_stands_once_with_its_aim_and_what_wrong_answers_reveal(written):
    _, written = written
    for exercise in EXERCISES:
        places = [name for name, page in written.items() if f"exercise-{exercise.id}" in page.places]
        assert len(places) == 1, exercise.id
        assert said_in(exercise.aim, written) == places, exercise.id
        for wrong in exercise.wrong:
            assert places[0] in said_in(wrong.reveals, written), f"{exercise.id}: {wrong.reveals}"


def test_every_answer_to_a_discussion_question_stands_once(written, known):
    _, written = written
    asked = sum(len(chapter.discussion) for chapter in known.values())
    assert asked == sum(len(discussion(number)) for number in chapters())
    for number in chapters():
        for _, answer in discussion(number):
            assert len(said_in(answer, written)) == 1, answer


def test_every_notebook_has_its_sentence_its_minutes_and_what_to_show(written, known):
    _, written = written
    told = {entry["notebook"]: entry for entry in read_json(asset("sentences.json"), "sentences")}
    for path in all_notebooks():
        page, chapter = written[f"{path.stem}.html"], known[path.stem]
        assert told[path.stem]["sentence"] in page.said and chapter.earned
        minutes = nbformat.read(path, as_version=4).metadata.nl_course.minutes
        assert {section.title: section.minutes for section in chapter.sections} == dict(minutes)
        assert f"{sum(minutes.values())} min" in page.said
        views = {live.title for section in chapter.sections for live in section.live}
        assert all(f"Show live: {title}" in page.said for title in views)
    assert sum(len(section.live) for chapter in known.values() for section in chapter.sections) > 25


def test_links_lead_to_places_in_the_book(written):
    folder, written = written
    for name, page in written.items():
        for link in page.links:
            target, _, place = link.partition("#")
            assert not target or (folder / target).is_file(), f"{name}: {link}"
            assert not place or place in written[target or name].places, f"{name}: {link}"


# -- routes -----------------------------------------------------------------------------------------------------
def test_the_three_routes_fit_the_notebooks_and_their_minutes_add_up(known):
    routes = read_routes(known)  # which refuses a route that does not
    assert [route.minutes for route in routes] == [90, 8 * 60, 6 * 4 * 60]
    assert [len(route.sittings) for route in routes] == [1, 1, 6]
    six_weeks = {part.notebook for sitting in routes[2].sittings for part in sitting.parts if part.do == "home"}
    assert {stem for stem, chapter in known.items() if chapter.kind == "core"} <= six_weeks


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        (Part("show", 9, "a"), "the parts take 9 minutes, and 10 are given"),
        (Part("show", 10, "a", "03_memory", ()), "there is no notebook '03_memory'"),
        (Part("show", 10, "a", "tour", ("gone",)), "tour has no section 'gone'"),
        (Part("try", 10, "a", "tour", (), ("3.3",)), "tour has no exercise '3.3'"),
        (Part("home", 10, "a", "tour"), "10 minutes are given, and its sections take"),
        (Part("sing", 10, "a"), "there is no way 'sing' to do a part"),
    ],
)
def test_a_route_that_does_not_fit_is_named(known, part, fault):
    route = Route("r", "", (Sitting("s", 10, (part,)),))
    (said,) = misfits(route, known)
    assert fault in said and said.startswith("r, s")


# -- never shown --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [".nl_course_export.json", "mine.txt"])
def test_it_is_not_written_into_a_site_or_among_files_of_somebody_else(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"index.html": "0"}))
    with pytest.raises(CourseError, match="holds files, and no list of an earlier edition of the book"):
        write_book(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_it_is_not_written_into_the_course(tmp_path):
    with pytest.raises(CourseError, match="cannot stand in the course's own folder"):
        write_book(course_root() / "notebooks" / "book")


# -- what is taken from where -------------------------------------------------------------------------------------
def test_questions_are_found_with_their_answers_and_views_with_theirs():
    cells = [
        new_markdown_cell("# T\n\n## First\n\nWords.\n\n**Predict first.** How many?"),
        new_code_cell("from nl_course.views.capacity import Capacity\n\nCapacity()"),
        new_markdown_cell("Two of them.\n\nAnd more.\n\n## Second\n\n**Predict first,** for width 8: how much?"),
        new_code_cell("Capacity(); f = 1", id="here"),
        new_markdown_cell("## Third"),
        new_code_cell('check("3.1", my_hebb)', metadata={"tags": ["exercise"]}),
    ]
    notebook = new_notebook(cells=cells, metadata={"nl_course": {"minutes": {"First": 9, "Second": 2, "Third": 10}}})
    first, second, third = book.sections_of(notebook)
    assert first.asked == [("How many?", "Two of them.")]
    assert second.asked == [("for width 8: how much?", "")]
    assert (
        [live.title for live in first.live]
        == ["How much does a d x d matrix hold?"]
        == [live.title for live in second.live]
    )
    assert first.live[0].question and (first.minutes, first.shown_minutes) == (9, 9)
    assert [exercise.id for exercise in third.exercises] == ["3.1"]
    assert (third.minutes, third.shown_minutes) == (10, 2)
    assert book.headings_above(cells, {"here", cells[0].id}) == ["T", "Second"]


def test_marks_are_two_for_the_sentence_each_exercise_and_each_question(known):
    html = pages.rubric(known["03_memory_that_learns"])
    rows = 1 + len(known["03_memory_that_learns"].exercises) + 3
    assert f"{2 * rows} marks" in html and html.count("<tr>") == rows + 1


def test_what_is_written_is_escaped(known):
    chapter = replace(known["tour"], title="<script>", sentence="a < b")
    html = pages.chapter_page("tour", {"tour": chapter})
    assert "<script>" not in html and "a &lt; b" in html


def test_the_answer_stands_after_a_views_still_picture():
    asked = new_markdown_cell("**Predict first.** Which one?")
    folded = new_markdown_cell("<details><summary>The view as a still picture</summary>\n\n![a](b.png)\n\n</details>")
    cells = [asked, new_code_cell("View()"), folded, new_markdown_cell("The second one.\n\nMore.")]
    assert list(book.asked_in(cells, 0)) == [("Which one?", "The second one.")]
    cells[-1] = new_markdown_cell("## Something else")
    assert list(book.asked_in(cells, 0)) == [("Which one?", "")]
