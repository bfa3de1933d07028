"""Exercises of notebook 04: through the write (4.1), one mini-batch at once (4.4); 4.2 and 4.3 in inside.py."""

import torch

from nl_course.exercises.ex04.inside import NORM_GRADIENT, RUNNING_MEAN
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, compare, equals, holds, pure, short

# ------------------------------------------------------------------------------- 4.1 the gradient through a write


def draw_write(rng: Rng):
    """Numbers w, k, v, q, y of size 0.4 to 1.6 and either sign, and a step from 0.2 to 0.9."""
    w, k, v, q, y = (rng.number(0.4, 1.6) * rng.pick((-1, 1)) for _ in range(5))
    return w, k, v, q, y, rng.number(0.2, 0.9)


def loss_after_write(w, k, v, q, y, step):
    """The outer loss (y - q w')² / 2 of one number, with w' the weight after the inner step."""
    residue = v - w * k
    return (y - q * (w + residue * k * step)) ** 2 / 2


def difference(numbers: tuple, place: int, by: float = 1e-6) -> float:
    """The slope of the loss along one of the numbers, by a central difference."""
    up, down = ([*numbers[:place], numbers[place] + sign * by, *numbers[place + 1 :]] for sign in (1, -1))
    return (loss_after_write(*up) - loss_after_write(*down)) / (2 * by)


def part(name: str, which: int, place: int | None, hint: int):
    """Result number `which` is the loss (place None) or its slope along argument `place`."""

    @holds(name, hint)
    def right_result(answer, rng):
        """Catches one wrong result of the four by itself, so that the message can name it."""
        numbers = draw_write(rng)
        got = answer(*numbers)
        if not isinstance(got, (tuple, list)) or len(got) != 4:
            raise Miss("four numbers: loss, and its slope along w, k and v", short(got))
        expected = loss_after_write(*numbers) if place is None else difference(numbers, place)
        compare(float(expected), float(got[which]), 1e-6, ("loss", "along w", "along k", "along v")[which])

    return right_result


WRITE_PARTS = (
    part("the loss is that of the weight after the write", 0, None, 1),
    part("the slope along w goes through the write", 1, 0, 2),
    part("the slope along v is that of a finite difference", 3, 2, 2),
    part("the slope along k counts both places where k stands in the write", 2, 1, 3),
)


def solution_through_the_write(w, k, v, q, y, step):
    """The loss and its slopes by the chain rule, with w' = w - step k (k w - v) and dw'/dw = 1 - step k²."""
    written = w - step * k * (k * w - v)
    error = (q * written - y) * q  # the slope along the written weight
    return (q * written - y) ** 2 / 2, error * (1 - step * k * k), -error * step * (2 * k * w - v), error * step * k


def wrong_write_first_order(w, k, v, q, y, step):
    """Treats the whole write as a constant, as first-order MAML does: no slope along k or v."""
    written = w - step * k * (k * w - v)
    error = (q * written - y) * q
    return (q * written - y) ** 2 / 2, error, 0.0, 0.0


def wrong_write_half_of_k(w, k, v, q, y, step):
    """Differentiates k once, though it stands in the write twice: as the input and inside the error."""
    loss, along_w, _, along_v = solution_through_the_write(w, k, v, q, y, step)
    written = w - step * k * (k * w - v)
    return loss, along_w, -(q * written - y) * q * step * (k * w - v), along_v


def wrong_write_reads_first(w, k, v, q, y, step):
    """Reads the old weight, as if the write came after the answer."""
    return (q * w - y) ** 2 / 2, (q * w - y) * q, 0.0, 0.0


def wrong_write_wrong_sign(w, k, v, q, y, step):
    """Turns the slope along v, as if a larger target pulled the weight down."""
    loss, along_w, along_k, along_v = solution_through_the_write(w, k, v, q, y, step)
    return loss, along_w, along_k, -along_v


