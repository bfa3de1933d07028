"""Exercises of notebook 05, continued: a chunk of writes at once, with the state that it came with (5.4)."""

import torch

from nl_course.exercises.ex05.chunk import draw_gates
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, equals, holds, pure

# ------------------------------------------------------------------------------- 5.4 one chunk at once


def draw_chunk(rng: Rng):
    """Memory and past (f, m), queries, keys (c, f), errors (c, m), three gates (c,): c 3 to 6, f 2 to 4, m = f + 1."""
    c, f = rng.whole(3, 6), rng.whole(2, 4)
    m = f + 1
    rows = rng.normal(f, m), rng.normal(f, m), rng.normal(c, f), rng.normal(c, f), rng.normal(c, m)
    return *rows, *draw_gates(rng, c)


def chunk_by_token(memory, past, queries, keys, errors, step, momentum, retention):
    """Answers (c, m) and last memory (f, m) by the loop that the task prints."""
    answers = []
    for t in range(len(keys)):
        past = momentum[t] * past - step[t] * torch.outer(keys[t], errors[t])
        memory = retention[t] * memory + past
        answers.append(queries[t] @ memory)
    return torch.stack(answers), memory


def chunk_parts(step, momentum, retention):
    """A, and P without its steps: products of the gates between two tokens; and the products from the start."""

    def between(gate):
        """The products of a gate between two tokens, (c, c), with 1 on the diagonal and 0 above it."""
        rows = gate[:, None].expand(len(gate), len(gate))
        after = torch.ones_like(rows, dtype=torch.bool).tril(-1)
        return torch.where(after, rows, torch.ones_like(rows)).cumprod(0).tril()

    return between(retention), between(momentum), retention.cumprod(0), momentum.cumprod(0)


@holds("with no error only old things are read: the memory, faded, and the old past surprise, echoed", hint=2)
def old_things(answer, rng):
    """Catches a missing or doubled past surprise: with no errors nothing else moves the answers."""
    args = draw_chunk(rng)
    args = (*args[:4], args[4] * 0, *args[5:])
    compare(chunk_by_token(*args)[0], answer(*args)[0])


@holds("from an empty memory at rest, the answers are those of the loop", hint=1)
def from_rest(answer, rng):
    """Catches a wrong mask or sign in what the chunk itself writes, with nothing carried in."""
    args = draw_chunk(rng)
    args = (args[0] * 0, args[1] * 0, *args[2:])
    compare(chunk_by_token(*args)[0], answer(*args)[0])


chunk_equals = equals(
    "answers and the memory after the chunk are those of the loop", draw_chunk, chunk_by_token, hint=3
)


def solution_chunk(memory, past, queries, keys, errors, step, momentum, retention):
    """kept (Q M) + spread (Q S) - (Q K^T * G) E, (c, m). The memory uses the last kept, spread and row of G."""

    def between(gate):  # [t, j] = gate[j + 1] * ... * gate[t]
        """The products of a gate between two tokens, (c, c), with 1 on the diagonal and 0 above it."""
        rows = gate[:, None].expand(len(gate), len(gate))
        after = torch.ones_like(rows, dtype=torch.bool).tril(-1)
        return torch.where(after, rows, torch.ones_like(rows)).cumprod(0).tril()

    A, P = between(retention), between(momentum) * step
    kept, spread, G = retention.cumprod(0), A @ momentum.cumprod(0), A @ P
    answers = kept[:, None] * (queries @ memory) + spread[:, None] * (queries @ past) - (queries @ keys.T * G) @ errors
    return answers, kept[-1] * memory + spread[-1] * past - (G[-1, :, None] * keys).T @ errors


def wrong_chunk_no_past(memory, past, queries, keys, errors, step, momentum, retention):
    """Starts every chunk with S = 0, as if momentum lived inside a chunk."""
    return solution_chunk(memory, past * 0, queries, keys, errors, step, momentum, retention)


def wrong_chunk_counts_twice(memory, past, queries, keys, errors, step, momentum, retention):
    """Adds the incoming S once more, as if it had not entered the memory in the chunk before."""
    answers, after = solution_chunk(memory, past, queries, keys, errors, step, momentum, retention)
    kept = retention.cumprod(0)[:, None]
    return answers + kept * (queries @ past), after + kept[-1] * past


def wrong_chunk_uphill(memory, past, queries, keys, errors, step, momentum, retention):
    """Adds the errors, as if they were target minus answer."""
    return solution_chunk(memory, past, queries, keys, -errors, step, momentum, retention)


def wrong_chunk_own_reach(memory, past, queries, keys, errors, step, momentum, retention):
    """Carries each write on with the diagonal of G: its share when it was written, not at the chunk's end."""
    answers, _ = solution_chunk(memory, past, queries, keys, errors, step, momentum, retention)
    A, H, kept, lasting = chunk_parts(step, momentum, retention)
    spread, G = A @ lasting, A @ (H * step)
    return answers, kept[-1] * memory + spread[-1] * past - (G.diagonal()[:, None] * keys).T @ errors


CHUNK_READ = Exercise(
    id="5.4",
    title="a chunk at once, with the state it came with",
    aim="To have written the fast form of Titans: what `chunked` does for each layer of the memory.",
    task="""
A linear memory begins a chunk of c tokens as `memory`, with the past surprise `past`; the errors of all tokens, taken
at the chunk's anchor, are known. Token by token it would be

`past = momentum[t] * past - step[t] * outer(keys[t], errors[t])`, then `memory = retention[t] * memory + past`,
then the answer `queries[t] @ memory`.

Write `read_chunk(memory, past, queries, keys, errors, step, momentum, retention)` without a loop over tokens and
without a matrix for each of them.

* `memory`, `past` (f, m); `queries`, `keys` (c, f); `errors` (c, m); the gates (c,) each.
* The result: the answers (c, m), and the memory after the chunk (f, m).""",
    stub='''
def read_chunk(memory, past, queries, keys, errors, step, momentum, retention):
    """-> answers (c, m), the memory after the chunk (f, m)"""
    ...
''',
    properties=(
        from_rest,
        old_things,
        chunk_equals,
        pure("the inputs are left as they were", draw_chunk, hint=1),
    ),
    hints=(
        "With G from exercise 5.3, what the chunk itself wrote is read as -((queries @ keys.T) * G) @ errors.",
        "The old memory fades: kept[t] = retention[1] * ... * retention[t]. The old past surprise echoes: it brings "
        "momentum[1] * ... * momentum[j] at each token j, and that fades from there to t: "
        "spread = A @ momentum.cumprod(0).",
        "answers = kept * (queries @ memory) + spread * (queries @ past) - (...). The memory after the chunk uses the "
        "last kept, the last spread and the last row of G: (G[-1, :, None] * keys).T @ errors.",
    ),
    solution=solution_chunk,
    wrong=(
        Wrong(
            wrong_chunk_uphill,
            "Adds the errors. They are answer minus target, and a write goes against them.",
            from_rest.name,
        ),
        Wrong(
            wrong_chunk_no_past,
            "Begins each chunk at rest. A surprise at the end of a chunk would stop at its edge.",
            old_things.name,
        ),
        Wrong(
            wrong_chunk_counts_twice,
            "Lets the sum over j begin at 0, with the past surprise as it came. It has entered the memory already, "
            "at the last token of the chunk before.",
            old_things.name,
        ),
        Wrong(
            wrong_chunk_own_reach,
            "Carries every token's write on as it stood at that token. What is carried is the last row of G, how it "
            "stands at the chunk's end.",
            chunk_equals.name,
        ),
    ),
)
