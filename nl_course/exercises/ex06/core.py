"""Exercises of notebook 06: the boundary rule (6.1), a momentum and its span (6.2), the exact step of DGD (6.3).

6.4 and 6.5, which 06b asks, stand in `optimizers.py`.
"""

import math

import torch

from nl_course.exercises.ex06.optimizers import DELTA_MOMENTUM, ORTHOGONALIZE
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, compare, equals, holds, pure, short

# ------------------------------------------------------------------------------- 6.1 which level moves when


def draw_clocks(rng: Rng):
    """A token from 1 to 40 and four periods: C from 2 to 4, two or three times C, 0 (never moves), and 8 C."""
    fastest = rng.whole(2, 4)
    return rng.whole(1, 40), [fastest, fastest * rng.whole(2, 3), 0, fastest * 8]


def moves_by(token: int, period: int) -> int:
    """How often a level of this period has moved by then, by counting the tokens at which it moves."""
    if period == 0:
        return 0
    return sum((t - 1) % period == 0 for t in range(2, token + 1))


def ticks(token: int, periods: list) -> tuple:
    """By counting: a level moves when the token after a multiple of its period arrives."""
    counts = [moves_by(token, period) for period in periods]
    moved = [count > moves_by(token - 1, period) for count, period in zip(counts, periods, strict=True)]
    return moved, counts


def answered(answer, token: int, periods: list) -> tuple:
    """The answer as plain bools and whole numbers. Raises Miss if it is not two lists of the right length."""
    got = answer(token, periods)
    if not isinstance(got, (tuple, list)) or len(got) != 2 or any(len(part) != len(periods) for part in got):
        raise Miss("two lists, each with one entry per level", short(got))
    return [bool(m) for m in got[0]], [int(n) for n in got[1]]


def where(token: int, periods: list) -> str:
    """The call in words, for the messages."""
    return f"token {token}, periods {periods}"


@holds("at the first token nothing has moved yet", hint=1)
def nothing_at_first(answer, rng):
    """Catches a rule that takes 0 for a multiple of every period."""
    _, periods = draw_clocks(rng)
    compare(ticks(1, periods)[0], answered(answer, 1, periods)[0], 0, where(1, periods))


@holds("a chunk of C tokens is closed when token C + 1 arrives, its last target", hint=2)
def closes_at_the_next(answer, rng):
    """Catches a level that moves as the chunk's last token arrives: both C and C + 1 are asked."""
    _, periods = draw_clocks(rng)
    for token in (periods[1], periods[1] + 1):
        compare(ticks(token, periods)[0], answered(answer, token, periods)[0], 0, where(token, periods))


@holds("the counts are those of a walk through all tokens", hint=3)
def counts_are_of_a_walk(answer, rng):
    """Catches counts that do not fit the answer's own moves: they must add up from token 1 on."""
    token, periods = draw_clocks(rng)
    for last in (token, periods[0] * 3):
        walked = [0] * len(periods)
        for t in range(1, last + 1):
            walked = [count + moves for count, moves in zip(walked, ticks(t, periods)[0], strict=True)]
        compare(walked, answered(answer, last, periods)[1], 0, where(last, periods))


