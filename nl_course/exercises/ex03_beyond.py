"""Exercises of notebook 03, continued: how wrong a full memory is (3.4), how sharp attention must be (3.5)."""

import math

import torch

from nl_course.exercises.engine import Exercise, Miss, Wrong
from nl_course.exercises.properties import Dice, compare, equals, holds


# -- 3.4 how wrong a full memory is ---------------------------------------------------------------------------
def _error_solution(pairs, width, retention, age):
    own = (1 - retention**age) ** 2
    others = sum(retention ** (2 * a) for a in range(pairs) if a != age)
    return own + others / width


def _expected(pairs, width, retention, age):
    """What the checks compare with: pairs written one by one; the square of each foreign weight is 1 / width."""
    left = [1.0]
    for _ in range(pairs - 1):
        left = [1.0, *(share * retention for share in left)]
    return sum((share - 1) ** 2 if a == age else share**2 / width for a, share in enumerate(left))


def _a_memory(dice: Dice) -> tuple:
    pairs = dice.whole(2, 60)
    return pairs, dice.pick([16, 32, 64]), dice.number(0.8, 0.999), dice.whole(0, pairs - 1)


@holds("without fading it is (n - 1) / d, whatever the age", hint=1)
def _no_fading(answer, dice):
    pairs, width, _, age = _a_memory(dice)
    compare((pairs - 1) / width, float(answer(pairs, width, 1.0, age)))


@holds("a single pair has no crosstalk", hint=2)
def _alone(answer, dice):
    compare(0.0, float(answer(1, 32, dice.number(0.5, 0.99), 0)))


@holds("measured in a real memory, within its noise", hint=3, trials=2)
def _as_measured(answer, dice):
    from nl_course.tasks.pairs import draw_pairs, written

    drawn = draw_pairs(40, 32, rows=200, seed=dice.whole(0, 99))
    reads = drawn.keys @ written(drawn, "hebb", retention=0.95)
    measured = (reads - drawn.values).square().sum(-1).mean(0).flip(0)
    for age in (0, 5, 20):
        told = float(answer(40, 32, 0.95, age))
        if not abs(told - measured[age]) < 0.15 * measured[age]:
            raise Miss(f"about {measured[age]:.2f} at age {age}", told)


def _all_are_noise(pairs, width, retention, age):
    return pairs / width


CAPACITY = Exercise(
    id="3.4",
    title="How wrong will a full memory be?",
    task="""
Write `my_expected_error(pairs, width, retention, age)`: the expected squared error with which Hebb's rule reads back
one of `pairs` random unit pairs from a matrix `(width, width)`, when all older content is multiplied by `retention`
before each write. `age` is the number of pairs written after it (0: the newest). Two parts add up: what is missing of
the own value, and the crosstalk of all others, each times its own share that is left.
""",
    stub="def my_expected_error(pairs, width, retention, age):\n    ...\n",
    properties=(_no_fading, _alone, equals("any memory, any age", _a_memory, _expected, hint=3), _as_measured),
    hints=(
        "Without fading each of the n - 1 others adds (q . k)^2 |v|^2, which is 1 / width on average.",
        "The own value comes back times retention ** age. What is the squared length of what is missing of it?",
        "(1 - retention ** age) ** 2 + the sum over all other ages a of retention ** (2 * a), divided by width.",
    ),
    aim="Retention trades blur for age: it bounds the crosstalk of a memory that never ends, and pays with the oldest.",
    solution=_error_solution,
    wrong=(
        Wrong(
            _all_are_noise,
            "the own value was counted as crosstalk too",
            "without fading it is (n - 1) / d, whatever the age",
        ),
        Wrong(
            lambda pairs, width, retention, age: (
                (1 - retention**age) ** 2 + sum(retention**a for a in range(pairs) if a != age) / width
            ),
            "shares were added where their squares belong: errors of independent values add as squares",
            "any memory, any age",
        ),
        Wrong(
            lambda pairs, width, retention, age: sum(retention ** (2 * a) for a in range(pairs) if a != age) / width,
            "what the memory has forgotten of the own value is an error as well",
            "any memory, any age",
        ),
    ),
)


# -- 3.5 sharpness --------------------------------------------------------------------------------------------
def _sharpness_solution(pairs, share):
    return math.log(share / (1 - share) * (pairs - 1))


def _wish(dice: Dice) -> tuple:
    return dice.whole(2, 2000), dice.number(0.55, 0.999)


@holds("attention over orthonormal keys then gives its own value that share", hint=2)
def _as_attended(answer, dice):
    pairs, share = dice.whole(2, 40), dice.number(0.55, 0.999)
    keys = torch.eye(pairs, dtype=torch.float64)
    weights = torch.softmax(float(answer(pairs, share)) * keys[0] @ keys.T, dim=-1)
    compare(share, weights[0].item())


@holds("ten times the others take ln 10 more, whatever the share", hint=1)
def _logarithm(answer, dice):
    others, share = dice.whole(1, 500), dice.number(0.55, 0.99)
    more = float(answer(10 * others + 1, share)) - float(answer(others + 1, share))
    compare(math.log(10), more)


@holds("for one other key it is the logit of the share", hint=3)
def _one_other(answer, dice):
    share = dice.number(0.55, 0.99)
    compare(math.log(share) - math.log(1 - share), float(answer(2, share)))


def _own_among_others(pairs, share):
    return math.log(share / (1 - share) * pairs)


SHARPNESS = Exercise(
    id="3.5",
    title="How sharp must attention be?",
    task="""
Write `my_sharpness(pairs, share)`: the number that q . k must be multiplied by before the softmax, so that a query that
equals one of `pairs` orthonormal keys gives that key's value exactly the weight `share` (above 0.5, below 1). Return a
float.
""",
    stub="def my_sharpness(pairs, share):\n    ...\n",
    properties=(_logarithm, _one_other, _as_attended),
    hints=(
        "The own key's product is 1 and every other's is 0: write the softmax with e^s and (pairs - 1) times e^0.",
        "Solve e^s / (e^s + pairs - 1) = share for e^s.",
        "e^s = share / (1 - share) * (pairs - 1); then take the logarithm.",
    ),
    aim="The sharpness needed grows only with the logarithm of the pairs: this is why a cache can be exact at all.",
    solution=_sharpness_solution,
    wrong=(
        Wrong(
            lambda pairs, share: share / (1 - share) * (pairs - 1),
            "the exponential inside the softmax was forgotten: this is e^s, not s",
            "ten times the others take ln 10 more, whatever the share",
        ),
        Wrong(
            _own_among_others,
            "the own key was counted among the others",
            "ten times the others take ln 10 more, whatever the share",
        ),
        Wrong(
            lambda pairs, share: math.log(share * (pairs - 1)),
            "the own key's part of the sum below was left out of the equation",
            "for one other key it is the logit of the share",
        ),
    ),
)
