"""Events: a key and a value that are told, and what becomes of them later. Three texts.

    aftermath    k v ! !   k v . .   ...  then keys are asked: only an event with "!" behind it counts
    new_day      NEW k v k v ...  NEW k v ...  then keys are asked: only what was said since the last NEW holds
    retold       k v k v k v ...  the same keys again and again, mostly with the same value: now and then one changes

A memory that writes token by token has stored a pair before it reads what decides about it. In `aftermath` it must
come back to a write that it has already made, in `new_day` it must drop all that it holds at once. Titans' momentum and
retention can do that (arXiv 2501.00663, equations 10 and 13): both are gates of the token that decides. `retold` asks
nothing; it says which tokens are new, so that one can see whether a memory's surprise does.

Token 0 is blank. In the first two, each row ends in questions, a blank and a key each, and is scored there alone.

Axes: rows, length.
"""

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int
from nl_course.tasks.targets import IGNORED

BLANK = 0
COUNTS, PASSES = 1, 2  # of `aftermath`: the events that they follow count, or do not
NEW, UNKNOWN = 1, 2  # of `new_day`: a day begins; nothing was said today of the key that is asked
MARKS = 3  # tokens before the first key
NO_VALUE, FIRST, KNOWN, CHANGED = range(4)  # of `retold`: the kinds of token


def vocabulary(names: int) -> int:
    """Tokens of a text with `names` keys and as many values: keys begin at MARKS, values behind them."""
    return MARKS + 2 * check_int("names", names, 2)


