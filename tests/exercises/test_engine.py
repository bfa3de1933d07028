"""The engine: what it prints, what it forgives, and what it refuses."""

import sys
from contextlib import nullcontext

import pytest
import torch

from nl_course import exercises
from nl_course.errors import CourseError
from nl_course.exercises.framework import engine
from nl_course.exercises.framework.engine import Exercise, Miss, Property, Wrong
from nl_course.limits import TimeUp

STUB = "def double(x):\n    ...\n"


def doubles(answer):
    got = answer(torch.tensor([1.0, 2.5]))
    if not torch.equal(got, torch.tensor([2.0, 5.0])):
        raise Miss(torch.tensor([2.0, 5.0]), got)


def keeps_shape(answer):
    if answer(torch.zeros(2, 3)).shape != (2, 3):
        raise Miss("shape (2, 3)", "another shape", size="x with six entries")


def an_exercise(**changes):
    given = {
        "id": "1.1",
        "title": "doubling",
        "task": "Write `double(x)`.",
        "stub": STUB,
        "properties": (Property("numbers are doubled", doubles, 2), Property("the shape is kept", keeps_shape)),
        "hints": ("Add it to itself.", "Or multiply.", "x + x"),
    }
    return Exercise(**given | changes)


def verdict_on(answer):
    return an_exercise().check(answer)


def test_a_right_answer_is_told_what_was_verified():
    verdict = verdict_on(lambda x: x + x)
    assert verdict.passed and bool(verdict)
    assert str(verdict).splitlines()[1:] == ["  - numbers are doubled", "  - the shape is kept"]


def test_a_wrong_answer_is_told_property_size_numbers_and_hint():
    verdict = verdict_on(lambda x: x + 2)
    assert not verdict.passed and verdict.fails == "numbers are doubled"
    assert str(verdict).splitlines() == [
        "1.1 not yet. This does not hold: numbers are doubled.",
        "  called with: x (2,)",
        "  expected: [2, 5]",
        "  got:      [3, 4.5]",
        '  hint("1.1", 2) helps here.',
    ]


def test_the_first_property_that_fails_is_named_and_a_miss_may_describe_the_size():
    verdict = verdict_on(lambda x: 2 * x.flatten())
    assert verdict.fails == "the shape is kept"
    assert "called with: x with six entries" in str(verdict)


def an_ellipsis(x): ...


def raises_not_implemented(x):
    raise NotImplementedError("to do")


@pytest.mark.parametrize(
    "stub", [None, ..., an_ellipsis, raises_not_implemented, lambda x: None, lambda x: ..., lambda x: (None, None)]
)
def test_stubs_are_not_attempted(stub):
    verdict = verdict_on(stub)
    assert (verdict.status, str(verdict), verdict.passed) == ("empty", "1.1 not attempted yet.", False)


def test_nothing_returned_later_on_is_a_miss():
    verdict = verdict_on(lambda x: 2 * x if x.ndim == 1 else None)
    assert verdict.status == "failed" and "is a `return` missing?" in str(verdict)


def divides_by_zero(x):
    share = 1 / (len(x) - 2)
    return x * share


@pytest.mark.parametrize(
    ("answer", "words", "last_line"),
    [
        (divides_by_zero, "divides by zero", "ZeroDivisionError: division by zero"),
        (lambda x: x @ torch.ones(3), "shapes do not fit", "RuntimeError: "),
        (lambda: 1, "number of arguments", "TypeError: "),
        (lambda x: undefined_name, "not defined", "NameError: name 'undefined_name' is not defined"),
        (lambda x: x.nothing_of_the_kind, "does not have", "AttributeError: "),
        (lambda x: [1][3], "not there", "IndexError: list index out of range"),
        (lambda x: torch.arange(3).softmax(0), "kind of number", "NotImplementedError: "),
    ],
)
def test_errors_inside_the_answer_are_told_in_words(answer, words, last_line):
    verdict = verdict_on(answer)
    assert verdict.status == "failed" and verdict.fails == "numbers are doubled"
    assert words in str(verdict) and last_line in str(verdict)


