"""Exercises of notebook 08: a clipped step (8.1), break-even (8.3); the others in stream.py and ablations.py."""

import torch

from nl_course.exercises.ex08.ablations import IDENTITY, SIGN
from nl_course.exercises.ex08.stream import READ
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 8.1 one clipped step


def draw_clip(rng: Rng, size: float = 1.0):
    """2 to 4 matrices with sides of 2 to 4, one gradient per token (2 to 5 tokens) times `size`, a rate, the clip 1."""
    shapes = [(rng.whole(2, 4), rng.whole(2, 4)) for _ in range(rng.whole(2, 4))]
    tokens = rng.whole(2, 5)
    weights = tuple(rng.normal(*shape) for shape in shapes)
    gradients = tuple(size * rng.normal(tokens, *shape) for shape in shapes)
    return weights, gradients, rng.number(0.2, 1.0), 1.0


def by_definition(weights, gradients, rate, clip):
    """All means as one long vector, shortened as a whole."""
    long = torch.cat([g.sum(0).flatten() / len(g) for g in gradients])
    step = rate * long * min(1.0, clip / max(float(long.norm()), 1e-300))
    pieces = step.split([W.numel() for W in weights])
    return tuple(W - piece.view_as(W) for W, piece in zip(weights, pieces))


@holds("below the clip the step is the rate times the mean gradient", hint=1)
def below(answer, rng):
    """Catches a sum over tokens where a mean belongs, and a clip that always acts."""
    weights, gradients, rate, clip = draw_clip(rng, 0.02)
    compare(tuple(W - rate * g.mean(0) for W, g in zip(weights, gradients)), answer(weights, gradients, rate, clip))


@holds("without any gradient nothing moves, and nothing is divided by zero", hint=3)
def at_rest(answer, rng):
    """Catches a division by a norm of 0: it gives nan."""
    weights, gradients, rate, clip = draw_clip(rng, 0.0)
    compare(weights, answer(weights, gradients, rate, clip))


@holds("above the clip, all matrices together move exactly rate times clip", hint=2)
def together(answer, rng):
    """Catches a clip for each matrix or each token by itself: only the whole step may have length rate * clip."""
    weights, gradients, rate, clip = draw_clip(rng, 30.0)
    moved = [new - W for new, W in zip(answer(weights, gradients, rate, clip), weights)]
    compare(rate * clip, torch.cat([m.flatten() for m in moved]).norm().item())


clip_equals = equals("the new matrices are those of the definition", lambda d: draw_clip(d, 3.0), by_definition)


def solution_clip(weights, gradients, rate, clip):
    """W - rate * min(1, clip / norm) * mean gradient, the norm over all matrices together."""
    means = [g.mean(0) for g in gradients]
    norm = sum(m.square().sum() for m in means) ** 0.5
    shrink = clip / norm if norm > clip else 1.0
    return tuple(W - rate * shrink * m for W, m in zip(weights, means))


def wrong_clip_sum(weights, gradients, rate, clip):
    """Sums the tokens' gradients, so that longer chunks take longer steps."""
    return solution_clip(weights, tuple(g.sum(0, keepdim=True) for g in gradients), rate, clip)


def wrong_clip_each(weights, gradients, rate, clip):
    """Clips each matrix by its own norm, as if they were updated one by one."""
    return tuple(solution_clip((W,), (g,), rate, clip)[0] for W, g in zip(weights, gradients))


def wrong_clip_tokens(weights, gradients, rate, clip):
    """Clips each token's gradient before the mean, as private training does."""
    shrunk = []
    for g in gradients:
        norm = g.flatten(1).norm(dim=1).clamp(min=clip)
        shrunk.append((g * (clip / norm)[:, None, None]).mean(0))
    return tuple(W - rate * g for W, g in zip(weights, shrunk))


def wrong_clip_always(weights, gradients, rate, clip):
    """Brings every step to the same length, as if the clip were a normalization."""
    means = [g.mean(0) for g in gradients]
    norm = sum(m.square().sum() for m in means) ** 0.5 + 1e-12
    return tuple(W - rate * clip / norm * m for W, m in zip(weights, means))


