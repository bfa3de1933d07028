"""What every exercise of every notebook must do, whoever wrote it."""

import pytest

from nl_course.exercises.framework.engine import chapters, discussion, exercise, exercises_of
from tests.generators import unchanged

ALL = [e for chapter in chapters() for e in exercises_of(chapter)]
WRONG = [pytest.param(e, w, id=f"{e.id}-{w.answer.__name__}") for e in ALL for w in e.wrong]
every = pytest.mark.parametrize("asked", ALL, ids=lambda e: e.id)


def stub_of(asked):
    names = {}
    exec(asked.stub, names)
    return names[asked.definition.name]


def test_notebooks_with_exercises_have_three_or_more_in_order():
    for chapter in chapters():
        ids = [e.id for e in exercises_of(chapter)]
        assert ids == [f"{chapter}.{n}" for n in range(1, len(ids) + 1)]
        assert chapter == 0 or len(ids) >= 3


@every
def test_the_solution_passes_and_the_verdict_names_every_property(asked):
    with unchanged() as changed:
        verdict = asked.check(asked.solution)
    assert verdict.passed, str(verdict)
    assert not changed, "the check changes the caller's random numbers"
    assert all(p.name in str(verdict) for p in asked.properties)


@every
def test_the_shown_solution_is_the_one_that_passes(asked):
    """Its source, under the stub's name, stands on the imports that a notebook has made."""
    import math

    import torch

    names = {"math": math, "torch": torch}
    exec(asked.solution_source(), names)
    assert asked.check(names[asked.definition.name]).passed


@every
def test_the_stub_is_not_attempted_rather_than_wrong(asked):
    verdict = asked.check(stub_of(asked))
    assert (verdict.status, str(verdict)) == ("empty", f"{asked.id} not attempted yet.")


@pytest.mark.parametrize(("asked", "wrong"), WRONG)
def test_a_typical_wrong_answer_fails_the_property_that_is_stated(asked, wrong):
    verdict = asked.check(wrong.answer)
    assert verdict.status == "failed"
    assert verdict.fails == wrong.fails, str(verdict)
    assert "It stopped" not in str(verdict), "a typical wrong answer gives a wrong result, not an error"
    assert "of the kind that the task asks for" not in str(verdict)
    prop = next(p for p in asked.properties if p.name == wrong.fails)
    assert f'hint("{asked.id}", {prop.hint})' in str(verdict)


@every
def test_verdicts_are_the_same_every_time(asked):
    answers = [asked.solution, *(w.answer for w in asked.wrong)]
    assert [str(asked.check(a)) for a in answers] == [str(asked.check(a)) for a in answers]


@every
def test_texts_are_complete(asked):
    assert len(asked.hints) == 3 and len(set(asked.hints)) == 3
    assert all(len(text.split()) >= 5 for text in (*asked.hints, asked.task, asked.aim))
    assert len(asked.wrong) >= 2
    assert all(len(w.reveals.split()) >= 5 for w in asked.wrong)
    assert asked.title and f"`{asked.definition.name}(" in asked.task
    assert asked.stub.rstrip().endswith("...")
    assert asked.solution_source().startswith(f"def {asked.definition.name}(")
    assert exercise(asked.id) is asked


@every
def test_the_solution_takes_what_the_stub_takes(asked):
    import ast

    shown = ast.parse(asked.solution_source()).body[0]
    assert ast.dump(shown.args) == ast.dump(asked.definition.args)


@pytest.mark.parametrize("chapter", chapters())
def test_discussion_questions_have_answers(chapter):
    pairs = discussion(chapter)
    assert len(pairs) >= 3
    assert all("?" in question and len(answer.split()) >= 15 for question, answer in pairs)
