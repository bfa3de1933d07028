"""Exercises of notebook 05, continued: a chunk's mask from its gates (5.3), what MAC's attention may see (5.5)."""

import torch

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, compare, equals, holds, pure, right_shape

# ------------------------------------------------------------------------------- 5.3 the mask of a chunk


def draw_gates(rng: Rng, tokens: int | None = None):
    """Step, momentum and retention, (c,) each, in (0, 1): c from 3 to 7 unless given."""
    tokens = tokens or rng.whole(3, 7)
    return tuple(rng.normal(tokens).sigmoid() for _ in range(3))


def followed(step, momentum, retention):
    """Every token's write by itself, followed through the recurrence."""
    tokens, columns = len(step), []
    for i in range(tokens):
        memory, past, column = 0.0, 0.0, []
        for t in range(tokens):
            past = momentum[t] * past + (step[t] if t == i else 0.0)
            memory = retention[t] * memory + past
            column.append(torch.as_tensor(memory, dtype=step.dtype))
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


@holds("no token holds a share of a later token's write", hint=1)
def lower_triangle(answer, rng):
    """Catches shares above the diagonal, however small."""
    got = answer(*draw_gates(rng))
    compare(got.tril(), got)


@holds("its own write stands in a token with exactly its step", hint=1)
def own_step(answer, rng):
    """Catches gates that act on a write at its own token. They act from the next token on."""
    gates = draw_gates(rng)
    compare(gates[0], answer(*gates).diagonal().clone())


@holds("one token later the write has faded once and echoed once: step * (retention + momentum)", hint=2)
def one_later(answer, rng):
    """Catches a product of the two tables where their matrix product belongs. One token later both ways add up."""
    step, momentum, retention = draw_gates(rng)
    compare(step[:-1] * (retention[1:] + momentum[1:]), answer(step, momentum, retention).diagonal(-1).clone())


mask_equals = equals("the mask is that of the recurrence", draw_gates, followed, hint=3)


@holds("gates of exactly 0 give numbers, not nan", hint=3)
def closed_gates(answer, rng):
    """Catches ratios of running products: a gate of 0 makes them 0 / 0 for all later tokens."""
    step, momentum, retention = draw_gates(rng, 6)
    momentum, retention = momentum.clone(), retention.clone()
    momentum[2], retention[3] = 0.0, 0.0
    got = answer(step, momentum, retention)
    if not got.isfinite().all():
        raise Miss("numbers everywhere", "nan or infinity where a gate is 0")
    compare(followed(step, momentum, retention), got)


def solution_mask(step, momentum, retention):
    """A @ (P * step), (c, c): A and P hold the products of retention and momentum between two tokens."""

    def between(gate):  # [t, j] = gate[j + 1] * ... * gate[t]
        """The products of a gate between two tokens, (c, c), with 1 on the diagonal and 0 above it."""
        rows = gate[:, None].expand(len(gate), len(gate))
        after = torch.ones_like(rows, dtype=torch.bool).tril(-1)
        return torch.where(after, rows, torch.ones_like(rows)).cumprod(0).tril()

    return between(retention) @ (between(momentum) * step)


def wrong_mask_elementwise(step, momentum, retention):
    """Multiplies the two tables entry by entry, as if one path led from a write to a read, not many."""

    def between(gate):
        """The right table of products, (c, c): the mistake is in how the two are joined."""
        rows = gate[:, None].expand(len(gate), len(gate))
        after = torch.ones_like(rows, dtype=torch.bool).tril(-1)
        return torch.where(after, rows, torch.ones_like(rows)).cumprod(0).tril()

    return between(retention) * between(momentum) * step


def wrong_mask_step_of_reader(step, momentum, retention):
    """Puts the step on the rows, as if the token that reads chose how much was written."""
    return solution_mask(torch.ones_like(step), momentum, retention) * step[:, None]


def wrong_mask_own_gates(step, momentum, retention):
    """Counts the writer's own gates too, as if decay came after the write in the same token."""

    def through(gate):  # counts the writer's own gate too
        """Products from the writer's own gate on, (c, c): one factor too many in every entry."""
        rows = gate[:, None].expand(len(gate), len(gate))
        own = torch.ones_like(rows, dtype=torch.bool).tril()
        return torch.where(own, rows, torch.ones_like(rows)).cumprod(0).tril()

    return through(retention) @ (through(momentum) * step)


def wrong_mask_ratios(step, momentum, retention):
    """Gets the products between two tokens by dividing running products, which is right only without zeros."""

    def between(gate):
        """Running product at t over running product at j, (c, c): 0 / 0 after a gate of 0."""
        products = gate.cumprod(0)
        return (products[:, None] / products).tril()

    return between(retention) @ (between(momentum) * step)


