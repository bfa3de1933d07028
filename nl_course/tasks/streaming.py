"""An extra: books from the `datasets` library, streamed, from a hub or from files on this machine.

    pip install nl-course[data]
    books = stream_datasets("shelf/*.jsonl.gz", column="text")        # local files are read without any network
    library = from_books(itertools.islice(books, 1000))

The course itself never needs it: the default library is already on every machine.
"""

from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError, check_choice
from nl_course.tasks.documents import Document, rank
from nl_course.tasks.text import HELD_OUT_ONE_IN, Library

# How `datasets` calls the formats of local files, by the end of the name (before .gz and the like).
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_PACKED = {".gz", ".xz", ".zst", ".bz2"}


def stream_datasets(
    source: str, column: str = "text", split: str = "train", first: int = 0, **options: Any
) -> Iterator[Document]:
    """Books one by one, as they arrive, from column `column` of `source`: the name of a dataset on a hub, or a path,
    a pattern or a folder of local .jsonl, .parquet, .csv or .txt files (a line a book), from row number `first` on.
    `options` go to `datasets.load_dataset`.

    Raises CourseError if the library is not installed, the files are missing or of another kind, the dataset cannot
    be opened, or it has no such column.
    """
    try:
        import datasets
    except ImportError:
        raise CourseError(
            "streaming needs the library `datasets`, which is not installed; run `pip install nl-course[data]` or "
            "`pip install datasets`."
        ) from None
    local = _local(source)
    try:
        if local is None:
            rows = datasets.load_dataset(source, split=split, streaming=True, **options)
        else:
            kind, files = local
            rows = datasets.load_dataset(kind, data_files={split: files}, split=split, streaming=True, **options)
    except Exception as error:  # whatever the library and the network raise
        raise CourseError(f"the dataset {source!r} cannot be opened: {_first_line(error)}") from error
    return _books(rows.skip(first) if first else rows, source, column, first)


def _books(rows: Iterable[dict], source: str, column: str, first: int) -> Iterator[Document]:
    try:
        for number, row in enumerate(rows, first):
            if column not in row:
                raise CourseError(f"{source!r} has no column {column!r}; it has: {', '.join(map(str, row))}.")
            text = str(row[column] or "").replace("\0", "")
            if text.strip():
                yield Document(f"{source}/{number}", text.encode("utf-8", errors="replace"))
    except CourseError:
        raise
    except Exception as error:
        raise CourseError(f"reading the dataset {source!r} failed: {_first_line(error)}") from error


def from_books(books: Iterable[Document], name: str = "streamed") -> Library:
    """A library of any books, in the order in which they come; a twentieth, by name, is held out."""
    train, held_out = [], []
    for book in books:
        (held_out if rank(book.name) % HELD_OUT_ONE_IN == 0 else train).append(book)
    if not train:
        raise CourseError(f"the library {name!r} would be empty: no book to learn from arrived.")
    return Library(name, train, held_out)


def _local(source: str) -> tuple[str, list[str]] | None:
    """The format and the files, or None if `source` is the name of a dataset and not a path."""
    ends = [end for end in Path(source).suffixes if end not in _PACKED]
    looks_local = any(mark in source for mark in "*?\\") or source.startswith((".", "/", "~")) or Path(source).exists()
    if not looks_local and not (ends and ends[-1] in FORMATS):
        return None
    files = sorted(glob(str(Path(source).expanduser())))
    if len(files) == 1 and Path(files[0]).is_dir():
        files = sorted(str(f) for f in Path(files[0]).rglob("*") if f.is_file() and _ending(f) in FORMATS)
        if len({FORMATS[_ending(f)] for f in files}) > 1:
            found = ", ".join(sorted({_ending(f) for f in files}))
            raise CourseError(
                f"the folder {source!r} mixes formats ({found}); name one of them, like {source}/*.jsonl."
            )
        ends = [_ending(f) for f in files[:1]]
    if not files:
        raise CourseError(f"no file matches {source!r}.")
    kind = check_choice("the format of a data file", ends[-1] if ends else "(none)", FORMATS)
    return FORMATS[kind], files


def _ending(file: str | Path) -> str:
    """What the file's name ends in, before .gz and the like."""
    ends = [end for end in Path(file).suffixes if end not in _PACKED]
    return ends[-1] if ends else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
