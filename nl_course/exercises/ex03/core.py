"""Exercises of notebook 03: outer products (3.1), sharpness (3.2), the delta rule as a gradient step (3.3).

beyond.py has 3.4 and 3.5, gates.py has 3.6."""

import math

import torch

from nl_course.exercises.ex03.beyond import CAPACITY, RETENTION
from nl_course.exercises.ex03.gates import TWO_GATES
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure, right_shape


def _unit(x):
    """The rows of x brought to length 1."""
    return x / x.norm(dim=-1, keepdim=True)


def _pairs(rng: Rng) -> tuple:
    """Keys (n, d_k), values (n, d_v), queries (m, d_k): n 2 to 9, d_k 2 to 6, d_v 2 to 5, m 1 to 4."""
    n, d_k, d_v = rng.whole(2, 9), rng.whole(2, 6), rng.whole(2, 5)
    return rng.normal(n, d_k), rng.normal(n, d_v), rng.normal(rng.whole(1, 4), d_k)


# -- 3.1 write and read ---------------------------------------------------------------------------------------
def _hebb_solution(keys, values, queries):
    """Q (K^T V), (m, d_v)."""
    S = keys.T @ values
    return queries @ S


def _weighted(keys, values, queries):
    """What the checks compare with: each read adds up all values, each times its key's product with the query."""
    reads = []
    for q in queries:
        parts = [(q @ k) * v for k, v in zip(keys, values)]
        reads.append(sum(parts))
    return torch.stack(reads)


@holds("orthonormal keys give every value back exactly", hint=2)
def _exact(answer, rng):
    """Catches a product in the wrong order, and a mean: orthonormal keys must not disturb each other."""
    d, d_v = rng.whole(2, 6), rng.whole(2, 5)
    keys = torch.linalg.qr(rng.normal(d, d))[0]
    values = rng.normal(d, d_v)
    compare(values, answer(keys, values, keys))


@holds("a key that is written twice returns the sum of both values", hint=2)
def _sum_of_both(answer, rng):
    """Catches a mean and an overwrite: Hebb's rule only adds."""
    key = _unit(rng.normal(1, rng.whole(2, 6)))
    values = rng.normal(2, rng.whole(2, 5))
    compare(values.sum(0, keepdim=True), answer(key.repeat(2, 1), values, key))


def _mean(keys, values, queries):
    """Divides by the number of pairs, as if a memory averaged what it is told."""
    return queries @ (keys.T @ values) / len(keys)


HEBB = Exercise(
    id="3.1",
    title="Write with outer products, read with one product",
    task="""
Write `my_hebb(keys, values, queries)`: tie each of n keys (rows of `keys`, `(n, d_k)`) to its value (rows of `values`,
`(n, d_v)`) in one matrix `(d_k, d_v)`, and read that matrix with every row of `queries` `(m, d_k)`. Return the reads
`(m, d_v)`. Neither n nor the order may matter to the size of what is kept between writing and reading.
""",
    stub="def my_hebb(keys, values, queries):\n    ...\n",
    properties=(
        right_shape("a read for each query comes out", _pairs, lambda k, v, q: (len(q), v.shape[1]), hint=1),
        _exact,
        _sum_of_both,
        equals("each read is the sum of all values, each times q . k", _pairs, _weighted, hint=3),
        pure("keys, values and queries stay as they are", _pairs, hint=1),
    ),
    hints=(
        "One pair is written by the outer product: a column of the key times a row of the value, (d_k, 1) @ (1, d_v).",
        "The matrix is the SUM of those products over all pairs; a query, a row, multiplies it from the left.",
        "The sum of all outer products is one matrix product: keys.T @ values. Then queries @ that.",
    ),
    aim="The sum of outer products as one matmul, and a read as a weighted sum of all values: crosstalk in one line.",
    solution=_hebb_solution,
    wrong=(
        Wrong(
            _mean,
            "this takes a mean instead of a sum: reads fade as more is stored",
            "orthonormal keys give every value back exactly",
        ),
        Wrong(
            lambda keys, values, queries: (queries @ keys.T).softmax(-1) @ values,
            "this is attention: it keeps all keys and values, and shares one whole among them",
            "orthonormal keys give every value back exactly",
        ),
        Wrong(
            lambda keys, values, queries: values[(queries @ keys.T).argmax(-1)],
            "only the nearest key was looked up: a matrix cannot choose, it adds",
            "a key that is written twice returns the sum of both values",
        ),
    ),
)


