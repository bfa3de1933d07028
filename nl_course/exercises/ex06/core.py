"""Exercises of notebook 06: the boundary rule (6.1), a momentum and its span (6.2), the exact step of DGD (6.3).

6.4 and 6.5, which are extra, stand in `optimizers.py`.
"""

import math

import torch

from nl_course.exercises.ex06.optimizers import DELTA_MOMENTUM, ORTHOGONALISE
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, compare, equals, holds, pure, short

# ------------------------------------------------------------------------------- 6.1 which level moves when


def draw_clocks(rng: Rng):
    fastest = rng.whole(2, 4)
    return rng.whole(1, 40), [fastest, fastest * rng.whole(2, 3), 0, fastest * 8]


def ticks(token: int, periods: list) -> tuple:
    """By counting: a level moves when the token after a multiple of its period arrives."""
    made, before = (
        [sum((t - 1) % c == 0 for t in range(2, last + 1)) if c else 0 for c in periods] for last in (token, token - 1)
    )
    return [now > then for now, then in zip(made, before)], made


def answered(answer, token: int, periods: list) -> tuple:
    got = answer(token, periods)
    if not isinstance(got, (tuple, list)) or len(got) != 2 or any(len(part) != len(periods) for part in got):
        raise Miss("two lists, each with one entry a level", short(got))
    return [bool(m) for m in got[0]], [int(n) for n in got[1]]


def where(token: int, periods: list) -> str:
    return f"token {token}, periods {periods}"


@holds("at the first token nothing has moved yet", hint=1)
def nothing_at_first(answer, rng):
    _, periods = draw_clocks(rng)
    compare(ticks(1, periods)[0], answered(answer, 1, periods)[0], 0, where(1, periods))


@holds("a chunk of C tokens is closed when token C + 1 arrives, its last target", hint=2)
def closes_at_the_next(answer, rng):
    _, periods = draw_clocks(rng)
    for token in (periods[1], periods[1] + 1):
        compare(ticks(token, periods)[0], answered(answer, token, periods)[0], 0, where(token, periods))


@holds("the counts are those of a walk through all tokens", hint=3)
def counts_are_of_a_walk(answer, rng):
    token, periods = draw_clocks(rng)
    for last in (token, periods[0] * 3):
        walked = [sum(ticks(t, periods)[0][i] for t in range(1, last + 1)) for i in range(len(periods))]
        compare(walked, answered(answer, last, periods)[1], 0, where(last, periods))


