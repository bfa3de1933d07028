"""What a learner did is kept in their copy, once, in plain text; and nowhere else."""

import json
import warnings

import ipywidgets as W
import pytest

from nl_course import progress
from nl_course.app.cli import main
from nl_course.app.progress_page import NoCopy, ProgressPage, progress_page
from nl_course.errors import CourseError
from nl_course.exercises import check
from nl_course.exercises.framework.engine import exercise
from nl_course.views.kit.parts import Prediction
from nl_course.views.kit.shell import View


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A learner's copy, whose notebooks run in its folder `notebooks`."""
    (tmp_path / progress.COPY).write_text("{}")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def events(copy):
    """The lines of the file, without their days."""
    lines = (copy / progress.FILE).read_text().splitlines()
    return [(event["what"], event["name"]) for event in map(json.loads, lines)]


def test_a_check_notes_what_was_tried_and_solved_once_each(copy, capsys):
    check("1.1", lambda queries, keys, values: values)
    check("1.1", lambda queries, keys, values: values)
    assert events(copy) == [("tried", "1.1")]
    for _ in range(2):
        check("1.1", exercise("1.1").solution)
    assert events(copy) == [("tried", "1.1"), ("solved", "1.1")]
    known = progress.read(copy)
    assert set(known.solved) == set(known.tried) == {"1.1"}


def test_a_stub_that_was_left_alone_is_not_noted(copy):
    def attend(queries, keys, values): ...

    check("1.1", attend)
    assert not (copy / progress.FILE).exists()


def test_a_prediction_is_noted_when_it_is_made(copy):
    class Sum(View):
        name = "sum"
        prediction = Prediction("How much?", lambda arrays: 4, near=0.1)

        def controls(self):
            return {"first": W.IntSlider(value=2, min=1, max=9, description="First")}

        def compute(self, settings):
            return settings

        def draw(self, arrays, figure):
            figure.add_scatter(x=[0], y=[arrays["first"]])

        def read_out(self, arrays):
            return "A sum."

    view = Sum()
    assert not (copy / progress.FILE).exists()
    view.predict("4")
    assert events(copy) == [("predicted", "sum")]


def test_outside_of_a_copy_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check("1.1", exercise("1.1").solution)
    assert not list(tmp_path.iterdir())
    assert isinstance(progress_page(), NoCopy) and "lab --copy" in repr(progress_page())
    with pytest.raises(CourseError, match="not in a copy"):
        progress_page(tmp_path)


def test_damaged_lines_cost_nothing_but_themselves(copy):
    progress.note(progress.SOLVED, "1.1")
    with (copy / progress.FILE).open("ab") as file:
        file.write(b'\xff\xfe\n{"what": "solved"}\n[1]\n{"what": "flown", "name": "x", "day": "y"}\n')
        file.write(b"[" * 10**5 + b"\n")
    progress.note(progress.SOLVED, "1.2")
    assert set(progress.read(copy).solved) == {"1.1", "1.2"}


def test_a_file_that_cannot_be_kept_is_a_warning_and_no_error(copy):
    (copy / progress.FILE).mkdir()
    with pytest.warns(UserWarning, match="could not be kept"):
        verdict = check("1.1", exercise("1.1").solution)
    assert verdict.passed
    assert main(["progress"]) == 2


def test_the_page_says_what_is_solved_and_what_comes_next(copy, capsys):
    assert main(["progress"]) == 0
    assert "0 of" in capsys.readouterr().out
    progress.note(progress.SOLVED, "1.1")
    progress.note(progress.TRIED, "2.3")
    progress.note(progress.PREDICTED, "wave")
    page = progress_page()
    total = sum(map(len, page.ids.values()))
    assert page.said() == (
        f"1 of {total} exercises solved, predictions answered in 1 view. Exercise 2.3 is tried and not solved yet."
    )
    assert "| 01 | 1 of" in page._repr_markdown_() and "2.3" in repr(page)
    assert main(["progress", str(copy)]) == 0 and "1.1" in capsys.readouterr().out


def test_the_page_knows_when_all_is_done():
    done = ProgressPage(progress.Progress(solved={"1.1": "2026-11-30"}), {"01": ["1.1"]})
    assert done.next_one() == "Every exercise is solved."
    assert done.rows() == [("01", "1 of 1", "1.1", "-")]


def test_no_warning_in_the_usual_case(copy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        progress.note(progress.TRIED, "1.1")
        progress.note(progress.TRIED, "1.1")
    assert len(events(copy)) == 1
