"""Real text without a download, bytes as tokens.

    prose = library("prose")            # docstrings of sympy and networkx, which the course installs anyway
    stream = prose.stream("train")      # one long tensor of bytes, with a zero byte between two documents
    inputs, targets = batch(stream, step=0, batch_size=16, length=256, seed=0)

A token is a byte: there are 256 of them, and no tokenizer is needed. Every machine with the pinned versions reads the
same bytes. Their hashes stand in `assets/library.json` (made by `nl-course record library`); if the installed text
differs, a warning says which package and which versions.

Whole documents are held out, but documents repeat each other: in `prose` 9 % of the held-out bytes are lines of 40 or
more bytes that stand in a training document too, in `code` 6 %. On the course's small models such lines cost 0.1 nats
per byte less than others, so held-out losses are about 0.01 nats per byte lower than on text that shares no line with
the training text. `Library.without_shared_lines` takes such lines out of the training documents. Recordings whose
`about` says `"split": "no shared lines"` were made with it (`record/texts.py`), those without that entry with the split
as it is. The held-out text is the same in both.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int, check_text
from nl_course.files import asset, write_atomically
from nl_course.tasks import documents
from nl_course.tasks.documents import CORPORA, PACKAGES, Document

VOCAB = 256
SEPARATOR = 0  # the byte between two documents; no text contains it
SPLITS = ("train", "held_out")
DEFAULT_PACKAGES = ("sympy", "networkx")
HELD_OUT_ONE_IN = 20  # every twentieth document, by its name's hash; of a learner's own text, the last twentieth
LONG_LINE = 40  # bytes; a shorter line that stands in two documents says little
RECORD = "library.json"


class LibraryWarning(UserWarning):
    """The installed packages do not give the bytes that the course's recordings were made from."""


# -- bytes as tokens -------------------------------------------------------------------------------------
def encode(text: str | bytes) -> Tensor:
    """Text -> its UTF-8 bytes, (T,) int64. Raises CourseError for half a surrogate pair, which has none."""
    data = check_text("the text", text).encode("utf-8") if isinstance(text, str) else bytes(text)
    return _tensor(data).long()


def _tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.uint8))


def decode(tokens: Tensor | Sequence[int]) -> str:
    """Bytes -> text. A broken UTF-8 sequence (a sample may end in one) becomes the replacement character, and the
    separator between two documents an empty line. Raises CourseError for a token that is no byte."""
    if isinstance(tokens, Tensor):
        tokens = tokens.flatten().tolist()
    values = [int(token) for token in tokens]
    if any(not 0 <= value < VOCAB for value in values):
        raise CourseError(f"tokens must be bytes from 0 to {VOCAB - 1}, not {min(values)} to {max(values)}.")
    return bytes(values).decode("utf-8", errors="replace").replace("\0", "\n\n")


# -- a library -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Library:
    """Documents to learn from and documents held out. `differences` says in words where a text is not the recorded
    one."""

    name: str
    train: list[Document]
    held_out: list[Document]
    differences: list[str] = field(default_factory=list)

    def stream(self, split: str = "train") -> Tensor:
        """All documents of a split as one long tensor (N,) uint8, each followed by the separator. Made anew at each
        call."""
        return _tensor(b"".join(document.text + b"\0" for document in self.documents(split)))

    def documents(self, split: str = "train") -> list[Document]:
        """The documents of a split, `train` or `held_out`."""
        return getattr(self, check_choice("split", split, SPLITS))

    def verify(self, strict: bool = False) -> list[str]:
        """What differs from the recording, in words; an empty list if nothing does. `strict` raises instead."""
        if strict and self.differences:
            raise CourseError(" ".join(self.differences))
        return list(self.differences)

    def nbytes(self, split: str = "train") -> int:
        """Bytes of text in a split, without separators."""
        return sum(len(document.text) for document in self.documents(split))

    def shared_share(self, least: int = LONG_LINE) -> float:
        """The share of held-out bytes in lines of at least `least` bytes that stand in a training document too. Spaces
        around a line do not count."""
        known = _long_lines(self.train, least)
        shared = 0
        for document in self.held_out:
            shared += sum(len(line) for line in document.text.split(b"\n") if line.strip() in known)
        return shared / max(self.nbytes("held_out"), 1)

    def without_shared_lines(self, least: int = LONG_LINE, others: Sequence["Library"] = ()) -> "Library":
        """The same library, but no line of at least `least` bytes stands on both sides: each that is held out, here or
        in one of the `others`, is taken out of the training documents. What is held out stays as it is."""
        check_int("least", least, 1)
        held_out = _long_lines(self.held_out, least)
        for other in others:
            held_out |= _long_lines(other.held_out, least)
        train = []
        for document in self.train:
            left = [line for line in document.text.split(b"\n") if line.strip() not in held_out]
            train.append(Document(document.name, b"\n".join(left)))
        train = [document for document in train if document.text.strip()]
        return replace(self, name=f"{self.name}, without shared lines", train=train)

    def __repr__(self) -> str:
        return (
            f"Library({self.name}: {len(self.train):,} documents, {self.nbytes() / 1e6:.2f} MB to learn from; "
            f"{len(self.held_out):,} documents, {self.nbytes('held_out') / 1e6:.2f} MB held out)"
        )


def _long_lines(texts: Sequence[Document], least: int) -> set[bytes]:
    """Every line of at least `least` bytes, without the spaces around it."""
    lines = set()
    for document in texts:
        lines.update(line.strip() for line in document.text.split(b"\n"))
    return {line for line in lines if len(line) >= least}