def ring_after(turns):
    """What the timer does (tests/test_limits.py), but after so many turns of a loop, whatever the time."""
    for turn in range(turns + 1):
        if turn == turns:
            raise TimeUp
        yield


def loops(x):
    timer = ring_after(10)
    while True:
        next(timer)


def loops_and_catches(x):
    timer = ring_after(10)
    while True:
        try:
            next(timer)
        except Exception:
            continue


def calls_itself(x):
    return calls_itself(x) + 1


def nests(x):
    result = (x,)
    for _ in range(100_000):
        result = (result,)
    return result


@pytest.mark.parametrize("answer", [loops, loops_and_catches])
def test_a_loop_without_an_end_is_ended_and_its_line_shown(answer):
    verdict = an_exercise().check(answer, seconds=90)
    assert verdict.status == "failed" and verdict.fails == "numbers are doubled"
    said = str(verdict)
    assert said.startswith("1.1 not yet. After 90 seconds it was still running when this was tried: numbers are")
    assert "look for a loop that never ends" in said and "called with: x (2,)" in said
    assert "at line " in said and 'check("1.1", ..., seconds=900) waits longer' in said


def test_what_takes_its_time_may_be_waited_for(monkeypatch):
    monkeypatch.setattr(engine, "limits", lambda seconds: nullcontext() if seconds == 0 else pytest.fail("limited"))
    assert an_exercise().check(lambda x: x + x, seconds=0).passed
    with pytest.raises(CourseError, match="seconds must be a number of at least 0"):
        an_exercise().check(lambda x: x + x, seconds=-1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (calls_itself, "calls itself without an end"),
        (lambda x: torch.zeros(10**14), "more memory than there is"),
        (lambda x: torch.zeros(2**40, 2**40), "more memory than there is"),
        (lambda x: [0] * 10**15, "more memory than there is"),
        (lambda x: sys.exit(0), "it ends the program"),
        (lambda x: exit(), "it ends the program"),
        (nests, "a result of the kind that the task asks for"),
    ],
)
def test_what_would_end_the_kernel_is_told_in_words(answer, words):
    verdict = verdict_on(answer)
    assert verdict.status == "failed" and verdict.fails == "numbers are doubled" and words in str(verdict)


def test_the_line_that_stopped_is_shown():
    said = str(verdict_on(divides_by_zero))
    assert said.startswith("1.1 not yet. It stopped when this was tried: numbers are doubled.")
    assert "share = 1 / (len(x) - 2)" in said


def test_addresses_never_show():
    def stops(x):
        raise ValueError(f"no use for {stops}")

    assert "0x" not in str(verdict_on(stops))


@pytest.mark.parametrize("odd", ["text", 3, {"x": 1}, torch.zeros(2, dtype=torch.int64), [[1.0]]])
def test_results_of_the_wrong_kind_never_raise(odd):
    verdict = verdict_on(lambda x: odd)
    assert verdict.status == "failed" and verdict.fails == "numbers are doubled"
    kind = "[0, 0]" if isinstance(odd, torch.Tensor) else f"a value of type {type(odd).__name__}"
    assert f"got:      {kind}" in str(verdict)


def test_a_value_in_place_of_a_function_is_told_so():
    assert "the function itself, not a value of type float" in str(verdict_on(2.0))


