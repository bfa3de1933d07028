"""Exercises of notebook 02: counting a cache, its crossing with the weights, a claim, a ceiling, an exponent."""

import math

from nl_course.exercises.framework.engine import Exercise, Miss, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds


# -- 2.1 the cache of a model whose layers differ -----------------------------------------------------------
def _layers(rng: Rng) -> tuple:
    """1 to 3 groups of 1 to 9 layers, with a window of 4 to 400 or none; a context, 1 to 6 users, 1, 2 or 4 bytes."""
    groups = [
        (rng.whole(1, 9), rng.pick([None, rng.whole(4, 400)]), rng.pick([1, 2, 4]), rng.pick([16, 64]))
        for _ in range(rng.whole(1, 3))
    ]
    return groups, rng.whole(1, 2000), rng.whole(1, 6), rng.pick([1, 2, 4])


def _cache_bytes_solution(groups, context, batch, size):
    """batch * size * sum of count * 2 * kv_heads * head_dim * min(context, window), bytes."""
    total = 0
    for count, window, kv_heads, head_dim in groups:
        tokens = context if window is None else min(context, window)
        total += count * 2 * kv_heads * head_dim * tokens
    return batch * size * total


def _counted_cache(groups, context, batch, size):
    """What the checks compare with: rows held, counted layer by layer, keys and values apart."""
    numbers = 0
    for layers, kept, heads, width in groups:
        rows = len(range(context)[-kept:] if kept else range(context))
        numbers += sum(rows * heads * width for _layer in range(layers) for _part in ("key", "value"))
    return numbers * size * batch


def _no_window(groups, context, batch, size):
    """Charges every layer for the whole context, as if a window only limited what is read."""
    return batch * size * sum(n * 2 * kv * d * context for n, _, kv, d in groups)


def _no_values(groups, context, batch, size):
    """Counts the keys and forgets the values."""
    return _cache_bytes_solution(groups, context, batch, size) // 2


def _always_window(groups, context, batch, size):
    """Charges a window in full even where the context is shorter."""
    return batch * size * sum(n * 2 * kv * d * (w or context) for n, w, kv, d in groups)


@holds("every layer keeps a key and a value for each token and head", hint=1)
def _one_global_layer(answer, rng):
    """Catches a missing factor 2 for keys and values, with a single layer and user at 2 bytes."""
    kv, d, tokens = rng.pick([1, 2, 4]), rng.pick([16, 64]), rng.whole(1, 500)
    compare(2 * kv * d * tokens * 2, answer([(1, None, kv, d)], tokens, 1, 2))


@holds("a full window stops growing", hint=2)
def _full(answer, rng):
    """Catches a cache that goes on growing: the context is ten windows long."""
    window = rng.whole(2, 50)
    group = [(rng.whole(1, 5), window, 2, 16)]
    compare(_counted_cache(group, window, 1, 2), answer(group, 10 * window, 1, 2))


@holds("a window that is not yet full holds what was read, and no more", hint=2)
def _not_full(answer, rng):
    """Catches a window that is charged before it is full: the context is shorter than it."""
    group = [(1, 1000, 2, 16)]
    tokens = rng.whole(1, 900)
    compare(_counted_cache(group, tokens, 1, 2), answer(group, tokens, 1, 2))