def library(corpus: str = "prose", packages: Sequence[str] = DEFAULT_PACKAGES, strict: bool = False) -> Library:
    """The course's own library: `prose` (docstrings) or `code` (source) of installed packages.

    Documents come in a fixed order that mixes the packages, and a twentieth of them, chosen by name, is held out; of
    lines that both sides share see above. The texts are compared with the recorded hashes: a difference is a warning
    that names both versions, or an error if `strict`. Raises CourseError for an unknown corpus or package.
    """
    check_choice("corpus", corpus, CORPORA)
    packages = (packages,) if isinstance(packages, str) else tuple(dict.fromkeys(packages))
    if not packages:
        raise CourseError(f"there is no package to read; name one or more of: {', '.join(PACKAGES)}.")
    for package in packages:
        check_choice("package", package, PACKAGES)
    texts: list[Document] = []
    differences = []
    for package in packages:
        of_package = documents.documents(package, corpus)
        difference = _difference(package, corpus, of_package)
        if difference:  # perhaps only the cache is stale: read the files themselves before complaining
            of_package = documents.documents(package, corpus, fresh=True)
            difference = _difference(package, corpus, of_package)
        texts += of_package
        if difference:
            differences.append(difference)
    texts.sort(key=lambda document: documents.rank(document.name))
    train, held_out = [], []
    for document in texts:
        # By name, not by place: a document stays on its side when others are added or removed.
        split = held_out if documents.rank(document.name) % HELD_OUT_ONE_IN == 0 else train
        split.append(document)
    result = Library(f"{corpus} of {', '.join(packages)}", train, held_out, differences)
    for difference in result.verify(strict):
        warnings.warn(difference, LibraryWarning, stacklevel=2)
    return result


def from_path(path: str | os.PathLike) -> Library:
    """The learner's own text: a file, or a folder of files. The last twentieth of every file is held out. What the text
    repeats stands on both sides; `without_shared_lines` takes it out of the part to learn from.

    Raises CourseError, naming the path, if it is missing, empty, or not text.
    """
    train, held_out = [], []
    for document in documents.read_path(path):
        text = document.text
        cut = len(text) - len(text) // HELD_OUT_ONE_IN
        while cut < len(text) and text[cut] & 0xC0 == 0x80:  # a UTF-8 continuation byte: never cut inside a character
            cut += 1
        train.append(Document(document.name, text[:cut]))
        if cut < len(text):
            held_out.append(Document(document.name, text[cut:]))
    return Library(str(path), train, held_out)


# -- the record ------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def recorded() -> dict:
    """What `assets/library.json` says: per package its version, and per corpus one hash and every document's."""
    try:
        return json.loads(asset(RECORD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CourseError(f"the course's asset {RECORD!r} is damaged ({error}); restore it.") from error


def _difference(package: str, corpus: str, texts: list[Document]) -> str | None:
    """None if these documents are the recorded ones, else one sentence that names both versions."""
    record = recorded()["packages"].get(package)
    if record is None:
        return f"no hashes are recorded for {package}."
    now = {document.name: document.hash for document in texts}
    then = record[corpus]["books"]
    if documents.digest(now) == record[corpus]["hash"]:
        return None
    changed = sum(then.get(name) != now.get(name) for name in then.keys() | now.keys())
    return (
        f"the {corpus} of {package} is not the text that the course's recordings were made from: they used "
        f"{package} {record['version']}, installed is {package} {documents.version(package)}; {changed:,} of "
        f"{len(then.keys() | now.keys()):,} documents differ. Numbers will differ a little from the recorded "
        f"ones; `pip install {package}=={record['version']}` gives the same text."
    )


def record_library(path: str | os.PathLike, packages: Sequence[str] = PACKAGES) -> dict:
    """Reads every package's documents anew and writes their hashes to `path`, as `assets/library.json` holds them.
    Returns what was written."""
    record_of = {}
    for package in packages:
        record_of[package] = {"version": documents.version(package)}
        for corpus in CORPORA:
            texts = documents.documents(package, corpus, fresh=True)
            hashes = {document.name: document.hash for document in texts}
            size = sum(len(document.text) for document in texts)
            record_of[package][corpus] = {"hash": documents.digest(hashes), "bytes": size, "books": hashes}
    record = {"made_by": "nl-course record library", "revision": documents.REVISION, "packages": record_of}
    text = json.dumps(record, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    recorded.cache_clear()
    return record


# -- batches ---------------------------------------------------------------------------------------------
def batch(
    stream: Tensor, step: int, batch_size: int, length: int, seed: int = 0, first_row: int = 0
) -> tuple[Tensor, Tensor]:
    """The windows that step `step` learns from: inputs and targets (batch_size, length) int64, targets one ahead.

    Stateless: where a window starts is a hash of (seed, step, row). So a run that was stopped at any step resumes with
    the very batches it would have had, and a process that takes the rows from `first_row` on of a larger batch gets
    its share. Raises CourseError if the text is shorter than a window.
    """
    check_int("step", step, 0)
    check_int("first_row", first_row, 0)
    check_int("batch_size", batch_size, 1)
    check_int("length", length, 1)
    positions = stream.numel() - length  # where a window may start: it is length + 1 tokens long
    if positions < 1:
        raise CourseError(
            f"the text is too short for windows of {length} tokens: it has {stream.numel():,} bytes and "
            f"needs {length + 1:,}. Take a longer text or a shorter window."
        )
    rows = range(first_row, first_row + batch_size)
    starts = [hashed(f"{seed} {step} {row}") % positions for row in rows]
    windows = torch.stack([stream[start : start + length + 1] for start in starts]).long()  # (rows, length + 1)
    return windows[:, :-1], windows[:, 1:]


def hashed(text: str) -> int:
    """A fixed pseudo-random number below 2^63 for a text: a seed that depends on what it is for and on nothing else."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
