"""An extra: documents streamed by the library `datasets`, from a hub or from files on this machine.

    pip install nl-course[data]
    documents = stream_datasets("corpus/*.jsonl.gz", column="text")      # local files are read without any network

The course itself never needs it: the default library is already on every machine.
"""

from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError, check_choice
from nl_course.tasks.documents import Document

# How `datasets` calls the formats of local files, by the end of the name (before .gz and the like).
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_PACKED = {".gz", ".xz", ".zst", ".bz2"}


def stream_datasets(
    source: str, column: str = "text", split: str = "train", first: int = 0, **options: Any
) -> Iterator[Document]:
    """Documents one by one, as they arrive, from column `column` of `source`: the name of a dataset on a hub, or a
    path, a pattern or a folder of local .jsonl, .parquet, .csv or .txt files (one line or row per document), from row
    number `first` on. `options` go to `datasets.load_dataset`.

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
    if first:
        rows = rows.skip(first)
    return _documents(rows, source, column, first)


def _documents(rows: Iterable[dict], source: str, column: str, first: int) -> Iterator[Document]:
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


def _local(source: str) -> tuple[str, list[str]] | None:
    """The format and the files, or None if `source` is the name of a dataset and not a path."""
    ending = _ending(source)
    is_pattern = any(mark in source for mark in "*?\\")
    is_path = source.startswith((".", "/", "~")) or Path(source).exists()
    if not (is_pattern or is_path or ending in FORMATS):
        return None
    files = sorted(glob(str(Path(source).expanduser())))
    if len(files) == 1 and Path(files[0]).is_dir():
        inside = [f for f in Path(files[0]).rglob("*") if f.is_file() and _ending(f) in FORMATS]
        files = sorted(str(f) for f in inside)
        endings = sorted({_ending(f) for f in inside})
        if len({FORMATS[e] for e in endings}) > 1:
            raise CourseError(
                f"the folder {source!r} mixes formats ({', '.join(endings)}); name one of them, like {source}/*.jsonl."
            )
        ending = _ending(files[0]) if files else ""
    if not files:
        raise CourseError(f"no file matches {source!r}.")
    kind = check_choice("the format of a data file", ending or "(none)", FORMATS)
    return FORMATS[kind], files


def _ending(file: str | Path) -> str:
    """What the file's name ends in, before .gz and the like: ".jsonl" of "a.jsonl.gz"; "" if it has no ending."""
    ends = [end for end in Path(file).suffixes if end not in _PACKED]
    return ends[-1] if ends else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
