"""Exercises of notebook 07: one step of self-modification (7.1), the step that flips a sign (7.2); the others in
gain.py."""

import torch

from nl_course.exercises.ex07.gain import BLIND, ERASE, GAIN
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 7.1 one step of self-modification


def draw_step(rng: Rng):
    f = rng.whole(2, 5)
    weights = tuple(rng.normal(f, f) for _ in range(3))
    return *weights, rng.normal(f), rng.number(0.1, 0.9), rng.number(0.1, 0.9)


def by_autograd(key, value, memory, x, step, retention):
    k, v, after = x @ key, x @ value, []
    for W in (key, value, memory):
        target, W = v @ W, W.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((k @ W - target).square().sum() / 2, W)
        after.append((retention * W - step * torch.outer(k, k @ W) - step * gradient).detach())
    return tuple(after)


@holds("with step 0 and retention 1 nothing moves", hint=1)
def nothing_moves(answer, rng):
    *weights, x, _, _ = draw_step(rng)
    compare(tuple(weights), answer(*weights, x, 0.0, 1.0))


@holds("the target is what each memory itself says of v, not v", hint=2)
def makes_its_target(answer, rng):
    *weights, x, step, _ = draw_step(rng)
    compare(by_autograd(*weights, x, step, 1.0)[2], answer(*weights, x, step, 1.0)[2])


@holds("all three read the token before any of them is written", hint=2)
def reads_first(answer, rng):
    args = draw_step(rng)
    compare(by_autograd(*args)[1:], tuple(answer(*args))[1:])


step_equals = equals("all three memories are those of autograd", draw_step, by_autograd, hint=3)


def solution_step(key, value, memory, x, step, retention):
    k, v = x @ key, x @ value
    return tuple(retention * W - step * torch.outer(k, k @ W + k @ W - v @ W) for W in (key, value, memory))


def wrong_step_shared(key, value, memory, x, step, retention):
    k, v = x @ key, x @ value
    return tuple(retention * W - step * torch.outer(k, k @ W + k @ W - v) for W in (key, value, memory))


def wrong_step_no_erase(key, value, memory, x, step, retention):
    k, v = x @ key, x @ value
    return tuple(retention * W - step * torch.outer(k, k @ W - v @ W) for W in (key, value, memory))


def wrong_step_one_by_one(key, value, memory, x, step, retention):
    k = x @ key
    key = retention * key - step * torch.outer(k, 2 * k @ key - x @ value @ key)
    k, v = x @ key, x @ value
    return key, *(retention * W - step * torch.outer(k, 2 * k @ W - v @ W) for W in (value, memory))


def wrong_step_memory_only(key, value, memory, x, step, retention):
    return key, value, solution_step(key, value, memory, x, step, retention)[2]


