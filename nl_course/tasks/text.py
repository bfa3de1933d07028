"""Real text without a download, bytes as tokens.

    books = library("prose")                      # docstrings of sympy and networkx, which the course
    installs anyway stream = books.stream("train")                # one long tensor of bytes, books set
    apart by a zero byte inputs, targets = batch(stream, step=0, batch_size=16, length=256, seed=0)

A token is a byte: 256 of them, no tokenizer. Every machine with the pinned versions reads the same bytes;
their hashes stand in `assets/library.json` (made by `nl-course record library`), and a difference is said in words.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.files import asset, write_atomically
from nl_course.tasks import books as shelves
from nl_course.tasks.books import CORPORA, SHELVES, Book

VOCAB = 256
SEPARATOR = 0  # the byte between two books; no text holds it
SPLITS = ("train", "held_out")
DEFAULT_SHELF = ("sympy", "networkx")
HELD_OUT_ONE_IN = 20  # every twentieth book, by its name's hash; of a learner's own text, the last twentieth
RECORD = "library.json"


class LibraryWarning(UserWarning):
    """The installed packages do not give the bytes that the course's recordings were made from."""


# -- bytes as tokens -------------------------------------------------------------------------------------
def encode(text: str | bytes) -> Tensor:
    """Text -> its UTF-8 bytes, (T,) int64."""
    data = text.encode("utf-8") if isinstance(text, str) else bytes(text)
    return _tensor(data).long()


def _tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.uint8))


def decode(tokens: Tensor | Sequence[int]) -> str:
    """Bytes -> text. A broken UTF-8 sequence (a sample may end in one) becomes the replacement character,
    and the separator between two books an empty line. Raises CourseError for a token that is no byte."""
    values = [int(t) for t in (tokens.flatten().tolist() if isinstance(tokens, Tensor) else tokens)]
    if any(not 0 <= value < VOCAB for value in values):
        raise CourseError(f"tokens must be bytes from 0 to {VOCAB - 1}, not {min(values)} to {max(values)}.")
    return bytes(values).decode("utf-8", errors="replace").replace("\0", "\n\n")


# -- a library -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Library:
    """Books to learn from and books held out. `differences` says in words where a text is not the recorded
    one."""

    name: str
    train: list[Book]
    held_out: list[Book]
    differences: list[str] = field(default_factory=list)

    def stream(self, split: str = "train") -> Tensor:
        """All books of a split as one long tensor (N,) uint8, each followed by the separator. Made anew
        each call."""
        return _tensor(b"".join(book.text + b"\0" for book in self.books(split)))

    def books(self, split: str = "train") -> list[Book]:
        """The books of a split, `train` or `held_out`."""
        return getattr(self, check_choice("split", split, SPLITS))

    def verify(self, strict: bool = False) -> list[str]:
        """What differs from the recording, in words; an empty list when nothing does. `strict` raises
        instead."""
        if strict and self.differences:
            raise CourseError(" ".join(self.differences))
        return list(self.differences)

    def nbytes(self, split: str = "train") -> int:
        """Bytes of text in a split, without separators."""
        return sum(len(book.text) for book in self.books(split))

    def __repr__(self) -> str:
        return (
            f"Library({self.name}: {len(self.train):,} books, {self.nbytes() / 1e6:.2f} MB to learn from; "
            f"{len(self.held_out):,} books, {self.nbytes('held_out') / 1e6:.2f} MB held out)"
        )


def library(corpus: str = "prose", shelf: Sequence[str] = DEFAULT_SHELF, strict: bool = False) -> Library:
    """The course's own library: `prose` (docstrings) or `code` (source) of the packages on the shelf.

    Books stand in a fixed order that mixes the packages, and a twentieth of them, by name, is held out. The
    texts are held against the recorded hashes: a difference is warned of with both versions, or raised if
    `strict`.
    """
    check_choice("corpus", corpus, CORPORA)
    shelf = (shelf,) if isinstance(shelf, str) else tuple(dict.fromkeys(shelf))
    if not shelf:
        raise CourseError(f"the shelf is empty; name one or more of: {', '.join(SHELVES)}.")
    for package in shelf:
        check_choice("package", package, SHELVES)
    found, differences = [], []
    for package in shelf:
        these = shelves.books(package, corpus)
        difference = _difference(package, corpus, these)
        if difference:  # perhaps only the cache is stale: read the files themselves before complaining
            these = shelves.books(package, corpus, fresh=True)
            difference = _difference(package, corpus, these)
        found += these
        differences += [difference] if difference else []
    found.sort(key=lambda book: shelves.rank(book.name))
    held = [book for book in found if shelves.rank(book.name) % HELD_OUT_ONE_IN == 0]
    train = [book for book in found if shelves.rank(book.name) % HELD_OUT_ONE_IN != 0]
    result = Library(f"{corpus} of {', '.join(shelf)}", train, held, differences)
    for difference in result.verify(strict):
        warnings.warn(difference, LibraryWarning, stacklevel=2)
    return result


