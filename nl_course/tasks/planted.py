"""Facts planted in the first of many books: a long text to read, and what to ask when so much of it has been read.

    shelf = PlantedBooks(length=262_144)                      # books that none of the course's models was trained on
    text = shelf.text(0)                                      # its first book has four facts in its first 512 bytes
    right = recalled(model, state, [text.first_facts])        # asked of a state, which stays as it was

A fact is a needle of `nl_course.tasks.needle` in its short form, <plumb:48213>: a key from the held-out words, an
answer of random digits (so log2 10 bits each), and neither stands anywhere else in the text. With `every`, a further
fact follows after so many bytes, again and again: then facts overwrite facts, and not the books alone. Everything
follows from the seed and a row's number.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from nl_course.errors import CourseError, check_int
from nl_course.tasks.books import Book
from nl_course.tasks.needle import KINDS, word_list
from nl_course.tasks.text import hashed, library

UNREAD = ("numpy", "torch")  # the shelf that no model of the course was trained on
ANSWER, KEY = 5, 5  # letters
LEAST = 2048  # bytes of a first book, at least
JOIN = b"\n\n"  # between two books


@dataclass(frozen=True)
class Fact:
    """`key` -> `answer`; its mark stands at bytes `place` to `end` of the text."""

    key: str
    answer: str
    place: int

    @property
    def mark(self) -> bytes:
        return f"\n<{self.key}:{self.answer}>\n".encode()

    @property
    def end(self) -> int:
        return self.place + len(self.mark)

    def age(self, read: int) -> int:
        """Bytes read since, if `read` bytes of the text have been."""
        return read - self.end


@dataclass(frozen=True)
class PlantedText:
    """`text` with its `facts`, oldest first; the first `first` of them stand in the first book, called `book`."""

    text: bytes
    facts: tuple[Fact, ...]
    first: int
    book: str

    @property
    def first_facts(self) -> tuple[Fact, ...]:
        return self.facts[: self.first]

    def read_by(self, read: int) -> list[Fact]:
        """The facts that have passed after `read` bytes."""
        return [fact for fact in self.facts if fact.end <= read]


@dataclass(frozen=True)
class PlantedBooks:
    """Texts of `length` bytes: real books one after the other, `facts` in the first `within` bytes, and with `every`
    one somewhere in each further `every` bytes. `rows` texts begin at books that lie evenly along the shelf."""

    length: int = 32_768
    facts: int = 4
    within: int = 512
    every: int | None = None
    rows: int = 32
    seed: int = 0
    shelf: tuple[str, ...] = UNREAD

    def __post_init__(self):
        for name in ("length", "facts", "within", "rows"):
            check_int(name, getattr(self, name), 1)
        size = len(Fact("k" * KEY, "0" * ANSWER, 0).mark)
        if self.within > min(self.length, LEAST) or self.within < self.facts * size:
            raise CourseError(
                f"within ({self.within}) must hold {self.facts} facts of {size} bytes and lie in the first "
                f"{min(self.length, LEAST):,} bytes."
            )
        if self.every is not None and check_int("every", self.every, 1) < 2 * size:
            raise CourseError(f"every ({self.every}) must be at least {2 * size}.")

    def text(self, number: int) -> PlantedText:
        """Text number `number`, the same on every machine that has the pinned packages."""
        if check_int("number", number) >= self.rows:
            raise CourseError(f"number ({number}) must be below rows ({self.rows}).")
        book, hay = _from_book(self.shelf, number, self.rows, self.length)
        gap = self.within // self.facts
        places = [i * gap + gap // 2 for i in range(self.facts)]
        if self.every is not None:
            rng, size = (
                random.Random(hashed(f"places {self.seed} {number}")),
                len(Fact("k" * KEY, "0" * ANSWER, 0).mark),
            )
            stretches = range(self.within, self.length - self.every + 1, self.every)
            places += [start + rng.randrange(self.every - size) for start in stretches]
        facts, written, used = [], bytearray(), 0
        for fact in map(Fact, *self._facts(number, hay, len(places)), places):
            more = fact.place - len(written)
            written += hay[used : used + more] + fact.mark
            used += more
            facts.append(fact)
        written += hay[used : used + self.length - len(written)]
        return PlantedText(bytes(written), tuple(facts), self.facts, book)

    def _facts(self, number: int, hay: bytes, count: int) -> tuple[list[str], list[str]]:
        rng = random.Random(hashed(f"planted {self.seed} {number}"))
        words = [word for word in word_list(KEY, "held_out") if word.encode() not in hay]
        if len(words) < count:
            raise CourseError(f"only {len(words)} keys do not stand in the text, and {count} facts are wanted.")
        answers: dict[str, None] = {}
        while len(answers) < count:
            answer = "".join(rng.choices(KINDS["number"].alphabet, k=ANSWER))
            if answer.encode() not in hay:
                answers[answer] = None
        return rng.sample(words, count), list(answers)


@lru_cache(maxsize=2)
def _shelf(shelf: tuple[str, ...]) -> list[Book]:
    """All books of the shelf, only their ASCII bytes, in shelf order."""
    found = library("prose", shelf)
    books = [Book(book.name, book.text.decode("ascii", "ignore").encode()) for book in found.train + found.held_out]
    return sorted(books, key=lambda book: hashed(book.name))


def _from_book(shelf: tuple[str, ...], number: int, rows: int, length: int) -> tuple[str, bytes]:
    """(name, text): `length` bytes from the first book of LEAST bytes after the share number / rows of the shelf,
    going round at its end."""
    books, start, passed = _shelf(shelf), 0, 0
    wanted = number * sum(len(book.text) for book in books) // rows
    for place, book in enumerate(books):
        if passed >= wanted and len(book.text) >= LEAST:
            start = place
            break
        passed += len(book.text)
    order = books[start:] + books[:start]
    found = JOIN.join(book.text for book in order)
    if len(found) < length:
        raise CourseError(f"the shelf has {len(found):,} bytes; {length:,} are needed.")
    return order[0].name, found[:length]


@torch.no_grad()
def recalled(model: nn.Module, state, facts: Sequence[Sequence[Fact]], batch: int = 64) -> list[list[bool]]:
    """Whether each fact of each row is answered exactly. `state` is the model's after reading, a row a text; a fact is
    asked of a branch of its row's state, so that no question disturbs another.

    As in `needle_scores`, the answer stands in the question's text, and a model that would say each of its bytes on its
    own is right."""
    asked = [(row, fact) for row, some in enumerate(facts) for fact in some]
    device, right = next(model.parameters()).device, []
    for first in range(0, len(asked), check_int("batch", batch, 1)):
        some = asked[first : first + batch]
        tokens = torch.tensor([list(fact.mark[: -len(">\n")]) for _, fact in some], device=device)
        logits, _ = model(tokens[:, :-1], state.rows(torch.tensor([row for row, _ in some], device=device)))
        right += (logits[:, -ANSWER:].argmax(-1) == tokens[:, -ANSWER:]).all(1).tolist()
    hits = iter(right)
    return [[next(hits) for _ in some] for some in facts]
