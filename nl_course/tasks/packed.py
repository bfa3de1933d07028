"""A corpus larger than memory, read in order: books one after another, cut into the rows of every step's batch.

    stream = PackedStream("shelf/*.jsonl", tokenizer, batch_size=32, length=2048, positions="runs/a/positions.jsonl")
    train(model, stream, config, held_out=stream.held_out())

Row n of all rows of all steps is tokens n T to n T + T of the corpus, its targets one further, so every token is a
target once; after the last book comes the first again. What step s reads depends on s alone, and each of several
processes takes its rows of it. Starting anywhere else than at the beginning means finding the place: every so many
books their place in tokens is noted down, in `positions` if there is such a file, and only what lies between the last
noted place and the wanted one is turned into tokens again. Each process turns the whole corpus into tokens, its own
rows and the others': where a row begins is known no earlier. A twentieth of the books, by name, is held out.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int
from nl_course.tasks.documents import Document, rank
from nl_course.tasks.streaming import stream_datasets
from nl_course.tasks.text import HELD_OUT_ONE_IN
from nl_course.tasks.tokenizer import BYTES

NOTED_EVERY = 256  # books


def is_held_out(book: Document) -> bool:
    return rank(book.name) % HELD_OUT_ONE_IN == 0


class PackedStream:
    """step -> (inputs, targets), each (batch_size, length) int64.

    `source` as for `stream_datasets`, or a function from a book's number to an iterator of all books from there on.
    `write` is off for processes that leave `positions` to the first one.
    """

    def __init__(
        self,
        source: str | Callable[[int], Iterator[Document]],
        tokenizer=BYTES,
        *,
        batch_size: int,
        length: int,
        column: str = "text",
        positions: str | os.PathLike | None = None,
        write: bool = True,
    ):
        self.batch_size, self.length = check_int("batch_size", batch_size, 1), check_int("length", length, 1)
        self.name = source if isinstance(source, str) else "books"
        self._books = source if callable(source) else lambda first: stream_datasets(source, column, first=first)
        self.tokenizer, self._path, self._write = tokenizer, None if positions is None else Path(positions), write
        self._about = {"source": self.name, "column": column, "tokenizer": tokenizer.hash, "every": NOTED_EVERY}
        self._noted = self._read_positions()  # (tokens before it, which time through the corpus, number of the book)
        self._begin(self._noted[0])

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, whichever was asked before; the next one is the quick one."""
        rows, size = self.batch_size, self.length
        first = check_int("step", step) * rows * size
        if first < self._dropped:
            self._begin(self._noted[0])
        best = max((place for place in self._noted if place[0] <= first), key=lambda place: place[0])
        if best[0] > self._dropped + len(self._buffer):
            self._begin(best)
        needed = first + rows * size + 1
        while self._dropped + len(self._buffer) < needed:
            self._gather(first)
        window = self._buffer[first - self._dropped : needed - self._dropped]
        keep = first + rows * size - self._dropped  # the next step begins with this one's last target
        self._buffer, self._dropped = self._buffer[keep:].clone(), self._dropped + keep
        return window[:-1].view(rows, size), window[1:].view(rows, size)

    def held_out(self, tokens: int | None = None) -> Tensor:
        """The first held-out books as one stream, at most `tokens` (64 windows); empty where there are too few."""
        most = 64 * (self.length + 1) if tokens is None else check_int("tokens", tokens, 1)
        found, count = [], 0
        for book in self._books(0):
            if is_held_out(book):
                found.append(self._tokens(book))
                count += len(found[-1])
                if count >= most:
                    break
        return torch.cat(found)[:most] if found else torch.empty(0, dtype=torch.int64)

    # -- reading --
    def _begin(self, place: tuple[int, int, int]) -> None:
        self._dropped, self._time, self._number = place
        self._buffer = torch.empty(0, dtype=torch.int64)
        self._reader = self._books(self._number)
        self._from, self._learnt = self._number, False  # where this time through began, and whether it gave a token

    def _gather(self, first: int) -> None:
        """Puts the tokens of some further books behind the buffer; those before `first` are let go."""
        parts, count = [self._buffer], 0
        while count < max(self.batch_size * self.length, 1):
            book = next(self._reader, None)
            if book is None:
                if self._from == 0 and not self._learnt:
                    raise CourseError(f"there is no book to learn from in {self.name!r}.")
                self._time, self._number, self._from, self._learnt = self._time + 1, 0, 0, False
                self._reader = self._books(0)
                continue
            self._note(self._dropped + len(self._buffer) + count)
            self._number += 1
            if not is_held_out(book):
                parts.append(self._tokens(book))
                count, self._learnt = count + len(parts[-1]), True
        self._buffer = torch.cat(parts)
        surplus = min(max(first - self._dropped, 0), len(self._buffer))
        self._buffer, self._dropped = self._buffer[surplus:], self._dropped + surplus

    def _tokens(self, book: Document) -> Tensor:
        return torch.cat([self.tokenizer.encode(book.text), torch.tensor([self.tokenizer.separator])])

    # -- places --
    def _note(self, tokens: int) -> None:
        """Notes down where the next book begins, if it is its turn and it was not noted before."""
        place = (tokens, self._time, self._number)
        if self._number % NOTED_EVERY == 0 and place[1:] > self._noted[-1][1:]:
            self._noted.append(place)
            if self._path is not None and self._write:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                new = not self._path.exists()
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write((json.dumps(self._about) + "\n") * new + json.dumps(place) + "\n")

    def _read_positions(self) -> list[tuple[int, int, int]]:
        start = [(0, 0, 0)]
        if self._path is None or not self._path.is_file():
            return start
        lines = self._path.read_text(encoding="utf-8").splitlines()
        try:
            about = json.loads(lines[0])
        except (ValueError, IndexError):
            raise CourseError(f"{self._path} does not hold the places of a corpus; remove it.") from None
        if about != self._about:
            raise CourseError(f"{self._path} was noted for {about}, not for {self._about}; take another folder.")
        for line in lines[1:]:
            try:
                start.append(tuple(json.loads(line)))
            except ValueError:
                break  # a crash cut it off; the places before it stand
        return start
