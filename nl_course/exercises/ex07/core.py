"""Exercises of notebook 07: one step of self-modification (7.1), the step that flips a sign (7.2); the others in
gain.py."""

import torch

from nl_course.exercises.ex07.gain import BLIND, ERASE, GAIN
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 7.1 one step of self-modification


def draw_step(rng: Rng):
    """Three memories (f, f), a token (f,), step and retention from 0.1 to 0.9: f from 2 to 5."""
    f = rng.whole(2, 5)
    weights = tuple(rng.normal(f, f) for _ in range(3))
    return *weights, rng.normal(f), rng.number(0.1, 0.9), rng.number(0.1, 0.9)


def by_autograd(key, value, memory, x, step, retention):
    """The three memories after the token, (f, f) each, with the gradient from PyTorch's autograd."""
    k, v, after = x @ key, x @ value, []
    for W in (key, value, memory):
        target, W = v @ W, W.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((k @ W - target).square().sum() / 2, W)
        after.append((retention * W - step * torch.outer(k, k @ W) - step * gradient).detach())
    return tuple(after)


@holds("with step 0 and retention 1 nothing moves", hint=1)
def nothing_moves(answer, rng):
    """Catches a change that no gate controls."""
    *weights, x, _, _ = draw_step(rng)
    compare(tuple(weights), answer(*weights, x, 0.0, 1.0))


@holds("the target is what each memory itself says of v, not v", hint=2)
def makes_its_target(answer, rng):
    """Catches one target v for all. Retention is 1 here, and only the last of the three is compared."""
    *weights, x, step, _ = draw_step(rng)
    compare(by_autograd(*weights, x, step, 1.0)[2], answer(*weights, x, step, 1.0)[2])


@holds("all three read the token before any of them is written", hint=2)
def reads_first(answer, rng):
    """Catches a memory that is written before the others have read the token, and memories that are not written."""
    args = draw_step(rng)
    compare(by_autograd(*args)[1:], tuple(answer(*args))[1:])


step_equals = equals("all three memories are those of autograd", draw_step, by_autograd, hint=3)


def solution_step(key, value, memory, x, step, retention):
    """retention W - step k^T (2 k W - v W) for each of the three, (f, f), with k and v read before any write."""
    k, v = x @ key, x @ value
    return tuple(retention * W - step * torch.outer(k, k @ W + k @ W - v @ W) for W in (key, value, memory))


def wrong_step_shared(key, value, memory, x, step, retention):
    """Writes v itself into all three, as in the model before this one."""
    k, v = x @ key, x @ value
    return tuple(retention * W - step * torch.outer(k, k @ W + k @ W - v) for W in (key, value, memory))


def wrong_step_no_erase(key, value, memory, x, step, retention):
    """Takes the gradient step alone, as if the erase were the same term."""
    k, v = x @ key, x @ value
    return tuple(retention * W - step * torch.outer(k, k @ W - v @ W) for W in (key, value, memory))


def wrong_step_one_by_one(key, value, memory, x, step, retention):
    """Writes the key memory and reads the token again, as if the writes came in turn."""
    k = x @ key
    key = retention * key - step * torch.outer(k, 2 * k @ key - x @ value @ key)
    k, v = x @ key, x @ value
    return key, *(retention * W - step * torch.outer(k, 2 * k @ W - v @ W) for W in (value, memory))


def wrong_step_memory_only(key, value, memory, x, step, retention):
    """Leaves key and value as they are, as if they were projections."""
    return key, value, solution_step(key, value, memory, x, step, retention)[2]


