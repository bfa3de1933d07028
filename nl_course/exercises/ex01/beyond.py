"""Exercises of notebook 01, continued: what a cache saves (1.5), positions as angles (1.2), copying (1.3)."""

import math

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, compare, equals, holds, pure, right_shape, short

# ------------------------------------------------------------------------------- 1.5 what the cache saves


def draw_sizes(rng: Rng):
    """3 to 9 tokens, 2 to 4 layers, 1 to 3 key-value heads of width 2 to 6, and 1, 2 or 4 bytes per number."""
    tokens, layers, kv_heads = rng.whole(3, 9), rng.whole(2, 4), rng.whole(1, 3)  # small: a hand can follow
    return tokens, layers, kv_heads, rng.whole(2, 6), rng.pick((1, 2, 4))


def counted(tokens, layers, kv_heads, head_dim, number_bytes, cached):
    """Bytes held, tokens projected and bytes read, added up step by step and layer by layer."""
    row, held, projected, read = 0, 0, 0, 0
    for _layer in range(layers):
        row += number_bytes * head_dim * kv_heads  # its key
        row += number_bytes * head_dim * kv_heads  # its value
    for step in range(tokens):
        projected += 1 if cached else step + 1
        held += row if cached else 0
        read += (step + 1) * row
    return held, projected, read


def counts(name, which, cached, hint):
    """Makes the property that number `which` of the three results is right, with or without a cache."""

    @holds(name, hint)
    def right_count(answer, rng):
        """Catches a wrong count of one kind, so that the message can name which of the three it is."""
        sizes = draw_sizes(rng)
        got = answer(*sizes, cached)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise Miss("three numbers: held, projected, read", short(got))
        what = ("held", "projected", "read")[which]
        compare(counted(*sizes, cached)[which], got[which], what=what)

    return right_count


@holds("the cache saves no reads: they are the same with it and without", hint=3)
def same_reads(answer, rng):
    """Catches the belief that a cache saves reading. It saves projecting the past again."""
    sizes = draw_sizes(rng)
    compare(answer(*sizes, True)[2], answer(*sizes, False)[2], what="read without a cache")


COUNTS = (
    counts("the cache holds a key and a value for each token, layer and key-value head", 0, True, 1),
    counts("without a cache nothing is held", 0, False, 1),
    counts("with a cache each token is projected once", 1, True, 2),
    counts("without a cache each step projects the whole past again", 1, False, 2),
    counts("step number t reads t keys and t values in each layer and head", 2, True, 3),
    same_reads,
)


def solution_decode_costs(tokens, layers, kv_heads, head_dim, number_bytes, cached):
    """With b = 2 L h d bytes per token: (T b, T, s b) with a cache, else (0, s, s b), s = T (T + 1) / 2."""
    one_token = 2 * layers * kv_heads * head_dim * number_bytes
    steps = tokens * (tokens + 1) // 2
    if cached:
        return tokens * one_token, tokens, steps * one_token
    return 0, steps, steps * one_token


def wrong_costs_constant_step(tokens, layers, kv_heads, head_dim, number_bytes, cached):
    """Counts one row read per step, as if a cached step were O(1)."""
    held, projected, read = solution_decode_costs(tokens, layers, kv_heads, head_dim, number_bytes, cached)
    return held, projected, held if cached else read


def wrong_costs_keys_only(tokens, layers, kv_heads, head_dim, number_bytes, cached):
    """Counts the keys and forgets that every key has a value beside it."""
    held, projected, read = solution_decode_costs(tokens, layers, kv_heads, head_dim, number_bytes, cached)
    return held // 2, projected, read // 2


def wrong_costs_reads_too(tokens, layers, kv_heads, head_dim, number_bytes, cached):
    """Multiplies the reads by T without a cache, as if the past were read again with every projection."""
    held, projected, read = solution_decode_costs(tokens, layers, kv_heads, head_dim, number_bytes, cached)
    return held, projected, read if cached else read * tokens


