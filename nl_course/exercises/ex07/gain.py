"""Exercises of notebooks 07 and 07b: the gain that linear memories share (7.3, in 07b), the blind zone (7.4), the erase
of a layer along its own input (7.5, in 07b)."""

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, any_size, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 7.3 the shared gain


def draw_gain(rng: Rng, tokens: int | None = None):
    """Keys, values (t, f), steps (t,) in 0.1 to 0.6, retention (t,) in 0.5 to 1: t 2 to 5 unless given, f 2 to 4."""
    t, f = rng.whole(2, 5) if tokens is None else tokens, rng.whole(2, 4)
    steps = torch.tensor([rng.number(0.1, 0.6) for _ in range(t)], dtype=torch.float64)
    kept = torch.tensor([rng.number(0.5, 1.0) for _ in range(t)], dtype=torch.float64)
    return rng.normal(t, f), rng.normal(t, f), steps, kept


def written(start, keys, values, steps, retention):
    """A linear memory after one chunk, by definition: errors at the start, retention and erase token by token."""
    W = start
    for k, v, step, kept in zip(keys, values, steps, retention, strict=True):
        W = kept * W - step * torch.outer(k, k @ W) - step * torch.outer(k, k @ start - v @ start)
    return W


def gain_loop(keys, values, steps, retention):
    """The gain (f, f): the identity after the chunk, written as a memory would be."""
    return written(torch.eye(keys.shape[1], dtype=keys.dtype), keys, values, steps, retention)


@holds("before any token the gain changes nothing", hint=1)
def begins_at_one(answer, rng):
    """Catches a start at zero, by a chunk of no tokens."""
    keys, values, steps, retention = draw_gain(rng)
    compare(torch.eye(keys.shape[1], dtype=keys.dtype), answer(keys[:0], values[:0], steps[:0], retention[:0]))


@holds("with v = k only retention and erase are left", hint=2)
def no_error(answer, rng):
    """Catches a missing erase and a product from the wrong side. With v = k there is no error to hide them."""
    keys, _, steps, retention = draw_gain(rng)
    compare(gain_loop(keys, keys, steps, retention), answer(keys, keys, steps, retention))


@holds("the gain times the start of any memory is that memory after the chunk", hint=3)
def serves_all(answer, rng):
    """Catches an error taken at the running weights. Memories of three widths must all be served."""
    args = draw_gain(rng)
    gain = answer(*args)
    for columns in (1, args[0].shape[1], 7):  # a step memory, a key memory, all of them side by side
        start = rng.normal(args[0].shape[1], columns)
        if gain.shape[-1] != len(start):
            raise Miss(f"a gain with {len(start)} columns", f"one of shape {tuple(gain.shape)}")
        compare(written(start, *args), gain @ start)


def solution_gain(keys, values, steps, retention):
    """G = retention G - step k^T (k G) - step k^T (k - v), from G = I, (f, f)."""
    gain = torch.eye(keys.shape[1], dtype=keys.dtype)
    for k, v, step, kept in zip(keys, values, steps, retention):
        gain = kept * gain - step * torch.outer(k, k @ gain) - step * torch.outer(k, k - v)
    return gain


def wrong_gain_running_error(keys, values, steps, retention):
    """Multiplies the error by G too, as if errors were taken token by token."""
    gain = torch.eye(keys.shape[1], dtype=keys.dtype)
    for k, v, step, kept in zip(keys, values, steps, retention):
        gain = kept * gain - step * torch.outer(k, k @ gain) - step * torch.outer(k, (k - v) @ gain)
    return gain


def wrong_gain_from_the_right(keys, values, steps, retention):
    """Writes every product in the other order, as it stands where vectors are columns."""
    gain = torch.eye(keys.shape[1], dtype=keys.dtype)
    for k, v, step, kept in zip(keys, values, steps, retention):
        gain = kept * gain - step * torch.outer(gain @ k, k) - step * torch.outer(k - v, k)
    return gain


def wrong_gain_from_zero(keys, values, steps, retention):
    """Starts at zero, as a sum of writes would start."""
    gain = torch.zeros(keys.shape[1], keys.shape[1], dtype=keys.dtype)
    for k, v, step, kept in zip(keys, values, steps, retention):
        gain = kept * gain - step * torch.outer(k, k @ gain) - step * torch.outer(k, k - v)
    return gain


def wrong_gain_no_erase(keys, values, steps, retention):
    """Keeps retention and error alone."""
    gain = torch.eye(keys.shape[1], dtype=keys.dtype)
    for k, v, step, kept in zip(keys, values, steps, retention):
        gain = kept * gain - step * torch.outer(k, k - v)
    return gain


