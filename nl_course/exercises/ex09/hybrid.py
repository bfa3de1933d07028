"""Exercises of notebook 09, continued: bytes of a hybrid (9.5), an interval over seeds (9.1)."""

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure
from nl_course.scaling import cache_bytes, models, state_bytes

# ------------------------------------------------------------------------------- 9.5 a hybrid's bytes


def draw_hybrid(rng: Rng):
    """2 to 48 layers of both kinds, a window of 4 to 64 tokens, a longer text, bytes per token, bytes of a state."""
    layers = rng.whole(2, 48)
    window = rng.whole(4, 64)
    return (
        rng.whole(window + 1, 4000),
        layers,
        rng.whole(1, layers - 1),
        window,
        rng.whole(1, 512),
        rng.whole(1, 10**5),
    )


@holds("with all layers full it is a plain cache", hint=1)
def all_full(answer, rng):
    """Catches states that are charged to layers which have none."""
    tokens, layers, _, window, per_token, state = draw_hybrid(rng)
    compare(layers * tokens * per_token, answer(tokens, layers, layers, window, per_token, state))


@holds("before the window is full, every layer keeps all tokens", hint=2)
def short_text(answer, rng):
    """Catches a window that is charged in full before the text has filled it."""
    _, layers, full, window, per_token, state = draw_hybrid(rng)
    tokens = rng.whole(0, window)
    compare(
        layers * tokens * per_token + (layers - full) * state, answer(tokens, layers, full, window, per_token, state)
    )


@holds("once the windows are full, only the full layers grow", hint=2)
def slope(answer, rng):
    """Catches short layers that go on growing: 100 more tokens may cost only the full layers."""
    tokens, *rest = draw_hybrid(rng)
    full, per_token = rest[1], rest[3]
    compare(100 * full * per_token, answer(tokens + 100, *rest) - answer(tokens, *rest))


def bytes_by_hand(tokens, layers, full, window, per_token, state):
    """Layer by layer."""
    return sum(tokens * per_token if i < full else min(tokens, window) * per_token + state for i in range(layers))


@holds("the models that people run come out, from Qwen3-Next to Kimi K3", hint=3)
def people_run(answer, rng):
    """Catches a slip in any of the published hybrids, counted by the course's own tables of model shapes."""
    for shape in models().values():
        kinds = sorted(group.kind for group in shape.layers)
        if kinds not in (["global", "state"], ["latent", "state"]) or any(group.parallel for group in shape.layers):
            continue
        (cached,) = [group for group in shape.layers if group.grows]
        (learning,) = [group for group in shape.layers if not group.grows]
        tokens = rng.whole(1, shape.max_context)
        per_token, state = 2 * cached.values_per_token, 4 * learning.state_values  # 16 bits, 32 bits
        want = int(cache_bytes(shape, tokens) + state_bytes(shape))
        compare(want, answer(tokens, shape.depth, cached.count, 0, per_token, state))


hybrid_equals = equals("the bytes are right", draw_hybrid, bytes_by_hand, hint=3)


def solution_hybrid(tokens, layers, full, window, per_token, state):
    """full T b + (layers - full) (min(T, window) b + state), bytes, with b bytes per token and layer."""
    short = layers - full
    return full * tokens * per_token + short * (min(tokens, window) * per_token + state)


def wrong_hybrid_window_always(tokens, layers, full, window, per_token, state):
    """Charges each window in full from the first token on."""
    return full * tokens * per_token + (layers - full) * (window * per_token + state)


def wrong_hybrid_either(tokens, layers, full, window, per_token, state):
    """Gives a short layer its state alone, as if it had no window besides."""
    return full * tokens * per_token + (layers - full) * state


def wrong_hybrid_state_everywhere(tokens, layers, full, window, per_token, state):
    """Gives the full layers a state too."""
    return full * tokens * per_token + (layers - full) * min(tokens, window) * per_token + layers * state


