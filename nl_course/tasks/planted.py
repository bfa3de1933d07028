"""Facts planted in the first of many books: a long text to read, and what to ask when so much of it has been read.

    books = PlantedBooks(length=262_144)                      # books that none of the course's models was trained on
    text = books.text(0)                                      # its first book has four facts in its first 512 bytes
    right = recalled(model, state, [text.first_facts])        # asked of a state, which stays as it was
    right = recalled_by_all(model, states, [text.facts])      # asked of several states of one reading

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

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.memories import State
from nl_course.memories.joining import join
from nl_course.tasks.documents import Document
from nl_course.tasks.needle import KINDS, word_list
from nl_course.tasks.text import hashed, library

UNREAD = ("numpy", "torch")  # packages whose text no model of the course was trained on
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
        """How the fact is written in the text, with its line breaks."""
        return f"\n<{self.key}:{self.answer}>\n".encode()

    @property
    def end(self) -> int:
        """The byte after the mark."""
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
        """The facts in the first book."""
        return self.facts[: self.first]

    def read_by(self, read: int) -> list[Fact]:
        """The facts that have passed after `read` bytes."""
        return [fact for fact in self.facts if fact.end <= read]


@dataclass(frozen=True)
class PlantedBooks:
    """Texts of `length` bytes: real books one after the other, `facts` in the first `within` bytes, and with `every`
    one somewhere in each further `every` bytes. `rows` texts begin at books that lie evenly along the corpus of
    `packages`."""

    length: int = 32_768
    facts: int = 4
    within: int = 512
    every: int | None = None
    rows: int = 32
    seed: int = 0
    packages: tuple[str, ...] = UNREAD

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
        book, hay = _from_book(self.packages, number, self.rows, self.length)
        gap = self.within // self.facts
        places = [i * gap + gap // 2 for i in range(self.facts)]
        if self.every is not None:
            rng = random.Random(hashed(f"places {self.seed} {number}"))
            size = len(Fact("k" * KEY, "0" * ANSWER, 0).mark)
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
def _books(packages: tuple[str, ...]) -> list[Document]:
    """All documents of the packages, only their ASCII bytes, so that no cut goes through a character."""
    prose = library("prose", packages)
    books = []
    for document in prose.train + prose.held_out:
        ascii_only = document.text.decode("ascii", "ignore").encode()
        books.append(Document(document.name, ascii_only))
    return sorted(books, key=lambda book: hashed(book.name))


def _from_book(packages: tuple[str, ...], number: int, rows: int, length: int) -> tuple[str, bytes]:
    """(name, text): `length` bytes from the first book of at least LEAST bytes after the share number / rows of the
    corpus, starting over at its end."""
    books = _books(packages)
    wanted = number * sum(len(book.text) for book in books) // rows  # bytes of the corpus before this text
    start, passed = 0, 0
    for index, book in enumerate(books):
        if passed >= wanted and len(book.text) >= LEAST:
            start = index
            break
        passed += len(book.text)
    order = books[start:] + books[:start]
    text = JOIN.join(book.text for book in order)
    if len(text) < length:
        raise CourseError(f"the corpus has {len(text):,} bytes; {length:,} are needed.")
    return order[0].name, text[:length]


@torch.no_grad()
def recalled(model: nn.Module, state: State, facts: Sequence[Sequence[Fact]], batch: int = 64) -> list[list[bool]]:
    """Whether each fact of each row is answered exactly. `state` is the model's after reading, a row a text; a fact is
    asked of a branch of its row's state, so that no question disturbs another.

    As in `needle_scores`, the answer stands in the question's text, and a model that would say each of its bytes on its
    own is right."""
    questions = [(row, fact) for row, facts_of_row in enumerate(facts) for fact in facts_of_row]
    device = next(model.parameters()).device
    right: list[bool] = []
    for first in range(0, len(questions), check_int("batch", batch, 1)):
        rows, facts_here = zip(*questions[first : first + batch])
        # Every mark has the same length, and the answer is its end: "\n<key:answer".
        marks = [list(fact.mark.removesuffix(b">\n")) for fact in facts_here]
        tokens = torch.tensor(marks, device=device)  # (questions, bytes)
        branches = state.rows(torch.tensor(rows, device=device))
        logits, _ = model(tokens[:, :-1], branches)
        chosen = logits[:, -ANSWER:].argmax(-1)  # (questions, answer)
        right += (chosen == tokens[:, -ANSWER:]).all(1).tolist()
    by_row: list[list[bool]] = [[] for _ in facts]
    for (row, _), verdict in zip(questions, right, strict=True):
        by_row[row].append(verdict)
    return by_row


@torch.no_grad()
def recalled_by_all(
    model: nn.Module, states: Sequence[State], facts: Sequence[Sequence[Fact]], choose: str = "surest"
) -> list[list[bool]]:
    """Whether each fact of each row is answered exactly when several `states` of the same rows are asked.

    Every state is given the key and says the answer byte by byte, a branch for each question. `choose` "surest" takes
    the answer whose own bytes were likeliest, by whichever state; "mean" takes, byte by byte, what is likeliest by the
    mean of all states' probabilities. Nothing tells the states apart but what they say.
    """
    check_choice("choose", choose, ("surest", "mean"))
    questions = [(row, fact) for row, facts_of_row in enumerate(facts) for fact in facts_of_row]
    by_row: list[list[bool]] = [[] for _ in facts]
    if not questions:
        return by_row
    rows, facts_here = zip(*questions)
    device = next(model.parameters()).device
    keys = [list(fact.mark.removesuffix(fact.answer.encode() + b">\n")) for fact in facts_here]
    given = torch.tensor(keys, device=device).repeat(len(states), 1)  # (states questions, bytes)
    branches = join(model, [state.rows(list(rows)) for state in states])
    said, sure = [], 0
    for _ in range(ANSWER):
        logits, branches = model(given, branches)
        log_p = logits[:, -1].log_softmax(dim=-1).unflatten(0, (len(states), -1))  # (states, questions, vocab)
        if choose == "mean":
            log_p = log_p.exp().mean(dim=0, keepdim=True).log().expand_as(log_p)
        likeliest = log_p.max(dim=-1)
        said.append(likeliest.indices)
        sure = sure + likeliest.values  # (states, questions)
        given = likeliest.indices.reshape(-1, 1)
    answers = torch.stack(said, dim=-1)  # (states, questions, ANSWER)
    surest = sure.argmax(dim=0).tolist()
    for number, (row, fact) in enumerate(questions):
        answer = answers[surest[number], number].tolist()
        by_row[row].append(answer == list(fact.answer.encode()))
    return by_row