def aftermath(rows: int, pairs: int = 4, behind: int = 2, names: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every key is told two values, and only one of the two events counts: (tokens, targets), int64, each
    (rows, pairs * (2 * (2 + behind) + 2)).

    An event is a key, a value and `behind` tokens COUNTS or PASSES. The events of a row come in a random order. The
    target of a key that is asked is its value in the event that counts. Each value stands in two events too, one that
    counts and one that does not: which values count is therefore no help, which *pairs* do must be known.

    Raises CourseError unless there are 2 pairs at least and as many names.
    """
    check_int("rows", rows, 1)
    check_int("pairs", pairs, 2)
    check_int("behind", behind, 1)
    vocabulary(names)
    if names < pairs:
        raise CourseError(f"{pairs} pairs need {pairs} names at least, not {names}.")
    rng = torch.Generator().manual_seed(seed)
    keys = MARKS + _different(rows, names, pairs, rng)  # (rows, pairs)
    values = MARKS + names + _different(rows, names, pairs, rng)
    others = values.roll(1, dims=1)  # the next key's value: what is said in vain of a key

    counting = torch.stack([keys, values] + behind * [torch.full_like(keys, COUNTS)], dim=-1)
    passing = torch.stack([keys, others] + behind * [torch.full_like(keys, PASSES)], dim=-1)
    events = torch.cat([counting, passing], dim=1)  # (rows, 2 pairs, 2 + behind)
    events = _shuffled(events, rng).flatten(1)  # (rows, 2 pairs (2 + behind))

    order = torch.rand(rows, pairs, generator=rng).argsort(1)
    return _asked(events, keys.gather(1, order), values.gather(1, order))


def new_day(
    rows: int, days: int = 3, most: int = 6, questions: int = 8, names: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """What was said on earlier days holds no more: (tokens, targets), int64, each
    (rows, days * (1 + 2 * most) + 2 * questions).

    A day is the token NEW and 1 to `most` pairs of a key and a value, at random places among blanks. A key is told one
    value a day, at most. Half of the questions are about keys of the last day, and the target is the value. The other
    half are about keys that were told on earlier days only, and the target is UNKNOWN. (If there are none, they are
    about keys that were never told.)

    Raises CourseError unless there are 2 days at least, an even number of questions, and more names than `most`.
    """
    check_int("rows", rows, 1)
    check_int("days", days, 2)
    check_int("most", most, 1)
    vocabulary(names)
    if check_int("questions", questions, 2) % 2:
        raise CourseError(f"questions must be even, not {questions}.")
    if names <= most:
        raise CourseError(f"{most} pairs a day need more than {most} names, not {names}.")
    rng = torch.Generator().manual_seed(seed)
    keys = MARKS + torch.rand(rows, days, names, generator=rng).argsort(-1)[..., :most]  # (rows, days, most)
    values = MARKS + names + torch.randint(names, (rows, days, most), generator=rng)

    # Of the places of a day as many are used as it has pairs.
    count = torch.randint(1, most + 1, (rows, days, 1), generator=rng)
    rank = torch.rand(rows, days, most, generator=rng).argsort(-1)
    used = rank < count
    keys = keys.masked_fill(~used, BLANK)
    values = values.masked_fill(~used, BLANK)
    text = torch.stack([keys, values], dim=-1).flatten(2)  # (rows, days, 2 most)
    text = torch.cat([torch.full((rows, days, 1), NEW), text], dim=2).flatten(1)  # (rows, days (1 + 2 most))

    # By token: what is said of it today, UNKNOWN if nothing; unused places all write to the blank, which is no key.
    answer = torch.full((rows, MARKS + names), UNKNOWN)
    answer.scatter_(1, keys[:, -1], values[:, -1])
    today = _among(keys[:, -1:], names)  # (rows, MARKS + names)
    earlier = _among(keys[:, :-1], names) & ~today
    never = ~today
    never[:, :MARKS] = False
    gone = torch.where(earlier.any(1, keepdim=True), earlier, never)
    half = questions // 2
    asked_today = torch.multinomial(today.double(), half, replacement=True, generator=rng)  # (rows, half)
    asked_gone = torch.multinomial(gone.double(), half, replacement=True, generator=rng)
    asked = _shuffled(torch.cat([asked_today, asked_gone], dim=1), rng)  # (rows, questions)
    return _asked(text, asked, answer.gather(1, asked))


def retold(
    rows: int, told: int = 32, keys: int = 6, changes: float = 0.15, names: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a key and a value, mostly told before: (tokens, targets, kind), int64, each (rows, 2 * told).

    Each pair tells one of the row's `keys` keys, drawn at random. The first time its value is drawn (FIRST). Later it
    is the same as the last time (KNOWN), or, with the chance `changes`, another one (CHANGED). `kind` has these at the
    values and NO_VALUE at the keys. The target of a key is the value behind it: next-token prediction, scored where a
    memory can help. Raises CourseError unless `changes` is from 0 to 1 and there are as many names as keys.
    """
    check_int("rows", rows, 1)
    check_int("told", told, 1)
    check_int("keys", keys, 1)
    vocabulary(names)
    if names < keys:
        raise CourseError(f"{keys} keys need {keys} names at least, not {names}.")
    if not 0 <= changes <= 1:
        raise CourseError(f"changes must be from 0 to 1, not {changes}.")
    rng = torch.Generator().manual_seed(seed)
    cast = _different(rows, names, keys, rng)  # (rows, keys)
    which = torch.randint(keys, (rows, told), generator=rng)
    fresh = torch.randint(names, (rows, told), generator=rng)
    shift = torch.randint(1, names, (rows, told), generator=rng)
    moves = torch.rand(rows, told, generator=rng) < changes

    held = torch.full((rows, keys), -1)  # the value that each key has now; -1 before it was told
    values, kinds = [], []
    for i in range(told):
        before = held.gather(1, which[:, i : i + 1])[:, 0]  # (rows,)
        changed = (before + shift[:, i]) % names  # never the same as before
        value = torch.where(moves[:, i], changed, before)
        value = torch.where(before < 0, fresh[:, i], value)
        kind = torch.where(moves[:, i], CHANGED, KNOWN)
        kinds.append(torch.where(before < 0, FIRST, kind))
        values.append(value)
        held.scatter_(1, which[:, i : i + 1], value[:, None])
    names_told = MARKS + cast.gather(1, which)  # (rows, told)
    values = MARKS + names + torch.stack(values, dim=1)
    kinds = torch.stack(kinds, dim=1)

    tokens = torch.stack([names_told, values], dim=-1).flatten(1)  # (rows, 2 told)
    targets = torch.stack([values, torch.full_like(values, IGNORED)], dim=-1).flatten(1)
    kind = torch.stack([torch.full_like(kinds, NO_VALUE), kinds], dim=-1).flatten(1)
    return tokens, targets, kind


def _among(keys: Tensor, names: int) -> Tensor:
    """Which tokens are among keys (rows, days, most), blanks aside: (rows, MARKS + names), True for those that are."""
    among = torch.zeros(len(keys), MARKS + names, dtype=torch.bool)
    among.scatter_(1, keys.flatten(1), True)
    among[:, :MARKS] = False
    return among


def _different(rows: int, names: int, count: int, rng: torch.Generator) -> Tensor:
    """`count` different numbers below `names` for each row, (rows, count)."""
    return torch.rand(rows, names, generator=rng).argsort(1)[:, :count]


def _shuffled(things: Tensor, rng: torch.Generator) -> Tensor:
    """(rows, n, ...) with the n of each row in a random order."""
    order = torch.rand(things.shape[:2], generator=rng).argsort(1)
    return things[torch.arange(len(things))[:, None], order]


def _asked(text: Tensor, keys: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """The text with its questions behind it, a blank and a key each, and what is to be answered."""
    questions = torch.stack([torch.full_like(keys, BLANK), keys], dim=-1).flatten(1)  # (rows, 2 questions)
    tokens = torch.cat([text, questions], dim=1)  # (rows, length)
    targets = torch.full_like(tokens, IGNORED)
    targets[:, text.shape[1] + 1 :: 2] = answers
    return tokens, targets