GAIN = Exercise(
    id="7.3",
    title="the gain that all linear memories share",
    aim="To see in one matrix why linear self-modifying memories cannot part, and why a zero start stays zero.",
    task="""
In one chunk every linear memory W begins at W_0 and moves by

W <- retention[t] W - steps[t] k^T (k W) - steps[t] k^T (k W_0 - v W_0),    k = keys[t], v = values[t] as rows.

Only W_0 says which memory it is. Write `shared_gain(keys, values, steps, retention)`: the matrix G with W = G W_0 after
the chunk, for every W_0.

* `keys` and `values` are (t, f), with t >= 0; `steps` and `retention` are (t,).
* The result is G (f, f).""",
    stub='''
def shared_gain(keys, values, steps, retention):
    """-> G (f, f): every memory after the chunk is G @ its start"""
    ...
''',
    properties=(
        begins_at_one,
        no_error,
        serves_all,
        any_size("one token, and many", (1, 2, 9), draw_gain, gain_loop, hint=3),
        pure("the inputs are left as they were", draw_gain, hint=1),
    ),
    hints=(
        "Before any token W_0 = G W_0, so G begins as torch.eye(f, dtype=keys.dtype).",
        "Put W = G W_0 into the rule and take W_0 out on the right. The erase becomes - step * outer(k, k @ G).",
        "The error is taken at the start, where G is the identity. So it is - step * outer(k, k - v), without G.",
    ),
    solution=solution_gain,
    wrong=(
        Wrong(
            wrong_gain_running_error,
            "Takes the error at the running weights. In a chunk, errors are taken at the boundary, where G is 1.",
            serves_all.name,
        ),
        Wrong(
            wrong_gain_from_the_right,
            "Multiplies from the right, as with columns. Here vectors are rows, and writes stand to the left of W.",
            no_error.name,
        ),
        Wrong(
            wrong_gain_from_zero,
            "Begins at zero. Before the first token every memory is its own start, so G is the identity.",
            begins_at_one.name,
        ),
        Wrong(wrong_gain_no_erase, "Leaves out the erase, the part that flips signs.", no_error.name),
    ),
)

# ------------------------------------------------------------------------------- 7.4 the blind zone


def draw_place(rng: Rng):
    """A token from 1 to 40, chunks of 1 to 12 tokens, a convolution over 1 to 5."""
    chunk = rng.whole(1, 12)
    return rng.whole(1, 40), chunk, rng.whole(1, 5)