def solution_clocks(token, periods):
    """At token t a level of period C moves if t > 1 and (t - 1) % C == 0; it has moved (t - 1) // C times."""
    moves = [bool(c) and token > 1 and (token - 1) % c == 0 for c in periods]
    return moves, [(token - 1) // c if c else 0 for c in periods]


def wrong_clocks_at_c(token, periods):
    """Moves at t % C == 0, as if the chunk's last loss were known before its target arrives."""
    return [bool(c) and token % c == 0 for c in periods], [token // c if c else 0 for c in periods]


def wrong_clocks_first_token(token, periods):
    """Leaves out t > 1, so that all levels move before anything was read."""
    return [bool(c) and (token - 1) % c == 0 for c in periods], [(token - 1) // c if c else 0 for c in periods]


def wrong_clocks_counts(token, periods):
    """Moves at the right tokens but counts t // C, as if counting were the easy part."""
    return ticks(token, periods)[0], [token // c if c else 0 for c in periods]


CLOCKS = Exercise(
    id="6.1",
    title="which level moves when",
    aim="To know the boundary rule well, with the one token by which everybody is off at first.",
    task="""
In a language model the target of a token is the token after it. So the last of a chunk's C losses needs token C + 1. A
level of period C moves **when token C + 1 arrives, before it is read**, and again every C tokens. Write
`ticks_of(token, periods)`.

* `token` is the number of the token that arrives, counting from 1. `periods` is a list of whole numbers; 0 is a level
  that never moves.
* The result is two lists with one entry per level. First: does the level move as this token arrives? Then: how often
  has it moved by then, this time included?""",
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
    """Gradients (t, n), a rate from 0.01 to 0.5, a momentum of 0.5 to 0.95, the share 0.5: t 3 to 8, n 2 to 4."""
    steps = rng.whole(3, 8)
    return rng.normal(steps, rng.whole(2, 4)), rng.number(0.01, 0.5), rng.pick((0.5, 0.8, 0.9, 0.95)), 0.5


def stepped(gradients, rate, momentum):
    """Heavy ball's m after all gradients, (n,), by the loop."""
    m = torch.zeros_like(gradients[0])
    for g in gradients:
        m = momentum * m - rate * g
    return m


@holds("the step is that of the loop over all gradients", hint=1)
def step_is_the_loops(answer, rng):
    """Catches weights in the wrong order, and a moving average's factor 1 - momentum."""
    gradients, rate, momentum, share = draw_gradients(rng)
    compare(stepped(gradients, rate, momentum), answer(gradients, rate, momentum, share)[0], 1e-9, "the step")


@holds("so many gradients hold the share, and one fewer does not", hint=3)
def span_is_exact(answer, rng):
    """Catches rounding down, with two fixed cases and a random one. The count is found by trying n = 1, 2, ..."""
    gradients, rate, momentum, _ = draw_gradients(rng)
    for beta, share in ((0.9, 0.5), (0.9, 0.99), (momentum, rng.number(0.3, 0.95))):
        count = next(n for n in range(1, 10_000) if 1 - beta**n >= share)
        got = answer(gradients, rate, beta, share)[1]
        if int(got) != count:
            raise Miss(f"{count} gradients for a share of {share:.3g} at momentum {beta}", short(got))


def solution_momentum(gradients, rate, momentum, share):
    """-rate * sum of momentum^age * g, (n,), and the smallest n with 1 - momentum^n >= share."""
    ages = torch.arange(len(gradients) - 1, -1, -1, dtype=gradients.dtype)
    step = -rate * (momentum ** ages[:, None] * gradients).sum(dim=0)
    return step, math.ceil(math.log(1 - share) / math.log(momentum))


def wrong_momentum_rounds_down(gradients, rate, momentum, share):
    """Rounds the span down, as the paper's printed numbers are: 6 and 43 at momentum 0.9."""
    return stepped(gradients, rate, momentum), int(math.log(1 - share) / math.log(momentum))


def wrong_momentum_average(gradients, rate, momentum, share):
    """Scales the step by 1 - momentum, as Adam's first moment is scaled."""
    count = math.ceil(math.log(1 - share) / math.log(momentum))
    return (1 - momentum) * stepped(gradients, rate, momentum), count


def wrong_momentum_oldest_first(gradients, rate, momentum, share):
    """Gives age 0 to the first row, as if rows were sorted by age."""
    return stepped(gradients.flip(0), rate, momentum), solution_momentum(gradients, rate, momentum, share)[1]


MOMENTUM = Exercise(
    id="6.2",
    title="a momentum, and how far back it remembers",
    aim="To see momentum as a sum over the past with fading weights, and to measure its span instead of quoting it.",
    task="""
Write `momentum_step(gradients, rate, momentum, share)` for m <- momentum * m - rate * g, from m = 0.

* `gradients` is (t, n), the oldest first. `rate`, `momentum` and `share` are numbers between 0 and 1.
* The result has two parts: m after the last gradient, (n,), **without** a loop over the steps; and how many of the
  newest gradients hold at least `share` of all the weight, if gradients had come forever.""",
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
            "without that factor they are 1 / (1 - momentum) times as long.",
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
    """Weights (o, d), an input (d,) shorter or longer than 1, an error (o,), a rate from 0.2 to 1.5: o, d 2 to 4."""
    out, width = rng.whole(2, 4), rng.whole(2, 4)
    x = rng.normal(width) * rng.pick((0.4, 1.0, 2.0))
    return rng.normal(out, width), x, rng.normal(out), rng.number(0.2, 1.5)


def exact(W, x, error, rate):
    """The new weights (o, d) by the matrix form (W - rate e x^T) (I + rate x x^T)^-1."""
    identity = torch.eye(len(x), dtype=W.dtype)
    return (W - rate * torch.outer(error, x)) @ torch.linalg.inv(identity + rate * torch.outer(x, x))


@holds("what stands along other inputs is left alone", hint=1)
def others_are_left_alone(answer, rng):
    """Catches a decay of all weights. A change c x^T does not reach inputs at right angles to x."""
    W, x, error, rate = draw_layer(rng)
    other = rng.normal(len(x))
    other = other - (other @ x) / (x @ x) * x
    compare(W @ other, answer(W, x, error, rate) @ other, 1e-9, "the answer to an input at right angles to x")


@holds("without an error it still erases: the answer to x shrinks, and keeps its direction", hint=2)
def erases_without_an_error(answer, rng):
    """Catches plain descent, which then does nothing, and an erase of everything or of too much."""
    W, x, error, rate = draw_layer(rng)
    share = (answer(W, x, error * 0, rate) @ x) @ (W @ x) / (W @ x).square().sum()
    if not 0 < share < 1:
        raise Miss("a share of the old answer between 0 and 1", short(share.item()))
    compare(share * (W @ x), answer(W, x, error * 0, rate) @ x, 1e-9, "the answer to x")


@holds("no other weights are better: the gradient of the inner problem is 0 there", hint=3)
def is_the_minimum(answer, rng):
    """Catches a wrong sign of the error. The slope is taken from the task's inner problem, not from its solution."""
    W, x, error, rate = draw_layer(rng)
    after = answer(W, x, error, rate)
    slope = torch.outer(after @ x + error, x) + (after - W) / rate
    compare(torch.zeros_like(slope), slope, 1e-8, "the gradient")


def solution_dgd(W, x, error, rate):
    """W - rate / (1 + rate |x|²) * (W x + e) x^T, (o, d)."""
    step = rate / (1 + rate * x @ x)
    return W - step * torch.outer(W @ x + error, x)


def wrong_dgd_descent(W, x, error, rate):
    """Plain gradient descent, as if only the error were to be written."""
    return W - rate * torch.outer(error, x)


def wrong_dgd_unit_only(W, x, error, rate):
    """Drops |x|² from the step, as the formula stands where inputs have length 1."""
    return W - rate / (1 + rate) * torch.outer(W @ x + error, x)


def wrong_dgd_full_erase(W, x, error, rate):
    """Takes away all that stands along x, as if an erase had no rate."""
    return W - torch.outer(W @ x, x) / (x @ x) - rate * torch.outer(error, x)


def wrong_dgd_sign(W, x, error, rate):
    """Takes the target u = +error, as if the error were what should be answered."""
    return W - rate / (1 + rate * x @ x) * torch.outer(W @ x - error, x)


DGD = Exercise(
    id="6.3",
    title="the exact step of delta gradient descent",
    aim="To derive DGD's step from its inner problem, and to see that the step size has the input's length in it.",
    task="""
Solve DGD's inner problem for one input. (|.| of a matrix is the root of the sum of all its squares.) Write
`dgd_step(W, x, error, rate)`.

* `W` is (o, d), as `torch.nn.Linear` stores it: the answer is `W @ x`, and the new weights W' make
  `|W' x - u|² / 2 + |W' - W|² / (2 rate)` smallest, with u = -error held fixed.
* `x` is (d,), of **any length**. `error` is (o,), the gradient of the loss by the answer. `rate` is a number.
* The result is W', (o, d), exactly. You need no linear solver: the change is one outer product.""",
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

EXERCISES = (CLOCKS, MOMENTUM, DGD, DELTA_MOMENTUM, ORTHOGONALIZE)

DISCUSSION = (
    (
        "One level moves every 256 tokens by the mean of its gradients. Another moves every 16 tokens at a sixteenth "
        "of the rate. What differs, and what would you measure to tell them apart?",
        "Over 256 tokens both move about equally far, and both forget slowly. They differ in where the gradients "
        "are taken. The slow clock takes all of them at the same old weights. With the small rate each chunk sees "
        "what the last one did. And the slow clock does not move between boundaries, so a short excursion can pass "
        "it by, or be averaged away. To tell them apart, compare them where they have the same loss on the new task, "
        "not at the same rate. Measure the loss on the old task, and how fast it comes back.",
    ),
    (
        "DGD comes to rest at half of the target on the half squared loss. Is that an error of the method, of "
        "the paper, or of those who expect the target there?",
        "Of those who expect it. DGD minimizes the loss plus a term that pulls every output to zero, because its "
        "inner problem asks for outputs equal to the error with its sign turned. The gradient of a squared loss "
        "erases already, so everything is erased twice. On the dot product loss, the paper's own case, the gradient "
        "does not erase. There DGD is the delta rule, which does end at the target. You may blame the paper for not "
        "saying so.",
    ),
    (
        "A model with clocked levels forgets less than a plain one at the same rate. Which comparison do you ask for "
        "before you believe that the clocks are the reason?",
        "The plain model at smaller rates. What learns less forgets less, and a level that moves seldom may simply "
        "learn less. Something is gained only if it keeps more for the same amount learned. Then the same chain of "
        "levels with a single clock, so that the shape of the network is not the reason; equal parameters; several "
        "seeds; and the price of each in compute and state.",
    ),
)