CACHE = Exercise(
    id="2.1",
    title="The cache of layers that differ",
    task="""
Write `my_cache_bytes(groups, context, batch, size)`: the bytes of the key-value cache of `batch` users who have
each `context` tokens. `groups` is a list of tuples `(count, window, kv_heads, head_dim)`: `count` layers, each
with `kv_heads` key-value heads of `head_dim` numbers; `window` is None for a global layer, or the number of last
tokens that a sliding layer keeps. `size` is the bytes of one number.
""",
    stub="def my_cache_bytes(groups, context, batch, size):\n    ...\n",
    properties=(
        _one_global_layer,
        _full,
        _not_full,
        equals("any mixture of layers, users and formats adds up", _layers, _counted_cache, hint=3),
    ),
    hints=(
        "For one token, one layer keeps a key and a value per key-value head. How many numbers is that?",
        "How many tokens does a sliding layer hold after 10 tokens, and after 10,000? `min` gives both.",
        "Add up count * 2 * kv_heads * head_dim * tokens_kept over the groups; then times batch, times size.",
    ),
    aim="The cache is a sum over layers, and a window bounds a layer's share: no formula with one L does it.",
    solution=_cache_bytes_solution,
    wrong=(
        Wrong(
            _no_window,
            "the window is ignored: it decides what is kept, not only what is read",
            "a full window stops growing",
        ),
        Wrong(
            _no_values,
            "only keys were counted, and values are as large",
            "every layer keeps a key and a value for each token and head",
        ),
        Wrong(
            _always_window,
            "a window is charged in full from the first token",
            "a window that is not yet full holds what was read, and no more",
        ),
    ),
)


# -- 2.2 where the cache outweighs the weights ---------------------------------------------------------------
def _crossing_solution(parameters, weight_size, layers, kv_heads, head_dim, cache_size):
    """P * weight_size / (2 L kv d * cache_size), a number of tokens."""
    per_token = 2 * layers * kv_heads * head_dim * cache_size
    return parameters * weight_size / per_token


def _a_model(rng: Rng) -> tuple:
    """10^6 to 10^11 parameters, 2 to 100 layers, 1 to 32 key-value heads of 64 or 128, and the bytes of each number."""
    return (
        rng.whole(10**6, 10**11), rng.pick([1, 2, 4]), rng.whole(2, 100), rng.pick([1, 4, 8, 32]),
        rng.pick([64, 128]), rng.pick([1, 2]),
    )  # fmt: skip


@holds("Llama 3.1 8B at 16 bits crosses at about 123 thousand tokens", hint=2, trials=1)
def _llama(answer, rng):
    """Catches a missing factor 2 with published sizes: 131,072 bytes per token."""
    compare(8.03e9 * 2 / 131072, float(answer(8.03e9, 2, 32, 8, 128, 2)), 1e-9)


@holds("halving the cache's numbers doubles the crossing, halving the weights' halves it", hint=1)
def _formats(answer, rng):
    """Catches sizes that are left out or mixed up: the two formats change one at a time."""
    P, _, L, kv, d, _ = _a_model(rng)
    base = float(answer(P, 2, L, kv, d, 2))
    compare((2 * base, base / 2), (float(answer(P, 2, L, kv, d, 1)), float(answer(P, 1, L, kv, d, 2))))


@holds("any model and any two formats", hint=3)
def _as_large(answer, rng):
    """The weights, and the cache after that many tokens, have the same bytes."""
    parameters, weight_size, layers, kv_heads, head_dim, cache_size = _a_model(rng)
    tokens = float(answer(parameters, weight_size, layers, kv_heads, head_dim, cache_size))
    key = value = kv_heads * head_dim * cache_size
    cache = tokens * layers * (key + value)
    compare(float(weight_size * parameters), cache, what="bytes of the cache there")


CROSSING = Exercise(
    id="2.2",
    title="Where the cache outweighs the weights",
    task="""
Write `my_crossing(parameters, weight_size, layers, kv_heads, head_dim, cache_size)`: the number of tokens, of all
users together (batch times context), at which the key-value cache is as large as the weights. The two sizes are
bytes per number; every layer is global. Return the exact quotient, not rounded.
""",
    stub="def my_crossing(parameters, weight_size, layers, kv_heads, head_dim, cache_size):\n    ...\n",
    properties=(_formats, _llama, _as_large),
    hints=(
        "Two numbers of bytes must be equal. One does not depend on tokens, the other is proportional to them.",
        "Weights are parameters * weight_size. What does one token add to the cache of all layers?",
        "parameters * weight_size / (2 * layers * kv_heads * head_dim * cache_size).",
    ),
    aim="B T = 2 P / kv as the learner's own sentence: beyond it the cache, not the model, fills the memory.",
    solution=_crossing_solution,
    wrong=(
        Wrong(
            lambda P, w, L, kv, d, c: P * w / (L * kv * d * c),
            "key or value was forgotten, so the crossing comes out twice as far away",
            "Llama 3.1 8B at 16 bits crosses at about 123 thousand tokens",
        ),
        Wrong(
            lambda P, w, L, kv, d, c: P / (2 * L * kv * d),
            "numbers were counted instead of bytes, which is right only where both formats are equal",
            "halving the cache's numbers doubles the crossing, halving the weights' halves it",
        ),
    ),
)