def from_path(path: str | os.PathLike) -> Library:
    """The learner's own text: a file, or a folder of files. The last twentieth of every file is held out.

    Raises CourseError, naming the path, if it is missing, empty, or not text.
    """
    train, held = [], []
    for book in shelves.read_path(path):
        cut = len(book.text) - len(book.text) // HELD_OUT_ONE_IN
        while cut < len(book.text) and book.text[cut] & 0xC0 == 0x80:  # never inside a character
            cut += 1
        train.append(Book(book.name, book.text[:cut]))
        if cut < len(book.text):
            held.append(Book(book.name, book.text[cut:]))
    return Library(str(path), train, held)


# -- the record ------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def recorded() -> dict:
    """What `assets/library.json` says: per package its version, and per corpus one hash and every book's."""
    try:
        return json.loads(asset(RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CourseError(f"the course's asset {RECORD!r} is damaged ({error}); restore it.") from error


def _difference(package: str, corpus: str, found: list[Book]) -> str | None:
    """None if these books are the recorded ones, else one sentence that names both versions."""
    record = recorded()["packages"].get(package)
    if record is None:
        return f"no hashes are recorded for {package}."
    now = {book.name: book.hash for book in found}
    then = record[corpus]["books"]
    if shelves.digest(now) == record[corpus]["hash"]:
        return None
    changed = sum(then.get(name) != now.get(name) for name in then.keys() | now.keys())
    return (
        f"the {corpus} of {package} is not the text that the course's recordings were made from: they used "
        f"{package} {record['version']}, installed is {package} {shelves.version(package)}; {changed:,} of "
        f"{len(then.keys() | now.keys()):,} books differ. Numbers will differ a little from the recorded "
        f"ones; `pip install {package}=={record['version']}` gives the same text."
    )


def record_library(path: str | os.PathLike, packages: Sequence[str] = SHELVES) -> dict:
    """Reads every package's books anew and writes their hashes to `path`, as `assets/library.json` holds them."""
    found = {}
    for package in packages:
        found[package] = {"version": shelves.version(package)}
        for corpus in CORPORA:
            books = shelves.books(package, corpus, fresh=True)
            hashes = {book.name: book.hash for book in books}
            size = sum(len(book.text) for book in books)
            found[package][corpus] = {"hash": shelves.digest(hashes), "bytes": size, "books": hashes}
    record = {"made_by": "nl-course record library", "revision": shelves.REVISION, "packages": found}
    text = json.dumps(record, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    recorded.cache_clear()
    return record


# -- batches ---------------------------------------------------------------------------------------------
def batch(
    stream: Tensor, step: int, batch_size: int, length: int, seed: int = 0, first_row: int = 0
) -> tuple[Tensor, Tensor]:
    """The windows that step `step` learns from: inputs and targets (batch_size, length) int64, targets one
    ahead.

    Stateless: where a window starts is a hash of (seed, step, row), so a run that stops at any step goes on
    with the very batches it would have had, and a machine that takes rows `first_row`... of a larger batch
    gets its share.
    """
    for name, value, least in (("step", step, 0), ("first_row", first_row, 0), ("batch_size", batch_size, 1)):
        check_int(name, value, least)
    check_int("length", length, 1)
    places = stream.numel() - length  # a window is length + 1 long
    if places < 1:
        raise CourseError(
            f"the text is too short for windows of {length} tokens: it has {stream.numel():,} bytes and "
            f"needs {length + 1:,}. Take a longer text or a shorter window."
        )
    starts = [hashed(f"{seed} {step} {row}") % places for row in range(first_row, first_row + batch_size)]
    windows = torch.stack([stream[start : start + length + 1] for start in starts]).long()
    return windows[:, :-1], windows[:, 1:]


def hashed(text: str) -> int:
    """A fixed pseudo-random number below 2^63 for a text: seeds that depend on what they are for, and nothing else."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
