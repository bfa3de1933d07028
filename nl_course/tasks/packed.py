"""A corpus larger than memory, read in order: documents one after another, cut into the rows of every step's batch.

    stream = PackedStream("corpus/*.jsonl", tokenizer, batch_size=32, length=2048, positions="runs/a/positions.jsonl")
    train(model, stream, config, held_out=stream.held_out())

Row n, counted over all steps, is tokens n T to n T + T of the corpus, its targets one token further, so every token is
a target once. After the last document comes the first again. What step s reads depends on s alone, and each of several
processes takes its rows of it.

To start anywhere but at the beginning, the stream must find out which document holds the wanted token. It therefore
notes, every so many documents, how many tokens came before (in the file `positions`, if one is given), and tokenizes
again only what lies between the last noted position and the wanted one. Rows that hold token ids already are read as
they are. Each process tokenizes the whole corpus, its
own rows and the others', since nothing else tells where a row begins. A twentieth of the documents, by name, is held
out."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int, shortened
from nl_course.files import check_file, parse_json, reason
from nl_course.tasks.documents import Document, TokenDocument, rank
from nl_course.tasks.streaming import data_hash, stream_datasets
from nl_course.tasks.text import HELD_OUT_ONE_IN
from nl_course.tasks.tokenizer import BYTES, Bytes, TokenIds, Tokenizer, check_ids

NOTED_EVERY = 256  # documents


def is_held_out(document: Document | TokenDocument) -> bool:
    """Whether a document is kept for evaluation: decided by its name, so that it never changes sides."""
    return rank(document.name) % HELD_OUT_ONE_IN == 0


class Position(NamedTuple):
    """Where a document begins: tokens before it, how often the corpus was read before, and the document's number."""

    tokens: int
    epoch: int
    document: int