# -- 3.2 sharpness --------------------------------------------------------------------------------------------
def _sharpness_solution(pairs, share):
    """ln(share / (1 - share) * (n - 1)), a number."""
    return math.log(share / (1 - share) * (pairs - 1))


@holds("attention over orthonormal keys then gives its own value that share", hint=2)
def _as_attended(answer, rng):
    """Catches a wrong formula by its effect: a softmax over n orthonormal keys must give the share."""
    pairs, share = rng.whole(2, 40), rng.number(0.55, 0.999)
    keys = torch.eye(pairs, dtype=torch.float64)
    weights = torch.softmax(float(answer(pairs, share)) * keys[0] @ keys.T, dim=-1)
    compare(share, weights[0].item())


@holds("ten times the others take ln 10 more, whatever the share", hint=1)
def _logarithm(answer, rng):
    """Catches n where the others, n - 1, belong. Their number goes up tenfold exactly."""
    others, share = rng.whole(1, 500), rng.number(0.55, 0.99)
    more = float(answer(10 * others + 1, share)) - float(answer(others + 1, share))
    compare(math.log(10), more)


@holds("for one other key it is the logit of the share", hint=3)
def _one_other(answer, rng):
    """Catches the same slip where it is largest, with two pairs."""
    share = rng.number(0.55, 0.99)
    compare(math.log(share) - math.log(1 - share), float(answer(2, share)))


def _own_among_others(pairs, share):
    """Counts the key itself among the others."""
    return math.log(share / (1 - share) * pairs)


SHARPNESS = Exercise(
    id="3.2",
    title="How sharp must attention be?",
    task="""
Write `my_sharpness(pairs, share)`: the number that q . k must be multiplied by before the softmax, so that a query that
equals one of `pairs` orthonormal keys gives that key's value exactly the weight `share` (above 0.5, below 1). Return a
float.
""",
    stub="def my_sharpness(pairs, share):\n    ...\n",
    properties=(_logarithm, _one_other, _as_attended),
    hints=(
        "Its own key has the product 1 and every other key 0: write the softmax with e^s and (pairs - 1) times e^0.",
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
            "the key itself was counted among the others",
            "ten times the others take ln 10 more, whatever the share",
        ),
        Wrong(
            lambda pairs, share: math.log(share * (pairs - 1)),
            "the key's own part of the sum below was left out of the equation",
            "for one other key it is the logit of the share",
        ),
    ),
)


# -- 3.3 the delta rule ---------------------------------------------------------------------------------------
def _delta_solution(S, k, v, step):
    """S + step k^T (v - k S), (d_k, d_v)."""
    error = v - k @ S
    return S + step * torch.outer(k, error)


def _descended(S, k, v, step):
    """What the checks compare with: one step of gradient descent on half the squared error, by autograd."""
    S = S.detach().clone().requires_grad_()
    loss = 0.5 * (k @ S - v).square().sum()
    (gradient,) = torch.autograd.grad(loss, S)
    return (S - step * gradient).detach()


def _one_write(rng: Rng) -> tuple:
    """A memory (d_k, d_v), a key (d_k,), a value (d_v,), a step from 0.1 to 1.5: d_k 2 to 6, d_v 2 to 5."""
    d_k, d_v = rng.whole(2, 6), rng.whole(2, 5)
    return rng.normal(d_k, d_v), rng.normal(d_k), rng.normal(d_v), rng.number(0.1, 1.5)


