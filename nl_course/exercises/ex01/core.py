"""Exercises of notebook 01, attention: read the past (1.1), keep it (1.4); the others stand in beyond.py."""

import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from nl_course.exercises.ex01.beyond import COPYING_SCORE, DECODE_COSTS, ROTATE
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import (
    Miss,
    Rng,
    any_size,
    causal,
    compare,
    equals,
    holds,
    pure,
    right_shape,
    same_gradients,
)

# ------------------------------------------------------------------------------- 1.1 causal attention by hand


def draw_sequence(rng: Rng, tokens: int | None = None):
    """Queries and keys (T, d), values (T, m): T from 2 to 7 unless given, d from 2 to 7 but never T, m from 2 to 4."""
    tokens = tokens or rng.whole(2, 7)
    width = rng.whole(2, 6)
    width += width == tokens  # no square, which would hide a missing transpose
    return rng.normal(tokens, width), rng.normal(tokens, width), rng.normal(tokens, rng.whole(2, 4))


def full_attention(queries, keys, values):
    """PyTorch's own causal attention for one head, (T, m): what the checks compare with."""
    return scaled_dot_product_attention(queries[None], keys[None], values[None], is_causal=True)[0]


@holds("the weights of each row add up to 1: where all values are 1, so is the result", hint=2)
def weights_sum_to_one(answer, rng):
    """Catches a mask that strikes out weights after the softmax without dividing again."""
    queries, keys, values = draw_sequence(rng)
    compare(torch.ones_like(values), answer(queries, keys, torch.ones_like(values)))


@holds("a token reads itself too: its own value shows in its row", hint=2)
def reads_itself(answer, rng):
    """Catches a mask that hides the diagonal. Row 0 is not tried, since it has nothing else to read."""
    queries, keys, values = draw_sequence(rng)
    row = rng.whole(1, len(values) - 1)
    changed = values.index_add(0, torch.tensor([row]), torch.ones_like(values[:1]))
    moved = answer(queries, keys, changed)[row] - answer(queries, keys, values)[row]
    if not moved.abs().max() > 1e-9:
        raise Miss(f"row {row} changes when value {row} is changed", "it stays the same")


@holds("scores of several thousands do no harm", hint=3)
def large_scores(answer, rng):
    """Catches an exp without the row's largest score subtracted: it overflows, and inf / inf is nan."""
    queries, keys, values = draw_sequence(rng)
    compare(full_attention(queries * 3000, keys, values), answer(queries * 3000, keys, values))


def solution_attend(queries, keys, values):
    """softmax(Q K^T / sqrt(d)) V with later tokens at minus infinity before the softmax, (T, m)."""
    scores = queries @ keys.T / math.sqrt(keys.shape[1])
    later = torch.ones_like(scores).triu(1).bool()
    weights = torch.softmax(scores.masked_fill(later, -torch.inf), dim=1)
    return weights @ values


def wrong_attend_sees_all(queries, keys, values):
    """No mask at all: the formula of attention without the word causal."""
    return torch.softmax(queries @ keys.T / math.sqrt(keys.shape[1]), dim=1) @ values


def wrong_attend_mask_after(queries, keys, values):
    """Masks after the softmax, as if a weight set to 0 later were a weight that never counted."""
    return torch.softmax(queries @ keys.T / math.sqrt(keys.shape[1]), dim=1).tril() @ values


def wrong_attend_not_itself(queries, keys, values):
    """Masks the diagonal too, as if a token were part of its own future."""
    scores = queries @ keys.T / math.sqrt(keys.shape[1])
    scores = scores.masked_fill(torch.ones_like(scores).triu(0).bool(), -1e9)
    return torch.softmax(scores, dim=1) @ values


def wrong_attend_unscaled(queries, keys, values):
    """Leaves out the division by sqrt(d), as if only the order of the scores mattered."""
    return solution_attend(queries * math.sqrt(keys.shape[1]), keys, values)


def wrong_attend_bare_exp(queries, keys, values):
    """Writes softmax as exp over its sum, as the textbook does, without care for large scores."""
    weights = (queries @ keys.T / math.sqrt(keys.shape[1])).exp().tril()
    return weights / weights.sum(1, keepdim=True) @ values