DECODE_COSTS = Exercise(
    id="1.5",
    title="what a cache saves, and what it does not",
    aim="To count what a cache saves, against the claim of O(1): projections fall to one per step, reads stay.",
    task="""
A model writes `tokens` tokens, one per step, from an empty start. Write `decode_costs(...)`, which returns
three numbers:

* **held**: the bytes of the cache at the end; 0 without a cache.
* **projected**: how many times a token's keys and values are computed, over all steps. One token in all
  layers and heads together counts as 1. Without a cache, step t computes all t tokens read so far.
* **read**: the bytes of keys and values that the *newest* token's queries meet, over all steps. Step t
  meets t tokens, itself included.

`layers`, `kv_heads` and `head_dim` describe the model; `number_bytes` is the size of one number; `cached`
says whether there is a cache.""",
    stub='''
def decode_costs(tokens, layers, kv_heads, head_dim, number_bytes, cached):
    """-> held (bytes), projected (tokens), read (bytes)"""
    ...
''',
    properties=COUNTS,
    hints=(
        "Begin with one token: a key and a value, each of head_dim numbers, in every layer and every "
        "key-value head. Multiply these, then multiply by the bytes of one number.",
        "With a cache, step t projects the new token only. Without one it projects tokens 1 to t. Add up "
        "over the steps: 1 + 2 + ... + n = n (n + 1) / 2.",
        "The keys may come from a cache or be computed again. Either way the new query is compared with t "
        "of them at step t. So the reads add up to n (n + 1) / 2 tokens in both cases.",
    ),
    solution=solution_decode_costs,
    wrong=(
        Wrong(
            wrong_costs_constant_step,
            "It says that with a cache every step costs the same. That is true of the projections. The read "
            "still grows with every token, and soon it is the larger part.",
            COUNTS[4].name,
        ),
        Wrong(
            wrong_costs_keys_only,
            "The factor 2 is missing: each token leaves a key and a value.",
            COUNTS[0].name,
        ),
        Wrong(
            wrong_costs_reads_too,
            "It saves reads in place of projections. Without a cache the past is computed again, but the "
            "newest query still meets it once.",
            same_reads.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 1.2 rotary phase


def draw_rows(rng: Rng):
    """Rows (T, d) with T from 2 to 6 and d even up to 10, whole positions (T,) up to 300, theta 100 or 10,000."""
    tokens, width = rng.whole(2, 6), 2 * rng.whole(1, 5)
    positions = torch.tensor([rng.whole(0, 300) for _ in range(tokens)])
    return rng.normal(tokens, width), positions, rng.pick((100.0, 10_000.0))


@holds("at position 0 no row is turned", hint=1)
def still_at_zero(answer, rng):
    """Catches positions that count from 1, and a position code that is added instead of turned."""
    x, positions, theta = draw_rows(rng)
    compare(x, answer(x, torch.zeros_like(positions), theta))


@holds("turning keeps the length of every row", hint=2)
def keeps_length(answer, rng):
    """Catches anything that is not a rotation: an added code, or sine and cosine of unequal angles."""
    x, positions, theta = draw_rows(rng)
    compare(x.norm(dim=1), answer(x, positions, theta).norm(dim=1), what="lengths")


@holds("a score depends only on the distance of the two tokens", hint=2)
def distance_alone(answer, rng):
    """Catches codes that depend on the place itself: all rows are moved by the same random shift."""
    x, positions, theta = draw_rows(rng)
    shift = rng.whole(1, 200)
    here, there = answer(x, positions, theta), answer(x, positions + shift, theta)
    compare(here @ here.T, there @ there.T, tolerance=1e-8, what=f"scores when all move by {shift}")


@holds("pair number i turns by theta^(-2 i / d) per token", hint=3)
def right_speeds(answer, rng):
    """Catches wrong angles, whichever features the answer pairs: interleaved and split pairs both pass."""
    # The trace of the whole turn, 2 sum cos(angle), does not depend on which features make up a pair.
    width, position, theta = 2 * rng.whole(1, 5), rng.whole(1, 300), rng.pick((100.0, 10_000.0))
    turned = answer(torch.eye(width, dtype=torch.float64), torch.full((width,), position), theta)
    cosines = [math.cos(position * math.exp(-math.log(theta) * 2 * i / width)) for i in range(width // 2)]
    compare(2 * sum(cosines), turned.trace().item(), tolerance=1e-7, what="trace of the turn")


def solution_rotate(x, positions, theta=10000.0):
    """Turns pair i, features (2 i, 2 i + 1), by the angle position * theta^(-2 i / d), (T, d)."""
    width = x.shape[1]
    speeds = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions[:, None] * speeds
    even, odd = x[:, 0::2], x[:, 1::2]
    turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(turned, dim=2).flatten(1)


def wrong_rotate_added(x, positions, theta=10000.0):
    """Adds sines and cosines, as the first transformer did, instead of turning."""
    speeds = theta ** (-torch.arange(0, x.shape[1], 2, dtype=torch.float64) / x.shape[1])
    angles = positions[:, None] * speeds
    return x + torch.cat([angles.sin(), angles.cos()], dim=1)


def wrong_rotate_mixed_pairs(x, positions, theta=10000.0):
    """Pairs feature i with i + d/2 but gives angles to neighbors: two public layouts mixed."""
    half = x.shape[1] // 2
    speeds = theta ** (-torch.arange(0, x.shape[1], 2, dtype=torch.float64) / x.shape[1])
    angles = (positions[:, None] * speeds).repeat_interleave(2, dim=1)
    swapped = torch.cat([-x[:, half:], x[:, :half]], dim=1)
    return x * angles.cos() + swapped * angles.sin()


def wrong_rotate_one_speed(x, positions, theta=10000.0):
    """Turns all pairs at the same speed, as if one clock hand could tell all distances."""
    angles = positions[:, None] * torch.ones(x.shape[1] // 2, dtype=torch.float64)
    even, odd = x[:, 0::2], x[:, 1::2]
    turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(turned, dim=2).flatten(1)


ROTATE = Exercise(
    id="1.2",
    title="positions as angles",
    aim="To find out why turning by position makes a score depend on distance alone, and what the speeds are for.",
    task="""
Write `rotate(x, positions, theta=10000.0)`, the rotary embedding.

* `x` is (T, d) with d even: queries or keys of one head. `positions` is (T,), whole numbers.
* The features make d / 2 pairs. In the row of position p, pair i = 0, 1, ... is turned in its plane by the
  angle p * theta^(-2 i / d), in radians.
* Which features make a pair (neighbors, or one from each half) is yours to choose.

The result is (T, d). A turn by an angle takes (a, b) to (a cos - b sin, a sin + b cos).""",
    stub='''
def rotate(x, positions, theta=10000.0):
    """x (T, d), positions (T,) -> (T, d)"""
    ...
''',
    properties=(
        right_shape("the result has the shape of x", draw_rows, lambda x, positions, theta: x.shape, hint=1),
        still_at_zero,
        keeps_length,
        distance_alone,
        right_speeds,
        pure("the inputs are left as they were", draw_rows, hint=3),
    ),
    hints=(
        "Begin with the angles: positions[:, None] * speeds is (T, d / 2), one angle for each token and "
        "pair. At position 0 every angle is 0, and the row comes out as it went in.",
        "Split x into two (T, d / 2) parts, a and b, whose columns make the pairs: x[:, 0::2] and x[:, "
        "1::2], or the two halves. The same column of the angles must turn a and b; then lengths stay, "
        "and turning both of two rows by a further angle leaves their product as it is.",
        "The speeds are theta ** (-torch.arange(0, d, 2) / d): 1 for the first pair, slower and slower "
        "after it. Put the two turned parts back where you took them from.",
    ),
    solution=solution_rotate,
    wrong=(
        Wrong(
            wrong_rotate_added,
            "It adds sinusoids, as the first transformer did. That marks the position in the vector itself, "
            "and scores then depend on both positions.",
            still_at_zero.name,
        ),
        Wrong(
            wrong_rotate_mixed_pairs,
            "Two conventions are mixed: the pairs run across the halves, but the angles are laid out for "
            "neighbors. This happens easily when weights are carried from one code to another.",
            keeps_length.name,
        ),
        Wrong(
            wrong_rotate_one_speed,
            "All pairs turn at one speed. Distances 1 and 1 + 2 pi k then look nearly the same, and nothing "
            "turns slowly enough to mark a distant position.",
            right_speeds.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 1.3 copying, measured


def draw_text(rng: Rng):
    """Logits (B, 2 period, vocab) and a text that repeats once: B 1 to 4, period 3 to 9, vocab 5 to 12."""
    vocab, period, batch = rng.whole(5, 12), rng.whole(3, 9), rng.whole(1, 4)
    tokens = rng.tokens(vocab, batch, period).repeat(1, 2)
    return rng.normal(batch, 2 * period, vocab), tokens, period


def score_reference(logits, tokens, period):
    """Mean loss of the first copy less that of the second, added up in plain floats, a scalar tensor."""
    total = 0.0
    for row, text in zip(logits.tolist(), tokens.tolist()):
        for place in range(1, period):
            for target, sign in ((place, 1), (place + period, -1)):
                guesses = row[target - 1]
                largest = max(guesses)
                total_weight = sum(math.exp(g - largest) for g in guesses)
                total += sign * (math.log(total_weight) + largest - guesses[text[target]])
    return torch.tensor(total / (len(tokens) * (period - 1)), dtype=torch.float64)


def as_number(result):
    """The answer's result as a float. Raises Miss if it is not a single number."""
    if isinstance(result, torch.Tensor) and result.numel() == 1:
        return result.item()
    if isinstance(result, (int, float)):
        return float(result)
    raise Miss("one number", short(result))


@holds("only differences between logits count: adding one number to all logits of a position changes nothing", hint=1)
def ignores_constants(answer, rng):
    """Catches logits taken for log-probabilities: a softmax cancels a constant, a plain mean does not."""
    logits, tokens, period = draw_text(rng)
    moved = logits + rng.normal(*tokens.shape, 1) * 5
    compare(as_number(answer(logits, tokens, period)), as_number(answer(moved, tokens, period)))


@holds("a model that guesses blindly, then copies perfectly, scores log(vocabulary)", hint=2)
def perfect_copy(answer, rng):
    """Catches guesses judged by the wrong token: the perfect copy stands one position before its target."""
    logits, tokens, period = draw_text(rng)
    logits = torch.zeros_like(logits)
    following = torch.nn.functional.one_hot(tokens[:, period:], logits.shape[-1]).double()
    logits[:, period - 1 : -1] = 60 * following
    compare(math.log(logits.shape[-1]), as_number(answer(logits, tokens, period)))


@holds("a model that says the same at every position scores 0: both copies ask for the same tokens", hint=3)
def blind_model(answer, rng):
    """Catches two halves that ask for different tokens: then even a fixed guess gets a score."""
    logits, tokens, period = draw_text(rng)
    compare(0.0, as_number(answer(logits[:1, :1].expand_as(logits), tokens, period)))


def solution_copying_score(logits, tokens, period):
    """Mean of -log p over targets 1 to P - 1, less the mean over P + 1 to 2 P - 1, a scalar (P = period)."""
    guesses = torch.log_softmax(logits[:, :-1], dim=-1)
    losses = -guesses.gather(-1, tokens[:, 1:, None])[..., 0]
    first, second = losses[:, : period - 1], losses[:, period:]
    return first.mean() - second.mean()


def wrong_copying_unshifted(logits, tokens, period):
    """Judges logits[t] by token t, as if a language model named the token it has just read."""
    losses = -torch.log_softmax(logits, dim=-1).gather(-1, tokens[..., None])[..., 0]
    return losses[:, 1:period].mean() - losses[:, period + 1 :].mean()


def wrong_copying_raw_logits(logits, tokens, period):
    """Takes -logits for losses, as if training had made them sum to probability 1."""
    losses = -logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return losses[:, : period - 1].mean() - losses[:, period:].mean()


def wrong_copying_all_of_it(logits, tokens, period):
    """Counts the second copy's first token, which nothing before it could announce."""
    guesses = torch.log_softmax(logits[:, :-1], dim=-1)
    losses = -guesses.gather(-1, tokens[:, 1:, None])[..., 0]
    return losses[:, : period - 1].mean() - losses[:, period - 1 :].mean()


COPYING_SCORE = Exercise(
    id="1.3",
    title="how well does it copy?",
    aim="To measure in-context learning fairly: same tokens, same weights, only the context differs.",
    task="""
A random string of `period` tokens stands twice in a row. A model that can look back finds the second copy
easy. Write `copying_score(logits, tokens, period)`: how many nats per token the loss is *lower* in the
second copy, on average.

* `tokens` is (B, 2 * period). `logits` is (B, 2 * period, V): the logits at position t are the model's
  guess at token t + 1.
* Leave out the first token of each copy. Nothing precedes the very first one, and nothing tells that a
  second copy is about to begin. So both sides of the comparison ask for the same tokens.

The result is one number (a float, or a tensor with one entry).""",
    stub='''
def copying_score(logits, tokens, period):
    """logits (B, 2 period, V), tokens (B, 2 period) -> nats per token, one number"""
    ...
''',
    properties=(
        ignores_constants,
        perfect_copy,
        blind_model,
        equals("the number equals the loss by hand, token by token", draw_text, score_reference, hint=3),
        pure("the inputs are left as they were", draw_text, hint=1),
    ),
    hints=(
        "The loss of a token is minus the log of the probability that it was given: minus its entry in "
        "torch.log_softmax(logits, dim=-1). Plain logits are no log-probabilities.",
        "Line up guesses and targets: logits[:, :-1] are the guesses, tokens[:, 1:] what they guess. "
        "gather(-1, targets[..., None])[..., 0] picks each target's entry.",
        "The losses are now (B, 2 period - 1), and column j is about token j + 1. Tokens 1 to period - 1 "
        "are columns 0 to period - 2; tokens period + 1 to 2 period - 1 are columns period to the end.",
    ),
    solution=solution_copying_score,
    wrong=(
        Wrong(
            wrong_copying_unshifted,
            "It judges a guess by the token that was just read. That measures whether the model repeats its "
            "input, not whether it predicts the next token.",
            perfect_copy.name,
        ),
        Wrong(
            wrong_copying_raw_logits,
            "It uses logits as log-probabilities. Logits are free up to a constant at every position, so their "
            "mean says nothing.",
            ignores_constants.name,
        ),
        Wrong(
            wrong_copying_all_of_it,
            "It includes the second copy's first token. The two sides then ask for different tokens, and no "
            "memory could predict that one.",
            blind_model.name,
        ),
    ),
)