def wrong_mask_sees_all(step, momentum, retention):
    """Fills the upper triangle with ones, as if the mask were needed only below the diagonal."""
    return solution_mask(step, momentum, retention) + torch.ones(len(step), len(step), dtype=step.dtype).triu(1)


GATE_MASK = Exercise(
    id="5.3",
    title="the mask of a chunk, from its gates",
    aim="To turn two recurrences into one matrix product: the step from the loop to the fast form.",
    task="""
In a chunk all errors are known beforehand, so both recurrences are linear. Write `mask(step, momentum, retention)`:
the share G[t, i] with which token i's write stands in the memory right after token t.

* `step`, `momentum` and `retention` are (c,): each token's own gates.
* The result G is (c, c), with G = A @ P. A[t, j] is the product of the retentions of the tokens j + 1 to t.
  P[j, i] is step[i] times the product of the momentums of the tokens i + 1 to j. Both are 0 above the diagonal. An
  empty product is 1.

A gate may be exactly 0.""",
    stub='''
def mask(step, momentum, retention):
    """(c,), (c,), (c,) -> (c, c)"""
    ...
''',
    properties=(
        right_shape("one row and one column per token come out", draw_gates, lambda s, m, r: (len(s), len(s))),
        lower_triangle,
        own_step,
        one_later,
        mask_equals,
        closed_gates,
        pure("the inputs are left as they were", draw_gates, hint=1),
    ),
    hints=(
        "Both factors are lower triangular (tril()). On the diagonal, A has an empty product, 1, and P has the step.",
        "The products begin *after* the writer: token i's own retention and momentum do not touch its own write. The "
        "matrix product A @ P sums over the tokens j at which momentum brought an echo.",
        "To get products without dividing: put gate[t] into row t below the diagonal and 1 elsewhere, and take "
        "cumprod(0) down each column, then tril(). A ratio of two running products is 0 / 0 behind a gate of 0.",
    ),
    solution=solution_mask,
    wrong=(
        Wrong(
            wrong_mask_sees_all,
            "Leaves something above the diagonal: tokens would read what is yet to be written.",
            lower_triangle.name,
        ),
        Wrong(
            wrong_mask_own_gates,
            "Lets a write fade and echo at its own token. In the recurrence both gates act on what was there before.",
            own_step.name,
        ),
        Wrong(
            wrong_mask_step_of_reader,
            "Takes the step of the token that reads. The step belongs to the token that wrote: it multiplies columns.",
            one_later.name,
        ),
        Wrong(
            wrong_mask_elementwise,
            "Multiplies the two tables entry by entry: a write that echoes *and* fades at every token. But it is a sum "
            "over all tokens j: an echo until j, faded from there.",
            one_later.name,
        ),
        Wrong(
            wrong_mask_ratios,
            "Divides running products. That is right on paper. Behind a gate of 0 it is 0 / 0, and with 64 small gates "
            "in single precision the product is 0 long before.",
            closed_gates.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 5.5 what MAC's attention sees


def draw_mac(rng: Rng):
    """1 to 3 persistent tokens, a text of 2 or 3 segments with or without one more token, segments of 2 to 4 tokens."""
    segment = rng.whole(2, 4)
    return rng.whole(1, 3), segment * rng.whole(2, 3) + rng.whole(0, 1), segment


def columns(answer, rng):
    """The answer's mask in its three parts, as 0 and 1, and which pairs of tokens are of one segment."""
    persistent, tokens, segment = draw_mac(rng)
    got = answer(persistent, tokens, segment)
    if got.dtype != torch.bool:
        raise Miss("a tensor of True and False", f"numbers of {got.dtype}")
    place = torch.arange(tokens) // segment
    return *got.double().split([persistent, tokens, tokens], dim=1), place[:, None] == place


@holds("every token sees every persistent token", hint=1)
def sees_persistent(answer, rng):
    """Catches a causal order laid over the persistent tokens, which have no place in the text."""
    first, *_ = columns(answer, rng)
    compare(torch.ones_like(first), first)


@holds("no token sees a later token", hint=1)
def no_future(answer, rng):
    """Catches a missing causal mask among the tokens themselves, in the last group of columns."""
    _, _, own, _ = columns(answer, rng)
    compare(own.tril(), own)


@holds("no token sees a row that was retrieved with a later token's query", hint=2)
def no_future_query(answer, rng):
    """Catches the leak of the printed order: row h_j is made with token j's query."""
    _, retrieved, _, _ = columns(answer, rng)
    compare(retrieved.tril(), retrieved)


@holds("nothing of another segment is seen", hint=3)
def inside_segment(answer, rng):
    """Catches a window that slides over an edge, and attention without segments, in both groups of columns."""
    _, *parts, together = columns(answer, rng)
    for part in parts:
        compare(part * together, part)


@holds("all that came before in the segment is seen, the token itself included", hint=3)
def sees_the_past(answer, rng):
    """Catches a mask that hides too much. All the other properties would pass an empty mask."""
    _, *parts, together = columns(answer, rng)
    for part in parts:
        compare(together.double().tril(), part)


def solution_mac(persistent, tokens, segment):
    """[all True | seen | seen], (T, n + 2 T), where i sees j if j <= i and both lie in one segment."""
    place = torch.arange(tokens)
    seen = (place <= place[:, None]) & (place // segment == place[:, None] // segment)
    return torch.cat([torch.ones(tokens, persistent, dtype=torch.bool), seen, seen], dim=1)


def wrong_mac_as_printed(persistent, tokens, segment):
    """Lets every token see all rows h of its segment, since they are printed before the tokens."""
    place = torch.arange(tokens)
    together = place // segment == place[:, None] // segment
    own = together & (place <= place[:, None])
    return torch.cat([torch.ones(tokens, persistent, dtype=torch.bool), together, own], dim=1)


def wrong_mac_no_segments(persistent, tokens, segment):
    """Plain causal attention, as if segments were only a way to compute it."""
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    return torch.cat([torch.ones(tokens, persistent, dtype=torch.bool), seen, seen], dim=1)


def wrong_mac_window(persistent, tokens, segment):
    """Lets the last `segment` tokens be seen, wherever a segment begins."""
    place = torch.arange(tokens)
    seen = (place <= place[:, None]) & (place > place[:, None] - segment)
    return torch.cat([torch.ones(tokens, persistent, dtype=torch.bool), seen, seen], dim=1)


def wrong_mac_prefix_causal(persistent, tokens, segment):
    """Lays a triangle over the persistent tokens, as if they were the text's first ones."""
    first = torch.ones(tokens, persistent, dtype=torch.bool).tril()
    return torch.cat([first, solution_mac(persistent, tokens, segment)[:, persistent:]], dim=1)


def wrong_mac_strict(persistent, tokens, segment):
    """Hides each token from itself, as if it were enough that the memory has its row."""
    full = solution_mac(persistent, tokens, segment)
    own = full[:, persistent + tokens :].tril(-1)
    return torch.cat([full[:, : persistent + tokens], own], dim=1)


MAC_MASK = Exercise(
    id="5.5",
    title="what MAC's attention may see",
    aim="To find the leak that the paper's way of writing [P | h | S] invites, and to close it.",
    task="""
MAC cuts the text into segments. The attention of token i reads three groups of columns, side by side: the persistent
tokens P, the retrieved rows h (one per token, asked for with that token's query), and the tokens s.

Write `mac_mask(persistent, tokens, segment)`: which columns each token may see, so that **nothing** of the future gets
in and attention stays inside the segment.

* There are `persistent` persistent tokens and `tokens` tokens. A segment has `segment` tokens; the last one may be
  shorter.
* The result is a bool tensor (tokens, persistent + 2 tokens): columns P, then h of all tokens, then s of all.""",
    stub='''
def mac_mask(persistent, tokens, segment):
    """three whole numbers -> bool (tokens, persistent + 2 tokens)"""
    ...
''',
    properties=(
        right_shape("one row per token, columns P, h, s", draw_mac, lambda n, t, s: (t, n + 2 * t)),
        sees_persistent,
        no_future,
        no_future_query,
        inside_segment,
        sees_the_past,
    ),
    hints=(
        "Three parts, joined with torch.cat(..., dim=1): P is all True; s is causal, itself included.",
        "h_j was read with token j's query, so it *is* a function of token j, although the weights that it was read "
        "from are older than the segment. h follows the same rule as s.",
        "Two tokens are of one segment if place // segment is equal, with place = torch.arange(tokens).",
    ),
    solution=solution_mac,
    wrong=(
        Wrong(
            wrong_mac_as_printed,
            "Takes [P | h | S] as it is printed, in plain causal order: all of h stands before S, so token 1 sees the "
            "row that was asked with the last token's query. The training loss falls, by looking ahead.",
            no_future_query.name,
        ),
        Wrong(
            wrong_mac_no_segments,
            "Causal attention over the whole text. Then no memory is needed, and the cache grows.",
            inside_segment.name,
        ),
        Wrong(
            wrong_mac_window,
            "A sliding window: that is MAG's and MAL's attention. MAC's segments do not slide; the first token of one "
            "sees no other token.",
            inside_segment.name,
        ),
        Wrong(
            wrong_mac_prefix_causal,
            "Treats persistent tokens as if they had places in the text. They stand before it and are seen by all.",
            sees_persistent.name,
        ),
        Wrong(
            wrong_mac_strict,
            "Leaves out the token itself. The first token of a segment would see no token at all.",
            sees_the_past.name,
        ),
    ),
)