HYBRID = Exercise(
    id="9.5",
    title="the bytes of a hybrid",
    aim="To count what hybrids keep: full layers, a fixed state, perhaps a window, each with its own growth.",
    task="""
A hybrid has `layers` layers. `full` of them keep the whole cache. Each of the others keeps a memory of fixed size and,
beside it, a cache of the last `window` tokens. In Qwen3-Next and Kimi Linear `window` is 0, in MAG and MAL it is not.

Write `hybrid_bytes(tokens, layers, full, window, per_token, state)`: the bytes kept for one user after `tokens` tokens.

* `per_token`: bytes that one layer's cache keeps per token. `state`: bytes of one layer's fixed memory.
* All are whole numbers of at least 0, and `full` is at most `layers`.
* The result: bytes, a whole number.""",
    stub='''
def hybrid_bytes(tokens, layers, full, window, per_token, state):
    """-> bytes kept after so many tokens"""
    ...
''',
    properties=(
        all_full,
        short_text,
        slope,
        people_run,
        hybrid_equals,
    ),
    hints=(
        "Count the full layers and the others apart: full * tokens * per_token is the part that never stops growing.",
        "A window keeps min(tokens, window) tokens; a fixed memory is there from the first token on.",
        "full * tokens * per_token + (layers - full) * (min(tokens, window) * per_token + state)",
    ),
    solution=solution_hybrid,
    wrong=(
        Wrong(
            wrong_hybrid_window_always,
            "A window that is not full yet keeps fewer tokens: min(tokens, window).",
            short_text.name,
        ),
        Wrong(
            wrong_hybrid_either,
            "A hybrid layer keeps both: the window for the newest tokens, the memory for what has left the window.",
            short_text.name,
        ),
        Wrong(
            wrong_hybrid_state_everywhere,
            "Full layers keep their cache and nothing else; they need no memory of fixed size.",
            all_full.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 9.1 an interval over seeds


def draw_paired(rng: Rng):
    """Results of two models (n,), n from 3 to 6, that share most of their spread, and a t from 2 to 4.5."""
    seeds = rng.whole(3, 6)
    common = rng.normal(seeds)
    return common + 0.1 * rng.normal(seeds), common + 0.1 * rng.normal(seeds), rng.number(2.0, 4.5)


@holds("a difference that is the same for every seed leaves no doubt", hint=1)
def constant(answer, rng):
    """Catches an unpaired interval: the seeds' common spread must cancel."""
    first, _, t = draw_paired(rng)
    low, high = answer(first + 0.25, first, t)
    compare((0.25, 0.25), (float(low), float(high)), 1e-7)


@holds("with the two models exchanged, the interval changes its sign", hint=1)
def turned(answer, rng):
    """Catches an interval that depends on which model is named first."""
    first, second, t = draw_paired(rng)
    low, high = answer(first, second, t)
    compare((-float(high), -float(low)), tuple(float(end) for end in answer(second, first, t)), 1e-9)


@holds("two seeds, differences 0 and 2, t = 1: from 0 to 2", hint=2)
def by_hand(answer, rng):
    """Catches a spread that was not divided by sqrt(n), and a division by n instead of n - 1."""
    second = rng.normal(2)
    low, high = answer(second + torch.tensor([0.0, 2.0], dtype=torch.float64), second, 1.0)
    compare((0.0, 2.0), (float(low), float(high)), 1e-7)


def interval_by_hand(first, second, t):
    """Both ends from the differences, in plain floats."""
    apart = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    n, mean = len(apart), sum(apart) / len(apart)
    half = t * (sum((a - mean) ** 2 for a in apart) / (n - 1) / n) ** 0.5
    return mean - half, mean + half


paired_equals = equals("the interval is right", draw_paired, interval_by_hand, hint=3)


def solution_paired(first, second, t):
    """mean(d) -+ t std(d) / sqrt(n) for the differences d (n,), with n - 1 in the variance."""
    apart = first - second
    half = t * apart.std() / len(apart) ** 0.5
    return apart.mean() - half, apart.mean() + half


def wrong_paired_unpaired(first, second, t):
    """Adds both variances, as if the two models had been run on different seeds."""
    half = t * ((first.var() + second.var()) / len(first)) ** 0.5
    middle = first.mean() - second.mean()
    return middle - half, middle + half


def wrong_paired_spread(first, second, t):
    """Gives the spread of the differences instead of the standard error of their mean."""
    apart = first - second
    half = t * apart.std()
    return apart.mean() - half, apart.mean() + half


def wrong_paired_population(first, second, t):
    """Divides the squares by n, as if the mean were known beforehand."""
    apart = first - second
    half = t * apart.std(correction=0) / len(apart) ** 0.5
    return apart.mean() - half, apart.mean() + half


PAIRED = Exercise(
    id="9.1",
    title="an interval over seeds",
    aim="To know when a ranking of two memories is one: seeds in pairs, few of them, and the mean's own uncertainty.",
    task="""
Two memories were trained from the same seeds. So seed by seed they saw the same data. Is one better, or lucky?

Write `paired_interval(first, second, t)`: the interval of the mean difference, first - second, over the seeds. It is
the mean plus and minus t * s / sqrt(n). Here s is the standard deviation of the differences, with n - 1 in the
denominator.

* `first` and `second` have shape (n,) with n >= 2: one result per seed, in the same order. `t` is a number (Student's;
  4.30 for three seeds).
* The result: the two ends, low and high, as numbers or as tensors with one number.""",
    stub='''
def paired_interval(first, second, t):
    """-> low, high of the mean difference"""
    ...
''',
    properties=(
        constant,
        turned,
        by_hand,
        paired_equals,
        pure("the results are left as they were", draw_paired, hint=1),
    ),
    hints=(
        "First take the differences seed by seed. What a seed does to both memories alike is then gone.",
        "torch's std divides by n - 1 by default. The mean of n numbers is surer than one of them, by sqrt(n).",
        "apart = first - second; half = t * apart.std() / len(apart) ** 0.5; mean minus half, mean plus half.",
    ),
    solution=solution_paired,
    wrong=(
        Wrong(
            wrong_paired_unpaired,
            "This treats the seeds of the two as unrelated. What a seed does to both then counts as doubt.",
            constant.name,
        ),
        Wrong(
            wrong_paired_spread,
            "That is how far one seed may lie from the mean. The mean itself is surer by the root of n.",
            by_hand.name,
        ),
        Wrong(
            wrong_paired_population,
            "This divides by n. With three seeds the interval becomes almost a fifth too narrow.",
            by_hand.name,
        ),
    ),
)
