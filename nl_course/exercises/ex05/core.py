"""Exercises of notebook 05: one write of Titans (5.1), what becomes of it (5.2).

5.3 and 5.5 stand in chunk.py, 5.4 in dual.py.
"""

import torch

from nl_course.exercises.ex05.chunk import GATE_MASK, MAC_MASK
from nl_course.exercises.ex05.dual import CHUNK_READ
from nl_course.exercises.framework.engine import Exercise, Wrong
from nl_course.exercises.framework.properties import Miss, Rng, compare, equals, holds, pure, right_shape

# ------------------------------------------------------------------------------- 5.1 one write


def draw_token(rng: Rng):
    """Memory and past surprise (f, m), k (f,), v (m,), three gates in 0.1 to 0.9: f 2 to 5, m larger by 1 or 2."""
    f = rng.whole(2, 5)
    m = f + rng.whole(1, 2)
    gates = rng.number(0.1, 0.9), rng.number(0.1, 0.9), rng.number(0.1, 0.9)
    return rng.normal(f, m), rng.normal(f, m), rng.normal(f), rng.normal(m), *gates


def by_autograd(memory, past, k, v, step, momentum, retention):
    """Memory and S after one token, (f, m) each, with the surprise from PyTorch's autograd."""
    memory = memory.clone().requires_grad_()
    (surprise,) = torch.autograd.grad((k @ memory - v).square().sum() / 2, memory)
    moving = -step * surprise + momentum * past
    return (memory * retention + moving).detach(), moving


@holds("with no past, no momentum and full retention it is 03's delta rule", hint=1)
def is_delta_rule(answer, rng):
    """Catches a wrong sign and a step in the wrong place, with everything else switched off."""
    memory, past, k, v, step, *_ = draw_token(rng)
    after = memory + step * k[:, None] * (v - k @ memory)
    compare(after, answer(memory, past * 0, k, v, step, 0.0, 1.0)[0])


@holds("S is momentum times the old one, minus the whole step times the surprise", hint=2)
def adds_up(answer, rng):
    """Catches a moving average: it would put 1 - momentum before the surprise. Retention is 1 here."""
    *args, _ = draw_token(rng)
    compare(by_autograd(*args, 1.0)[1], answer(*args, 1.0)[1])


@holds("the surprise is that of the memory as it was, before any forgetting", hint=3)
def surprise_first(answer, rng):
    """Catches a gradient taken after the decay, as Gated DeltaNet takes it."""
    args = draw_token(rng)
    compare(by_autograd(*args)[1], answer(*args)[1])


@holds("retention shrinks the old memory only, not what is written now", hint=2)
def wears_the_old(answer, rng):
    """Catches a decay of the sum: with retention 0 the memory must be exactly what was written now."""
    memory, past, k, v, step, momentum, _ = draw_token(rng)
    compare(by_autograd(memory, past, k, v, step, momentum, 0.0)[1], answer(memory, past, k, v, step, momentum, 0.0)[0])


write_equals = equals("memory and past surprise are those of autograd", draw_token, by_autograd, hint=3)


def solution_write(memory, past, k, v, step, momentum, retention):
    """S' = momentum S - step k^T (k M - v), then M' = retention M + S', (f, m) each."""
    surprise = torch.outer(k, k @ memory - v)
    past = momentum * past - step * surprise
    return retention * memory + past, past


def wrong_write_uphill(memory, past, k, v, step, momentum, retention):
    """Adds the gradient, as if surprise were the thing to store."""
    past = momentum * past + step * torch.outer(k, k @ memory - v)
    return retention * memory + past, past


def wrong_write_step_outside(memory, past, k, v, step, momentum, retention):
    """Applies the step to all of S, as an optimizer's learning rate is applied."""
    past = momentum * past - torch.outer(k, k @ memory - v)
    return retention * memory + step * past, past


def wrong_write_wears_all(memory, past, k, v, step, momentum, retention):
    """Writes first and decays the sum, as if the order of the two did not matter."""
    past = momentum * past - step * torch.outer(k, k @ memory - v)
    return retention * (memory + past), past


def wrong_write_forgets_first(memory, past, k, v, step, momentum, retention):
    """Decays the memory, then takes the gradient there, as Gated DeltaNet does."""
    memory = retention * memory
    past = momentum * past - step * torch.outer(k, k @ memory - v)
    return memory + past, past


def wrong_write_averages(memory, past, k, v, step, momentum, retention):
    """Puts 1 - momentum before the surprise, as Adam averages its gradients."""
    past = momentum * past - (1 - momentum) * step * torch.outer(k, k @ memory - v)
    return retention * memory + past, past