CLIP = Exercise(
    id="8.1",
    title="one step of TTT-E2E",
    aim="To see that the inner step is ordinary training: the mean over a chunk, one clip for all that moves.",
    task="""
The model has read a chunk. Each fast matrix has one gradient per token of the chunk. TTT-E2E takes one step:

W <- W - rate * clip(mean of the gradients)

The clip looks at **all** fast matrices of the text together. Join their mean gradients into one long vector. If it is
longer than `clip`, shrink it to that length; otherwise leave it alone.

Write `clipped_step(weights, gradients, rate, clip)`.

* `weights`: a tuple of matrices (in, out), each of its own shape. `gradients`: a tuple of (n, in, out) in the same
  order, for n tokens. `rate` and `clip` are numbers.
* Return a tuple of the matrices after the step.""",
    stub='''
def clipped_step(weights, gradients, rate, clip):
    """-> the matrices after one step, a tuple"""
    ...
''',
    properties=(
        below,
        at_rest,
        together,
        clip_equals,
        pure("the inputs are left as they were", draw_clip, hint=1),
    ),
    hints=(
        "First take the mean over tokens, g.mean(0), of each matrix. If their common length is below clip, stop.",
        "There is one length for all: the root of the sum of squares over all matrices. So one factor: clip / length.",
        "The factor is clip / length only where length > clip, and 1 otherwise. A length of 0 then never divides.",
    ),
    solution=solution_clip,
    wrong=(
        Wrong(
            wrong_clip_sum,
            "Sums over the chunk. Then a longer chunk takes a longer step, until the clip hides it.",
            below.name,
        ),
        Wrong(
            wrong_clip_each,
            "Clips each matrix by itself. The direction of the whole step changes: small matrices gain weight.",
            together.name,
        ),
        Wrong(
            wrong_clip_tokens,
            "Clips each token's gradient before the mean, as private training does. Here one surprising token may "
            "still fill the whole step.",
            together.name,
        ),
        Wrong(
            wrong_clip_always,
            "Brings every step to the same length. A text that is predicted well would then move the weights as far as "
            "one that is not.",
            below.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 8.3 break-even


def draw_sizes(rng: Rng):
    """Width 64 to 4,096, 4 to 40 layers, a suffix of 1 to all of them, hidden width and window 64 to 8,192."""
    layers = rng.whole(4, 40)
    return rng.whole(64, 4096), layers, rng.whole(1, layers), rng.whole(64, 8192), rng.whole(64, 8192)


def state_numbers(tokens, width, layers, suffix, hidden, window):
    """Numbers that TTT-E2E keeps for one text at a boundary, and that a full cache keeps."""
    return 2 * width * min(tokens, window) * layers + 3 * width * hidden * suffix, 2 * width * tokens * layers


@holds("the paper's 3B model: 10,304 tokens", hint=3)
def of_3b(answer, rng):
    """Catches fast weights in every block, and two matrices instead of three, with published sizes."""
    compare(10304.0, float(answer(2560, 32, 8, 5632, 8192)))


@holds("with no learning block it is where the window is full", hint=1)
def no_learning(answer, rng):
    """Catches a missing window: without fast weights nothing else is left."""
    width, layers, _, hidden, window = draw_sizes(rng)
    compare(float(window), float(answer(width, layers, 0, hidden, window)))


@holds("there the two states weigh the same", hint=2)
def weigh_same(answer, rng):
    """Catches any other slip by counting both states at the length that the answer names."""
    sizes = draw_sizes(rng)
    tokens = float(answer(*sizes))
    ours, cache = state_numbers(tokens, *sizes)
    compare(1.0, ours / cache if cache else 0.0)


def solution_even(width, layers, suffix, hidden, window):
    """window + 3 hidden suffix / (2 layers), a number of tokens."""
    return window + 3 * hidden * suffix / (2 * layers)


def wrong_even_all_blocks(width, layers, suffix, hidden, window):
    """Gives each block an MLP of its own, so that suffix and layers cancel."""
    return window + 3 * hidden * (suffix > 0) / 2


def wrong_even_no_window(width, layers, suffix, hidden, window):
    """Weighs the fast weights alone against the full cache."""
    return 3 * hidden * suffix / (2 * layers)


def wrong_even_two_matrices(width, layers, suffix, hidden, window):
    """Counts two matrices, as in an MLP without a gate."""
    return window + 2 * hidden * suffix / (2 * layers)


EVEN = Exercise(
    id="8.3",
    title="how long must the text be?",
    aim="To see that fast weights of a text cost bytes at once, and from some length on fewer than a cache.",
    task="""
TTT-E2E keeps the keys and values of the last `window` tokens in each of `layers` blocks, `width` numbers each. In the
last `suffix` blocks it also keeps a fast SwiGLU MLP, which has three matrices of width x hidden. A full cache keeps the
keys and values of all tokens in all blocks. Both use the same number format.

Write `break_even(width, layers, suffix, hidden, window)`: from how many tokens on is TTT-E2E's state the smaller one?

* All are whole numbers. Return a number of tokens, not rounded. It is never below `window`.""",
    stub='''
def break_even(width, layers, suffix, hidden, window):
    """-> the number of tokens at which both states weigh the same"""
    ...
''',
    properties=(no_learning, of_3b, weigh_same),
    hints=(
        "Both cache the last `window` tokens. So compare the fast weights with the tokens beyond the window.",
        "Full cache: 2 width T layers numbers. TTT-E2E: 2 width window layers + 3 width hidden suffix. Set them equal.",
        "The width cancels: T = window + 3 hidden suffix / (2 layers).",
    ),
    solution=solution_even,
    wrong=(
        Wrong(
            wrong_even_all_blocks,
            "Gives every block a fast MLP. Only the suffix has one, while all blocks have a cache.",
            of_3b.name,
        ),
        Wrong(
            wrong_even_no_window,
            "Forgets that TTT-E2E keeps a window too, whose keys and values cost bytes as well.",
            no_learning.name,
        ),
        Wrong(
            wrong_even_two_matrices,
            "A SwiGLU MLP has three matrices: gate, value and output.",
            of_3b.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (CLIP, READ, EVEN, IDENTITY, SIGN)

DISCUSSION = (
    (
        "A model lowers its loss on a text while it reads it. Name two things that it may have learned, of which only "
        "one is a fact of the text. Which measurement tells them apart?",
        "It may have learned the text's manner (its words, its style, its language: what makes the next page cheaper), "
        "or a fact that stands in it once. Loss on the following page rewards both and mostly the first. Recall of a "
        "pair that was never seen in training and occurs once in the text tells: manner does not help there, since "
        "the pair is drawn at random. A second reading of the same passage against a first reading of a passage like "
        "it lies between the two.",
    ),
    (
        "Does the formula of linear attention show that nothing is stored? Name an observation that storing would "
        "forbid, and one that mixing would forbid.",
        "No. The delta rule has the same form and stores pairs exactly, as notebook 03 shows; the form says how an "
        "answer is put together, not what it is good for. Storage forbids that a pair is recalled just as well when "
        "the writes at its key are made useless (the step at 0, or its sign turned without retraining). Mixing of "
        "features shaped by training forbids that arbitrary new pairs are recalled, and that an old value under the "
        "same key gives way to the new one without any trace of it in the weights. Both descriptions may fit at once.",
    ),
    (
        "A model is retrained with its inner step reversed, and does as well as before. What does that say about "
        "the inner loop, and what about training?",
        "That training found projections with which ascent on its new targets writes what descent wrote on the old "
        "ones (exercise 8.5: exactly so within one chunk). It says that the name of the inner loss means little to a "
        "model that may choose its targets. It does not say that nothing is written. Harder to rescue is rewriting: "
        "where a key comes again with a new value, descent takes the old value away, 1 - step |k|^2 of it stays, and "
        "ascent makes it larger, 1 + step |k|^2, whatever the values are.",
    ),
)
