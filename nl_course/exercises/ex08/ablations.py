"""Exercises of notebook 08's second half: a memory written as attention (8.4), and undoing a turned sign (8.5)."""

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 8.4 the same thing as attention


def draw_writes(rng: Rng, writes: int | None = None):
    """Query (m,), start (m, f), features (n, m), errors (n, f), steps and retention (n,): m, f 2 to 5, n 2 to 6."""
    m, f = rng.whole(2, 5), rng.whole(2, 5)
    n = rng.whole(2, 6) if writes is None else writes
    steps, kept = rng.normal(n).abs(), rng.normal(n).sigmoid()
    return rng.normal(m), rng.normal(m, f), rng.normal(n, m), rng.normal(n, f), steps, kept


def written(query, start, features, errors, steps, retention):
    """The layer after all writes, read by the query."""
    W = start
    for phi, error, step, kept in zip(features, errors, steps, retention):
        W = kept * W - step * torch.outer(phi, error)
    return query @ W


def with_weights(query, start, features, errors, steps, retention):
    """(weights of the writes, answer), from the definition: later retentions wear a write."""
    worn = torch.stack([torch.prod(retention[s + 1 :]) for s in range(len(steps))])
    return worn * (features @ query), written(query, start, features, errors, steps, retention)


@holds("before any write the answer is the start's", hint=1)
def unwritten(answer, rng):
    """Catches an answer without the start, and one that breaks on an empty list of writes."""
    args = draw_writes(rng, writes=0)
    compare((args[0].new_zeros(0), args[0] @ args[1]), tuple(answer(*args)))


@holds("with all kept, a write's weight is its feature's overlap with the query's", hint=2)
def overlaps(answer, rng):
    """Catches weights from a softmax: here they may be negative and need not sum to 1."""
    query, start, features, errors, steps, kept = draw_writes(rng)
    compare(features @ query, answer(query, start, features, errors, steps, torch.ones_like(kept))[0])


@holds("retention shrinks what was written before it, and not the newest write", hint=3)
def wears(answer, rng):
    """Catches a write that is worn by its own token's retention."""
    args = draw_writes(rng)
    compare(with_weights(*args)[0], answer(*args)[0])


@holds("the answer is that of the layer, written and then read", hint=3)
def reads_alike(answer, rng):
    """Catches a wrong sign of the errors, and a start that is not worn."""
    args = draw_writes(rng)
    compare(written(*args), answer(*args)[1])


def solution_attention(query, start, features, errors, steps, retention):
    """Weights r_s (phi_s . q), (n,), r_s the retentions after s; answer r q W_0 - sum of weight step error, (f,)."""
    left = torch.cat([retention, retention.new_ones(1)]).flip(0).cumprod(0).flip(0)  # worn by all from s on
    weights = left[1:] * (features @ query)
    values = -steps[:, None] * errors
    return weights, left[0] * (query @ start) + weights @ values


def wrong_attention_softmax(query, start, features, errors, steps, retention):
    """Normalizes the overlaps, as attention does."""
    left = torch.cat([retention, retention.new_ones(1)]).flip(0).cumprod(0).flip(0)
    weights = (features @ query).softmax(0)
    return weights, left[0] * (query @ start) + weights @ (-steps[:, None] * errors)


def wrong_attention_wears_itself(query, start, features, errors, steps, retention):
    """Multiplies in the write's own retention, one factor too many."""
    left = torch.cat([retention, retention.new_ones(1)]).flip(0).cumprod(0).flip(0)
    weights = left[:-1] * (features @ query)
    return weights, left[0] * (query @ start) + weights @ (-steps[:, None] * errors)


def wrong_attention_forgets_start(query, start, features, errors, steps, retention):
    """Adds up the writes alone, as if a memory began empty."""
    weights, _ = solution_attention(query, start, features, errors, steps, retention)
    return weights, weights @ (-steps[:, None] * errors)


def wrong_attention_sign(query, start, features, errors, steps, retention):
    """Adds the errors, as if a write went toward them."""
    weights, answer = solution_attention(query, start, features, errors, steps, retention)
    return weights, answer + 2 * weights @ (steps[:, None] * errors)