def solution_clocks(token, periods):
    moves = [bool(c) and token > 1 and (token - 1) % c == 0 for c in periods]
    return moves, [(token - 1) // c if c else 0 for c in periods]


def wrong_clocks_at_c(token, periods):
    return [bool(c) and token % c == 0 for c in periods], [token // c if c else 0 for c in periods]


def wrong_clocks_first_token(token, periods):
    return [bool(c) and (token - 1) % c == 0 for c in periods], [(token - 1) // c if c else 0 for c in periods]


def wrong_clocks_counts(token, periods):
    return ticks(token, periods)[0], [token // c if c else 0 for c in periods]


CLOCKS = Exercise(
    id="6.1",
    title="which level moves when",
    aim="To own the boundary rule, with the one token by which everybody is off at first.",
    task="""
A level of period C learns from its own chunk of C tokens: from the loss with which token 2 was predicted after token 1,
and so on. The last of these C losses needs token C + 1. So the level moves **when token C + 1 arrives, before it is
read**, and again every C tokens. Write `ticks_of(token, periods)`.

* `token`: the number of the token that arrives, counting from 1. `periods`: a list of whole numbers; 0 is a level that
  never moves.
* The result: two lists with one entry a level. First whether it moves as this token arrives; then how often it has
  moved by then, this time included.""",
    stub='''
def ticks_of(token, periods):
    """a number from 1 on, a list of periods -> (a list of bools, a list of counts)"""
    ...
''',
    properties=(nothing_at_first, closes_at_the_next, counts_are_of_a_walk),
    hints=(
        "At token 1 nothing has been predicted, so nothing can be learned: no level moves.",
        "Period 4: chunks end after tokens 4, 8, 12; the moves happen as tokens 5, 9, 13 arrive. With t - 1 "
        "for the tokens "
        "read so far, that is (t - 1) % C == 0.",
        "After t - 1 whole tokens a level has closed (t - 1) // C chunks. Take care of C = 0 before you divide.",
    ),
    solution=solution_clocks,
    wrong=(
        Wrong(
            wrong_clocks_at_c,
            "Moves as the chunk's last token arrives. The loss of predicting the next one is not known yet: "
            "either it is "
            "left out of the chunk, or the future was used.",
            closes_at_the_next.name,
        ),
        Wrong(
            wrong_clocks_first_token,
            "0 is a multiple of everything: at the very first token this rule closes a chunk that never was.",
            nothing_at_first.name,
        ),
        Wrong(
            wrong_clocks_counts,
            "Counts T // C although it moves at C + 1: after exactly C tokens it has counted a move still to "
            "come. Public "
            "code has drifted apart from its own clock in just this way.",
            counts_are_of_a_walk.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 6.2 momentum as a memory


def draw_gradients(rng: Rng):
    steps = rng.whole(3, 8)
    return rng.normal(steps, rng.whole(2, 4)), rng.number(0.01, 0.5), rng.pick((0.5, 0.8, 0.9, 0.95)), 0.5


def stepped(gradients, rate, momentum):
    m = torch.zeros_like(gradients[0])
    for g in gradients:
        m = momentum * m - rate * g
    return m


@holds("the step is that of the loop over all gradients", hint=1)
def step_is_the_loops(answer, rng):
    gradients, rate, momentum, share = draw_gradients(rng)
    compare(stepped(gradients, rate, momentum), answer(gradients, rate, momentum, share)[0], 1e-9, "the step")


@holds("so many gradients hold the share, and one fewer does not", hint=3)
def span_is_exact(answer, rng):
    gradients, rate, momentum, _ = draw_gradients(rng)
    for beta, share in ((0.9, 0.5), (0.9, 0.99), (momentum, rng.number(0.3, 0.95))):
        count = next(n for n in range(1, 10_000) if 1 - beta**n >= share)
        got = answer(gradients, rate, beta, share)[1]
        if int(got) != count:
            raise Miss(f"{count} gradients for a share of {share:.3g} at momentum {beta}", short(got))


def solution_momentum(gradients, rate, momentum, share):
    ages = torch.arange(len(gradients) - 1, -1, -1, dtype=gradients.dtype)
    step = -rate * (momentum ** ages[:, None] * gradients).sum(dim=0)
    return step, math.ceil(math.log(1 - share) / math.log(momentum))


def wrong_momentum_rounds_down(gradients, rate, momentum, share):
    return stepped(gradients, rate, momentum), int(math.log(1 - share) / math.log(momentum))


def wrong_momentum_average(gradients, rate, momentum, share):
    count = math.ceil(math.log(1 - share) / math.log(momentum))
    return (1 - momentum) * stepped(gradients, rate, momentum), count


def wrong_momentum_oldest_first(gradients, rate, momentum, share):
    return stepped(gradients.flip(0), rate, momentum), solution_momentum(gradients, rate, momentum, share)[1]


MOMENTUM = Exercise(
    id="6.2",
    title="a momentum, and how far back it remembers",
    aim="To see momentum as a sum over the past with fading weights, and to measure its span instead of quoting it.",
    task="""
Write `momentum_step(gradients, rate, momentum, share)` for heavy ball, m <- momentum * m - rate * g, from m = 0.

* `gradients` (t, n), the oldest first; `rate`, `momentum` and `share` are numbers between 0 and 1.
* The result: m after the last of them, (n,), **without** a loop over the steps; and a whole number: how many of the
  last gradients hold at least `share` of all the weight, if gradients had come for ever.""",
    stub='''
def momentum_step(gradients, rate, momentum, share):
    """(t, n), three numbers -> (the step (n,), how many of the last gradients hold the share)"""
    ...
''',
    properties=(
        step_is_the_loops,
        span_is_exact,
        pure("the gradients are left as they were", draw_gradients, hint=1),
    ),
    hints=(
        "Unroll three steps by hand: m_3 = -rate (g_3 + momentum g_2 + momentum² g_1). The newest has weight 1.",
        "The ages are t - 1, ..., 1, 0: torch.arange(t - 1, -1, -1). The weights momentum ** ages, times the "
        "rows, summed.",
        "The last n hold 1 - momentum**n of everything. The smallest n with 1 - momentum**n >= share is "
        "log(1 - share) / log(momentum), rounded **up**.",
    ),
    solution=solution_momentum,
    wrong=(
        Wrong(
            wrong_momentum_rounds_down,
            "Rounds down: 6 and 43 at momentum 0.9, the numbers that the paper prints. Six gradients hold 46.9 "
            "%, seven 52.2 %.",
            span_is_exact.name,
        ),
        Wrong(
            wrong_momentum_average,
            "The moving average, with (1 - momentum) before every gradient. The shares are the same, the steps "
            "are not: "
            "heavy ball's are 1 / (1 - momentum) times as long.",
            step_is_the_loops.name,
        ),
        Wrong(
            wrong_momentum_oldest_first,
            "Gives the oldest gradient the weight 1: the ages run the wrong way round.",
            step_is_the_loops.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 6.3 the exact step of DGD


def draw_layer(rng: Rng):
    out, width = rng.whole(2, 4), rng.whole(2, 4)
    x = rng.normal(width) * rng.pick((0.4, 1.0, 2.0))
    return rng.normal(out, width), x, rng.normal(out), rng.number(0.2, 1.5)


def exact(W, x, error, rate):
    identity = torch.eye(len(x), dtype=W.dtype)
    return (W - rate * torch.outer(error, x)) @ torch.linalg.inv(identity + rate * torch.outer(x, x))


@holds("what stands along other inputs is left alone", hint=1)
def others_are_left_alone(answer, rng):
    W, x, error, rate = draw_layer(rng)
    other = rng.normal(len(x))
    other = other - (other @ x) / (x @ x) * x
    compare(W @ other, answer(W, x, error, rate) @ other, 1e-9, "the answer to an input at right angles to x")


@holds("without an error it still erases: the answer to x shrinks, and keeps its direction", hint=2)
def erases_without_an_error(answer, rng):
    W, x, error, rate = draw_layer(rng)
    share = (answer(W, x, error * 0, rate) @ x) @ (W @ x) / (W @ x).square().sum()
    if not 0 < share < 1:
        raise Miss("a share of the old answer between 0 and 1", short(share.item()))
    compare(share * (W @ x), answer(W, x, error * 0, rate) @ x, 1e-9, "the answer to x")


@holds("no other weights are better: the gradient of the inner problem is 0 there", hint=3)
def is_the_minimum(answer, rng):
    W, x, error, rate = draw_layer(rng)
    after = answer(W, x, error, rate)
    slope = torch.outer(after @ x + error, x) + (after - W) / rate
    compare(torch.zeros_like(slope), slope, 1e-8, "the gradient")


def solution_dgd(W, x, error, rate):
    step = rate / (1 + rate * x @ x)
    return W - step * torch.outer(W @ x + error, x)


def wrong_dgd_descent(W, x, error, rate):
    return W - rate * torch.outer(error, x)


def wrong_dgd_unit_only(W, x, error, rate):
    return W - rate / (1 + rate) * torch.outer(W @ x + error, x)


def wrong_dgd_full_erase(W, x, error, rate):
    return W - torch.outer(W @ x, x) / (x @ x) - rate * torch.outer(error, x)


def wrong_dgd_sign(W, x, error, rate):
    return W - rate / (1 + rate * x @ x) * torch.outer(W @ x - error, x)


DGD = Exercise(
    id="6.3",
    title="the exact step of delta gradient descent",
    aim="To derive DGD's step from its inner problem, and to see that the step size has the input's length in it.",
    task="""
DGD's inner problem for one input x, with u = -error held fixed: the new weights are those that make

`|W' x - u|² / 2 + |W' - W|² / (2 rate)`

smallest (|.| of a matrix: the root of the sum of all squares). Write `dgd_step(W, x, error, rate)`, exactly.

* `W` (o, d); `x` (d,) of **any length**; `error` (o,), the gradient of the loss by the layer's output; `rate` a number.
* The result: W' (o, d). No solve is needed: the change is one outer product.""",
    stub='''
def dgd_step(W, x, error, rate):
    """(o, d), (d,), (o,), number -> the new weights (o, d)"""
    ...
''',
    properties=(
        others_are_left_alone,
        erases_without_an_error,
        is_the_minimum,
        equals("the weights are those of the matrix form", draw_layer, exact, hint=3),
        pure("the weights are left as they were", draw_layer, hint=1),
    ),
    hints=(
        "Every gradient here has the form (something) x^T, so W' = W - c x^T for some vector c (o,): only what "
        "stands "
        "along x can change.",
        "Set the gradient to 0: (W' x + error) x^T + (W' - W) / rate = 0. With W' = W - c x^T this is an "
        "equation for c.",
        "c = rate (W' x + error), and W' x = W x - c |x|². So c (1 + rate |x|²) = rate (W x + error).",
    ),
    solution=solution_dgd,
    wrong=(
        Wrong(
            wrong_dgd_descent,
            "Plain gradient descent: the layer's own answer W x is not erased.",
            erases_without_an_error.name,
        ),
        Wrong(
            wrong_dgd_unit_only,
            "rate / (1 + rate), as the longer version of the paper prints it: right where |x| = 1, and only "
            "there. For a "
            "long input it may erase more than everything.",
            erases_without_an_error.name,
        ),
        Wrong(
            wrong_dgd_full_erase,
            "An erase without the rate, as in the paper's first version (for a unit input): whatever the rate, "
            "everything "
            "along x is gone.",
            erases_without_an_error.name,
        ),
        Wrong(
            wrong_dgd_sign,
            "The target is u = -error: descent writes the error down, not up. With + it climbs.",
            is_the_minimum.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (CLOCKS, MOMENTUM, DGD, DELTA_MOMENTUM, ORTHOGONALISE)

DISCUSSION = (
    (
        "A level that moves every 256 tokens by the mean of its gradients, and one that moves every 16 tokens at a "
        "sixteenth of the rate: what is the same about them, what differs, and what would you measure to tell "
        "them apart?",
        "Over 256 tokens both move about equally far, and both forget slowly. They differ in where the "
        "gradients are "
        "taken: the slow clock takes all of them at the same old weights, the small rate lets each chunk see "
        "what the "
        "last one did. And the slow clock is blind between boundaries, so a short excursion can pass it by, or "
        "be averaged "
        "away. To tell them apart, compare them at the same loss on the new task, not at the same rate, on the old "
        "task's loss and on how fast it comes back.",
    ),
    (
        "DGD comes to rest at half of the target on the half squared loss. Is that an error of the method, of "
        "the paper, "
        "or of the one who expects the target there?",
        "Of the expectation. DGD minimises the loss plus a term that pulls every output to zero, since its "
        "inner problem "
        "asks for outputs equal to the error with its sign turned; on a squared loss, whose gradient already "
        "has an erase "
        "in it, everything is erased twice. On the dot product loss, the paper's own case, there is no erase "
        "in the "
        "gradient, and DGD is the delta rule, which does end at the target. What one may blame on the paper is "
        "that it "
        "does not say so.",
    ),
    (
        "Suppose a model with clocked levels forgets less than a plain one at the same rate. Which further "
        "comparison would "
        "you ask for before you believed that the clocks are the reason?",
        "The plain model at smaller rates: what learns less forgets less, and a level that moves seldom is a "
        "level that "
        "learns less. Only if it keeps more for the same amount learned is something gained. Then the same "
        "chain of levels "
        "with a single clock, so that the shape of the network is no excuse; equal parameters; several seeds; "
        "and the "
        "price in compute and state of each.",
    ),
)
