"""Exercises of notebook 03, continued: a half-life (3.4), how wrong a full memory is (3.5)."""

import math

from nl_course.exercises.framework.engine import Exercise, Miss, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds


# -- 3.4 a half-life ------------------------------------------------------------------------------------------
def _retention_solution(half_life):
    """0.5^(1 / half_life), a number."""
    return 0.5 ** (1 / half_life)


@holds("after one half-life half is left, after two a quarter", hint=2)
def _halved(answer, rng):
    """Catches a formula that is only near: the retention is multiplied token by token."""
    tokens = rng.whole(1, 200)
    kept = float(answer(tokens))
    left = 1.0
    for _ in range(tokens):
        left *= kept
    compare((0.5, 0.25), (left, left * left))


@holds("a longer half-life keeps more, and never all of it", hint=1)
def _grows(answer, rng):
    """Catches a decay given for a retention, and values outside 0 to 1."""
    tokens = rng.whole(1, 1000)
    one, ten = float(answer(tokens)), float(answer(10 * tokens))
    if not 0 < one < ten < 1:
        raise Miss("two retentions, growing, between 0 and 1", f"{one:.4g} and {ten:.4g}")


def _straight(half_life):
    """Spreads the loss of one half evenly over the tokens, as if forgetting were a straight line."""
    return 1 - 0.5 / half_life


RETENTION = Exercise(
    id="3.4",
    title="From a half-life to a retention",
    task="""
Write `my_retention(half_life)`: the retention, the share that a memory keeps at every token, with which half of a
write is left after `half_life` tokens. 0.97 means that each token leaves 97 % of all that was written before.
""",
    stub="def my_retention(half_life):\n    ...\n",
    properties=(_grows, _halved),
    hints=(
        "What is left of a write after two tokens, if each keeps the share r? After t tokens?",
        "Find the r with r * r * ... * r = 1/2, with as many factors as tokens.",
        "The half_life-th root of one half: 0.5 ** (1 / half_life).",
    ),
    aim="0.97 and 0.99 look alike, but their half-lives are 23 and 69 tokens: read retentions as half-lives.",
    solution=_retention_solution,
    wrong=(
        Wrong(
            _straight,
            "fading was taken to be in a straight line: the same amount, not the same share, lost at each token",
            "after one half-life half is left, after two a quarter",
        ),
        Wrong(
            lambda half_life: 1 - 0.5 ** (1 / half_life),
            "the share that is lost was given for the share that is kept",
            "a longer half-life keeps more, and never all of it",
        ),
        Wrong(
            lambda half_life: math.exp(-1 / half_life),
            "this is the time constant of an exponential: after it, 37 % is left and not half",
            "after one half-life half is left, after two a quarter",
        ),
    ),
)


# -- 3.5 how wrong a full memory is ---------------------------------------------------------------------------
def _error_solution(pairs, width, retention, age):
    """(1 - r^age)² for the pair itself, plus the sum of r^(2 a) / d over the ages a of the others."""
    own = (1 - retention**age) ** 2
    others = sum(retention ** (2 * a) for a in range(pairs) if a != age)
    return own + others / width


def _expected(pairs, width, retention, age):
    """What the checks compare with: pairs written one by one; the square of each foreign weight is 1 / width."""
    left = [1.0]
    for _ in range(pairs - 1):
        left = [1.0, *(share * retention for share in left)]
    return sum((share - 1) ** 2 if a == age else share**2 / width for a, share in enumerate(left))


def _a_memory(rng: Rng) -> tuple:
    """2 to 60 pairs, a width of 16, 32 or 64, a retention from 0.8 to 0.999, and the age of one pair."""
    pairs = rng.whole(2, 60)
    return pairs, rng.pick([16, 32, 64]), rng.number(0.8, 0.999), rng.whole(0, pairs - 1)


@holds("without fading it is (n - 1) / d, whatever the age", hint=1)
def _no_fading(answer, rng):
    """Catches a pair that disturbs itself: n - 1 others remain."""
    pairs, width, _, age = _a_memory(rng)
    compare((pairs - 1) / width, float(answer(pairs, width, 1.0, age)))


@holds("a single pair has no crosstalk", hint=2)
def _alone(answer, rng):
    """Catches noise where there is no other pair. The newest pair has not faded."""
    compare(0.0, float(answer(1, 32, rng.number(0.5, 0.99), 0)))


@holds("measured in a real memory, within its noise", hint=3, trials=2)
def _as_measured(answer, rng):
    """Catches a formula that is far from a real memory: 200 rows of 40 pairs, to 15 percent."""
    from nl_course.tasks.pairs import draw_pairs, written

    drawn = draw_pairs(40, 32, rows=200, seed=rng.whole(0, 99))
    reads = drawn.keys @ written(drawn, "hebb", retention=0.95)
    measured = (reads - drawn.values).square().sum(-1).mean(0).flip(0)
    for age in (0, 5, 20):
        told = float(answer(40, 32, 0.95, age))
        if not abs(told - measured[age]) < 0.15 * measured[age]:
            raise Miss(f"about {measured[age]:.2f} at age {age}", told)


def _all_are_noise(pairs, width, retention, age):
    """Counts every pair as noise, the one asked for too, and lets nothing fade."""
    return pairs / width


CAPACITY = Exercise(
    id="3.5",
    title="How wrong will a full memory be?",
    task="""
Write `my_expected_error(pairs, width, retention, age)`: the expected squared error with which Hebb's rule reads back
one of `pairs` random unit pairs from a matrix `(width, width)`, when all older content is multiplied by `retention`
before each write. `age` is the number of pairs written after it (0: the newest). Two parts add up: what is missing of
the pair's own value, and the crosstalk of all others, each times the share of it that is left.
""",
    stub="def my_expected_error(pairs, width, retention, age):\n    ...\n",
    properties=(_no_fading, _alone, equals("any memory, any age", _a_memory, _expected, hint=3), _as_measured),
    hints=(
        "Without fading each of the n - 1 others adds (q . k)^2 |v|^2, which is 1 / width on average.",
        "Its own value comes back times retention ** age. What is the squared length of what is missing of it?",
        "(1 - retention ** age) ** 2 + the sum over all other ages a of retention ** (2 * a), divided by width.",
    ),
    aim="Retention bounds the crosstalk of a memory that never ends. The price is the oldest pairs.",
    solution=_error_solution,
    wrong=(
        Wrong(
            _all_are_noise,
            "the pair's own value was counted as crosstalk too",
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
            "what the memory has forgotten of the pair's own value is an error as well",
            "any memory, any age",
        ),
    ),
)