IDENTITY = Exercise(
    id="8.4",
    title="written, then read: the same thing as attention",
    aim="To see that the linear form is exact, and that its values are errors and its keys features that moved.",
    task="""
The last layer W of an inner network is linear and has no bias. At write s its input is the feature phi_s, which is
what the layers before it make of the key at that time. The error of its output is e_s. The write is

W <- retention_s W - step_s phi_s^T e_s.

After n writes a query comes, and its feature is now `query`. Write the answer, query @ W, as attention over the writes.
Write `read_as_attention(query, start, features, errors, steps, retention)`.

* `query` (m,), `start` (m, f), `features` (n, m), `errors` (n, f), `steps` and `retention` (n,). n may be 0.
* Return the weight of each write (n,), and the answer (f,). The answer is what is left of the start's answer, plus the
  weights times the values. The value of write s is -step_s e_s.""",
    stub='''
def read_as_attention(query, start, features, errors, steps, retention):
    """-> weights of the writes (n,), answer (f,)"""
    ...
''',
    properties=(
        unwritten,
        overlaps,
        wears,
        reads_alike,
        pure("the inputs are left as they were", draw_writes, hint=1),
    ),
    hints=(
        "The sum over no writes is zero. What remains is query @ start, times all retentions (their product, here 1).",
        "query @ (phi^T e) = (query . phi) e: the overlap of two features, times the error. There is no softmax.",
        "Write s is multiplied by the retentions after it, r_{s+1} ... r_n: a reversed cumprod, shifted by one. The "
        "start is multiplied by all of them.",
    ),
    solution=solution_attention,
    wrong=(
        Wrong(
            wrong_attention_softmax,
            "Puts a softmax over the overlaps. Here there is none: weights may be negative and need not sum to 1.",
            overlaps.name,
        ),
        Wrong(
            wrong_attention_wears_itself,
            "Multiplies a write by its own retention. Retention shrinks only what stood there before the write.",
            wears.name,
        ),
        Wrong(
            wrong_attention_forgets_start,
            "Leaves out the start. It is learned outside, and every text begins with it.",
            unwritten.name,
        ),
        Wrong(
            wrong_attention_sign,
            "Adds the errors. A write goes down the error: the value is minus the step times it.",
            reads_alike.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 8.5 the sign, turned and undone


def draw_sign(rng: Rng):
    """Key and value projections (d, f) and a start (f, f): d and f from 2 to 4."""
    d, f = rng.whole(2, 4), rng.whole(2, 4)
    return rng.normal(d, f), rng.normal(d, f), rng.normal(f, f)


def chunk_of(x, W_k, W_v, start, step):
    """Answers of a linear memory to each token's key, after each write of one chunk: all errors at the start."""
    k, v, W, answers = x @ W_k, x @ W_v, start, []
    for key, error in zip(k, k @ start - v):
        W = W - step * torch.outer(key, error)
        answers.append(k @ W)
    return torch.stack(answers)


@holds("from an empty memory the values change their sign, and that is all", hint=1)
def from_nothing(answer, rng):
    """Catches an answer that changes more than a sign where there is no start to correct for."""
    W_k, W_v, start = draw_sign(rng)
    compare(-W_v, answer(W_k, W_v, torch.zeros_like(start)))


@holds("neither writes a token that the start already answers rightly", hint=2)
def nothing_to_learn(answer, rng):
    """Catches a plain change of sign: a token without error must stay without error."""
    W_k, _, start = draw_sign(rng)
    compare(W_k @ start, answer(W_k, W_k @ start, start))


@holds("ascent with the new values answers every key as descent did with the old", hint=3)
def same_answers(answer, rng):
    """Catches everything else: five tokens are written both ways, and every key is asked after each write."""
    W_k, W_v, start = draw_sign(rng)
    x, step = rng.normal(5, len(W_k)), rng.number(0.1, 0.5)
    before = chunk_of(x, W_k, W_v, start, step)
    compare(before, chunk_of(x, W_k, answer(W_k, W_v, start), start, -step))


sign_equals = equals("there is only one such projection", draw_sign, lambda W_k, W_v, start: 2 * W_k @ start - W_v)


def solution_sign(W_k, W_v, start):
    """2 W_k W_0 - W_v, (d, f): the old values mirrored at what the start answers."""
    return 2 * W_k @ start - W_v


def wrong_sign_minus(W_k, W_v, start):
    """Turns the values' sign, which is right only from an empty start."""
    return -W_v


def wrong_sign_error(W_k, W_v, start):
    """Takes the start's error for the new value: it counts the start's answer once instead of twice."""
    return W_k @ start - W_v


def wrong_sign_half(W_k, W_v, start):
    """Doubles the whole error instead of the start's answer."""
    return 2 * (W_k @ start - W_v)


SIGN = Exercise(
    id="8.5",
    title="flip the sign, and undo it",
    aim="To find how training can make gradient ascent write what descent wrote, and where that ends.",
    task="""
A linear memory W writes one chunk, with keys k = x W_k and values v = x W_v. All errors are taken at the `start`:

W <- W - step k^T (k start - v)        for each token x of the chunk.

Somebody flips the sign of the step, so the memory climbs. Find the value projection with which the memory after each
write is the same as before. Write `undo_the_sign(W_k, W_v, start)`.

* `W_k` and `W_v` (d, f), `start` (f, f).
* Return the new value projection (d, f).

Within one chunk this is exact. At a boundary the start moves, and the new values would have to move with it. If errors
are taken anew at every token, no projection of the values does it.""",
    stub='''
def undo_the_sign(W_k, W_v, start):
    """-> the value projection (d, f) with which ascent writes what descent wrote"""
    ...
''',
    properties=(
        from_nothing,
        nothing_to_learn,
        same_answers,
        sign_equals,
        pure("the inputs are left as they were", draw_sign, hint=1),
    ),
    hints=(
        "With start = 0 the error is -v. Turn the sign of the step and of v, and the write is the same.",
        "In general the *error* must change its sign: k start - v_new = -(k start - v).",
        "v_new = 2 k start - v: the old value, mirrored at what the memory says already. Put k = x W_k and v = x W_v.",
    ),
    solution=solution_sign,
    wrong=(
        Wrong(
            wrong_sign_minus,
            "This is right for an empty memory only. A learned start answers already, and the mirror stands there.",
            nothing_to_learn.name,
        ),
        Wrong(
            wrong_sign_error,
            "Takes the error for the new value. Then the new error is v itself, not minus the old error.",
            nothing_to_learn.name,
        ),
        Wrong(
            wrong_sign_half,
            "Doubles the whole error, so it mirrors at the wrong place. From an empty memory it doubles the values.",
            from_nothing.name,
        ),
    ),
)
