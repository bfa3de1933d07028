"""Exercise 8.2: score first, learn after, in a stream that comes in pieces of any size."""

from itertools import pairwise

import torch
from torch.nn.functional import cross_entropy

from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Rng, compare, holds, pure


def token_loss(W, token, following):
    """The loss of `following` after `token` under the table of logits W (vocab, vocab), a scalar tensor."""
    return cross_entropy(W[token][None], torch.as_tensor(following)[None])


def read_by_definition(tokens, W, chunk, rate):
    """All at once: the losses, the weights and the open chunk after `tokens`."""
    tokens, losses, begun = list(tokens), [], 0
    for i in range(1, len(tokens)):
        losses.append(token_loss(W, tokens[i - 1], tokens[i]))
        if i - begun == chunk:
            V = W.clone().requires_grad_()
            mean = sum(token_loss(V, tokens[j], tokens[j + 1]) for j in range(begun, i)) / chunk
            W, begun = (V - rate * torch.autograd.grad(mean, V)[0]).detach(), i
    return losses, W, tokens[begun:]


def draw_read(rng: Rng):
    """A text of 2 to 4 chunks and some more, W (vocab, vocab), chunks of 2 to 4, a rate from 0.5 to 2: vocab 3 to 5."""
    vocab, chunk = rng.whole(3, 5), rng.whole(2, 4)
    tokens = rng.tokens(vocab, rng.whole(2, 4) * chunk + rng.whole(2, chunk + 1)).tolist()
    return tokens, rng.normal(vocab, vocab), chunk, rng.number(0.5, 2.0)


def numbers(found):
    """Losses as one tensor, weights, open tokens, whatever kind of list the answer made."""
    losses, W, pending = found
    return torch.stack([torch.as_tensor(loss, dtype=torch.float64) for loss in losses]), W, [int(t) for t in pending]


@holds("the first chunk is scored with the weights as they came, its last token too", hint=1)
def scored_first(answer, rng):
    """Catches learning before scoring: all losses of the first chunk come from the weights that were given."""
    tokens, W, chunk, rate = draw_read(rng)
    losses, _, _ = numbers(answer(tokens, W, [], chunk, rate))
    compare(torch.stack([token_loss(W, a, b) for a, b in pairwise(tokens[: chunk + 1])]), losses[:chunk])


@holds("no loss depends on a token that comes later", hint=1)
def unaware(answer, rng):
    """Catches a look ahead: the tokens behind a random cut are changed, the losses before it must not move."""
    tokens, W, chunk, rate = draw_read(rng)
    cut = rng.whole(chunk + 1, len(tokens) - 1)
    changed = [*tokens[:cut], *((t + 1) % len(W) for t in tokens[cut:])]
    before, after = (numbers(answer(t, W, [], chunk, rate))[0][: cut - 1] for t in (tokens, changed))
    compare(before, after)


@holds("a chunk is learned when its last target has come, and an open one waits", hint=2)
def waits(answer, rng):
    """Catches a chunk that closes a token early, and one that is learned because the piece ends."""
    tokens, W, chunk, rate = draw_read(rng)
    for count in (chunk, chunk + 1, len(tokens)):
        _, expected, left = read_by_definition(tokens[:count], W, chunk, rate)
        _, got, pending = numbers(answer(tokens[:count], W, [], chunk, rate))
        compare(expected, got, what=f"weights after {count} tokens")
        compare(len(left), len(pending), what=f"tokens of the open chunk after {count} tokens")


@holds("cut anywhere and carried on, it is the same", hint=3)
def any_split(answer, rng):
    """Catches state that is lost between two pieces. The text is cut at every place in turn."""
    tokens, W, chunk, rate = draw_read(rng)
    losses, after, left = read_by_definition(tokens, W, chunk, rate)
    for cut in range(1, len(tokens)):
        one, middle, pending = answer(tokens[:cut], W, [], chunk, rate)
        two, end, open_ = answer(tokens[cut:], middle, pending, chunk, rate)
        got, end, open_ = numbers(([*one, *two], end, open_))
        compare(torch.stack(losses), got, what=f"losses, cut after {cut}")
        compare(after, end, what=f"weights, cut after {cut}")
        compare(left, open_, what="open tokens")


def solution_read(tokens, W, pending, chunk, rate):
    """Scores each token under W, and steps down the mean of a chunk's losses when its last target arrives."""
    losses, pending = [], list(pending)
    for token in tokens:
        if pending:
            log_p = W[pending[-1]].log_softmax(-1)
            losses.append(-log_p[token])
        if len(pending) == chunk:
            step = torch.zeros_like(W)
            for this, following in zip(pending, [*pending[1:], token]):
                step[this] += W[this].softmax(-1) / chunk
                step[this, following] -= 1 / chunk
            W, pending = W - rate * step, []
        pending.append(token)
    return losses, W, pending


