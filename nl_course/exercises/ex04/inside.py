"""Exercises of notebook 04, continued: a running mean of gradients (4.2), the layer norm's gradient (4.3)."""

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, any_size, compare, equals, holds, pure, right_shape
from nl_course.memories.common.inner_model import EPSILON

# ------------------------------------------------------------------------------- 4.2 a running mean


def draw_gradients(rng: Rng):
    """Weights (f, f + 1), gradients (b, f, f + 1) and a step from 0.1 to 0.9: b 3 to 6, f 2 to 4."""
    tokens, width = rng.whole(3, 6), rng.whole(2, 4)
    return rng.normal(width, width + 1), rng.normal(tokens, width, width + 1), rng.number(0.1, 0.9)


def by_loop(weights, gradients, step):
    """The weights at each token, (b, f, m): at every token the mean of all gradients so far is taken anew."""
    found = []
    for i in range(len(gradients)):
        found.append(weights - step * sum(gradients[: i + 1]) / (i + 1))
    return torch.stack(found)


@holds("equal tokens move the memory once: where all gradients are the same, all weights are", hint=1)
def equal_tokens(answer, rng):
    """Catches a sum where a mean belongs, and a division by the whole mini-batch."""
    weights, gradients, step = draw_gradients(rng)
    same = gradients[:1].expand_as(gradients)
    compare((weights - step * same), answer(weights, same, step))


@holds("the last weights have taken the mean of all gradients", hint=2)
def last_is_averaged(answer, rng):
    """Catches a mean whose early terms were divided by their own place and never again."""
    weights, gradients, step = draw_gradients(rng)
    compare(weights - step * gradients.mean(0), answer(weights, gradients, step)[-1])


mean_equals = equals("all weights are those of the loop", draw_gradients, by_loop, hint=3)


def solution_running_mean(weights, gradients, step):
    """W - step * cumsum(G)_i / i for i = 1 to b, (b, f, m)."""
    place = torch.arange(1, len(gradients) + 1, dtype=gradients.dtype)
    return weights - step * gradients.cumsum(0) / place[:, None, None]


def wrong_mean_sum(weights, gradients, step):
    """Takes the sum, as the paper's equation 6 does."""
    return weights - step * gradients.cumsum(0)


def wrong_mean_whole(weights, gradients, step):
    """Divides by b from the first token on, as if the whole mini-batch had been read already."""
    return weights - step * gradients.cumsum(0) / len(gradients)


def wrong_mean_each(weights, gradients, step):
    """Divides each gradient by its place before it sums, as if a mean could be added up term by term."""
    place = torch.arange(1, len(gradients) + 1, dtype=gradients.dtype)
    return weights - step * (gradients / place[:, None, None]).cumsum(0)