STEP = Exercise(
    id="7.1",
    title="one step of self-modification",
    aim="To see that the memories which make k and v are written by the same rule and in the same step as the memory.",
    task="""
Three linear memories, `key`, `value` and `memory`, read a token x: k = x @ key, v = x @ value. Then each of them, W, is
written at the same key k, towards a target that it makes itself, v @ W:

W <- (retention I - step k^T k) W - step times the gradient of |k W - v W|^2 / 2, the target a constant.

Write `self_modify(key, value, memory, x, step, retention)`. (The course's layer also brings k to length 1 and v below
it; leave both out here.)

* `key`, `value`, `memory` (f, f); `x` (f,); `step` and `retention` numbers.
* The result: the three memories after the token, in the same order.""",
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
        "The gradient of |k W - target|^2 / 2 is torch.outer(k, k @ W - target), and nothing is changed in place.",
        "First k = x @ key and v = x @ value; only then the writes. The target of W is v @ W, for each W its own.",
        "retention * W - step * torch.outer(k, k @ W) - step * torch.outer(k, k @ W - v @ W), for each of the three.",
    ),
    solution=solution_step,
    wrong=(
        Wrong(
            wrong_step_shared,
            "All three are written towards v: that is the rung below, where the memories adapt but share one target.",
            makes_its_target.name,
        ),
        Wrong(
            wrong_step_no_erase,
            "Gradient descent without the erase. What stood under k is then met by the error alone.",
            makes_its_target.name,
        ),
        Wrong(
            wrong_step_one_by_one,
            "Writes the key memory and then reads the token again with it: read before write holds for all at once.",
            makes_its_target.name,
        ),
        Wrong(
            wrong_step_memory_only,
            "Only the memory moves: that is Titans with an erase. Key and value are memories too and are written too.",
            reads_first.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 7.2 the step that flips a sign


def draw_flip(rng: Rng):
    return rng.normal(rng.whole(2, 5)), rng.number(-0.9, 0.9), rng.number(0.5, 1.0)


def after_write(entry, k, share, step, retention):
    """What a memory says to k after one write, if it said `entry` before and `share` times that to v = share * k."""
    length = k @ k
    return retention * entry - step * length * entry - step * length * (entry - share * entry)


@holds("a memory that shares nothing between k and v, all kept, unit key: the step is 1", hint=1)
def one(answer, rng):
    k = rng.normal(3)
    compare(1.0, float(answer(k / k.norm(), 0.0, 1.0)), 1e-9)


@holds("with v = k there is no error, and the erase alone needs a step of 2", hint=2)
def two(answer, rng):
    k = rng.normal(4)
    compare(2.0, float(answer(k / k.norm(), 1.0, 1.0)), 1e-9)


@holds("one write with it turns what stood under k into its opposite", hint=3)
def flips(answer, rng):
    k, share, retention = draw_flip(rng)
    entry = rng.normal(4)
    compare(-entry, after_write(entry, k, share, float(answer(k, share, retention)), retention))


def solution_flip(k, share, retention):
    return (1 + retention) / ((2 - share) * (k @ k))


def wrong_flip_wipes(k, share, retention):
    return retention / ((2 - share) * (k @ k))


def wrong_flip_erase_only(k, share, retention):
    return (1 + retention) / (k @ k)


def wrong_flip_unit(k, share, retention):
    return (1 + retention) / (2 - share)


def wrong_flip_sign(k, share, retention):
    return (1 + retention) / ((2 + share) * (k @ k))


FLIP = Exercise(
    id="7.2",
    title="parity: the smallest write that flips a sign",
    aim="To find why a step of at most 1 cannot keep parity, and how a target of one's own brings the flip nearer.",
    task="""
Parity is a sign that every 1 turns round. A linear self-modifying memory W says e = k @ W to a key k. Its value happens
to lie along the key, v = share * k, so that its target for k is share * e. Retention, erase and error together give

k @ W_after = retention * e - step |k|^2 e - step |k|^2 (e - share * e).

Write `flip_step(k, share, retention)`: the step with which k @ W_after is exactly -e, whatever e.

* `k` (f,), of any length; `share` a number below 2; `retention` a number.
* The result: the step, a number or a tensor with one.""",
    stub='''
def flip_step(k, share, retention):
    """-> the step that turns what stands under k into its opposite"""
    ...
''',
    properties=(one, two, flips),
    hints=(
        "All terms are multiples of e: set retention - step |k|^2 - step |k|^2 (1 - share) equal to -1.",
        "With share = 1 the last term is gone: 1 - step = -1. That is the delta rule, and why it needs a step of 2.",
        "step |k|^2 (2 - share) = 1 + retention; divide.",
    ),
    solution=solution_flip,
    wrong=(
        Wrong(wrong_flip_wipes, "This step brings the entry to 0. It wipes; it does not turn round.", one.name),
        Wrong(
            wrong_flip_erase_only,
            "Counts the erase alone. The error e - share * e pushes the same way, which is what makes the flip cheap.",
            one.name,
        ),
        Wrong(
            wrong_flip_unit,
            "Right for keys of length 1 only. A write goes through k twice, so the step is divided by |k|^2.",
            flips.name,
        ),
        Wrong(
            wrong_flip_sign,
            "The error is answer less target, e - share * e: a target on the other side (share below 0) helps.",
            two.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (STEP, FLIP, GAIN, BLIND, ERASE)

DISCUSSION = (
    (
        "A model that rewrites how it makes its own keys: what could go wrong with facts that were stored under the "
        "old keys, and what in this layer speaks against it, or for it?",
        "A fact stored under an old key is asked for with a query; q comes from a fixed matrix, so the question stays "
        "as it was while the keys move. If the key map drifts far, an old entry lies where no later key points and no "
        "query finds it. Against that: keys are of length 1, steps are small, and retention pulls all weights alike, "
        "so that the drift of a whole text is measured in the view as a share of the start. For it: what is repeated "
        "in this text can get keys that lie further apart than training alone could have made them.",
    ),
    (
        "With linear memories all five turn together, by one shared gain. Is a linear self-modifying Titans then still "
        "self-modifying? What do the two-layer memories add, and what do they cost?",
        "Yes: k and v of later tokens are read through the gain, so the next write depends on all earlier ones, which "
        "no linear recurrence with fixed projections does; parity is learned that way. But the memories cannot part "
        "ways: what the key map learns, the value map must learn too. Two layers let each memory move by its own "
        "errors. The price is a state of many matrices instead of one, a triangular solve for each second layer, and "
        "training that diverges more easily.",
    ),
    (
        "Freezing k, v, step or retention in a trained model costs so much. Is that what self-modification is worth? "
        "Which experiment would tell, and why is it dearer?",
        "It tells how far this model relies on the movement, since it was trained with it: even a useless habit of a "
        "trained model can be dear to break. What self-modification is worth is the difference to a model trained "
        "without it (the rung below), equal in parameters, steps and data, over several seeds and with each model's "
        "own best learning rate. That is some ten trainings instead of one.",
    ),
)