def test_ctrl_c_still_works():
    def stops(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict_on(stops)


def test_checks_leave_the_learners_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    verdict_on(lambda x: torch.rand(2))
    assert torch.equal(torch.rand(3), expected)


def test_an_answer_that_draws_at_random_gets_the_same_verdict_each_time():
    assert len({str(verdict_on(lambda x: torch.rand(2))) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id": "one"}, "id"),
        ({"hints": ("a", "b")}, "hints"),
        ({"hints": ("a", "", "c")}, "hints"),
        ({"properties": ()}, "properties"),
        ({"properties": (Property("p", doubles), Property("p", doubles))}, "properties"),
        ({"properties": (Property("p", doubles, 4),)}, "hint numbers"),
        ({"wrong": (Wrong(abs, "nothing", "no such property"),)}, "wrong answers"),
    ],
)
def test_a_badly_written_exercise_is_refused_at_import(changes, named):
    with pytest.raises(CourseError, match=named):
        an_exercise(**changes)


# ------------------------------------------------------------------------------------ what a notebook calls


@pytest.mark.parametrize(
    "call", [exercises.hint, exercises.solution, exercises.task, lambda id: exercises.check(id, None)]
)
@pytest.mark.parametrize(
    ("id", "said"), [("1.11", "Did you mean '1.1'"), ("99.1", "choose one of"), ("", "choose"), (1.1, "by text")]
)
def test_unknown_exercises(call, id, said):
    with pytest.raises(CourseError, match=said):
        call(id)


def test_check_prints_the_verdict_and_returns_it_quietly(capsys):
    verdict = exercises.check("1.1", None)
    assert capsys.readouterr().out == "1.1 not attempted yet.\n"
    assert repr(verdict) == "<1.1 not attempted yet>"
    assert exercises.check(" 1.1 ", None).exercise == "1.1"


def test_a_verdict_is_shown_once_in_its_own_cell(monkeypatch, capsys):
    cell = [5]
    monkeypatch.setattr("nl_course.exercises.framework.show._running_cell", lambda: cell[0])
    verdict = exercises.check("1.1", None)
    capsys.readouterr()
    verdict._ipython_display_()
    assert capsys.readouterr().out == ""
    cell[0] = 6
    verdict._ipython_display_()
    assert capsys.readouterr().out == "1.1 not attempted yet.\n"


def flat(printed):
    """A printed text as one line; no line of it is wider than a notebook's."""
    assert all(len(line) <= 95 for line in printed.splitlines())
    return " ".join(printed.split())


def test_hints_come_one_by_one_and_then_point_at_the_solution(monkeypatch, capsys):
    monkeypatch.setattr(engine, "_hints_given", {})
    hints = engine.exercise("1.2").hints
    for number in (1, 2, 3):
        exercises.hint("1.2")
        assert flat(capsys.readouterr().out) == f"1.2, hint {number} of 3. {hints[number - 1]}"
    exercises.hint("1.2")
    out = flat(capsys.readouterr().out)
    assert hints[2] in out and 'solution("1.2")' in out
    exercises.hint("1.2", 1)
    assert hints[0] in flat(capsys.readouterr().out)


def test_a_hint_asked_by_number_moves_the_count_on(monkeypatch, capsys):
    monkeypatch.setattr(engine, "_hints_given", {})
    exercises.hint("1.2", 2)
    exercises.hint("1.2")
    assert "hint 3 of 3" in capsys.readouterr().out


@pytest.mark.parametrize("number", [0, 4, -1, "two", 1.5, True])
def test_hint_numbers(number):
    with pytest.raises(CourseError, match="choose 1, 2 or 3"):
        exercises.hint("1.1", number)


def test_solution_and_task_are_pages():
    page = exercises.solution("1.1")
    assert "```python\ndef attend(queries, keys, values):" in page._repr_markdown_()
    assert repr(page).startswith("def attend(") and "solution_" not in repr(page)
    page = exercises.task("1.1")
    assert page._repr_markdown_().startswith("**Exercise 1.1: ")
    assert repr(page).startswith("Exercise 1.1: ") and "**" not in repr(page)


def test_a_build_without_solutions_says_so_kindly(monkeypatch):
    monkeypatch.setattr(engine, "exercise", lambda id: an_exercise())
    assert "carries no solutions" in repr(exercises.solution("1.1")) and "hint(" in repr(exercises.solution("1.1"))


def test_an_unknown_chapter_is_named():
    with pytest.raises(CourseError, match="notebook 77"):
        engine.exercises_of(77)
