"""Recall: pairs of a key and a value are shown, then keys are asked. The simplest test of a memory that reads tokens.

Two layouts, both without the answer in the text, so that asking does not write it again:

    mqar         k1 v1 k2 v2 ... then each key once more, at gaps drawn from a power law (multi-query associative
                 recall: Arora et al. 2023, Zoology, arXiv 2312.04927)
    key_value    k1 v1 k2 v2 ..., some keys again with a new value, `distance` tokens of filler, then every key

Token 0 is blank; the lower half of the vocabulary are keys, the upper half values. Keys differ within a row, and so
do values: an answer can be told from a guess. A learner of this task is scored at the questions only (`mask`).
Axes: rows, length.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.errors import CourseError, check_choice, check_int, check_min

BLANK = 0


@dataclass(frozen=True)
class Recall:
    """A set of rows. `mask` (rows, length) says where a key is asked; there, `targets` is its newest value, `age` the
    tokens since that value stood in the text, `newer` the pairs written since, and `stale` the value it replaced
    (0: none). `tokens` is what the model reads. All (rows, length), int64 but for the mask."""

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    age: Tensor
    newer: Tensor
    stale: Tensor
    pairs: int
    vocab: int

    def rows(self, index: slice | Tensor) -> "Recall":
        """Some of the rows, as a set of their own."""
        fields = (self.tokens, self.targets, self.mask, self.age, self.newer, self.stale)
        return Recall(*(field[index] for field in fields), self.pairs, self.vocab)


def mqar(
    rows: int,
    length: int = 64,
    pairs: int = 4,
    vocab: int = 8192,
    power: float = 0.01,
    noise: bool = True,
    seed: int = 0,
) -> Recall:
    """Multi-query associative recall. A gap of i pairs of places has weight i^(power - 1): near 0 most keys are asked
    soon after the pairs, 1 is uniform. `noise` fills what is left with values at random, else it is blank. (Zoology
    fills with any token; a key among them would be a question without an answer.)

    Needs an even `length` of at least 4 * `pairs`. Raises CourseError otherwise.
    """
    check_int("rows", rows, 1)
    check_int("pairs", pairs, 1)
    check_int("length", length, 2)
    check_min("power", power, 0)
    if length % 2 or 4 * pairs > length:
        raise CourseError(f"length must be even and at least 4 * pairs = {4 * pairs}, not {length}.")
    generator = torch.Generator().manual_seed(seed)
    keys, values = _draw(rows, pairs, pairs, vocab, generator)
    written = torch.stack([keys, values], dim=-1).flatten(1)
    space = (length - 2 * pairs) // 2
    weights = torch.arange(1, space + 1, dtype=torch.float64) ** (power - 1)
    gaps = torch.multinomial(weights.expand(rows, -1), pairs, generator=generator)
    tokens = torch.cat([written, _filler(rows, length - 2 * pairs, vocab, noise, generator)], dim=1)
    places = 2 * pairs + 2 * gaps
    tokens.scatter_(1, places, keys)
    last = torch.arange(pairs).expand(rows, -1)
    return _asked(tokens, places, values, last, torch.zeros_like(values), pairs, pairs, vocab)


def key_value(
    rows: int,
    pairs: int = 8,
    distance: int = 0,
    overwrites: int = 0,
    vocab: int = 256,
    noise: bool = True,
    seed: int = 0,
) -> Recall:
    """`pairs` pairs, `overwrites` of their keys at random once more with a new value, `distance` tokens of filler,
    then every key, in random order, each followed by a blank. Length 2 (2 pairs + overwrites) + distance."""
    check_int("rows", rows, 1)
    check_int("pairs", pairs, 1)
    check_int("distance", distance, 0)
    if check_int("overwrites", overwrites, 0) > pairs:
        raise CourseError(f"overwrites must be at most pairs ({pairs}), not {overwrites}: a key is rewritten once.")
    generator = torch.Generator().manual_seed(seed)
    keys, values = _draw(rows, pairs, pairs + overwrites, vocab, generator)
    again = torch.rand(rows, pairs, generator=generator).argsort(dim=1)[:, :overwrites]
    every = torch.cat([keys, keys.gather(1, again)], dim=1)
    written = torch.stack([every, values], dim=-1).flatten(1)
    # Which write was each key's last, and what it stood for before.
    last = torch.arange(pairs).repeat(rows, 1)
    last.scatter_(1, again, torch.arange(pairs, pairs + overwrites).expand(rows, -1))
    newest, first = values.gather(1, last), values[:, :pairs]
    stale = torch.where(last >= pairs, first, 0)
    order = torch.rand(rows, pairs, generator=generator).argsort(dim=1)
    keys, newest, last, stale = (z.gather(1, order) for z in (keys, newest, last, stale))
    questions = torch.stack([keys, torch.full_like(keys, BLANK)], dim=-1).flatten(1)
    tokens = torch.cat([written, _filler(rows, distance, vocab, noise, generator), questions], dim=1)
    places = (written.shape[1] + distance + 2 * torch.arange(pairs)).expand(rows, -1)
    return _asked(tokens, places, newest, last, stale, pairs + overwrites, pairs, vocab)


def _draw(rows: int, keys: int, values: int, vocab: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(rows, keys) different keys and (rows, values) different values in each row."""
    half = check_int("vocab", vocab, 4) // 2
    if keys > half - 1 or values > vocab - half:
        raise CourseError(
            f"vocab {vocab} has {half - 1} keys and {vocab - half} values; {keys} and {values} are needed."
        )
    chosen = torch.rand(rows, half - 1, generator=generator).topk(keys, dim=1).indices + 1
    return chosen, torch.rand(rows, vocab - half, generator=generator).topk(values, dim=1).indices + half