THROUGH_THE_WRITE = Exercise(
    id="4.1",
    title="the gradient through a write",
    aim="To own the one place where the two loops meet: the outer gradient differentiates an inner gradient.",
    task="""
Write `through_the_write(w, k, v, q, y, step)` for a memory of **one weight**. All arguments are plain numbers.

* The write: one step of size `step` on the inner loss (k w - v)² / 2.
* The outer loss: (q w' - y)² / 2, where w' is the weight after the write.
* The result: four numbers, the outer loss and its derivatives with respect to w, to k and to v.

By hand, with the chain rule: each of the three derivatives is one line.""",
    stub='''
def through_the_write(w, k, v, q, y, step):
    """six numbers -> (loss, d loss / d w, d loss / d k, d loss / d v)"""
    ...
''',
    properties=WRITE_PARTS,
    hints=(
        "First the inner gradient: d/dw of (k w - v)² / 2 is k (k w - v). So w' = w - step * k * (k * w - v); the "
        "outer loss reads w', not w.",
        "Everything reaches the loss through w': start with error = (q w' - y) q, the derivative along w'. Then "
        "multiply by d w' / d w = 1 - step k², and by d w' / d v = step k.",
        "w' = w - step (k² w - k v): k stands in both terms, so d w' / d k = -step (2 k w - v).",
    ),
    solution=solution_through_the_write,
    wrong=(
        Wrong(
            wrong_write_first_order,
            "Takes the inner gradient for a constant. It is what one gets with detach(): w still learns something, "
            "k and v nothing at all, since the write is their only way to the loss.",
            WRITE_PARTS[1].name,
        ),
        Wrong(
            wrong_write_half_of_k,
            "Differentiates the k in front and forgets the one inside the error: the product rule. Half of a second "
            "derivative looks plausible and trains badly.",
            WRITE_PARTS[3].name,
        ),
        Wrong(
            wrong_write_reads_first,
            "Reads before it writes. Then this token's write could only help later ones; TTT writes first.",
            WRITE_PARTS[0].name,
        ),
        Wrong(
            wrong_write_wrong_sign,
            "The step goes down the inner loss, whose target v has a minus sign of its own: minus times minus.",
            WRITE_PARTS[2].name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 4.4 one mini-batch at once


def draw_mini_batch(rng: Rng):
    """Weights (f, m), queries and keys (b, f), errors (b, m), rate and factor (b,) in (0, 1): b 3 to 6, f 2 to 4."""
    tokens, width = rng.whole(3, 6), rng.whole(2, 4)
    out = width + rng.whole(1, 2)
    weights = rng.normal(width, out)
    queries, keys, errors = rng.normal(tokens, width), rng.normal(tokens, width), rng.normal(tokens, out)
    return weights, queries, keys, errors, rng.normal(tokens).sigmoid(), rng.normal(tokens).sigmoid()


def token_by_token(weights, queries, keys, errors, rate, factor):
    """Answers (b, m) and last weights (f, m) by a loop that adds one outer product per token."""
    gathered, answers = torch.zeros_like(weights), []
    for i in range(len(keys)):
        gathered = gathered + rate[i] * keys[i, :, None] * errors[i]
        answers.append(queries[i] @ (weights - factor[i] * gathered))
    return torch.stack(answers), weights - factor[-1] * gathered


@holds("with no error nothing is written: the answers are queries @ weights", hint=1)
def nothing_to_write(answer, rng):
    """Catches a term that is not a write, such as a decay of the weights."""
    weights, queries, keys, errors, rate, factor = draw_mini_batch(rng)
    got = answer(weights, queries, keys, errors * 0, rate, factor)
    compare((queries @ weights, weights), got)


@holds("a token's own write is in its answer, a later token's is not", hint=2)
def writes_then_reads(answer, rng):
    """Catches both wrong triangles: only one token has an error, so that every answer shows who reads it."""
    args = draw_mini_batch(rng)
    row = rng.whole(1, len(args[2]) - 2)
    only = args[3] * 0
    only[row] = args[3][row]
    moved = (answer(*args[:3], only, *args[4:])[0] - args[1] @ args[0]).abs().amax(1)
    if moved[:row].max() > 1e-12:
        raise Miss(f"a write at token {row} leaves the answers before it alone", "an earlier answer moved")
    if not moved[row] > 1e-12:
        raise Miss(f"a write at token {row} is in that token's own answer", "it is not")


@holds("the answers are those of the loop over tokens", hint=3)
def equals_token_by_token(answer, rng):
    """Catches rate and factor on the wrong axis: both tables have the same shape (b, b)."""
    args = draw_mini_batch(rng)
    compare(token_by_token(*args)[0], answer(*args)[0])


equals_carried = equals(
    "answers and the weights after the mini-batch are those of the loop", draw_mini_batch, token_by_token, hint=3
)


def solution_mini_batch(weights, queries, keys, errors, rate, factor):
    """Q W - tril(factor_i rate_j q_i . k_j) E, (b, m), and the weights W - factor[-1] (rate K)^T E, (f, m)."""
    share = (factor[:, None] * rate * (queries @ keys.T)).tril()
    after = weights - factor[-1] * (rate[:, None] * keys).T @ errors
    return queries @ weights - share @ errors, after


def wrong_batch_sees_all(weights, queries, keys, errors, rate, factor):
    """Leaves the matrix of products whole, as if order did not matter inside a mini-batch."""
    share = factor[:, None] * rate * (queries @ keys.T)
    return queries @ weights - share @ errors, solution_mini_batch(weights, queries, keys, errors, rate, factor)[1]


def wrong_batch_reads_first(weights, queries, keys, errors, rate, factor):
    """Leaves out the diagonal, as memories do that read before they write."""
    share = (factor[:, None] * rate * (queries @ keys.T)).tril(-1)
    return queries @ weights - share @ errors, solution_mini_batch(weights, queries, keys, errors, rate, factor)[1]


def wrong_batch_swapped(weights, queries, keys, errors, rate, factor):
    """Puts the rate on the token that reads and the factor on the token that wrote: the shapes fit either way."""
    share = (rate[:, None] * factor * (queries @ keys.T)).tril()
    return queries @ weights - share @ errors, solution_mini_batch(weights, queries, keys, errors, rate, factor)[1]


def wrong_batch_own_factor(weights, queries, keys, errors, rate, factor):
    """Carries each write on with its own token's factor, as if a write were scaled once and for all."""
    after = weights - (factor[:, None] * rate[:, None] * keys).T @ errors
    return solution_mini_batch(weights, queries, keys, errors, rate, factor)[0], after


MINI_BATCH = Exercise(
    id="4.4",
    title="a mini-batch of writes with matmuls only",
    aim="To see that the dual form is the same sum in another order, and to be unable to mix up its two factors.",
    task="""
A linear memory reads a mini-batch of b tokens. Token i's weights are

`W_i = weights - factor[i] * (rate[0] * outer(keys[0], errors[0]) + ... + rate[i] * outer(keys[i], errors[i]))`

and its answer is `queries[i] @ W_i`. Write `read_mini_batch(weights, queries, keys, errors, rate, factor)`.

* `weights` (f, m); `queries`, `keys` (b, f); `errors` (b, m); `rate`, `factor` (b,).
* The result: the answers (b, m), and the weights after the last token (f, m).

No loop, and no (f, m) matrix per token: a (b, b) table of products is all that is needed.""",
    stub='''
def read_mini_batch(weights, queries, keys, errors, rate, factor):
    """(f, m), (b, f), (b, f), (b, m), (b,), (b,) -> answers (b, m), weights after (f, m)"""
    ...
''',
    properties=(
        nothing_to_write,
        writes_then_reads,
        equals_token_by_token,
        equals_carried,
        pure("the inputs are left as they were", draw_mini_batch, hint=1),
    ),
    hints=(
        "queries[i] @ outer(keys[j], errors[j]) is the number queries[i] . keys[j] times the row errors[j]. All those "
        "numbers at once are queries @ keys.T, (b, b).",
        "Token i hears of the tokens j <= i, itself included: a lower triangle with its diagonal, tril().",
        "Row i is multiplied by factor[i], column j by rate[j]: factor[:, None] * rate * (queries @ keys.T). The "
        "weights that are carried on use the last factor for every token.",
    ),
    solution=solution_mini_batch,
    wrong=(
        Wrong(
            wrong_batch_sees_all,
            "No mask: a token would read what later tokens write. The outer loss would fall, by cheating.",
            writes_then_reads.name,
        ),
        Wrong(
            wrong_batch_reads_first,
            "The strict triangle is read-then-write, the convention of some other memories; TTT writes first.",
            writes_then_reads.name,
        ),
        Wrong(
            wrong_batch_swapped,
            "The factor belongs to the token that reads (how far the sum has been averaged), the rate to the token "
            "that wrote. A public kernel has them in other places and cannot express TTT's own rate.",
            equals_token_by_token.name,
        ),
        Wrong(
            wrong_batch_own_factor,
            "Each token's write keeps the factor it had when it was read. But the factor scales the sum, so that the "
            "last one applies to all that are carried on.",
            equals_carried.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (THROUGH_THE_WRITE, RUNNING_MEAN, NORM_GRADIENT, MINI_BATCH)

DISCUSSION = (
    (
        "The weights of a TTT layer change while it reads. In what sense is the model still the one that was "
        "trained, and what must you save to continue tomorrow exactly where it stopped today?",
        "What training made is unchanged: the start, the projections, the rates, and with them the way in which the "
        "layer learns. What changes is a state, one for each text. To go on exactly one saves that state: the "
        "anchor, the sum of gradients gathered in the open mini-batch, the last inputs of the convolutions and the "
        "position. Without the gathered sum a text cut inside a mini-batch would give other numbers.",
    ),
    (
        "Suppose you detach the inner gradients to save memory. Which parts of the layer still learn, which learn "
        "something wrong, and which nothing at all?",
        "With the whole write stopped, in the backbone with three projections, key and value projections, the rate "
        "and the position factors get exactly zero. The start, the query projection, the norms and the output still "
        "get a gradient; the start's is wrong, since it ignores that later writes change what the start is worth. "
        "The loss still falls, since everything else learns, so nothing looks broken: it just ends higher. In the "
        "backbone with a shared query-key projection even the key side seems to learn, through the query.",
    ),
    (
        "The inner loss after a write is lower than before at nearly every token. Does that show that the memory "
        "remembers the text?",
        "No. It shows that gradient descent works. A write lowers the loss of its own pair by construction, whether "
        "or not anything of use is kept for later. To speak of remembering one has to ask later: recall of a fact "
        "after a distance, or the model's own loss on what comes back, against the same model with its writes "
        "switched off. Notebook 08 takes this question seriously.",
    ),
)