# -- 2.3 reading a claim -------------------------------------------------------------------------------------
def _saving_solution(new_numbers, new_bits, old_numbers, old_bits):
    """1 - new bits / old bits per token, a share."""
    return 1 - (new_numbers * new_bits) / (old_numbers * old_bits)


def _two_caches(rng: Rng) -> tuple:
    """Numbers per token and bits per number, of a new cache (2 to 16 bits) and an old one (8 or 16 bits)."""
    return rng.whole(100, 10**5), rng.pick([2, 4, 6, 8, 16]), rng.whole(100, 10**6), rng.pick([8, 16])


@holds("at equal precision DeepSeek-V2 saves 82.2 % of DeepSeek 67B's cache", hint=2, trials=1)
def _equal(answer, rng):
    """Catches the share that is left given for the share that is saved."""
    got = float(answer(60 * (512 + 64), 16, 95 * 2 * 8 * 128, 16))
    if round(100 * got, 1) != 82.2:
        raise Miss("0.822", got)


@holds("with 6 bits against 16 it saves the 93.3 % of the headline", hint=3, trials=1)
def _claimed(answer, rng):
    """Catches formats that are left out: the headline compares 6 bits with 16."""
    got = float(answer(60 * (512 + 64), 6, 95 * 2 * 8 * 128, 16))
    if round(100 * got, 1) != 93.3:
        raise Miss("0.933", got)


@holds("any two caches", hint=1)
def _what_is_left(answer, rng):
    """Take the saving from the old cache, and the new one is left."""
    new_numbers, new_bits, old_numbers, old_bits = _two_caches(rng)
    old = float(old_numbers * old_bits)
    left = old - old * float(answer(new_numbers, new_bits, old_numbers, old_bits))
    compare(float(new_bits * new_numbers), left, 1e-6, what="bits left")


CLAIM = Exercise(
    id="2.3",
    title="What stands behind 93.3 %",
    task="""
DeepSeek-V2 was announced with a cache "reduced by 93.3 %". Write `my_saving(new_numbers, new_bits, old_numbers,
old_bits)`: the share of bytes per token that is saved when a cache of `new_numbers` numbers with `new_bits` bits
replaces one of `old_numbers` numbers with `old_bits` bits. 0.25 means that a quarter is saved.
""",
    stub="def my_saving(new_numbers, new_bits, old_numbers, old_bits):\n    ...\n",
    properties=(_equal, _claimed, _what_is_left),
    hints=(
        "A saving is one minus the share that is left.",
        "The share that is left is a quotient of bits: numbers times bits, new divided by old.",
        "1 - new_numbers * new_bits / (old_numbers * old_bits). Then ask of any headline: against what, in "
        "which format?",
    ),
    aim="A percentage hides its baseline. This one is against a model that had grouped queries, at another precision.",
    solution=_saving_solution,
    wrong=(
        Wrong(
            lambda n, nb, o, ob: 1 - n / o,
            "the formats were left out, so 82.2 % answers both questions",
            "with 6 bits against 16 it saves the 93.3 % of the headline",
        ),
        Wrong(
            lambda n, nb, o, ob: n * nb / (o * ob),
            "what is left was given for what is saved",
            "at equal precision DeepSeek-V2 saves 82.2 % of DeepSeek 67B's cache",
        ),
    ),
)


# -- 2.4 the ceiling of a batch ------------------------------------------------------------------------------
def _intensity_solution(parameters, layers, heads, kv_heads, head_dim, context, batch):
    """B (2 P + 4 L h d T) operations over 2 P + 4 B T L kv d bytes."""
    flops = batch * (2 * parameters + 4 * layers * heads * head_dim * context)
    moved = 2 * parameters + 2 * batch * context * 2 * layers * kv_heads * head_dim
    return flops / moved