def unseen(token, chunk, conv):
    """The tokens out of reach: each token after the last boundary is tested."""
    boundary = chunk * ((token - 1) // chunk)
    return [s for s in range(boundary + 1, token + 1) if s <= token - conv]


@holds("token 32 with chunks of 16 and a convolution of 4 is blind to 17 to 28", hint=2)
def example(answer, rng):
    """Catches any rule that is off by one, with a case that can be counted by hand."""
    compare(list(range(17, 29)), [int(s) for s in answer(32, 16, 4)])


@holds("with chunks of one token nothing is unseen", hint=1)
def sees_all(answer, rng):
    """Catches a boundary that is too early. With chunks of one token the memories hold the whole past."""
    compare([], [int(s) for s in answer(rng.whole(1, 20), 1, rng.whole(1, 4))])


@holds("the first token of a chunk sees all that came before", hint=2)
def fresh(answer, rng):
    """Catches the same in longer chunks: right after a boundary nothing is missing."""
    chunk = rng.whole(2, 9)
    compare([], [int(s) for s in answer(3 * chunk + 1, chunk, rng.whole(1, 4))])


@holds("the tokens lie between the boundary and the convolution's reach, for all sizes", hint=3)
def zone(answer, rng):
    """Catches what the three fixed cases miss, with eight random sizes in each trial."""
    for _ in range(8):
        args = draw_place(rng)
        compare(unseen(*args), [int(s) for s in answer(*args)])


def solution_blind(token, chunk, conv):
    """The range from boundary + 1 to token - conv, with boundary = (token - 1) // chunk * chunk."""
    boundary = (token - 1) // chunk * chunk
    return list(range(boundary + 1, token - conv + 1))


def wrong_blind_whole_chunk(token, chunk, conv):
    """Takes all earlier tokens of the chunk, as if the convolution saw only the present one."""
    boundary = (token - 1) // chunk * chunk
    return list(range(boundary + 1, token))


def wrong_blind_boundary(token, chunk, conv):
    """Takes token // chunk for the boundary, as if a chunk's last token read its own chunk's writes."""
    boundary = token // chunk * chunk
    return list(range(boundary + 1, token - conv + 1))


def wrong_blind_off_by_one(token, chunk, conv):
    """Lets the convolution see `conv` tokens besides the present one."""
    boundary = (token - 1) // chunk * chunk
    return list(range(boundary + 1, token - conv))


BLIND = Exercise(
    id="7.4",
    title="the blind zone of a chunk",
    aim="To know before training which tokens a one-layer model cannot use, and what chunk parity needs.",
    task="""
The output of token t comes from the memories at the last boundary before it. Boundaries lie after `chunk`, 2 `chunk`,
... tokens. A causal convolution also sees the token itself and the `conv` - 1 tokens before it.

Write `blind_zone(token, chunk, conv)`: the tokens up to `token` that its output cannot depend on, in order.

* `token` counts from 1; `chunk` and `conv` are whole numbers of at least 1.
* The result is a list of whole numbers, empty if there are none.""",
    stub='''
def blind_zone(token, chunk, conv):
    """-> the earlier tokens, counted from 1, that the output at `token` does not see"""
    ...
''',
    properties=(sees_all, example, fresh, zone),
    hints=(
        "With chunk = 1 the last boundary before token t is t - 1, so the memories hold all earlier tokens.",
        "The last boundary before token t is (t - 1) // chunk * chunk. The last token of a chunk still reads the "
        "weights with which its chunk began.",
        "The convolution reaches back to t - conv + 1. The tokens from boundary + 1 to t - conv are unseen, if any.",
    ),
    solution=solution_blind,
    wrong=(
        Wrong(wrong_blind_whole_chunk, "Forgets the convolution, which sees the last tokens directly.", example.name),
        Wrong(
            wrong_blind_boundary,
            "Takes token // chunk. The chunk's last token would then read its own chunk's writes, which come later.",
            example.name,
        ),
        Wrong(
            wrong_blind_off_by_one, "The convolution sees conv tokens, and the present one is among them.", example.name
        ),
    ),
)

# ------------------------------------------------------------------------------- 7.5 the erase of a layer


def draw_erase(rng: Rng):
    """Weights (n, m), an input (n,), step from 0.1 to 0.9, retention from 0.5 to 1: n 2 to 5, m 2 to 4."""
    n, m = rng.whole(2, 5), rng.whole(2, 4)
    return rng.normal(n, m), rng.normal(n), rng.number(0.1, 0.9), rng.number(0.5, 1.0)


@holds("what the layer answers to its own input shrinks to retention - step times", hint=2)
def shrinks(answer, rng):
    """Catches a retention that shrinks the erase as well."""
    W, a, step, retention = draw_erase(rng)
    compare((retention - step) * (a @ W), a @ answer(W, a, step, retention))


@holds("inputs at right angles are changed by the retention only", hint=2)
def spares(answer, rng):
    """Catches an erase that reaches beyond the input's own direction."""
    W, a, step, retention = draw_erase(rng)
    other = rng.normal(len(a))
    other = other - (other @ a) / (a @ a) * a
    compare(retention * (other @ W), other @ answer(W, a, step, retention))


@holds("an input ten times as long erases no more", hint=1)
def same_length(answer, rng):
    """Catches an input that was not brought to length 1, or that was divided by its length only once."""
    W, a, step, retention = draw_erase(rng)
    compare(answer(W, a, step, retention), answer(W, 10 * a, step, retention))


erase_equals = equals(
    "the weights are those of the formula",
    draw_erase,
    lambda W, a, step, retention: retention * W - step / (a @ a) * torch.outer(a, a @ W),
    hint=3,
    tolerance=1e-9,
)


def solution_erase(weights, a, step, retention):
    """retention W - step a^T (a W) with a brought to length 1, (n, m)."""
    a = a / a.norm()
    return retention * weights - step * torch.outer(a, a @ weights)


def wrong_erase_raw(weights, a, step, retention):
    """Uses the input as it came, as if it were a key of length 1."""
    return retention * weights - step * torch.outer(a, a @ weights)


def wrong_erase_half(weights, a, step, retention):
    """Divides by |a| once, although the product contains the input twice."""
    return retention * weights - step / a.norm() * torch.outer(a, a @ weights)


def wrong_erase_inside(weights, a, step, retention):
    """Erases first and lets the retention shrink the result."""
    a = a / a.norm()
    return retention * (weights - step * torch.outer(a, a @ weights))


ERASE = Exercise(
    id="7.5",
    title="the erase of a second layer",
    aim="To see what `per-layer` means where the paper writes an erase that fits one matrix only.",
    task="""
The paper's erase, (alpha I - eta k^T k) W in rows, is written for one matrix. A two-layer memory has a second layer.
Its input is not the key but `a`, what the first layer made of the key, and `a` can have any length. Our choice erases
each layer along its own input, brought to length 1.

Write `erase_layer(weights, a, step, retention)`: the layer's weights after retention and erase, without any error.

* `weights` is (n, m), used as a @ weights; `a` is (n,) and not zero; `step` and `retention` are numbers.
* The result is (n, m).""",
    stub='''
def erase_layer(weights, a, step, retention):
    """-> the layer's weights after retention and erase, (n, m)"""
    ...
''',
    properties=(
        same_length,
        shrinks,
        spares,
        erase_equals,
        pure("the inputs are left as they were", draw_erase, hint=1),
    ),
    hints=(
        "First bring a to length 1, because its length must not matter.",
        "Along a, the answer a @ W must become (retention - step) (a @ W). Elsewhere only the retention acts.",
        "retention * weights - step * torch.outer(a, a @ weights), with a = a / a.norm().",
    ),
    solution=solution_erase,
    wrong=(
        Wrong(
            wrong_erase_raw,
            "Uses the input as it is. A long input erases too much, and may turn the sign of what stands there.",
            same_length.name,
        ),
        Wrong(wrong_erase_half, "Divides by |a| once. The product contains a twice: |a|^2.", same_length.name),
        Wrong(
            wrong_erase_inside,
            "Lets the retention shrink the erase too. The rule has both side by side: retention I - step a^T a.",
            shrinks.name,
        ),
    ),
)