def _filler(rows: int, length: int, vocab: int, noise: bool, generator: torch.Generator) -> Tensor:
    if not noise:
        return torch.full((rows, length), BLANK)
    return torch.randint(vocab // 2, vocab, (rows, length), generator=generator)


def _asked(tokens, places, values, last, stale, writes, pairs, vocab) -> Recall:
    """The answers of questions at `places` (rows, pairs), each about write number `last`, laid out along the text."""
    nothing = torch.zeros_like(tokens)

    def along(what: Tensor) -> Tensor:
        return nothing.scatter(1, places, what)

    mask = along(torch.ones_like(places)).bool()
    age = places - (2 * last + 1)
    return Recall(tokens, along(values), mask, along(age), along(writes - 1 - last), along(stale), pairs, vocab)


# -- learning it, and how well it was learnt ---------------------------------------------------------------------------
Reader = Callable[[Tensor], tuple[Tensor, object]]  # tokens (B, T) -> logits (B, T, vocab), anything


def recall_loss(logits: Tensor, task: Recall) -> Tensor:
    """Mean cross-entropy in nats at the questions: logits (rows, length, vocab)."""
    return cross_entropy(logits[task.mask], task.targets[task.mask].to(logits.device))


@torch.no_grad()
def answers(model: Reader, task: Recall, batch: int = 64, device: str | torch.device = "cpu") -> Tensor:
    """The likeliest token at each place, (rows, length); meaningful where `task.mask`."""
    found = [model(rows.to(device))[0].argmax(-1).cpu() for rows in task.tokens.split(batch)]
    return torch.cat(found)


@dataclass(frozen=True)
class Share:
    """Of `asked` questions whose `by` lay between `low` and `high` (the least and the greatest that occurred), `right`
    were answered rightly and `outdated` with the value that had been overwritten."""

    low: int
    high: int
    asked: int
    right: int
    outdated: int

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


def accuracy(
    model: Reader,
    tasks: Recall | Iterable[Recall],
    by: str = "pairs",
    edges: Iterable[int] | None = None,
    batch: int = 64,
    device: str | torch.device = "cpu",
) -> list[Share]:
    """Right answers by `pairs` in the row, by `age` in tokens or by `newer` pairs written since; least first.

    `edges` are the upper ends of groups, the last group open; by default every number of pairs or newer pairs is a
    group of its own, and ages go by powers of two. Groups in which nothing was asked are left out.
    """
    check_choice("by", by, ("pairs", "age", "newer"))
    amounts, right, outdated = [], [], []
    for task in [tasks] if isinstance(tasks, Recall) else tasks:
        found, mask = answers(model, task, batch, device), task.mask
        amount = torch.full_like(task.tokens, task.pairs) if by == "pairs" else getattr(task, by)
        amounts.append(amount[mask])
        right.append((found == task.targets)[mask])
        outdated.append(((found == task.stale) & (task.stale > 0))[mask])
    amount, right, outdated = torch.cat(amounts), torch.cat(right), torch.cat(outdated)
    if edges is None:
        powers = [2**i for i in range(1, int(amount.max()).bit_length() + 1)]
        edges = powers if by == "age" else amount.unique().tolist()
    shares, low = [], 0
    for high in [*sorted(edges), int(amount.max())]:  # what lies above the last edge is a group too
        group = (amount >= low) & (amount <= high)
        if group.any():
            counts = (int(counted[group].sum()) for counted in (group, right, outdated))
            shares.append(Share(int(amount[group].min()), int(amount[group].max()), *counts))
        low = high + 1
    return shares
