"""Packed files of token ids: one long row of numbers, as other programs leave a corpus that they have tokenized.

    data = TokenFiles("corpus/*.bin", TokenIds(50_257), batch_size=32, length=2048)
    train(model, data, config, held_out=data.held_out())

Read are .npy files with one row of whole numbers, which say their own type, and .bin files: plain uint16 or uint32, or
those of llm.c, whose first 1,024 bytes are a header. The files stay on disk and are mapped into memory, so a corpus may
be larger than memory. Row n, counted over all steps, is tokens n T to n T + T of the corpus, its targets one token
further. After the last file comes the first again. The last twentieth of each file is held out."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.files import reason
from nl_course.tasks.streaming import HASHED_WHOLE, PACKED, data_hash, local_files
from nl_course.tasks.text import HELD_OUT_ONE_IN
from nl_course.tasks.tokenizer import Bytes, TokenIds, Tokenizer, check_ids

WIDTHS = ("uint16", "uint32")  # of the ids in a .bin file without a header
_HEADER = 256  # int32 numbers before the ids in files of llm.c: a mark, the version, how many ids follow, zeros
_MARKS = {(20240520, 1): "uint16", (20240801, 7): "uint32"}  # (mark, version) -> the width of an id
_PIECE = 1 << 24  # ids that are checked at once


class TokenFiles:
    """step -> (inputs, targets), each (batch_size, length) int64.

    `source` is a path, a pattern or a folder of .bin or .npy files. `tokenizer` says how many ids there are. `width` is
    the type of the ids in .bin files without a header; None takes uint16 where all ids of the vocabulary fit, else
    uint32. `hold_out` False keeps nothing back from training. Raises CourseError, naming file and position, for what
    cannot be read and for an id that the vocabulary does not have. Of more than 1 GiB of files the ids are looked at as
    they are read, not before.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer | Bytes | TokenIds,
        *,
        batch_size: int,
        length: int,
        width: str | None = None,
        hold_out: bool = True,
    ):
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.length = check_int("length", length, 1)
        self.name = source
        self.tokenizer = tokenizer
        if width is None:
            width = "uint16" if tokenizer.vocab <= 1 << 16 else "uint32"
        check_choice("width", width, WIDTHS)
        self._files = local_files(source)
        self._arrays = [_mapped(Path(file), width) for file in self._files]
        if sum(array.nbytes for array in self._arrays) <= HASHED_WHOLE:
            for i, array in enumerate(self._arrays):
                for first in range(0, len(array), _PIECE):
                    self._read(i, first, min(first + _PIECE, len(array)))
        # Of each file, the first ids are learned from, the others are held out.
        self._kept = [len(array) - len(array) // HELD_OUT_ONE_IN * hold_out for array in self._arrays]
        self.tokens = sum(self._kept)  # to learn from
        if self.tokens < 2:
            raise CourseError(f"{source!r} has {self.tokens} token ids to learn from; a prediction needs two.")
        self.data_hash = data_hash(source)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, in any order of steps."""
        tokens = self.batch_size * self.length
        window = self._window(check_int("step", step) * tokens, tokens + 1)  # one more: the last target
        shape = (self.batch_size, self.length)
        return window[:-1].view(shape), window[1:].view(shape)

    def held_out(self, tokens: int | None = None) -> Tensor:
        """The first held-out ids, at most `tokens` (default: 64 windows), (T,) int64; empty if none are held out."""
        most = 64 * (self.length + 1) if tokens is None else check_int("tokens", tokens, 1)
        parts = [torch.empty(0, dtype=torch.int64)]
        for i, array in enumerate(self._arrays):
            parts.append(self._read(i, self._kept[i], min(len(array), self._kept[i] + most)))
            most -= len(parts[-1])
        return torch.cat(parts)

    def first(self, tokens: int) -> Tensor:
        """The first ids to learn from, at most `tokens`, (T,) int64."""
        return self._window(0, min(self.tokens, check_int("tokens", tokens, 1)))

    def token_unit(self) -> dict[str, Any]:
        """What a token is: the tokenizer's name, and the bytes of text that one of the first held-out ids, or of the
        first of all, stands for on average; None where nothing turns ids back into text."""
        size = None
        if not isinstance(self.tokenizer, TokenIds):
            sample = self.held_out()
            if not len(sample):
                sample = self.first(64 * (self.length + 1))
            size = len(self.tokenizer.decode(sample).encode("utf-8")) / len(sample)
        return {"tokenizer": self.tokenizer.name, "bytes_per_token": size}

    def _window(self, first: int, count: int) -> Tensor:
        """`count` ids from number `first` on, counted over all rounds through the corpus, (count,) int64."""
        parts = []
        place = first % self.tokens
        while count:
            i = 0
            while place >= self._kept[i]:
                place -= self._kept[i]
                i += 1
            stop = min(place + count, self._kept[i])
            parts.append(self._read(i, place, stop))
            count -= stop - place
            # The next file begins at its first id; after the last file, the first one does.
            place = sum(self._kept[: i + 1]) % self.tokens
        return torch.cat(parts)

    def _read(self, i: int, first: int, stop: int) -> Tensor:
        """The ids `first` to `stop` of file i, (stop - first,) int64."""
        ids = torch.from_numpy(self._arrays[i][first:stop].astype(np.int64))
        return check_ids(ids, self.tokenizer.vocab, f"the file {self._files[i]}", first)


def is_packed(source: str) -> bool:
    """Whether `source` means files of token ids. Raises CourseError as `local_files` does."""
    files = local_files(source)
    return bool(files) and Path(files[0]).suffix in PACKED


def _mapped(path: Path, width: str) -> np.ndarray:
    """The ids in a file, (T,), mapped into memory. Raises CourseError for a file that holds something else."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = _mapped_bin(path, width)
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} cannot be read as token ids: {reason(error)}.") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise CourseError(
            f"{path} holds {array.dtype} numbers in the shape {array.shape}; token ids are one row of whole numbers."
        )
    return array


def _mapped_bin(path: Path, width: str) -> np.ndarray:
    """The ids in a .bin file, by its header or, without one, of type `width`."""
    size = os.path.getsize(path)
    header = np.fromfile(path, dtype="<i4", count=_HEADER)
    if len(header) == _HEADER and (int(header[0]), int(header[1])) in _MARKS:
        width = _MARKS[int(header[0]), int(header[1])]
        count = int(header[2])
        if size != 4 * _HEADER + count * np.dtype(width).itemsize:
            raise CourseError(
                f"{path} is damaged or incomplete: its header says that {count:,} ids of type {width} follow, and it "
                f"has {size - 4 * _HEADER:,} bytes behind it."
            )
        return np.memmap(path, dtype=np.dtype(width).newbyteorder("<"), mode="r", offset=4 * _HEADER)
    if size % np.dtype(width).itemsize:
        raise CourseError(f"{path} has {size:,} bytes, which is no whole number of {width} ids; name their --width.")
    return np.memmap(path, dtype=np.dtype(width).newbyteorder("<"), mode="r")