STEP = Exercise(
    id="7.1",
    title="one step of self-modification",
    aim="To see that the memories of k and v are written by the same rule and in the same step as the memory.",
    task="""
Three linear memories, `key`, `value` and `memory`, read a token x: k = x @ key and v = x @ value. Then each of them, W,
is written at the same key k. Its target is its own answer to v, v @ W:

W <- (retention I - step k^T k) W - step times the gradient of |k W - v W|^2 / 2, with the target v W as a constant.

Write `self_modify(key, value, memory, x, step, retention)`. (The course's layer also brings k to length 1 and keeps v
below it. Leave both out here.)

* `key`, `value` and `memory` are (f, f); `x` is (f,); `step` and `retention` are numbers.
* The result is the three memories after the token, in the same order.""",
    stub='''
def self_modify(key, value, memory, x, step, retention):
    """-> key, value, memory after the token, (f, f) each"""
    ...
''',
    properties=(
        nothing_moves,
        makes_its_target,
        reads_first,
        step_equals,
        pure("the inputs are left as they were", draw_step, hint=1),
    ),
    hints=(
        "The gradient of |k W - target|^2 / 2 is torch.outer(k, k @ W - target). Change nothing in place.",
        "Compute k = x @ key and v = x @ value before any write. The target of W is v @ W, so each W has its own.",
        "retention * W - step * torch.outer(k, k @ W) - step * torch.outer(k, k @ W - v @ W), for each of the three.",
    ),
    solution=solution_step,
    wrong=(
        Wrong(
            wrong_step_shared,
            "All three are written toward v. That is rung 2, where the memories move but share one target.",
            makes_its_target.name,
        ),
        Wrong(
            wrong_step_no_erase,
            "This is gradient descent without the erase. Only the error then changes what stood under k.",
            makes_its_target.name,
        ),
        Wrong(
            wrong_step_one_by_one,
            "Writes the key memory and then reads the token again with it. Read all memories before you write any.",
            makes_its_target.name,
        ),
        Wrong(
            wrong_step_memory_only,
            "Only the memory moves. That is Titans with an erase. Key and value are memories too, and must be written.",
            reads_first.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 7.2 the step that flips a sign


def draw_flip(rng: Rng):
    """A key (f,) of any length, f 2 to 5, a share from -0.9 to 0.9, a retention from 0.5 to 1."""
    return rng.normal(rng.whole(2, 5)), rng.number(-0.9, 0.9), rng.number(0.5, 1.0)


def after_write(entry, k, share, step, retention):
    """What a memory says to k after one write, if it said `entry` before and `share` times that to v = share * k."""
    length = k @ k
    return retention * entry - step * length * entry - step * length * (entry - share * entry)


@holds("with share 0, retention 1 and a key of length 1 the step is 1", hint=1)
def one(answer, rng):
    """Catches a step that only empties the entry. With share 0, erase and error each take off one step times e."""
    k = rng.normal(3)
    compare(1.0, float(answer(k / k.norm(), 0.0, 1.0)), 1e-9)


@holds("with v = k there is no error, and the erase alone needs a step of 2", hint=2)
def two(answer, rng):
    """Catches the wrong sign of the share: with v = k the error must vanish."""
    k = rng.normal(4)
    compare(2.0, float(answer(k / k.norm(), 1.0, 1.0)), 1e-9)


@holds("one write with it turns what stood under k into its opposite", hint=3)
def flips(answer, rng):
    """Catches a missing |k|²: keys have any length here."""
    k, share, retention = draw_flip(rng)
    entry = rng.normal(4)
    compare(-entry, after_write(entry, k, share, float(answer(k, share, retention)), retention))


def solution_flip(k, share, retention):
    """(1 + retention) / ((2 - share) |k|²), a number."""
    return (1 + retention) / ((2 - share) * (k @ k))


def wrong_flip_wipes(k, share, retention):
    """Solves for 0 instead of -e, as if emptying an entry turned its sign."""
    return retention / ((2 - share) * (k @ k))


def wrong_flip_erase_only(k, share, retention):
    """Leaves the error out, as if only the erase moved the entry."""
    return (1 + retention) / (k @ k)


def wrong_flip_unit(k, share, retention):
    """Leaves |k|² out, as if every key had length 1."""
    return (1 + retention) / (2 - share)


def wrong_flip_sign(k, share, retention):
    """Takes the error for e + share * e."""
    return (1 + retention) / ((2 + share) * (k @ k))


FLIP = Exercise(
    id="7.2",
    title="parity: the smallest write that flips a sign",
    aim="To find why a delta step of at most 1 cannot keep parity, and how an own target makes the flip easier.",
    task="""
A linear memory W says e = k @ W to a key k. Its value lies along the key, v = share * k. Retention, erase and error
together give

k @ W_after = retention * e - step |k|^2 e - step |k|^2 (e - share * e).

Write `flip_step(k, share, retention)`: the step at which k @ W_after is exactly -e, for every e.

* `k` is (f,), of any length; `share` is a number below 2; `retention` is a number.
* The result is the step, a number or a tensor with one number.""",
    stub='''
def flip_step(k, share, retention):
    """-> the step that turns what stands under k into its opposite"""
    ...
''',
    properties=(one, two, flips),
    hints=(
        "All terms are multiples of e: set retention - step |k|^2 - step |k|^2 (1 - share) equal to -1.",
        "With share = 1 the last term is 0, and 1 - step = -1. That is why the delta rule needs a step of 2.",
        "Divide step |k|^2 (2 - share) = 1 + retention by what stands beside the step.",
    ),
    solution=solution_flip,
    wrong=(
        Wrong(
            wrong_flip_wipes, "This step brings the entry to 0. It empties the entry and does not turn it.", one.name
        ),
        Wrong(
            wrong_flip_erase_only,
            "Counts the erase alone. The error e - share * e pushes the same way, so a smaller step is enough.",
            one.name,
        ),
        Wrong(
            wrong_flip_unit,
            "Right for keys of length 1 only. A write uses k twice, so the step must be divided by |k|^2.",
            flips.name,
        ),
        Wrong(
            wrong_flip_sign,
            "The error is answer minus target, e - share * e. A target on the other side (share below 0) helps.",
            two.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (STEP, FLIP, GAIN, BLIND, ERASE)

DISCUSSION = (
    (
        "A model rewrites how it makes its own keys. What could go wrong with facts that were stored under the old "
        "keys, and what in this layer works against that?",
        "A query asks for the fact. It comes from a fixed matrix, so it stays where it was while the keys move. A new "
        "write of the same token then goes to a new key, and the query may find the old entry, the new one, or "
        "neither. What works against it: keys have length 1, steps are small, and retention shrinks all weights alike. "
        "What could speak for moving keys: what comes again in this text may get keys that lie further apart than "
        "training alone could have made them.",
    ),
    (
        "Linear memories all move by one shared matrix. Is a linear self-modifying Titans then still self-modifying?",
        "Yes. The k and v of later tokens are read through that matrix, so the next write depends on all earlier "
        "ones. No linear recurrence with fixed projections does that, and parity is learned that way. But the "
        "memories cannot part: what changes the keys changes the values in the same way. Two layers let each memory "
        "move by its own errors. The price is a state of many matrices instead of one, and a triangular solve for "
        "each second layer.",
    ),
    (
        "Freezing the key memory of a trained model costs so much. Is that what self-modification is worth? Which "
        "experiment would tell?",
        "No. It says how far this model depends on a movement that it was trained with. Even a useless habit of a "
        "trained model can be costly to break. What self-modification is worth is the difference to a model that is "
        "trained without it (rung 1), with equal parameters, steps and data, over several seeds, and with each "
        "model's own best learning rate. That takes about ten trainings instead of one.",
    ),
)