def _counted_step(parameters, layers, heads, kv_heads, head_dim, context, batch):
    """What the checks compare with: operations and bytes added up reader by reader and layer by layer."""
    operations, moved = 0, 2 * parameters
    for _reader in range(batch):
        operations += 2 * parameters + sum(4 * heads * head_dim * context for _layer in range(layers))
        moved += sum(2 * size for _layer in range(layers) for size in 2 * [kv_heads * head_dim * context])
    return operations / moved


def _shape(rng: Rng) -> tuple:
    """Sizes of a model with 1 to 8 query heads per key-value head, a context of up to 100,000, 1 to 99 users."""
    kv = rng.pick([1, 2, 8])
    heads = kv * rng.pick([1, 4, 8])
    parameters, layers, head_dim = rng.whole(10**6, 10**10), rng.whole(1, 80), rng.pick([64, 128])
    return parameters, layers, heads, kv, head_dim, rng.whole(0, 10**5), rng.whole(1, 99)


@holds("without a context, every user adds one operation per byte", hint=1)
def _empty(answer, rng):
    """Catches weights that are read once per user."""
    P, L, h, kv, d, _, batch = _shape(rng)
    compare(float(batch), float(answer(P, L, h, kv, d, 0, batch)))


@holds("with an endless context it tends to heads / kv_heads, whatever the batch", hint=3)
def _ceiling(answer, rng):
    """Catches a cache that users share, and one with a row for every query head."""
    P, L, h, kv, d, _, batch = _shape(rng)
    got = float(answer(P, L, h, kv, d, 10**15, batch))
    if not math.isclose(got, h / kv, rel_tol=1e-3):
        raise Miss(f"about {h / kv:g}", got)


INTENSITY = Exercise(
    id="2.4",
    title="The ceiling that batching cannot move",
    task="""
Write `my_intensity(parameters, layers, heads, kv_heads, head_dim, context, batch)`: operations per byte of one decode
step in 16 bits. `parameters` counts those that a token is multiplied with, and all of them are read. A token costs 2
operations per parameter, and 4 * heads * head_dim per layer and token that it reads.
The step reads all weights once for the whole batch, and the keys and values of every user.
""",
    stub="def my_intensity(parameters, layers, heads, kv_heads, head_dim, context, batch):\n    ...\n",
    properties=(_empty, equals("any shape, context and batch", _shape, _counted_step, hint=2), _ceiling),
    hints=(
        "Write operations and bytes as two lines. Which of the four terms is *not* multiplied by the batch?",
        "Bytes: 2 * parameters (once), and batch * context * 2 * layers * kv_heads * head_dim numbers of 2 bytes.",
        "Divide both by batch * context and let them grow: what is left is 4 heads / (4 kv_heads).",
    ),
    aim="A batch shares the weights but not the cache, so long contexts stay bound by reading on every accelerator.",
    solution=_intensity_solution,
    wrong=(
        Wrong(
            lambda P, L, h, kv, d, T, B: B * (2 * P + 4 * L * h * d * T) / (2 * P + 4 * T * L * kv * d),
            "users were taken to share one cache, as they share the weights",
            "any shape, context and batch",
        ),
        Wrong(
            lambda P, L, h, kv, d, T, B: (2 * P + 4 * L * h * d * T) / (2 * P + 4 * T * L * kv * d),
            "the weights were counted for every user, as if batching did not help at all",
            "without a context, every user adds one operation per byte",
        ),
        Wrong(
            lambda P, L, h, kv, d, T, B: B * (2 * P + 4 * L * h * d * T) / (2 * P + 4 * B * T * L * h * d),
            "the cache was counted with the query heads, which loses the whole gain of GQA",
            "any shape, context and batch",
        ),
    ),
)


# -- 2.5 an exponent from two runs, and why it is not enough --------------------------------------------------
def _exponent_solution(small, large, loss_small, loss_large, floor):
    """log of the ratio of the losses above the floor, over log(large / small), a number."""
    return math.log((loss_small - floor) / (loss_large - floor)) / math.log(large / small)