class PackedStream:
    """step -> (inputs, targets), each (batch_size, length) int64.

    `source` as for `stream_datasets`, or a function from a document's number to an iterator of all documents from there
    on. `write` is off for processes that leave `positions` to the main one. `hold_out` False keeps no document back
    from training. Raises CourseError for a `positions` file that was written for another corpus.
    """

    def __init__(
        self,
        source: str | Callable[[int], Iterator[Document | TokenDocument]],
        tokenizer: Tokenizer | Bytes | TokenIds = BYTES,
        *,
        batch_size: int,
        length: int,
        column: str = "text",
        split: str = "train",
        positions: str | os.PathLike | None = None,
        write: bool = True,
        hold_out: bool = True,
    ):
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.length = check_int("length", length, 1)
        self.name = source if isinstance(source, str) else "books"
        self.tokenizer = tokenizer
        self._documents_from = (
            source if callable(source) else lambda first: stream_datasets(source, column, split, first)
        )
        self._path = None if positions is None else Path(positions)
        self._write = write
        self._hold_out = hold_out
        self.data_hash = data_hash(source) if isinstance(source, str) else None
        # What the noted positions depend on: other data, or another tokenizer or column, would put documents elsewhere.
        self._about = {"source": self.name, "column": column, "tokenizer": tokenizer.hash, "every": NOTED_EVERY}
        self._about["data"] = self.data_hash
        if not hold_out:
            self._about["hold_out"] = False
        if split != "train":
            self._about["split"] = split
        self._measured: tuple[int | None, int] = (
            0,
            0,
        )  # bytes and tokens of the documents that `_first_tokens` read last
        self._noted = self._read_positions()
        self._start_at(self._noted[0])

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, in any order of steps; the step after the last one asked for is the fast case."""
        tokens = self.batch_size * self.length
        first = check_int("step", step) * tokens  # token number in the corpus, counted over all epochs
        stop = first + tokens + 1  # one more: the last target

        # Where to read from: the buffer, unless the step lies before it or a noted position lies beyond it.
        if first < self._dropped:
            self._start_at(self._noted[0])
        nearest = max(position for position in self._noted if position.tokens <= first)
        if nearest.tokens > self._dropped + len(self._buffer):
            self._start_at(nearest)

        while self._dropped + len(self._buffer) < stop:
            self._read_more(first)
        window = self._buffer[first - self._dropped : stop - self._dropped]  # (tokens + 1,)

        # Drop what is used up. The next step begins with this one's last target, so that token stays.
        used = first + tokens - self._dropped
        self._buffer = self._buffer[used:].clone()
        self._dropped += used
        shape = (self.batch_size, self.length)
        return window[:-1].view(shape), window[1:].view(shape)

    def held_out(self, tokens: int | None = None) -> Tensor:
        """The first held-out documents as one stream, at most `tokens` (default: 64 windows); empty if there are too
        few."""
        if not self._hold_out:
            return torch.empty(0, dtype=torch.int64)
        most = 64 * (self.length + 1) if tokens is None else check_int("tokens", tokens, 1)
        documents = (document for document in self._documents_from(0) if is_held_out(document))
        parts = self._first_tokens(documents, most)
        if not parts:
            return torch.empty(0, dtype=torch.int64)
        return torch.cat(parts)[:most]

    def first(self, tokens: int) -> Tensor:
        """The first documents as one stream, whatever is held out: at most `tokens` tokens, (T,) int64."""
        parts = self._first_tokens(self._documents_from(0), check_int("tokens", tokens, 1))
        return torch.cat([torch.empty(0, dtype=torch.int64), *parts])[:tokens]

    def token_unit(self) -> dict[str, Any]:
        """What a token is: the tokenizer's name, and the bytes of text that a token stands for on average, over the
        first held-out documents, or over the first of all where none is held out. Separators count as one byte. It is
        None where the data holds ids that nothing turns back into text."""
        if not self._measured[1]:
            self.held_out()
        if not self._measured[1]:
            self._first_tokens(self._documents_from(0), 64 * (self.length + 1))
        size, tokens = self._measured
        known = size is not None and tokens > 0
        return {"tokenizer": self.tokenizer.name, "bytes_per_token": size / tokens if known else None}

    def _first_tokens(self, documents: Iterable[Document | TokenDocument], most: int) -> list[Tensor]:
        """The tokens of each document, until there are `most`. Notes how many bytes and tokens these documents have."""
        parts, count = [], 0
        sizes: list[int | None] = []
        for document in documents:
            parts.append(self._tokens(document))
            count += len(parts[-1])
            sizes.append(self._size(document))
            if count >= most:
                break
        self._measured = (None if None in sizes else sum(sizes), count)
        return parts

    def _size(self, document: Document | TokenDocument) -> int | None:
        """Bytes of a document's text and its separator; None where nothing turns its ids back into text."""
        if isinstance(document, Document):
            return len(document.text) + 1
        if isinstance(self.tokenizer, TokenIds):
            return None
        return len(self.tokenizer.decode(document.tokens).encode("utf-8")) + 1

    # -- reading --
    def _start_at(self, position: Position) -> None:
        """Empties the buffer and reads on from the beginning of a document."""
        self._dropped = position.tokens  # tokens of the corpus before the buffer
        self._epoch = position.epoch
        self._number = position.document  # of the next document
        self._buffer = torch.empty(0, dtype=torch.int64)
        self._documents = self._documents_from(self._number)
        self._epoch_is_whole = self._number == 0
        self._epoch_gave_tokens = False

    def _read_more(self, first: int) -> None:
        """Appends the tokens of some more documents to the buffer, and drops those before token `first`."""
        parts, count = [self._buffer], 0
        while count < self.batch_size * self.length:
            document = next(self._documents, None)
            if document is None:
                # A whole epoch without a token would repeat forever.
                if self._epoch_is_whole and not self._epoch_gave_tokens:
                    raise CourseError(f"there is no document to learn from in {self.name!r}.")
                self._epoch += 1
                self._number = 0
                self._documents = self._documents_from(0)
                self._epoch_is_whole = True
                self._epoch_gave_tokens = False
                continue
            self._note(self._dropped + len(self._buffer) + count)
            self._number += 1
            if not (self._hold_out and is_held_out(document)):
                parts.append(self._tokens(document))
                count += len(parts[-1])
                self._epoch_gave_tokens = True
        self._buffer = torch.cat(parts)
        surplus = min(max(first - self._dropped, 0), len(self._buffer))
        self._buffer = self._buffer[surplus:]
        self._dropped += surplus

    def _tokens(self, document: Document | TokenDocument) -> Tensor:
        """A document's tokens and the separator, if there is one, (T,) int64."""
        separator = self.tokenizer.separator
        if isinstance(document, TokenDocument):
            if isinstance(self.tokenizer, Bytes):
                raise CourseError(
                    f"{document.name} holds token ids; say how many there are with --vocab N, or which they are with "
                    "--tokenizer FILE."
                )
            tokens = check_ids(document.tokens, self.tokenizer.vocab, f"the row {document.name}")
            if separator is None or int(tokens[-1]) == separator:
                return tokens
        else:
            tokens = self.tokenizer.encode(document.text)
        return torch.cat([tokens, torch.tensor([separator])])

    # -- positions --
    def _note(self, tokens: int) -> None:
        """Notes where the next document begins, if it is its turn and it was not noted before."""
        position = Position(tokens, self._epoch, self._number)
        last = self._noted[-1]
        is_new = (position.epoch, position.document) > (last.epoch, last.document)
        if self._number % NOTED_EVERY or not is_new:
            return
        self._noted.append(position)
        if self._path is None or not self._write:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = [] if self._path.exists() else [json.dumps(self._about)]
            lines.append(json.dumps(position))
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        except OSError as error:
            # Without it, going on later takes longer to find its place, and nothing worse.
            self._write = False
            warnings.warn(f"cannot write {self._path}: {reason(error)}. The run goes on without it.", stacklevel=2)

    def _read_positions(self) -> list[Position]:
        """The noted positions, the beginning of the corpus first."""
        positions = [Position(tokens=0, epoch=0, document=0)]
        if self._path is None or not self._path.is_file():
            return positions
        lines = check_file(self._path, "list of positions").read_bytes().splitlines()
        try:
            about = parse_json(lines[0])
        except (ValueError, IndexError):
            raise CourseError(f"{self._path} does not hold the positions of a corpus; remove it.") from None
        if isinstance(about, dict):
            about.setdefault("data", self.data_hash)  # earlier versions kept none; resuming such a run says so
        if about != self._about:
            raise CourseError(
                f"{self._path} was noted for {shortened(about, 300)}, not for {self._about}; take another folder, or "
                "remove it."
            )
        for line in lines[1:]:
            try:
                values = parse_json(line)
            except ValueError:
                break  # a crash cut the line off; the positions before it are good
            if not isinstance(values, list) or len(values) != 3 or not all(type(value) is int for value in values):
                break
            position = Position(*values)
            last = positions[-1]
            # Each lies behind the one before, in tokens and in documents.
            if position.tokens < last.tokens or position[1:] <= last[1:]:
                break
            positions.append(position)
        return positions
