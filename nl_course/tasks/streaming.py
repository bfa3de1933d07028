"""Documents one by one, from files that are too large to be read at once, or from a hub.

    documents = stream_datasets("corpus/*.jsonl.gz", column="text")      # files: nothing is asked of the network
    documents = stream_datasets("owner/name")                            # a dataset on a hub, by the library `datasets`

JSON is read here, line by line, so that a damaged line is named and stops nothing but the reading. All else is read by
the library `datasets`, an extra that the course itself never needs: `pip install datasets`.
"""

import bz2
import gzip
import hashlib
import logging
import lzma
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from glob import glob
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import torch
from torch import Tensor

from nl_course.errors import LARGEST_INT, CourseError, check_choice, check_int, shortened
from nl_course.files import check_file, parse_json, pip_install, reason
from nl_course.tasks.documents import Document, TokenDocument

# The formats of local files, by the end of the name (before .gz and the like), as `datasets` calls them.
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
PACKED = (".bin", ".npy")  # files of token ids, which hold no documents (token_files.py)
HUB = "hub:"  # before the name of a dataset that is to be looked up on a hub, whatever the name looks like
_PACKED: dict[str, Callable[..., IO]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_PACKINGS = (*_PACKED, ".zst")  # the last is read by `datasets` alone
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
HASHED_WHOLE = 1 << 30  # bytes of all files together up to which every byte counts for `data_hash`
_PIECES, _PIECE = 16, 1 << 16  # of larger ones: so many pieces of each file, of so many bytes
_IDS_AS_TEXT = re.compile(r"\s*\[\s*\d+([\s,.]+\d+)+[\s,.]*\]?\s*")  # "[1, 2, 3]", also one that was cut off
FIRST_ROWS = 100  # if none of so many rows has the column, no row is expected to


def stream_datasets(
    source: str, column: str = "text", split: str = "train", first: int = 0, **options: Any
) -> Iterator[Document | TokenDocument]:
    """Documents one by one, as they arrive, from column `column` of `source`, from row number `first` on.

    `source` is a path, a pattern or a folder of local .jsonl, .json, .parquet, .csv or .txt files (one line or row per
    document). Or it is a dataset on a hub, "owner/name" or "hub:name", with ":" and the name of a configuration behind
    it where it has several, whose part `split` is read; the network is asked
    for nothing else, and a warning says so beforehand. `options` go to `datasets.load_dataset`. Rows without a text are
    left out, with a warning. A row whose column holds a list of whole numbers is a document of token ids.

    Raises CourseError if the files are missing, empty, damaged or of another kind, the dataset cannot be opened, the
    column is missing or holds neither text nor lists of token ids, or the library is needed and not installed. A column
    that begins with numbers, or with ids written as text ("[1, 2, 3]"), is refused: trained on, it would be digits.
    """
    check_int("first", first)
    files = local_files(source)
    ending = _ending(files[0]) if files else ""
    if ending in PACKED:
        raise CourseError(f"{files[0]} holds token ids and no documents; they are read by TokenFiles.")
    kind = FORMATS.get(ending, "")
    if kind == "json" and not any(file.endswith(".zst") for file in files):
        rows = islice(_json_rows(files), first, None)
        return _documents(rows, source, column, first)
    datasets = _library()
    try:
        if files:
            rows = datasets.load_dataset(kind, data_files={split: files}, split=split, streaming=True, **options)
        else:
            name, _, configuration = source.removeprefix(HUB).partition(":")
            if configuration:
                options["name"] = configuration
            if not datasets.config.HF_HUB_OFFLINE:
                warnings.warn(f"asking {datasets.config.HF_ENDPOINT} for the dataset {name!r}.", stacklevel=2)
            rows = datasets.load_dataset(name, split=split, streaming=True, **options)
        if first:
            rows = rows.skip(first)
    except Exception as error:  # whatever the library and the network raise
        raise CourseError(f"the dataset {source!r} cannot be opened: {_first_reason(error)}") from error
    return _documents(rows, source, column, first)


def _documents(
    rows: Iterable[dict[str, Any]], source: str, column: str, first: int
) -> Iterator[Document | TokenDocument]:
    """The rows as documents named by their numbers, of which the first is `first`."""
    has_column = False
    is_begin = first == 0  # a run that goes on has seen the first rows before
    without = 0  # rows that have no text
    row: dict[str, Any] = {}
    try:
        for number, row in enumerate(rows, first):
            has_column = has_column or column in row
            if row.get(column) is None:
                without += 1
                if not has_column and without >= FIRST_ROWS:
                    break
                if has_column and without == 1:
                    warnings.warn(
                        f"row {number} of {source!r} has no text in the column {column!r}; rows without one are left "
                        "out.",
                        stacklevel=2,
                    )
                continue
            value = row[column]
            if isinstance(value, list):
                tokens = _token_ids(value, f"row {number} of {source!r}, column {column!r},")
                if len(tokens):
                    yield TokenDocument(f"{source}/{number}", tokens)
                is_begin = False
                continue
            if isinstance(value, (dict, bytes)):
                kind = type(value).__name__
                raise CourseError(f"the column {column!r} of {source!r} holds no text: row {number} is a {kind}.")
            if is_begin:
                _check_is_text(value, number, source, column)
                is_begin = False
            text = str(value).replace("\0", "")
            if text.strip():
                yield Document(f"{source}/{number}", text.encode("utf-8", errors="replace"))
    except CourseError:
        raise
    except Exception as error:
        raise CourseError(f"reading the dataset {source!r} failed: {_first_reason(error)}") from error
    if row and not has_column:
        raise CourseError(f"{source!r} has no column {column!r}; it has: {', '.join(map(str, row))}.")


def _token_ids(values: list[Any], where: str) -> Tensor:
    """A row's token ids, (T,) int64. Raises CourseError, naming the row, for a list of anything else."""
    for position, value in enumerate(values):
        if type(value) is not int or not 0 <= value <= LARGEST_INT:
            raise CourseError(
                f"{where} is a list, and {shortened(value)} at its position {position} is no token id; "
                "a column holds a text per row, or a list of whole numbers."
            )
    return torch.tensor(values, dtype=torch.int64)


def _check_is_text(value: Any, number: int, source: str, column: str) -> None:
    """Raises CourseError for a value, the first one of a column, that shows that the column holds no texts: a number,
    or token ids written as text. Only the first one is looked at, since a corpus of texts may well hold such a line."""
    is_number = isinstance(value, (int, float))
    if is_number or _IDS_AS_TEXT.fullmatch(str(value)):
        what = "a number" if is_number else "a list of numbers that is written as text"
        raise CourseError(
            f"row {number} of {source!r}, column {column!r}, is {what} ({shortened(str(value), 30)}), so the column "
            "holds no text. Name another --column; or keep token ids as one list per row in .jsonl or .parquet files."
        )


# -- local files -------------------------------------------------------------------------------------------
def local_files(source: str) -> list[str]:
    """The files that `source` means, all of one format; none if it means a dataset on a hub.

    Raises CourseError if there are none, or one of them cannot be read or is empty.
    """
    if source.startswith(HUB):
        return []
    path = Path(source).expanduser()
    is_there = os.path.lexists(path)
    is_pattern = any(mark in source for mark in "*?[\\")
    looks_local = is_there or is_pattern or source.startswith((".", "/", "~")) or _ending(source) in (*FORMATS, *PACKED)
    # With one slash it may be a dataset's name, unless a folder of that beginning stands here.
    if not looks_local and _HUB_NAME.fullmatch(source) and not path.parent.is_dir():
        return []
    if path.is_dir():
        files = _files_inside(source, path)
    elif is_there:
        files = [str(path)]
    else:
        files = sorted(glob(str(path)))
    if not files:
        raise CourseError(
            f"no file matches {source!r}.{_guess(path)} A dataset on a hub is called OWNER/NAME, or {HUB}NAME."
        )
    check_choice(
        "the format of a data file", _ending(source if is_pattern else files[0]) or "(none)", (*FORMATS, *PACKED)
    )
    for file in files:
        if check_file(file, "data file").stat().st_size == 0:
            raise CourseError(f"the data file {file} is empty.")
    return files


def data_hash(source: str) -> str | None:
    """Twelve hex digits that change with the contents of the files that `source` means; None for a dataset on a hub,
    whose owner answers for it.

    Of more than HASHED_WHOLE bytes only the sizes of the files and pieces of each count, so that this takes seconds. A
    change between the pieces that keeps a file's size is then not seen. Raises CourseError as `local_files` does.
    """
    files = local_files(source)
    if not files:
        return None
    sizes = [os.path.getsize(file) for file in files]
    whole = sum(sizes) <= HASHED_WHOLE
    digest = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        digest.update(f"{size} ".encode())
        with open(file, "rb") as opened:
            # From the first bytes to the last ones.
            starts = [max(size - _PIECE, 0) * i // (_PIECES - 1) for i in range(_PIECES)]
            for start in [0] if whole else starts:
                opened.seek(start)
                while block := opened.read(_PIECE):
                    digest.update(block)
                    if not whole:
                        break
    return digest.hexdigest()[:12]


def _files_inside(source: str, folder: Path) -> list[str]:
    """The data files in a folder and its subfolders. Raises CourseError if they are of different formats."""
    known = (*FORMATS, *PACKED)
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file() and _ending(file) in known)
    endings = sorted({_ending(file) for file in files})
    if len({FORMATS.get(ending, ending) for ending in endings}) > 1:
        raise CourseError(
            f"the folder {source!r} mixes formats ({', '.join(endings)}); name one of them, like {source}/*.jsonl."
        )
    if not files:
        raise CourseError(f"the folder {source!r} holds no file that ends in {', '.join(known)}.")
    return files


def _guess(path: Path) -> str:
    """A sentence that names what stands there under nearly the same name, or nothing."""
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return ""
    # Endings are left out of the comparison: `shlef` is near `shelf.jsonl`.
    name_of = {name.split(".")[0]: name for name in names}
    close = [name_of[stem] for stem in get_close_matches(path.name.split(".")[0], name_of, n=1)]
    return f" Did you mean {str(path.with_name(close[0]))!r}?" if close else ""


def _ending(file: str | Path) -> str:
    """What the file's name ends in, before .gz and the like: ".jsonl" of "a.jsonl.gz"; "" if it has no ending."""
    ends = [end for end in Path(file).suffixes if end not in _PACKINGS]
    return ends[-1] if ends else ""


# -- JSON --------------------------------------------------------------------------------------------------
def _json_rows(files: list[str]) -> Iterator[dict[str, Any]]:
    """The objects in JSON files, each of them one object per line, or one list of objects."""
    for file in files:
        opener = _PACKED.get(Path(file).suffix, open)
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if line.lstrip()[:1] == b"[":
                    yield from _json_list(file, number, line + lines.read())
                    break
                yield _json_row(file, number, line)


def _json_row(file: str, number: int, line: bytes) -> dict[str, Any]:
    """The object in a line of a JSON file. Raises CourseError, naming the line, if it is none."""
    try:
        row = parse_json(line)
    except ValueError as error:
        raise CourseError(f"line {number} of {file} is not JSON: {reason(error)}.") from error
    if not isinstance(row, dict):
        raise CourseError(f"line {number} of {file} is not an object with columns: {shortened(row)}.")
    return row


def _json_list(file: str, number: int, text: bytes) -> list[dict[str, Any]]:
    """The objects of a list that begins in line `number` of a JSON file. Raises CourseError if there is another."""
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise CourseError(f"the list from line {number} of {file} on is not JSON: {reason(error)}.") from error
    for row in rows:
        if not isinstance(row, dict):
            raise CourseError(f"the list in {file} holds what is not an object with columns: {shortened(row)}.")
    return rows


# -- the library -------------------------------------------------------------------------------------------
def _library() -> ModuleType:
    """The library `datasets`. Raises CourseError if it is not installed."""
    try:
        import datasets
    except ImportError:
        raise CourseError(
            f"this needs the library `datasets`, which is not installed; run `{pip_install('datasets')}`."
        ) from None
    # These log what they then raise; the error below says it once.
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return datasets


def _first_reason(error: BaseException) -> str:
    """In one line what an error says, or the one that caused it; never nothing."""
    while not str(error).strip() and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, StopIteration):  # how the library finds out that there is nothing to read
        return "it holds no row"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
