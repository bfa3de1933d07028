"""Recall: pairs of a key and a value are shown, then keys are asked. The simplest test of a memory that reads tokens.

Multi-query associative recall (MQAR; Arora et al. 2023, "Zoology", arXiv 2312.04927):

    k1 v1 k2 v2 ...  then each key once more, at gaps drawn from a power law, filler in between

The answer is not in the text, so asking does not write it again. Token 0 is blank; the lower half of the vocabulary
are keys, the upper half values. Keys differ within a row, and so do values, so that an answer can be told from a
guess. The loss counts the questions only (`mask`).

The published form is `filler="any"`: it is the task of Zoology's code (HazyResearch/zoology,
`zoology/data/multiquery_ar.py`, `random_non_queries=True`, `num_passes=1`), drawn from torch's random numbers. There
the rows are `inputs`, the targets stand in `labels` at the question's own position, and -100 stands where our mask is
false. `filler="blank"` is `random_non_queries=False`. `filler="values"` is ours, and it is the easier one.

Axes: rows, length.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.errors import CourseError, check_choice, check_int, check_min

BLANK = 0
FILLERS = ("values", "any", "blank")


@dataclass(frozen=True)
class Recall:
    """A set of rows. `tokens` is what the model reads. `mask` says where a key is asked; there, `targets` is its value
    and `age` the number of tokens since that value stood in the text. All (rows, length), int64 except the mask."""

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    age: Tensor
    pairs: int
    vocab: int

    def rows(self, index: slice | Tensor) -> "Recall":
        """Some of the rows, as a set of their own."""
        return Recall(
            tokens=self.tokens[index],
            targets=self.targets[index],
            mask=self.mask[index],
            age=self.age[index],
            pairs=self.pairs,
            vocab=self.vocab,
        )


def mqar(
    rows: int,
    length: int = 64,
    pairs: int = 4,
    vocab: int = 8192,
    power: float = 0.01,
    filler: str = "values",
    seed: int = 0,
) -> Recall:
    """`rows` rows of multi-query associative recall with `pairs` pairs each.

    After the pairs, questions stand at even offsets. The offset of slot i has weight i^(power - 1): near 0 most keys
    are asked soon after the pairs, 1 is uniform. All other positions after the pairs hold the filler:

    * "values": random values. A key in the text is always a pair's key or a question.
    * "any": random tokens of the whole vocabulary, blank and keys included, as Zoology draws them. Nearly half of them
      look like questions that are never scored. Each is a key of its row with a chance of `pairs` / `vocab`; what
      follows it then looks like a new value, and the right answer stays the first one. Zoology demands a vocabulary
      larger than `length`, which keeps such keys rare. Nothing is demanded here: at 8 pairs, vocab 64 and length 512,
      each key stands in the filler between 7 and 8 times on average.
    * "blank": token 0.

    Raises CourseError unless `length` is even and at least 4 * `pairs`, or if `vocab` has too few keys or values, or
    for a `filler` that is not listed.
    """
    check_int("rows", rows, 1)
    check_int("pairs", pairs, 1)
    check_int("length", length, 2)
    check_min("power", power, 0)
    check_choice("filler", filler, FILLERS)
    if length % 2 or 4 * pairs > length:
        raise CourseError(f"length must be even and at least 4 * pairs = {4 * pairs}, not {length}.")
    rng = torch.Generator().manual_seed(seed)
    keys, values = _draw_pairs(rows, pairs, vocab, rng)  # (rows, pairs) each
    shown = torch.stack([keys, values], dim=-1).flatten(1)  # k1 v1 k2 v2 ..., (rows, 2 pairs)

    slots = (length - 2 * pairs) // 2
    weights = torch.arange(1, slots + 1, dtype=torch.float64) ** (power - 1)
    gaps = torch.multinomial(weights.expand(rows, -1), pairs, generator=rng)  # different slots, (rows, pairs)
    asked_at = 2 * pairs + 2 * gaps

    rest = _filler(rows, length - 2 * pairs, vocab, filler, rng)  # (rows, length - 2 pairs)
    tokens = torch.cat([shown, rest], dim=1)  # (rows, length)
    tokens.scatter_(1, asked_at, keys)

    def at_questions(what: Tensor) -> Tensor:
        """(rows, pairs) -> (rows, length), zero where nothing is asked."""
        return torch.zeros_like(tokens).scatter(1, asked_at, what)

    value_at = 2 * torch.arange(pairs) + 1  # where each value stood
    return Recall(
        tokens=tokens,
        targets=at_questions(values),
        mask=at_questions(torch.ones_like(asked_at)).bool(),
        age=at_questions(asked_at - value_at),
        pairs=pairs,
        vocab=vocab,
    )


def _draw_pairs(rows: int, pairs: int, vocab: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys and values, (rows, pairs) each, all different within a row."""
    half = check_int("vocab", vocab, 4) // 2
    if pairs > half - 1:
        raise CourseError(
            f"vocab {vocab} has {half - 1} keys and {vocab - half} values; {pairs} and {pairs} are needed."
        )
    # The largest of random numbers: a draw without repeats, for all rows at once.
    keys = torch.rand(rows, half - 1, generator=rng).topk(pairs, dim=1).indices + 1
    values = torch.rand(rows, vocab - half, generator=rng).topk(pairs, dim=1).indices + half
    return keys, values