@holds("with |k| = 1 and step 1 the memory then answers exactly v", hint=2)
def _stored(answer, rng):
    """Catches a write that adds to the old answer instead of replacing it."""
    S, k, v, _ = _one_write(rng)
    k = _unit(k)
    compare(v, k @ answer(S, k, v, 1.0))


@holds("a key at right angles gets the same answer as before", hint=2)
def _undisturbed(answer, rng):
    """Catches a change of rows that the key does not touch, such as a decay."""
    S, k, v, step = _one_write(rng)
    other = rng.normal(len(k))
    other = other - (other @ k) / (k @ k) * k
    compare(other @ S, other @ answer(S, k, v, step))


def _hebb_step(S, k, v, step):
    """Writes the value instead of the error: what the memory said before stays."""
    return S + step * torch.outer(k, v)


def _twice(S, k, v, step):
    """Takes the gradient of the square without the half, so that the step is twice as long."""
    return S + 2 * step * torch.outer(k, v - k @ S)


def _uphill(S, k, v, step):
    """Goes up the gradient, as if the error were answer less value."""
    return S - step * torch.outer(k, v - k @ S)


DELTA = Exercise(
    id="3.3",
    title="The delta rule is one step of gradient descent",
    task="""
Write `my_delta_step(S, k, v, step)` without autograd: the matrix `S` `(d_k, d_v)` after one step of gradient descent,
of size `step` (a number), on half the squared error, 1/2 |k S - v|^2, with `k` `(d_k,)` and `v` `(d_v,)`. Return the
new matrix; leave `S` as it was. The check compares with autograd's gradient.
""",
    stub="def my_delta_step(S, k, v, step):\n    ...\n",
    properties=(
        right_shape("a matrix of the same shape comes out", _one_write, lambda S, k, v, step: S.shape, hint=1),
        _stored,
        _undisturbed,
        equals("it is autograd's step, for any key, matrix and step", _one_write, _descended, hint=3),
        pure("S stays as it was", _one_write, hint=1),
    ),
    hints=(
        "Look up first: what does the memory answer to k now, and how far is that from v?",
        "The gradient by S is the outer product of k and the error (k S - v); descent subtracts it.",
        "S + step * torch.outer(k, v - k @ S).",
    ),
    aim="Writing only the difference IS descending a squared error; this sentence carries notebook 04.",
    solution=_delta_solution,
    wrong=(
        Wrong(
            _hebb_step,
            "the value was added without looking up what the memory says already: Hebb's rule",
            "with |k| = 1 and step 1 the memory then answers exactly v",
        ),
        Wrong(
            _twice,
            "the half in front of the square was left out, so the step is twice as long and overshoots",
            "with |k| = 1 and step 1 the memory then answers exactly v",
        ),
        Wrong(
            _uphill,
            "the sign is wrong: this climbs the error",
            "with |k| = 1 and step 1 the memory then answers exactly v",
        ),
    ),
)


EXERCISES = (HEBB, SHARPNESS, DELTA, RETENTION, CAPACITY, TWO_GATES)

DISCUSSION = (
    (
        "Attention never loses a pair and never replaces one. When is that better than a memory that overwrites?",
        "When both versions matter, or when it is not known yet which one will be asked for: a history, a quotation, a "
        "correction that may itself be wrong. A memory that overwrites is better where only the newest holds, as "
        "with a variable's value; attention must then learn from positions which of two equal keys is newer.",
    ),
    (
        "A colleague says: the delta rule has the smaller squared error, so it is the better memory. What do you ask?",
        "Which question the memory will be asked. By nearest value on random keys, Hebb answers more past n = d though "
        "its error is larger, because its error is noise that no value owns, while the delta rule has erased the old "
        "ones. With rewritten keys it is the other way round. An error is not an answer; and by age, or on average?",
    ),
    (
        "Both matrices have the same number of bytes. Where did the difference between their failures come from?",
        "From the writing rule alone. Hebb adds every pair with the same weight, so all of them share the noise; the "
        "delta rule makes room for each new pair by removing what stands under similar keys, so the newest are exact "
        "and the oldest are gone. Bytes bound how much can be kept; the rule decides what.",
    ),
)
