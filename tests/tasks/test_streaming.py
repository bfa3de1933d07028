"""Documents from files of every format and from a hub; clear words for whatever cannot be read."""

import bz2
import gzip
import importlib.util
import json
import lzma
import sys
from types import SimpleNamespace

import pytest

from nl_course.errors import CourseError
from nl_course.tasks import streaming
from nl_course.tasks.documents import TokenDocument
from nl_course.tasks.streaming import FIRST_ROWS, stream_datasets

TEXTS = [f"book {i}: " + "word " * i for i in range(1, 41)]
needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the extra `datasets` is not installed"
)


@pytest.mark.parametrize("source", ["owner/name", "hub:name", "a.csv"])
def test_without_the_library_the_message_says_how_to_get_it(monkeypatch, tmp_path, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text\nwords\n")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CourseError, match=r"pip install .*datasets`"):
        stream_datasets(source)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.xz", "jsonl.bz2", "json"])
def test_json_is_read_without_the_library(tmp_path, monkeypatch, ending):
    monkeypatch.setitem(sys.modules, "datasets", None)
    packs = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}
    rows = [{"text": text} for text in TEXTS]
    lines = json.dumps(rows, indent=1) if ending == "json" else "\n\n".join(map(json.dumps, rows))
    pack = packs.get(ending.rpartition(".")[2], bytes)
    (tmp_path / f"shelf.{ending}").write_bytes(pack(lines.encode()))
    books = list(stream_datasets(str(tmp_path)))
    assert [book.text.decode() for book in books] == TEXTS
    assert [book.name for book in stream_datasets(str(tmp_path), first=7)] == [book.name for book in books[7:]]


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
def test_what_the_library_cannot_read_is_said_in_its_words_and_not_logged_too(tmp_path, caplog, capfd):
    for name, content, words in (
        ("bad.csv", 'text,b\n"a,1\n', "EOF inside string"),
        ("bad.parquet", "PAR1", "smaller than the minimum"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(CourseError, match=words):
            list(stream_datasets(str(tmp_path / name)))
    assert capfd.readouterr().err == ""


# -- what is not read ------------------------------------------------------------------------------------------
NESTED = "[" * 100_000 + "]" * 100_000
WRONG = {
    "none.jsonl": r"no file matches '.*none\.jsonl'\. A dataset",
    "shlef.jsonl": r"no file matches '.*shlef\.jsonl'\. Did you mean '.*shelf\.jsonl'\?",
    "shlef": r"no file matches '.*shlef'\. Did you mean '.*shelf\.jsonl'\?",
    "a.doc": r"'\.doc' is not known; choose one of: \.jsonl",
    "mixed": r"mixes formats \(\.csv, \.jsonl\)",
    "hollow": "holds no file that ends in .jsonl",
    "empty.jsonl": "the data file .*empty.jsonl is empty",
    "astray.jsonl": "there is no data file at .*astray.jsonl",
    "other.jsonl": "has no column 'text'; it has: txt, id",
    "half.jsonl": "line 2 of .*half.jsonl is not JSON: ",
    "latin.jsonl": "line 1 of .*latin.jsonl is not JSON: .* can't decode byte 0xff",
    "deep.jsonl": "line 1 of .*deep.jsonl is not JSON: it is nested more than 100 levels deep",
    "bare.jsonl": "line 1 of .*bare.jsonl is not an object with columns: 5",
    "list.json": "the list in .*list.json holds what is not an object with columns: 1",
    "dict.jsonl": "the column 'text' of .* holds no text: row 0 is a dict",
    "torn.jsonl.gz": "reading the dataset .* failed: Compressed file ended",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_named_before_the_network_is_asked(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for folder in ("mixed", "hollow"):
        (tmp_path / folder).mkdir()
    for file, content in {
        "shelf.jsonl": '{"text": "words"}',
        "a.doc": "words",
        "mixed/a.jsonl": "{}",
        "mixed/b.csv": "text",
        "empty.jsonl": "",
        "other.jsonl": '{"txt": "words", "id": 1}\n' * 3,
        "half.jsonl": '{"text": "words"}\n{"text": "wor',
        "deep.jsonl": f'{{"text": "words", "more": {NESTED}}}',
        "bare.jsonl": "5",
        "list.json": "[1, 2]",
        "dict.jsonl": '{"text": {"en": "words"}}',
    }.items():
        (tmp_path / file).write_text(content)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xff"}')
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"text": "words"}')[:-9])
    (tmp_path / "astray.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(CourseError, match=WRONG[name]):
        list(stream_datasets(str(tmp_path / name)))


def test_a_name_with_a_slash_is_a_file_where_its_folder_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "text.csv").write_text("text")
    with pytest.raises(CourseError, match=r"no file matches 'shelf/txt'\. Did you mean 'shelf/text\.csv'\?"):
        stream_datasets("shelf/txt")


def test_what_will_be_asked_of_the_network_is_said_first(monkeypatch):
    asked = []

    def load_dataset(path, **options):
        name = path
        asked.append((path, options.get("name"), options["split"]))
        raise ConnectionError(f"no way to {name}")

    hub = SimpleNamespace(HF_HUB_OFFLINE=False, HF_ENDPOINT="https://hub.example")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, config=hub))
    sources = (("owner/name", "owner/name"), ("hub:name", "name"), ("owner/name:config-1.0", "owner/name"))
    for source, name in (*sources, ("hub:name:config", "name")):
        with (
            pytest.warns(UserWarning, match=rf"asking https://hub\.example for the dataset '{name}'"),
            pytest.raises(CourseError, match=rf"'{source}' cannot be opened: no way to {name}"),
        ):
            stream_datasets(source, split="validation" if source.endswith("config") else "train")
    assert asked == [
        ("owner/name", None, "train"),
        ("name", None, "train"),
        ("owner/name", "config-1.0", "train"),
        ("name", "config", "validation"),
    ]


@needs_datasets
def test_a_configuration_and_its_split_are_those_that_the_library_reads(tmp_path, monkeypatch):
    """A dataset as it lies on a hub: a README that names configurations, and files for each of their splits."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf").mkdir()
    lines = ["---", "configs:"]
    for configuration in ("one", "two"):
        lines += [f"- config_name: {configuration}", "  data_files:"]
        for split in ("train", "test"):
            lines += [f"  - split: {split}", f"    path: {configuration}-{split}.jsonl"]
            text = json.dumps({"text": f"{configuration} {split}"})
            (tmp_path / "shelf" / f"{configuration}-{split}.jsonl").write_text(text)
    (tmp_path / "shelf" / "README.md").write_text("\n".join([*lines, "---", ""]))
    for configuration, split in (("one", "train"), ("two", "test")):
        (document,) = stream_datasets(f"hub:./shelf:{configuration}", split=split)
        assert document.text.decode() == f"{configuration} {split}"


def test_rows_without_a_text_are_left_out_with_one_warning(tmp_path):
    rows = [{"text": "a"}, {"body": "b"}, {"text": None}, {"text": 0}, {"text": " "}, {"text": "c", "body": "d"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="row 1 of .* has no text in the column 'text'") as caught:
        books = list(stream_datasets(str(tmp_path / "a.jsonl")))
    assert len(caught) == 1
    assert [(book.name.rpartition("/")[2], book.text) for book in books] == [("0", b"a"), ("3", b"0"), ("5", b"c")]


def test_lists_of_whole_numbers_are_token_ids_whichever_row_is_asked_first(tmp_path):
    rows = [[1, 2, 3], [], [4], [2**40]]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"ids": row}) for row in rows))
    for first in (0, 2):
        read = list(stream_datasets(str(tmp_path / "a.jsonl"), "ids", first=first))
        assert all(isinstance(document, TokenDocument) for document in read)
        assert [document.tokens.tolist() for document in read] == [row for row in rows[first:] if row]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[1, 2, 3]", "row 0 .* is a list of numbers that is written as text .'.1, 2, 3.'"),
        ("[1 2 3 ... 8]", "row 0 .* is a list of numbers that is written as text"),
        ("[1, 2, 3", "row 0 .* is a list of numbers that is written as text"),
        (5, "row 0 of .*, column 'text', is a number"),
        ([1, -1], "row 0 .* -1 at its position 1 is no token id"),
        ([1, 2.0], "2.0 at its position 1 is no token id"),
        ([True], "True at its position 0 is no token id"),
        (["a"], "'a' at its position 0 is no token id"),
    ],
)
def test_ids_are_never_read_as_the_digits_that_they_are_written_with(tmp_path, value, says):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": value}))
    with pytest.raises(CourseError, match=says):
        list(stream_datasets(str(tmp_path / "a.jsonl")))


def test_a_line_of_numbers_among_texts_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("a", "[1, 2, 3]", "[1] b")))
    for first in (0, 1):
        texts = [document.text for document in stream_datasets(str(tmp_path / "a.jsonl"), first=first)]
        assert texts == [b"a", b"[1, 2, 3]", b"[1] b"][first:]


@needs_datasets
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_ids_in_tables_are_ids_where_the_format_has_lists_and_refused_where_it_has_none(tmp_path, monkeypatch, ending):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import pandas

    path = tmp_path / f"a.{ending}"
    table = pandas.DataFrame({"ids": [[1, 2, 3], [4, 5, 6]]})
    if ending == "parquet":
        table.to_parquet(path)
        assert [document.tokens.tolist() for document in stream_datasets(str(path), "ids")] == [[1, 2, 3], [4, 5, 6]]
    else:
        table.to_csv(path)
        with pytest.raises(CourseError, match="written as text"):
            list(stream_datasets(str(path), "ids"))


def test_a_column_that_only_later_rows_have_is_found(tmp_path):
    lines = ['{"body": "b"}'] * (FIRST_ROWS - 1) + ['{"text": "a"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert [book.text for book in stream_datasets(str(tmp_path / "a.jsonl"))] == [b"a"]
    (tmp_path / "a.jsonl").write_text("\n".join(['{"body": "b"}', *lines]))
    with pytest.raises(CourseError, match="has no column 'text'; it has: body"):
        list(stream_datasets(str(tmp_path / "a.jsonl")))


def test_the_hash_of_files_changes_with_their_contents_and_order_only(tmp_path, monkeypatch):
    for name, text in (("a.jsonl", "one"), ("b.jsonl", "two")):
        (tmp_path / name).write_text(json.dumps({"text": text}))
    first = streaming.data_hash(str(tmp_path / "*.jsonl"))
    assert first == streaming.data_hash(str(tmp_path)) and len(first) == 12
    assert streaming.data_hash("owner/name") is None
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "owt"}))
    assert streaming.data_hash(str(tmp_path)) != first
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "two"}))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "one"}))
    assert streaming.data_hash(str(tmp_path)) != first
    # Of large files pieces count, the first and the last bytes among them, and the sizes.
    monkeypatch.setattr(streaming, "HASHED_WHOLE", 100)
    (tmp_path / "large.txt").write_bytes(bytes(1 << 21))
    hashes = {streaming.data_hash(str(tmp_path / "large.txt"))}
    for text in (b"x" + bytes((1 << 21) - 1), bytes((1 << 21) - 1) + b"x", bytes((1 << 21) + 1)):
        (tmp_path / "large.txt").write_bytes(text)
        hashes.add(streaming.data_hash(str(tmp_path / "large.txt")))
    assert len(hashes) == 4