def wrong_read_learns_first(tokens, W, pending, chunk, rate):
    """Takes the step when the last target arrives, and only then scores it."""
    losses, pending = [], list(pending)
    for token in tokens:
        if len(pending) == chunk:
            _, W, _ = solution_read([token], W, pending, chunk, rate)
            losses.append(-W[pending[-1]].log_softmax(-1)[token])
            pending = []
        elif pending:
            losses.append(-W[pending[-1]].log_softmax(-1)[token])
        pending.append(token)
    return losses, W, pending


def wrong_read_forgets_open(tokens, W, pending, chunk, rate):
    """Drops the open chunk when a piece ends, as if every piece were a text of its own."""
    losses, W, left = solution_read(tokens, W, [], chunk, rate)
    if pending and len(tokens):
        losses = [-W[pending[-1]].log_softmax(-1)[tokens[0]], *losses]
    return losses, W, left


def wrong_read_flushes(tokens, W, pending, chunk, rate):
    """Learns what is left over at the end of a piece, as if the text ended there."""
    losses, W, left = solution_read(tokens, W, pending, chunk, rate)
    if len(left) > 1:
        _, W, left = solution_read(left[-1:], W, left[:-1], len(left) - 1, rate)
    return losses, W, left


def wrong_read_own_targets(tokens, W, pending, chunk, rate):
    """Closes a chunk at its last token and learns the pairs inside it, one too few."""
    losses, pending = [], list(pending)
    for token in tokens:
        if pending:
            losses.append(-W[pending[-1]].log_softmax(-1)[token])
        pending.append(token)
        if len(pending) == chunk:
            pairs = list(pairwise(pending))
            step = torch.zeros_like(W)
            for this, following in pairs:
                step[this] += W[this].softmax(-1) / len(pairs)
                step[this, following] -= 1 / len(pairs)
            W, pending = W - rate * step, [token]
    return losses, W, pending


READ = Exercise(
    id="8.2",
    title="score first, learn after",
    aim="To find where the boundary lies in a stream: a chunk's last target is the first token of the next chunk.",
    task="""
W[a] holds the logits of what follows token a, so the loss of `b` after `a` is -log_softmax(W[a])[b]. Let this smallest
of language models train on what it reads, in a stream that comes in pieces of any size.

* A chunk is `chunk` tokens, each with the token that follows it as its target. **Score every token before** the weights
  learn from it.
* When a chunk's last target arrives, score it. Then W takes one step of size `rate` down the **mean** of the chunk's
  `chunk` losses. Then that token begins the next chunk.
* `pending` holds the tokens of the open chunk so far ([] at the start of a text). An open chunk waits, also at the end
  of a piece.

Write `read_on(tokens, W, pending, chunk, rate)` for the next piece.

* `tokens`: a list of whole numbers. `W`: (vocab, vocab). `pending`: a list.
* Return the losses of this piece as a list (a text's first token has none), W, and pending.""",
    stub='''
def read_on(tokens, W, pending, chunk, rate):
    """-> losses of these tokens (a list), W afterwards, tokens of the open chunk (a list)"""
    ...
''',
    properties=(scored_first, unaware, waits, any_split, pure("the inputs stay as they were", lambda d: (
        [0, 1, 2, 1, 0], d.normal(3, 3), [2, 0], 3, 1.0), hint=1)),
    hints=(
        "Go token by token. If something is pending, score the new token after pending[-1], with W as it is. Do not "
        "change W in place.",
        "If len(pending) == chunk, this token is the last target: step on the pairs (pending, pending[1:] + [token]), "
        "then pending = [token]. Otherwise just append it.",
        "The gradient of one loss is softmax(W[a]) at row a, less 1 at [a, b]. Divide it by chunk. Return the open "
        "tokens as pending; the next piece needs nothing else.",
    ),
    solution=solution_read,
    wrong=(
        Wrong(
            wrong_read_learns_first,
            "Learns from the chunk and then scores its last token: a loss that has seen its own answer.",
            scored_first.name,
        ),
        Wrong(
            wrong_read_forgets_open,
            "Starts a new chunk with every piece. Then the result depends on how the text was cut.",
            any_split.name,
        ),
        Wrong(
            wrong_read_flushes,
            "Learns from a ragged chunk at the end of every piece. A piece's end is not a boundary.",
            waits.name,
        ),
        Wrong(
            wrong_read_own_targets,
            "Closes the chunk one token too early: the chunk's last target has not come, so its pair is never learned.",
            scored_first.name,
        ),
    ),
)  # fmt: skip
