"""Exercises of 06b: 6.4, the inner step of delta momentum, and 6.5, Newton-Schulz."""

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 6.4 delta momentum's inner step


def draw_memory(rng: Rng):
    """Memory and gradient (o, d), rate from 0.05 to 0.4, momentum from 0.5 to 0.95: o 2 or 3, d larger by 1 or 2."""
    out = rng.whole(2, 3)
    width = out + rng.whole(1, 2)
    return rng.normal(out, width), rng.normal(out, width), rng.number(0.05, 0.4), rng.number(0.5, 0.95)


def inner_step(m, g, rate, momentum):
    """momentum * m less the rate times the gradient of |m g^T + I|^2 / 2 at m, by autograd."""
    start = m.detach().clone().requires_grad_()
    identity = torch.eye(len(g), dtype=g.dtype)
    loss = (start @ g.T + identity).square().sum() / 2
    (slope,) = torch.autograd.grad(loss, start)
    return momentum * m - rate * slope


@holds("an empty memory takes the plain step, -rate * g", hint=1)
def empty_takes_the_plain_step(answer, rng):
    """Catches a wrong sign of the target: the first step must go down the gradient."""
    m, g, rate, momentum = draw_memory(rng)
    compare(-rate * g, answer(m * 0, g, rate, momentum), 1e-9)


@holds("what is held along no row of g only fades", hint=2)
def the_rest_only_fades(answer, rng):
    """Catches an erase on the wrong side of m: it must act along the rows of g, not along its columns."""
    m, g, rate, momentum = draw_memory(rng)
    along = torch.linalg.pinv(g) @ g  # onto the rows of g
    rest = m - m @ along
    compare(momentum * rest - rate * g, answer(rest, g, rate, momentum), 1e-9)


equals_inner_step = equals(
    "it is one gradient step on |m g^T + I|² / 2, with the momentum before m", draw_memory, inner_step, hint=3
)


def solution_delta_momentum(m, g, rate, momentum):
    """momentum m - rate (m g^T g + g), (o, d)."""
    return momentum * m - rate * (m @ g.T @ g + g)


def wrong_delta_plain(m, g, rate, momentum):
    """Heavy ball: writes the gradient and erases nothing."""
    return momentum * m - rate * g


def wrong_delta_left(m, g, rate, momentum):
    """Erases from the left, g g^T m, as if gradients came as columns. The shapes fit either way."""
    return momentum * m - rate * (g @ g.T @ m + g)


def wrong_delta_no_rate(m, g, rate, momentum):
    """Erases with a step of 1, as if only the write had a rate."""
    return momentum * m - m @ g.T @ g - rate * g


def wrong_delta_target(m, g, rate, momentum):
    """Takes the target +I, which turns the step uphill."""
    return momentum * m - rate * (m @ g.T @ g - g)


