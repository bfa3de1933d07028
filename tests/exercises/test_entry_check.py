"""Notebook 00's entry check: its answers hold in torch, the form and the plain way agree."""

import math

import ipywidgets
import pytest
import torch

from nl_course.errors import CourseError
from nl_course.exercises.ex00.core import QUESTIONS, answer, entry_check, questions, verdict
from nl_course.exercises.framework.form import as_html

BY_ID = {q.id: q for q in QUESTIONS}


def worked_out():
    """Each question's answer, computed rather than remembered."""
    n = torch.arange(4)
    w = torch.tensor(3.0, requires_grad=True)
    ((2 * w - 5) ** 2).backward()
    scores = torch.tensor([0.0, 1.0])
    sharper = (2 * scores).softmax(0).max() > scores.softmax(0).max()
    return {
        "0.1": tuple((torch.zeros(2, 5, 8) @ torch.zeros(8, 3)).shape),
        "0.2": (n[:, None] >= n[None, :]).sum().item(),
        "0.3": round(torch.tensor([0.0, math.log(3)]).softmax(0)[1].item(), 6),
        "0.4": "sharper" if sharper else "flatter",
        "0.5": int(w.grad),
        "0.6": next(option for option in (0, 7, 12, 13) if option > 3 * 4),
    }


@pytest.mark.parametrize("id", BY_ID)
def test_answers_hold(id, capsys):
    answer(id, worked_out()[id])
    assert capsys.readouterr().out.startswith(f"{id} right. ")


def test_every_value_up_to_the_bound_can_occur():
    """0.6 says so: rank-one factors of the right length at an angle give any norm from 0 to 12."""
    for norm in (0.0, 7.0, 12.0):
        angle = math.acos(norm / 12)
        a = torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        b = torch.tensor([[4 * math.cos(angle), 0.0], [4 * math.sin(angle), 0.0]], dtype=torch.float64)
        assert a.norm().item() == pytest.approx(3) and b.norm().item() == pytest.approx(4)
        assert (a @ b).norm().item() == pytest.approx(norm, abs=1e-12)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.id)
def test_one_option_is_right_and_every_miss_says_what_to_read(question):
    said = [verdict(question.id, option) for option in question.options]
    assert sum(text.startswith(f"{question.id} right") for text in said) == 1
    for option, text in zip(question.options, said):
        if option != question.right:
            assert question.again in text and f"More: {question.read}" in text and len(question.again) > 60


@pytest.mark.parametrize(
    "same", ["(2,5,3)", "2, 5, 3", (2, 5, 3), [2, 5, 3], torch.Size([2, 5, 3]), "torch.Size([2, 5, 3])"]
)
def test_shapes_may_be_written_in_any_way(same):
    assert verdict("0.1", same).startswith("0.1 right")


@pytest.mark.parametrize("same", ["0.75", 0.75, "3/4", " .75 ", torch.tensor(0.75)])
def test_numbers_may_be_written_in_any_way(same):
    assert verdict("0.3", same).startswith("0.3 right")


@pytest.mark.parametrize("empty", [None, ..., "", "  "])
def test_no_answer_is_no_miss(empty):
    assert verdict("0.1", empty) == "0.1 not answered yet."


@pytest.mark.parametrize("odd", ["1/0", "nan", object(), "(2, 5", {"a": 1}])
def test_odd_answers_are_misses(odd):
    assert verdict("0.3", odd).startswith("0.3 not quite")


def test_unknown_questions_are_named():
    with pytest.raises(CourseError, match=r"question '0\.7' is not known"):
        answer("0.7", "1")


def test_the_form_judges_as_it_is_filled_in():
    form = entry_check()
    assert form.read_out.value == "<b>0 of 6 right; still open: 0.1, 0.2, 0.3, 0.4, 0.5, 0.6.</b>"
    form.choices["0.1"].value = "(10, 3)"
    assert "not quite" in form.verdicts["0.1"].value and form.verdicts["0.2"].value == ""
    assert "read again: shapes; still open: 0.2" in form.read_out.value
    for question in QUESTIONS:
        form.choices[question.id].value = question.right
    assert form.read_out.value == "<b>6 of 6 right.</b>"
    assert all(f">{id} right" in v.value for id, v in form.verdicts.items())


def test_topics_that_were_missed_twice_are_named_once():
    form = entry_check()
    form.choices["0.3"].value, form.choices["0.4"].value = "3", "flatter"
    assert "read again: softmax;" in form.read_out.value


def test_the_form_is_labelled_and_its_text_is_stable():
    form = entry_check()
    assert all(f"Answer {id}" == choice.description for id, choice in form.choices.items())
    assert all(isinstance(choice, ipywidgets.RadioButtons) for choice in form.choices.values())
    assert repr(form) == repr(entry_check()) and "0x" not in repr(form)


def test_the_plain_way_shows_every_question():
    text = repr(questions())
    assert all(q.text in text and " | ".join(q.options) in text for q in QUESTIONS)


def test_code_and_stress_become_html_and_signs_stay_signs():
    assert as_html("`a ** 2 >= b` is *not*\n2 * 3") == "<code>a ** 2 &gt;= b</code> is <i>not</i><br>2 * 3"