RUNNING_MEAN = Exercise(
    id="4.2",
    title="a sum or a running mean",
    aim="To know the largest difference between the paper and its code by having written it.",
    task="""
In a mini-batch all gradients are taken at the same weights. The paper's equation 6 lets token i move them by the
**sum** of the gradients up to i; the authors' code starts training with their **mean** (and then lets training choose).

Write `running_mean_weights(weights, gradients, step)`: the weights at every token, moved by `step` times the mean of
the gradients so far.

* `weights` (f, m) at the mini-batch's start; `gradients` (b, f, m), token after token; `step` a number.
* The result is (b, f, m). No loop.""",
    stub='''
def running_mean_weights(weights, gradients, step):
    """weights (f, m), gradients (b, f, m), step -> weights at each token (b, f, m)"""
    ...
''',
    properties=(
        right_shape("weights for each token come out", draw_gradients, lambda w, gradients, step: gradients.shape),
        last_is_averaged,
        equal_tokens,
        mean_equals,
        pure("the inputs are left as they were", draw_gradients, hint=1),
    ),
    hints=(
        "Token i (from 1) moves the weights by step / i times the sum of the first i gradients.",
        "All sums at once are gradients.cumsum(0), (b, f, m): along time, not along features.",
        "Divide them by torch.arange(1, b + 1)[:, None, None]; then weights - step * that.",
    ),
    solution=solution_running_mean,
    wrong=(
        Wrong(
            wrong_mean_sum,
            "The paper's equation 6. Sixteen equal tokens would move the memory sixteen times as far, which is what "
            "makes it blow up.",
            last_is_averaged.name,
        ),
        Wrong(
            wrong_mean_whole,
            "Divides by the size of the mini-batch from the first token on: the first tokens hardly move, and a text "
            "of three tokens would be taken for a sixteenth as much as it is.",
            equal_tokens.name,
        ),
        Wrong(
            wrong_mean_each,
            "Divides each gradient by its own place and keeps it so. A mean divides the whole sum anew at each token, "
            "which takes back a part of what came before.",
            last_is_averaged.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 4.3 the norm's gradient


def draw_norm(rng: Rng, width: int | None = None):
    """Rows z and targets (t, f), gain and shift (f,): t 2 to 4, f 3 to 7 unless given. z has a spread of 2."""
    width = width or rng.whole(3, 7)
    tokens = rng.whole(2, 4)
    z, target = rng.normal(tokens, width) * 2, rng.normal(tokens, width)
    return z, target, rng.normal(width), rng.normal(width)


def by_autograd(z, target, gain, shift):
    """The gradient along z, (t, f), from the loss written out and PyTorch's autograd."""
    z = z.clone().requires_grad_()
    unit = (z - z.mean(-1, keepdim=True)) / (z.var(-1, unbiased=False, keepdim=True) + EPSILON).sqrt()
    loss = (gain * unit + shift - target).square().sum() / 2
    return torch.autograd.grad(loss, z)[0]


@holds("each row of the gradient sums to zero: adding a constant to z changes nothing", hint=2)
def no_constant(answer, rng):
    """Catches a mean taken for a constant: its part of the gradient is then missing."""
    args = draw_norm(rng)
    compare(torch.zeros(len(args[0]), dtype=args[0].dtype), answer(*args).sum(-1))


@holds("z ten times as large gives a tenth of the gradient", hint=3)
def shrinks(answer, rng):
    """Catches a missing division by sigma. Loose to 1e-5, since the small constant under the root does not scale."""
    z, target, gain, shift = draw_norm(rng)
    compare(answer(z, target, gain, shift) / 10, answer(z * 10, target, gain, shift), 1e-5)


norm_equals = equals("the numbers are those of autograd", draw_norm, by_autograd, hint=3)


def solution_norm_gradient(z, target, gain, shift):
    """(g - mean(g) - u mean(g u)) / sigma with g = (gain u + shift - target) gain, (t, f)."""
    sigma = (z.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    unit = (z - z.mean(-1, keepdim=True)) / sigma
    g = (gain * unit + shift - target) * gain
    return (g - g.mean(-1, keepdim=True) - unit * (g * unit).mean(-1, keepdim=True)) / sigma


def wrong_norm_plain(z, target, gain, shift):
    """Takes mean and sigma for constants, as if only the division were in the chain."""
    sigma = (z.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    unit = (z - z.mean(-1, keepdim=True)) / sigma
    return (gain * unit + shift - target) * gain / sigma


def wrong_norm_mean_only(z, target, gain, shift):
    """Subtracts the mean's part but takes sigma for a constant."""
    g = wrong_norm_plain(z, target, gain, shift)
    return g - g.mean(-1, keepdim=True)


def wrong_norm_no_gain(z, target, gain, shift):
    """Uses the error itself for g, as if the gain were no part of the chain."""
    sigma = (z.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    unit = (z - z.mean(-1, keepdim=True)) / sigma
    g = gain * unit + shift - target
    return (g - g.mean(-1, keepdim=True) - unit * (g * unit).mean(-1, keepdim=True)) / sigma


NORM_GRADIENT = Exercise(
    id="4.3",
    title="the gradient of the layer norm's loss",
    aim="To derive the formula that users of the public code ask about, and to see why it divides by sigma.",
    task="""
The inner loss of TTT is `|gain * u + shift - target|² / 2`, where `u` is a row z less its mean, divided by
sigma = sqrt(variance + 1e-6) (the variance with 1/f, over the f numbers of the row).

Write `norm_gradient(z, target, gain, shift)`: the gradient of that loss with respect to z.

* `z`, `target` (t, f): one row per token; `gain`, `shift` (f,).
* The result is (t, f). In closed form: no autograd, since this runs at every token of every mini-batch.""",
    stub='''
def norm_gradient(z, target, gain, shift):
    """z (t, f), target (t, f), gain (f,), shift (f,) -> (t, f)"""
    ...
''',
    properties=(
        right_shape("one row of gradients for each row of z comes out", draw_norm, lambda z, *rest: z.shape, hint=1),
        no_constant,
        shrinks,
        norm_equals,
        any_size("rows of 2 and of 64 numbers work as well", (2, 64), draw_norm, by_autograd, hint=3),
        pure("the inputs are left as they were", draw_norm, hint=1),
    ),
    hints=(
        "From outside in: with u the normalized row, the loss's gradient with respect to u is "
        "g = (gain * u + shift - target) * gain.",
        "Moving z along a constant, or stretching it, leaves u as it is. So the gradient has no part along (1, .., 1): "
        "subtract the mean of g. And none along u: subtract u times the mean of g * u.",
        "What is left is divided by sigma, since u is z / sigma: (g - mean(g) - u * mean(g * u)) / sigma.",
    ),
    solution=solution_norm_gradient,
    wrong=(
        Wrong(
            wrong_norm_plain,
            "Takes mean and sigma for constants. They depend on every number of the row.",
            no_constant.name,
        ),
        Wrong(
            wrong_norm_mean_only,
            "Sees that the mean depends on z and forgets that sigma does: stretching z would seem to change the loss.",
            norm_equals.name,
        ),
        Wrong(
            wrong_norm_no_gain,
            "The gain stands between the loss and u, and the chain rule passes it on the way back too.",
            norm_equals.name,
        ),
    ),
)