ONE_WRITE = Exercise(
    id="5.1",
    title="one write: surprise, momentum, retention",
    aim="To hold the whole recurrence in two lines, in the right order.",
    task="""
Write `write(memory, past, k, v, step, momentum, retention)` for a linear memory, which answers a key k with k @ memory.

* The surprise is the gradient of |k @ memory - v|² / 2 with respect to the memory, taken at the memory **as it was**.
* The new past surprise is momentum times the old one, minus `step` times the surprise.
* The new memory is `retention` times the old one, plus the new past surprise.

`memory` and `past` are (f, m), `k` is (f,), `v` is (m,). Return the new memory and the new past surprise.""",
    stub='''
def write(memory, past, k, v, step, momentum, retention):
    """(f, m), (f, m), (f,), (m,), three numbers -> memory (f, m), past surprise (f, m)"""
    ...
''',
    properties=(
        is_delta_rule,
        adds_up,
        surprise_first,
        wears_the_old,
        write_equals,
        pure("the inputs are left as they were", draw_token, hint=1),
    ),
    hints=(
        "The gradient of |k @ memory - v|² / 2 is torch.outer(k, k @ memory - v): the key times the error. A write "
        "goes against it.",
        "Two lines, in this order: past = momentum * past - step * surprise; memory = retention * memory + past.",
        "The error in the surprise uses the memory that came in, not retention * memory: Titans takes the "
        "gradient first and forgets afterwards.",
    ),
    solution=solution_write,
    wrong=(
        Wrong(
            wrong_write_uphill,
            "Goes up the loss. S collects steps, and steps point against the gradients.",
            is_delta_rule.name,
        ),
        Wrong(
            wrong_write_step_outside,
            "The step multiplies the whole momentum instead of this token's surprise. With one step for all tokens "
            "the memory would be the same. With a step per token, an old surprise would be scaled by the step of a "
            "later token.",
            adds_up.name,
        ),
        Wrong(
            wrong_write_averages,
            "A moving average, as Adam keeps it. Titans' momentum adds up: with momentum near 1 a write "
            "grows to many times its step, which is why large momentum and large steps do not go together.",
            adds_up.name,
        ),
        Wrong(
            wrong_write_forgets_first,
            "Decays, then takes the gradient: that is Gated DeltaNet. The paper's appendix calls the two equivalent. "
            "They are equal only while nothing is forgotten.",
            surprise_first.name,
        ),
        Wrong(
            wrong_write_wears_all,
            "Shrinks what has just been written, too. A token that says `forget everything` could not write anything.",
            wears_the_old.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- 5.2 the response to one write


def draw_response(rng: Rng):
    """Momentum and retention from 0.1 to 0.95, drawn apart, and 4 to 12 tokens."""
    return rng.number(0.1, 0.95), rng.number(0.1, 0.95), rng.whole(4, 12)


def stepped(momentum, retention, tokens):
    """How much of one write stands at each age, (tokens,), from what momentum brings at that age."""
    stands, rows = 0.0, []
    for age in range(tokens):
        stands = stands * retention + momentum**age
        rows.append(stands)
    return torch.tensor(rows, dtype=torch.float64)


@holds("at the write itself exactly one step stands in the memory", hint=1)
def begins_at_one(answer, rng):
    """Catches a response that begins one token late."""
    compare(1.0, answer(*draw_response(rng))[0].item())


@holds("without momentum a write only fades: retention to the power of its age", hint=1)
def only_fades(answer, rng):
    """Catches a product of the two gates: with momentum 0 it would be 0 at every later age."""
    _, retention, tokens = draw_response(rng)
    compare(retention ** torch.arange(tokens, dtype=torch.float64), answer(0.0, retention, tokens))


@holds("with full retention a write grows toward 1 / (1 - momentum)", hint=2)
def grows(answer, rng):
    """Catches an answer without momentum, and one that forgets: 400 tokens reach the limit to 1e-6."""
    momentum = rng.number(0.3, 0.8)
    got = answer(momentum, 1.0, 400)[-1].item()
    if not abs(got - 1 / (1 - momentum)) < 1e-6:
        raise Miss(f"{1 / (1 - momentum):.4f} after 400 tokens with momentum {momentum:.4f}", short_number(got))


@holds("momentum equal to retention is no special case", hint=3)
def equal_gates(answer, rng):
    """Catches the closed form without its special case, which is 0 / 0 here."""
    momentum, _, tokens = draw_response(rng)
    compare(stepped(momentum, momentum, tokens), answer(momentum, momentum, tokens))


response_equals = equals("the numbers are those of the recurrence", draw_response, stepped, hint=2)


def short_number(number: float) -> str:
    """A number with four digits after the point, for the messages."""
    return f"{number:.4f}"


def solution_response(momentum, retention, tokens):
    """sum over i <= j of retention^(j - i) momentum^i for ages j = 0, 1, ..., (tokens,), by the recurrence."""
    memory, past, found = 0.0, 1.0, []
    for _ in range(tokens):
        memory = retention * memory + past
        found.append(memory)
        past = momentum * past
    return torch.tensor(found, dtype=torch.float64)


def wrong_response_fades(momentum, retention, tokens):
    """retention^j: the write happens once, as it does without momentum."""
    return retention ** torch.arange(tokens, dtype=torch.float64)


def wrong_response_product(momentum, retention, tokens):
    """(momentum retention)^j, as if both gates acted on the same thing."""
    return (momentum * retention) ** torch.arange(tokens, dtype=torch.float64)


def wrong_response_late(momentum, retention, tokens):
    """The right numbers one token late, as if a write could be read from the next token on."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), solution_response(momentum, retention, tokens)[:-1]])


def wrong_response_not_worn(momentum, retention, tokens):
    """Adds up what momentum brings and lets nothing fade."""
    return (momentum ** torch.arange(tokens, dtype=torch.float64)).cumsum(0)


def wrong_response_formula(momentum, retention, tokens):
    """The closed form with a tiny number under the fraction, as if that cured 0 / 0."""
    age = torch.arange(1, tokens + 1, dtype=torch.float64)
    return (retention**age - momentum**age) / (retention - momentum + 1e-300)


RESPONSE = Exercise(
    id="5.2",
    title="the response to one write",
    aim="To know what is left of a surprise a while later: momentum makes it grow, retention makes it fade.",
    task="""
One token writes, no other does. Write `response(momentum, retention, tokens)`: how much of that write stands in the
memory at its own token and at those that follow, in units of its step.

* `momentum` and `retention` are the same at every token, between 0 and 1; `tokens` is a whole number, 1 or more.
* The result is a float64 tensor (tokens,); its first number, age 0, is 1.

A loop of three lines is enough. (The closed form has a trap.)""",
    stub='''
def response(momentum, retention, tokens):
    """two numbers, a whole number -> (tokens,), float64"""
    ...
''',
    properties=(
        right_shape("one number per token comes out", draw_response, lambda m, r, tokens: (tokens,)),
        begins_at_one,
        only_fades,
        grows,
        response_equals,
        equal_gates,
    ),
    hints=(
        "Start with memory 0 and past surprise 1 (one step). At every token: memory = retention * memory + past, then "
        "past = momentum * past.",
        "At age j the memory holds the sum over i of retention^(j - i) * momentum^i: the echo that came i tokens after "
        "the write has faded j - i times since.",
        "The sum is (retention^(j+1) - momentum^(j+1)) / (retention - momentum), which is 0 / 0 for equal gates, where "
        "the sum is (j + 1) * retention^j. The loop needs no special case.",
    ),
    solution=solution_response,
    wrong=(
        Wrong(
            wrong_response_fades,
            "Forgets the momentum: the write happens once and fades. It is right without momentum.",
            grows.name,
        ),
        Wrong(
            wrong_response_product,
            "Multiplies the two rates. They act on different things: momentum on what is still to be written, "
            "retention on what is in the memory already.",
            only_fades.name,
        ),
        Wrong(
            wrong_response_late,
            "One token late. S is added to the memory at the very token that makes it.",
            begins_at_one.name,
        ),
        Wrong(
            wrong_response_not_worn,
            "Adds up the echoes and lets none of them fade. That is right only if nothing is forgotten.",
            only_fades.name,
        ),
        Wrong(
            wrong_response_formula,
            "The closed form without its special case. The gates of a trained model are never exactly equal; those "
            "that a learner sets by hand are.",
            equal_gates.name,
        ),
    ),
)

# ------------------------------------------------------------------------------- what the notebook loads

EXERCISES = (ONE_WRITE, RESPONSE, GATE_MASK, CHUNK_READ, MAC_MASK)

DISCUSSION = (
    (
        "Which texts would surprise the memory and yet not be worth keeping? Which part of the layer could learn to "
        "let them pass?",
        "Noise (random digits, hashes, typing errors) never stops surprising. A text in which everything is new, "
        "such as a table, surprises at every token. A gradient does not tell important from merely new. Three parts "
        "that the outer loop trains can tell. The step is a function of the token and can be near 0 for such tokens. "
        "The retention can be low right after them. The projections can map them to keys that disturb nothing. All "
        "three learn only from the outer loss: from whether keeping something paid in the training texts.",
    ),
    (
        "Cut MAG's memory, and recall falls; cut its attention, and it falls. Why do the two losses not add up?",
        "A cut measures how much this trained model relies on a part, not what the part could do. The rest was trained "
        "to work beside it and has never seen its absence. So two parts can each look indispensable, and two that back "
        "each other up can each look useless. To learn what a part is worth, train a model without it, of equal size, "
        "on the same data, from several seeds, and compare the two.",
    ),
    (
        "What must happen to a state of fixed size as the text grows without end? Which of momentum, retention, depth "
        "and attention changes that, and which only delays it?",
        "A fixed number of bits can tell only so many pasts apart, so from some length on something must be lost or "
        "blurred. Depth and width delay the length at which that begins; retention decides what goes, the old rather "
        "than the new. Momentum does not hold more; it repeats writes. Attention with a window keeps its few tokens "
        "exactly and loses the others altogether. Only a state that grows changes it, and then the memory that each "
        "user needs grows too. What can be learned is which part of the past to spend the bits on.",
    ),
)