def _two_runs(rng: Rng) -> tuple:
    """The planted exponent (0.2 to 0.6), then two sizes 2 to 100 times apart, their losses, and the floor."""
    floor, alpha = rng.number(0.5, 1.9), rng.number(0.2, 0.6)
    small = rng.whole(10**3, 10**6)
    large, scale = small * rng.whole(2, 100), rng.number(10, 100)
    return alpha, (small, large, floor + scale / small**alpha, floor + scale / large**alpha, floor)


@holds("the exponent that was put in comes back", hint=2)
def _planted(answer, rng):
    """Catches a floor that is left out: the losses are computed from a known exponent."""
    alpha, runs = _two_runs(rng)
    compare(alpha, float(answer(*runs)), 1e-9)


@holds("without a floor it is the slope of the plain losses' logarithms", hint=1)
def _plain(answer, rng):
    """Catches a difference of losses where a ratio belongs, with numbers that can be worked out in the head."""
    compare(0.5, float(answer(1, 4, 2.0, 1.0, 0.0)), 1e-9)


EXPONENT = Exercise(
    id="2.5",
    title="An exponent from two runs",
    task="""
Two models of `small` and `large` parameters reached `loss_small` and `loss_large` on the same text. If loss = floor +
A / N^alpha and the `floor` is known, two runs fix alpha. Write `my_exponent(small, large, loss_small, loss_large,
floor)`. Then try it on two of the course's own runs with floor 0, 0.5 and 1: which of the three do the two runs rule
out?
""",
    stub="def my_exponent(small, large, loss_small, loss_large, floor):\n    ...\n",
    properties=(_plain, _planted),
    hints=(
        "Subtract the floor from both losses. What remains is A / N^alpha. Divide one by the other, and A cancels.",
        "(loss_small - floor) / (loss_large - floor) = (large / small)^alpha. Take logarithms.",
        "log((loss_small - floor) / (loss_large - floor)) / log(large / small).",
    ),
    aim=(
        "Two points fit any floor: the exponent depends on an assumption, which is why a fit needs many "
        "runs and a band."
    ),
    solution=_exponent_solution,
    wrong=(
        Wrong(
            lambda s, l, hi, lo, f: math.log(hi / lo) / math.log(l / s),
            "the floor was ignored, so the exponent comes out too small",
            "the exponent that was put in comes back",
        ),
        Wrong(
            lambda s, l, hi, lo, f: (hi - lo) / math.log(l / s),
            "a difference of losses was taken for a difference of logarithms",
            "without a floor it is the slope of the plain losses' logarithms",
        ),
    ),
)

EXERCISES = (CACHE, CROSSING, CLAIM, INTENSITY, EXPONENT)

DISCUSSION = (
    (
        "A vendor offers the same model with four times the context at the same price. What may have changed?",
        "Fewer key-value heads, windows in most layers, latents, an 8-bit or smaller cache, more accelerators "
        "per copy, "
        "or smaller batches. Or the model may accept long prompts and not use them. Ask for bytes per token, and "
        "for a test at that length.",
    ),
    (
        "Qwen3-Next needs a quarter of the cache that the same layers would need with attention alone. Does that make "
        "the demand for fast memory fall, what does it leave in place, and what may cheaper contexts be used for?",
        "It takes away three quarters of the part that grows with the context. The last quarter still grows. Weights "
        "are read at every step, training needs sixteen bytes per parameter and no cache, and the states are read and "
        "written. Cheaper contexts may mean longer ones, or more users. The arithmetic gives the parts. It cannot say "
        "how much will be bought.",
    ),
    (
        "Scaling laws speak of parameters, tokens and compute. What would a law with the context in it have to "
        "measure?",
        "The loss by position, on texts long enough for the far past to matter, for a fixed model and training text. "
        "The effect of how often training showed such lengths must be kept apart. Our runs show the first steps of "
        "such a curve, and its flattening.",
    ),
)
