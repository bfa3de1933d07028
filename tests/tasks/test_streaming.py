"""The extra over `datasets`: local files of every format where it is installed, clear words where it is not."""

import gzip
import importlib.util
import json
import sys

import pytest

from nl_course.errors import CourseError
from nl_course.tasks.streaming import stream_datasets

TEXTS = [f"book {i}: " + "word " * i for i in range(1, 41)]
needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the extra `datasets` is not installed"
)


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CourseError, match=r"pip install nl-course\[data\]"):
        stream_datasets("anything")


@needs_datasets
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "txt", "parquet"])
def test_local_files_are_streamed_without_a_network(tmp_path, monkeypatch, ending):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / f"shelf.{ending}"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    if ending == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    elif ending == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        plain = {"csv": "text\n" + "\n".join(TEXTS), "txt": "\n".join(TEXTS)}
        path.write_text(plain.get(ending, lines))
    books = list(stream_datasets(str(tmp_path / f"*.{ending}")))
    assert [book.text.decode().strip() for book in books] == [text.strip() for text in TEXTS]
    assert len({book.name for book in books}) == len(TEXTS)


@needs_datasets
def test_a_missing_file_another_format_and_a_missing_column_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"txt": "words"}\n')
    (tmp_path / "a.doc").write_text("words")
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    with pytest.raises(CourseError, match=r"no file matches .*none\.jsonl"):
        stream_datasets(str(tmp_path / "none.jsonl"))
    with pytest.raises(CourseError, match=r"'.doc' is not known; choose one of: .jsonl"):
        stream_datasets(str(tmp_path / "a.doc"))
    with pytest.raises(CourseError, match="has no column 'text'; it has: txt"):
        list(stream_datasets(str(tmp_path / "a.jsonl")))
    with pytest.raises(CourseError, match=r"(cannot be opened|failed)"):
        list(stream_datasets(str(tmp_path / "bad.jsonl")))