ATTEND = Exercise(
    id="1.1",
    title="causal attention by hand",
    aim="To own the four steps (scores, mask, softmax, mix) and the order in which they have to come.",
    task="""
Write `attend(queries, keys, values)` for one head.

* `queries` and `keys` are (T, d), `values` is (T, m): one row per token, in reading order.
* The result is (T, m): row t mixes the values of tokens 0 to t, with the weights
  `softmax(q_t . k_s / sqrt(d))`.

No loop is needed. Everything must stay differentiable.""",
    stub='''
def attend(queries, keys, values):
    """queries (T, d), keys (T, d), values (T, m) -> (T, m)"""
    ...
''',
    properties=(
        right_shape(
            "one row for each query comes out, as wide as a value",
            draw_sequence,
            lambda queries, keys, values: (len(queries), values.shape[1]),
            hint=1,
        ),
        weights_sum_to_one,
        reads_itself,
        causal("no query reads a later token", draw_sequence, hint=2),
        equals("the numbers equal softmax(Q K^T / sqrt(d)) V", draw_sequence, full_attention, hint=1),
        large_scores,
        any_size("one token and many tokens work as well", (1, 2, 40), draw_sequence, full_attention, hint=1),
        same_gradients("gradients reach queries, keys and values", draw_sequence, full_attention, hint=3),
        pure("the inputs are left as they were", draw_sequence, hint=3),
    ),
    hints=(
        "All scores at once are queries @ keys.T, (T, T): rows ask, columns are read. Divide by sqrt(d), "
        "where d is the width of a key. The result is weights @ values.",
        "Rule later tokens out before the softmax, not after it. A score of minus infinity gets weight 0, "
        "and the other weights still add up to 1. Keep the diagonal: a token may read itself.",
        "torch.ones_like(scores).triu(1).bool() marks what lies above the diagonal. "
        "scores.masked_fill(mask, -torch.inf) strikes it out. torch.softmax(scores, dim=1) can take large "
        "scores as they are.",
    ),
    solution=solution_attend,
    wrong=(
        Wrong(
            wrong_attend_sees_all,
            "The mask is missing. In training every position would then see its own answer, and the loss would "
            "fall although the model learned nothing.",
            "no query reads a later token",
        ),
        Wrong(
            wrong_attend_mask_after,
            "The future is struck out after the softmax. By then it has taken its share of the sum: it is not "
            "read, but it leaks through the denominator.",
            weights_sum_to_one.name,
        ),
        Wrong(
            wrong_attend_not_itself,
            "The mask is off by one and strikes out the token's own column too. Row 0 then has nothing left to "
            "read, and reads everything equally.",
            reads_itself.name,
        ),
        Wrong(
            wrong_attend_unscaled,
            "sqrt(d) is missing. Without it scores grow with the width, and in wide heads the softmax picks "
            "nearly one key before training has begun.",
            "the numbers equal softmax(Q K^T / sqrt(d)) V",
        ),
        Wrong(
            wrong_attend_bare_exp,
            "Softmax written from its definition overflows. Subtract the row's largest score first, or use "
            "torch.softmax, which does that.",
            large_scores.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 1.4 one step with a cache


def decode(answer, queries, keys, values, cache=None):
    """Calls the answer once per token: the outputs (T, m), one row per step, and the last cache."""
    outputs = []
    for query, key, value in zip(queries, keys, values):
        output, cache = answer(query, key, value, cache)
        outputs.append(output)
    return torch.stack(outputs), cache


@holds("the cache holds every key and value read so far, in order", hint=1)
def cache_holds_all(answer, rng):
    """Catches a cache that drops, repeats or reorders rows, whatever the outputs are."""
    queries, keys, values = draw_sequence(rng)
    compare((keys, values), decode(answer, queries, keys, values)[1], what="cache")


@holds("each output equals the row that attention over the whole sequence gives", hint=2)
def equals_recomputing(answer, rng):
    """Catches a read before the write, a missing scale, and a read of part of the cache."""
    sequence = draw_sequence(rng)
    compare(full_attention(*sequence), decode(answer, *sequence)[0], what="outputs, one row per step")


@holds("one cache can be continued in two ways that do not disturb each other", hint=3)
def branches(answer, rng):
    """Catches state outside the cache: two texts with the same first three tokens take turns."""
    sequence = draw_sequence(rng, 6)
    other = tuple(torch.cat([x[:3], rng.normal(*x[3:].shape)]) for x in sequence)
    _, cache = decode(answer, *(x[:3] for x in sequence))
    caches = {"first": cache, "second": cache}
    for step in (3, 4, 5):  # the two take turns
        for name, text in (("first", sequence), ("second", other)):
            output, caches[name] = answer(*(x[step] for x in text), caches[name])
            compare(full_attention(*text)[step], output, what=f"{name} continuation, token {step - 2}")


def solution_decode_step(query, key, value, cache):
    """Appends key and value as row t, then softmax(K q / sqrt(d)) V over all rows held, (m,)."""
    if cache is None:
        keys, values = key[None], value[None]
    else:
        keys, values = torch.cat([cache[0], key[None]]), torch.cat([cache[1], value[None]])
    weights = torch.softmax(keys @ query / math.sqrt(len(query)), dim=0)
    return weights @ values, (keys, values)


def wrong_decode_read_first(query, key, value, cache):
    """Reads the old cache and appends afterwards, as if a token could not read itself."""
    keys, values = (key[:0].view(0, len(key)), value[:0].view(0, len(value))) if cache is None else cache
    output = torch.softmax(keys @ query / math.sqrt(len(query)), dim=0) @ values
    return output, (torch.cat([keys, key[None]]), torch.cat([values, value[None]]))


def wrong_decode_last_only(query, key, value, cache):
    """Keeps the last token alone, as a recurrent network keeps its one state."""
    return value, (key[None], value[None])


_pages = {}


def wrong_decode_shared_pages(query, key, value, cache):
    """Writes into one global buffer to save the copy, as if only one text were ever decoded."""
    held = 0 if cache is None else len(cache[0])
    if cache is None:
        _pages.update(keys=key.new_zeros(64, len(key)), values=value.new_zeros(64, len(value)))
    _pages["keys"][held], _pages["values"][held] = key, value
    keys, values = _pages["keys"][: held + 1], _pages["values"][: held + 1]
    return torch.softmax(keys @ query / math.sqrt(len(query)), dim=0) @ values, (keys, values)


DECODE_STEP = Exercise(
    id="1.4",
    title="one step with a cache",
    aim="To see that a cache is the same attention, computed as tokens arrive: append, then read all of it.",
    task="""
Write `decode_step(query, key, value, cache)`: one new token of one head.

* `query` and `key` are (d,), `value` is (m,): the new token's own.
* `cache` is None before the first token, afterwards the pair (keys (t, d), values (t, m)) that your
  function returned.
* Return the new token's output (m,) and the new cache, one row longer.

Do not change the cache that came in. Two continuations of the same text must not disturb each other.""",
    stub='''
def decode_step(query, key, value, cache):
    """query (d,), key (d,), value (m,), cache None or (keys (t, d), values (t, m)) -> output (m,), cache"""
    ...
''',
    properties=(cache_holds_all, equals_recomputing, branches),
    hints=(
        "Write first: the new key becomes the last row of the keys, the new value the last row of the "
        "values. key[None] is (1, d), a row that torch.cat can append.",
        "Then read everything, the new row included: keys @ query gives one score for each row held. No "
        "mask is needed, since nothing later has been written yet.",
        "Return new tensors (torch.cat makes them). Anything kept outside the cache, or written into the "
        "tensors that came in, is seen by every other continuation of the same text.",
    ),
    solution=solution_decode_step,
    wrong=(
        Wrong(
            wrong_decode_read_first,
            "It reads before it writes, so the token misses itself. This is the off-by-one mask of exercise 1.1.",
            equals_recomputing.name,
        ),
        Wrong(
            wrong_decode_last_only,
            "It replaces the cache at every step. Attention has no summary of the past: what is not kept "
            "cannot be read.",
            cache_holds_all.name,
        ),
        Wrong(
            wrong_decode_shared_pages,
            "It keeps pages outside the cache. That is fast, and right for one continuation, but two of them "
            "write into the same pages.",
            branches.name,
        ),
    ),
)


# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (ATTEND, ROTATE, COPYING_SCORE, DECODE_STEP, DECODE_COSTS)

DISCUSSION = (
    (
        "Somebody writes: with a KV cache each decoding step is O(1). What is right about it, and what is not?",
        "The projections are O(1): one token per step, however long the text. The read is not. Step t "
        "compares its query with t keys and mixes t values, so its time, its memory traffic and the bytes "
        "held all grow with t. At a few tokens the projections dominate, and a stopwatch seems to agree "
        "with O(1). At a hundred thousand it does not.",
    ),
    (
        "The model's weights did not change while it read the random string, and yet its loss fell. Has it learned?",
        "It has learned within the context: what it read is in its cache, and its trained heads use it. "
        "Nothing of that outlives the cache. Training made the weights that can do this; reading filled "
        "the cache. The course calls these two levels with two clocks. The fast level is wiped after "
        "each text.",
    ),
    (
        "Shuffle the rows of a full cache, keys and values alike, before the next step. Does the output change?",
        "No. Softmax and the weighted sum do not care about the order of rows. The order is in the keys "
        "themselves, which were turned by their positions when they were written. Without that, or a mask "
        "while the past was computed, attention could not tell one order of the same words from another.",
    ),
    (
        "Exercise 1.5 counts what the newest token's queries meet. What else does a model of two layers "
        "have to do at each step when it keeps no cache?",
        "The keys and values of layer 2 are made from layer 1's output at every earlier token, so layer "
        "1's attention has to be run again for all of them: t (t + 1) / 2 reads at step t instead of t. "
        "Counted whole, recomputing costs about n^3 / 6 reads in all but the last layer, against n^2 / 2 "
        "with a cache. The exercise leaves that aside because the point is what a cache cannot save.",
    ),
)