def _filler(rows: int, length: int, vocab: int, filler: str, rng: torch.Generator) -> Tensor:
    """What stands where nothing is shown or asked, (rows, length)."""
    if filler == "blank":
        return torch.full((rows, length), BLANK)
    lowest = vocab // 2 if filler == "values" else 0
    return torch.randint(lowest, vocab, (rows, length), generator=rng)


# -- learning it, and how well it was learned --------------------------------------------------------------------------
Model = Callable[[Tensor], tuple[Tensor, object]]  # tokens (B, T) -> logits (B, T, vocab), anything


def recall_loss(logits: Tensor, task: Recall) -> Tensor:
    """Mean cross-entropy in nats at the questions: logits (rows, length, vocab)."""
    return cross_entropy(logits[task.mask], task.targets[task.mask].to(logits.device))


@torch.no_grad()
def answers(model: Model, task: Recall, batch: int = 64, device: str | torch.device = "cpu") -> Tensor:
    """The most likely token at each position, (rows, length); meaningful where `task.mask`."""
    chosen = []
    for rows in task.tokens.split(batch):
        logits, _ = model(rows.to(device))
        chosen.append(logits.argmax(-1).cpu())
    return torch.cat(chosen)


@dataclass(frozen=True)
class Share:
    """Of `asked` questions whose `by` lay between `low` and `high` (the least and the greatest that occurred), `right`
    were answered correctly."""

    low: int
    high: int
    asked: int
    right: int

    @property
    def accuracy(self) -> float:
        """The share of correct answers."""
        return self.right / self.asked


def accuracy(
    model: Model,
    tasks: Recall | Iterable[Recall],
    by: str = "pairs",
    edges: Iterable[int] | None = None,
    batch: int = 64,
    device: str | torch.device = "cpu",
) -> list[Share]:
    """Correct answers by `pairs` in the row or by `age` in tokens; least first.

    `edges` are the upper ends of groups, the last group open. By default every number of pairs is a group of its own,
    and ages go by powers of two. Groups in which nothing was asked are left out.
    """
    check_choice("by", by, ("pairs", "age"))
    amount_parts, right_parts = [], []
    for task in [tasks] if isinstance(tasks, Recall) else tasks:
        amount = torch.full_like(task.tokens, task.pairs) if by == "pairs" else task.age
        chosen = answers(model, task, batch, device)
        amount_parts.append(amount[task.mask])
        right_parts.append((chosen == task.targets)[task.mask])
    amount, right = torch.cat(amount_parts), torch.cat(right_parts)  # (questions,)

    largest = int(amount.max())
    if edges is None:
        powers = [2**i for i in range(1, largest.bit_length() + 1)]
        edges = powers if by == "age" else amount.unique().tolist()
    shares, low = [], 0
    for high in [*sorted(edges), largest]:  # what lies above the last edge is a group too
        group = (amount >= low) & (amount <= high)
        if group.any():
            share = Share(
                low=int(amount[group].min()),
                high=int(amount[group].max()),
                asked=int(group.sum()),
                right=int(right[group].sum()),
            )
            shares.append(share)
        low = high + 1
    return shares
