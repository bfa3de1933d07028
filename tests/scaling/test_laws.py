"""The published laws: their printed checks, their optima, and how they behave."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling import data_constrained_loss, effective_epochs, kaplan_loss, law, laws, read_table

BUDGET = 5.76e23


def test_kaplan():
    assert kaplan_loss(parameters=1.5e9) == pytest.approx(2.304, abs=5e-4)
    assert kaplan_loss(tokens=1e9) == pytest.approx(2.816, abs=5e-4)
    assert kaplan_loss(pf_days=1) == pytest.approx(2.658, abs=5e-4)
    assert kaplan_loss(parameters=np.array([1e6, 1e9])).shape == (2,)


@pytest.mark.parametrize(
    ("name", "exponent", "billions", "trillions", "per_parameter", "loss"),
    [
        ("hoffmann-printed", 0.452, 32, 2.98, 93, 1.931),
        ("hoffmann", 0.457, 40, 2.38, 59, 1.918),
        ("besiroglu", 0.513, 72, 1.33, 18.4, 1.974),
        ("muennighoff", 0.500, 70, 1.37, 19.6, 2.025),
    ],
)
def test_optima_of_the_chinchilla_budget(name, exponent, billions, trillions, per_parameter, loss):
    best = law(name).optimum(BUDGET)
    assert law(name).parameters_exponent == pytest.approx(exponent, abs=6e-4)
    assert best.parameters / 1e9 == pytest.approx(billions, abs=0.5)
    assert best.tokens / 1e12 == pytest.approx(trillions, abs=0.006)
    assert best.tokens / best.parameters == pytest.approx(per_parameter, rel=0.006)
    assert best.loss == pytest.approx(loss, abs=6e-4)


def test_the_three_approaches_and_the_one_that_excludes_its_own_value():
    rows = read_table("scaling_laws.json")["chinchilla_approaches"]["rows"]
    assert [row["parameters"] for row in rows] == [0.50, 0.49, 0.46]
    low, high = rows[2]["parameters_range"]
    assert not low <= rows[2]["parameters"] <= high and high - low == pytest.approx(0.001)


@given(st.sampled_from(sorted(laws())), st.floats(1e15, 1e27), st.floats(0.2, 5))
def test_the_optimum_is_a_minimum_of_its_budget(name, flops, moved):
    fit = law(name)
    best = fit.optimum(flops)
    assert 6 * best.parameters * best.tokens == pytest.approx(flops)
    assert fit.loss(best.parameters * moved, best.tokens / moved) >= best.loss - 1e-12


@given(st.sampled_from(sorted(laws())), st.floats(1e6, 1e12), st.floats(1e8, 1e13), st.floats(1.01, 100))
def test_more_is_never_worse_and_never_below_the_floor(name, parameters, tokens, more):
    fit = law(name)
    here = fit.loss(parameters, tokens)
    assert fit.floor < fit.loss(parameters * more, tokens) < here
    assert fit.floor < fit.loss(parameters, tokens * more) < here


def test_tokens_that_a_loss_takes():
    fit = law("besiroglu")
    assert fit.tokens_for(7e10, fit.loss(7e10, 1.4e12)) == pytest.approx(1.4e12)
    assert fit.tokens_for(1e6, fit.floor) == np.inf


def test_epochs_are_worth_less_and_less():
    worth = [effective_epochs(n) for n in (1, 2, 4, 8, 16, 40, 10**6)]
    assert worth == pytest.approx([1, 1.97, 3.73, 6.62, 10.58, 15.17, 16.39], abs=0.006)
    assert effective_epochs(4) / 4 > 0.93  # "up to four epochs almost as good as new data"


@given(st.floats(1, 200), st.floats(1.01, 3))
def test_repeats_never_beat_new_text(epochs, more):
    assert effective_epochs(epochs) <= epochs + 1e-9
    assert effective_epochs(epochs) <= effective_epochs(epochs * more)
    few = data_constrained_loss(1e9, 1e9, epochs)
    assert law("muennighoff").loss(1e9, epochs * 1e9) <= few + 1e-9


def test_one_epoch_of_enough_text_is_the_plain_law():
    fit = law("muennighoff")
    assert data_constrained_loss(1e8, 1e12, 1) == pytest.approx(fit.loss(1e8, 1e12))


def test_parameters_beyond_what_the_text_calls_for_count_less():
    fit = law("muennighoff")
    assert data_constrained_loss(1e11, 1e9, 1) > fit.loss(1e11, 1e9)
    best = fit.optimum(6 * 1e9 * 1e9 / 19.6)  # about where 10^9 unique tokens are the optimum's own
    assert data_constrained_loss(0.9 * best.parameters, best.tokens, 1) == pytest.approx(
        fit.loss(0.9 * best.parameters, best.tokens)
    )


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: law("chinchila"), "scaling law 'chinchila'"),
        (lambda: law("besiroglu").loss(0, 1), "parameters"),
        (lambda: law("besiroglu").loss(1, -1), "tokens"),
        (lambda: law("besiroglu").optimum(0), "flops"),
        (lambda: kaplan_loss(), "exactly one"),
        (lambda: kaplan_loss(parameters=1, tokens=1), "exactly one"),
        (lambda: kaplan_loss(parameters=-1), "parameters"),
        (lambda: effective_epochs(0.5), "epochs"),
        (lambda: kaplan_loss(parameters="2"), "parameters must be a number"),
        (lambda: law("besiroglu").loss(None, 1), "parameters"),
        (lambda: data_constrained_loss([1, 2], 1, 1), "parameters"),
        (lambda: data_constrained_loss(1, 0, 1), "unique_tokens"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(CourseError, match=names):
        call()