DELTA_MOMENTUM = Exercise(
    id="6.4",
    title="delta momentum's inner step",
    aim="To turn a memory's loss into its update, and to see which side and step size a printed form should have.",
    task="""
Momentum's memory m piles gradients up. Delta momentum writes them as a delta rule would. It lets m fade by `momentum`,
and takes one gradient step of size `rate` on the inner loss `|m g^T + I|² / 2`, with the gradient at the old m. Write
`delta_momentum(m, g, rate, momentum)`.

* `m` and `g` are (o, d). `rate` and `momentum` are numbers. I is the identity, (o, o).
* The result is the new memory, (o, d). It is added to the weights afterwards, so its sign is that of a step
  downhill.""",
    stub='''
def delta_momentum(m, g, rate, momentum):
    """(o, d), (o, d), two numbers -> the new memory (o, d)"""
    ...
''',
    properties=(
        empty_takes_the_plain_step,
        the_rest_only_fades,
        equals_inner_step,
        pure("memory and gradient are left as they were", draw_memory, hint=1),
    ),
    hints=(
        "The gradient of |m g^T + I|² / 2 by m is (m g^T + I) g: the error (o, o), times the keys. For m = 0 it is g.",
        "m is multiplied from the right: m g^T g. The rows of g are keys in the space of d numbers; what is "
        "held at right "
        "angles to all of them is not touched.",
        "momentum * m - rate * (m @ g.T @ g + g).",
    ),
    solution=solution_delta_momentum,
    wrong=(
        Wrong(
            wrong_delta_plain,
            "Heavy ball: it writes without asking what is there already, so the same direction is written "
            "again and again.",
            equals_inner_step.name,
        ),
        Wrong(
            wrong_delta_left,
            "Erases from the left, as the paper's first version prints it: it mixes outputs instead of asking "
            "the keys.",
            the_rest_only_fades.name,
        ),
        Wrong(
            wrong_delta_no_rate,
            "An erase without the rate, also as printed: with gradients longer than 1 the memory flips and grows.",
            equals_inner_step.name,
        ),
        Wrong(
            wrong_delta_target,
            "The target +I: the memory then holds the gradient uphill, and W + m climbs.",
            empty_takes_the_plain_step.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 6.5 Newton-Schulz


def draw_matrix(rng: Rng):
    """A matrix (r, c), r 2 to 4 and c larger by 1 to 3, scaled by 0.1, 1 or 10; and 1 to 4 steps."""
    rows = rng.whole(2, 4)
    return rng.normal(rows, rows + rng.whole(1, 3)) * rng.pick((0.1, 1.0, 10.0)), rng.whole(1, 4)


def cubic(M, steps):
    """By what it does to each singular value."""
    left, sizes, right = torch.linalg.svd(M / torch.linalg.norm(M), full_matrices=False)
    for _ in range(steps):
        sizes = 1.5 * sizes - 0.5 * sizes**3
    return left * sizes @ right


@holds("with no step it is the matrix divided by its norm", hint=1)
def only_normalized(answer, rng):
    """Catches another norm, such as the largest entry: the scale of the start is seen with no step at all."""
    M, _ = draw_matrix(rng)
    compare(M / M.square().sum().sqrt(), answer(M, 0), 1e-9)


@holds("one step is a gradient step of size 1/8 on |X X^T - I|²", hint=2)
def one_step_is_descent(answer, rng):
    """Catches a wrong sign or size of the step, by autograd on the loss that the task names."""
    M, _ = draw_matrix(rng)
    X = (M / M.square().sum().sqrt()).requires_grad_()
    loss = (X @ X.T - torch.eye(len(M), dtype=M.dtype)).square().sum()
    (slope,) = torch.autograd.grad(loss, X)
    compare((X - slope / 8).detach(), answer(M, 1), 1e-9)


@holds("after many steps all singular values are 1", hint=3)
def ends_orthogonal(answer, rng):
    """Catches an iteration that hops around 1 or settles elsewhere. It looks after 40 steps."""
    M, _ = draw_matrix(rng)
    got = torch.linalg.svdvals(answer(M, 40))
    if not (got - 1).abs().max() < 1e-6:
        raise Miss("singular values of 1", f"from {got.min():.3g} to {got.max():.3g}")


def solution_orthogonalize(M, steps):
    """X = M / |M|, then X = 1.5 X - 0.5 X X^T X for each step, (r, c)."""
    X = M / M.square().sum().sqrt()
    for _ in range(steps):
        X = 1.5 * X - 0.5 * X @ X.T @ X
    return X


def wrong_orthogonal_by_largest_entry(M, steps):
    """Divides by four times the largest entry, as if any scale below 1 would do."""
    X = M / M.abs().max() / 4
    for _ in range(steps):
        X = 1.5 * X - 0.5 * X @ X.T @ X
    return X


def wrong_orthogonal_uphill(M, steps):
    """Adds the gradient step instead of taking it away."""
    X = M / M.square().sum().sqrt()
    for _ in range(steps):
        X = 0.5 * X + 0.5 * X @ X.T @ X
    return X


def wrong_orthogonal_large_step(M, steps):
    """Takes a step of 1/4, as if twice the step were only twice as fast."""
    X = M / M.square().sum().sqrt()
    for _ in range(steps):
        X = 2 * X - X @ X.T @ X
    return X


ORTHOGONALIZE = Exercise(
    id="6.5",
    title="Newton-Schulz, an inner loop inside a step",
    aim="To see that Muon's orthogonalization is gradient descent on a loss of its own, by matrix products alone.",
    task="""
Write `orthogonalize(M, steps)`, the cubic Newton-Schulz iteration.

* First X = M / |M|. Here |M| is the root of the sum of all squares, so no singular value of X is above 1.
* Then `steps` times: one gradient step of size 1/8 on the loss |X X^T - I|². Work out what that is; it is one line.
* `M` is (r, c) with r < c. The result has its shape.""",
    stub='''
def orthogonalize(M, steps):
    """(r, c), a whole number -> (r, c), its singular values pushed toward 1"""
    ...
''',
    properties=(
        only_normalized,
        one_step_is_descent,
        equals("several steps are the loop", draw_matrix, cubic, hint=2),
        ends_orthogonal,
        pure("the matrix is left as it was", draw_matrix, hint=1),
    ),
    hints=(
        "The norm: M.square().sum().sqrt(), a single number. A singular value is never larger than it.",
        "The gradient of |X X^T - I|² by X is 4 (X X^T - I) X. An eighth of it, taken away: X - (X X^T - I) X / 2.",
        "That is 1.5 X - 0.5 X X^T X: each singular value s becomes 1.5 s - 0.5 s³, which comes to rest at 1.",
    ),
    solution=solution_orthogonalize,
    wrong=(
        Wrong(
            wrong_orthogonal_by_largest_entry,
            "Divides by something else than the norm: singular values above the root of 3 would blow up, and "
            "here all come "
            "out at another place on their way to 1.",
            only_normalized.name,
        ),
        Wrong(
            wrong_orthogonal_uphill,
            "Steps uphill: it drives the small singular values to 0 instead of up.",
            one_step_is_descent.name,
        ),
        Wrong(
            wrong_orthogonal_large_step,
            "A step of 1/4: at s = 1 the slope is then -1, so singular values hop around 1 for ever instead of "
            "settling.",
            one_step_is_descent.name,
        ),
    ),
)
