"""Subwords and a corpus read in order: nothing is lost, any step can be asked, and the place is found again."""

import importlib.util
import itertools
import json
import sys

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks import packed
from nl_course.tasks.documents import Document
from nl_course.tasks.packed import PackedStream, is_held_out
from nl_course.tasks.tokenizer import BYTES, load_tokenizer, train_tokenizer
from nl_course.training import TrainingConfig, train

TEXTS = [f"book {i}: " + "the memory writes what it reads " * (i % 7) for i in range(1, 61)]
BOOKS = [Document(f"b{i}", text.encode()) for i, text in enumerate(TEXTS)]
there = importlib.util.find_spec("tokenizers") is not None and importlib.util.find_spec("datasets") is not None
needs_data = pytest.mark.skipif(not there, reason="the extra `data` (datasets, tokenizers) is not installed")
SIZES = dict(batch_size=3, length=10)


class Shelf:
    """Books from any number on; counts how many were taken."""

    def __init__(self, books=BOOKS):
        self.books, self.taken = books, 0

    def __call__(self, first):
        for book in itertools.islice(self.books, first, None):
            self.taken += 1
            yield book


def whole_text(times=1):
    return b"".join(book.text + b"\0" for book in BOOKS if not is_held_out(book)) * times


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(packed, "NOTED_EVERY", 4)


# -- packing --------------------------------------------------------------------------------------------------
def test_every_token_of_the_corpus_is_a_target_once_and_then_it_begins_again(often):
    stream, text = PackedStream(Shelf(), **SIZES), whole_text(3)
    batches = [stream(step) for step in range(2 * len(text) // 3 // 30)]
    inputs = torch.cat([x.flatten() for x, _ in batches]).tolist()
    targets = torch.cat([y.flatten() for _, y in batches]).tolist()
    assert bytes(inputs) == text[: len(inputs)] and bytes(targets) == text[1 : len(inputs) + 1]
    assert batches[0][0].shape == (3, 10) and batches[0][0].dtype == torch.int64


def test_any_step_may_be_asked_in_any_order(often):
    straight = PackedStream(Shelf(), **SIZES)
    expected = [straight(step) for step in range(400)]
    for order in ([399], [250, 3, 3, 399, 0], [0, 120, 121]):
        stream = PackedStream(Shelf(), **SIZES)
        for step in order:
            for a, b in zip(stream(step), expected[step], strict=True):
                assert torch.equal(a, b)


def test_noted_places_spare_reading_what_came_before(often, tmp_path):
    path = tmp_path / "runs" / "positions.jsonl"
    first = PackedStream(Shelf(), **SIZES, positions=path)
    expected = [first(step) for step in range(150)]
    again, blind = Shelf(), Shelf()
    resumed = PackedStream(again, **SIZES, positions=path)
    assert torch.equal(resumed(149)[0], expected[149][0])
    PackedStream(blind, **SIZES)(149)
    assert again.taken < 10 < 40 < blind.taken
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1][:3]]))  # broken off
    assert torch.equal(PackedStream(Shelf(), **SIZES, positions=path)(149)[1], expected[149][1])
    before = path.read_bytes()
    PackedStream(Shelf(), **SIZES, positions=path, write=False)(300)
    assert path.read_bytes() == before


def test_positions_that_cannot_be_written_are_done_without(often, tmp_path):
    """Said once; the tokens are the same."""
    (tmp_path / "file").touch()
    stream = PackedStream(Shelf(), **SIZES, positions=tmp_path / "file" / "p.jsonl")
    with pytest.warns(UserWarning, match=r"cannot write .*p\.jsonl: File exists\. The run goes on without it") as said:
        tokens = [stream(step)[0] for step in range(100)]
    expected = PackedStream(Shelf(), **SIZES)
    assert len(said) == 1 and all(torch.equal(tokens[step], expected(step)[0]) for step in range(100))


def test_places_of_another_corpus_and_no_books_are_refused(often, tmp_path):
    path = tmp_path / "positions.jsonl"
    PackedStream(Shelf(), **SIZES, positions=path)(20)
    with pytest.raises(CourseError, match="take another folder"):
        PackedStream(Shelf(), **SIZES, positions=path, column="words")
    path.write_text("")
    with pytest.raises(CourseError, match="does not hold the positions"):
        PackedStream(Shelf(), **SIZES, positions=path)
    with pytest.raises(CourseError, match="no document to learn from in 'books'"):
        PackedStream(Shelf([]), **SIZES)(0)
    held = [book for book in BOOKS * 3 if is_held_out(book)]
    with pytest.raises(CourseError, match="no document to learn from"):
        PackedStream(Shelf(held), **SIZES)(0)


def test_places_of_data_that_has_changed_are_refused_and_damaged_ones_are_left_out(often, tmp_path):
    data, path = tmp_path / "data.jsonl", tmp_path / "positions.jsonl"
    rows = [json.dumps({"text": f"row {i} of {i * i}"}) for i in range(80)]
    data.write_text("\n".join(rows))
    sizes = dict(batch_size=2, length=8, positions=path)
    expected = PackedStream(str(data), **sizes)(40)[0]
    lines = path.read_text().splitlines()
    assert len(lines) > 3
    wrong = ["[630, 0, 0]", "[3, 1, 0]", "[3]", '["a", 0, 1]', "[-5, 0, 0]", "[1e3, 0, 7]", "[" * 100_000, "3"]
    for damaged in (*wrong, '{"tokens": 3}', lines[1]):
        path.write_text("\n".join([*lines[:3], damaged, "[999999, 0, 3]"]))
        assert torch.equal(PackedStream(str(data), **sizes, write=False)(40)[0], expected)
    about = json.loads(lines[0])
    del about["data"]  # as earlier versions wrote it
    path.write_text("\n".join([json.dumps(about), *lines[1:]]))
    assert torch.equal(PackedStream(str(data), **sizes, write=False)(40)[0], expected)
    path.write_text("\n".join(lines))
    data.write_text("\n".join([*rows[:-1], rows[-1].replace("row", "now")]))
    with pytest.raises(CourseError, match="take another folder, or remove it"):
        PackedStream(str(data), **sizes)


def test_held_out_books_are_never_learnt_from():
    stream = PackedStream(Shelf(), **SIZES)
    held = stream.held_out(10_000)
    assert BYTES.decode(held) == "".join(b.text.decode() + "\n\n" for b in BOOKS if is_held_out(b))
    assert len(stream.held_out()) <= 64 * 11 and len(stream.held_out(5)) == 5
    assert len(PackedStream(Shelf(BOOKS[:1]), **SIZES).held_out()) == 0 or is_held_out(BOOKS[0])


def test_where_nothing_is_held_out_every_book_is_learnt_from():
    stream = PackedStream(Shelf(), **SIZES, hold_out=False)
    text = b"".join(book.text + b"\0" for book in BOOKS)
    assert (
        bytes(stream(0)[0].flatten().tolist()) == text[:30] and bytes(stream(9)[0].flatten().tolist()) == text[270:300]
    )
    assert len(stream.held_out()) == 0 and bytes(stream.first(99).tolist()) == text[:99]


# -- subwords -------------------------------------------------------------------------------------------------
def test_without_the_library_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for call in (lambda: train_tokenizer(TEXTS, 300), lambda: load_tokenizer(tmp_path / "t.json")):
        with pytest.raises(CourseError, match=r"pip install .*tokenizers`"):
            call()
    assert BYTES.decode(BYTES.encode("a é")) == "a é" and BYTES.vocab == 256


@needs_data
def test_a_vocabulary_is_learnt_once_and_for_all_and_says_any_text(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300)
    assert 257 < tokenizer.vocab <= 300
    assert tokenizer.hash == train_tokenizer(iter([t.encode() for t in TEXTS]), 300).hash
    for text in (*TEXTS[:5], "", "ünïcödé 漢字 \n\t x", "<|book|> is only a text"):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text and tokenizer.separator not in tokens.tolist()
    assert len(tokenizer.encode(TEXTS[5])) < len(TEXTS[5]) / 2
    assert tokenizer.decode(torch.cat([tokenizer.encode("a"), torch.tensor([0]), tokenizer.encode("b")])) == "a\n\nb"
    again = load_tokenizer(tokenizer.save(tmp_path / "t.json"))
    assert again.hash == tokenizer.hash and torch.equal(again.encode(TEXTS[3]), tokenizer.encode(TEXTS[3]))


@needs_data
def test_what_is_no_tokenizer_is_named(tmp_path):
    for vocab, words in (
        (256, "vocab must be .* from 257 to 10,000,000, not 256"),
        (10**8, "not 100000000"),
    ):
        with pytest.raises(CourseError, match=words):
            train_tokenizer(TEXTS, vocab)
    with pytest.raises(CourseError, match="there is no tokenizer at"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CourseError, match="is not a tokenizer that can be read"):
        load_tokenizer(tmp_path / "bad.json")
    tokenizer = train_tokenizer(TEXTS, 300)
    other = json.loads(tokenizer.save(tmp_path / "t.json").read_text().replace("<|book|>", "<|other|>"))
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(CourseError, match=r"has none of the usual tokens to end a document .* --separator TOKEN"):
        load_tokenizer(tmp_path / "other.json")
    assert load_tokenizer(tmp_path / "other.json", "<|other|>").separator == 0
    assert load_tokenizer(tmp_path / "other.json", "289").separator == 289
    for separator in ("<|nothing|>", "99999"):
        with pytest.raises(CourseError, match=r"has no token .* to end a document"):
            load_tokenizer(tmp_path / "other.json", separator)
    with pytest.raises(CourseError, match="tokens must be from 0 to"):
        tokenizer.decode([tokenizer.vocab])


@needs_data
@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "BPE", "WordLevel"])
def test_other_models_tokenizers_are_read_with_their_own_separator(tmp_path, kind):
    """Files as the library itself writes them, with tokens around each text, padding and gaps in their ids."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors, trainers

    ends = {"WordPiece": "[SEP]", "Unigram": "</s>", "BPE": "<|endoftext|>", "WordLevel": "<eos>"}
    special = ["<unk>", "<pad>", ends[kind], "[CLS]"]
    unknown = {} if kind in ("Unigram", "BPE") else {"unk_token": "<unk>"}
    inner = tokenizers.Tokenizer(getattr(models, kind)(**unknown))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    options = {"unk_token": "<unk>"} if kind == "Unigram" else {}
    trainer = getattr(trainers, f"{'Bpe' if kind == 'BPE' else kind}Trainer")(
        vocab_size=120, special_tokens=special, show_progress=False, **options
    )
    inner.train_from_iterator(TEXTS, trainer)
    end = inner.token_to_id(ends[kind])
    plain = inner.encode("the memory", add_special_tokens=False).ids
    inner.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A {ends[kind]}", special_tokens=[("[CLS]", 3), (ends[kind], end)]
    )
    inner.enable_padding(length=64, pad_id=1, pad_token="<pad>")
    inner.enable_truncation(5)
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.separator == end and tokenizer.encode("the memory").tolist() == plain
    text = " ".join(["the memory"] * 40)
    assert tokenizer.encode(text).max() < tokenizer.vocab and len(tokenizer.encode(text)) >= 80
    stream = PackedStream(Shelf(), tokenizer, **SIZES)
    assert end in stream(0)[0] or end in stream(1)[0]


# -- together -------------------------------------------------------------------------------------------------
@needs_data
@pytest.mark.parametrize("ending", ["jsonl", "parquet", "txt"])
def test_local_files_to_subwords_to_a_run_that_resumes(tmp_path, monkeypatch, often, ending):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for part in (0, 1):
        texts, file = TEXTS[part * 30 : part * 30 + 30], shelf / f"{part}.{ending}"
        if ending == "parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": texts}), file)
        else:
            file.write_text("".join((json.dumps({"text": t}) if ending == "jsonl" else t) + "\n" for t in texts))
    tokenizer = train_tokenizer(TEXTS, 300)

    def run(folder, **options):
        stream = PackedStream(str(shelf), tokenizer, batch_size=2, length=8, positions=folder / "positions.jsonl")
        torch.manual_seed(0)
        net = LanguageModel(ModelConfig(vocab=tokenizer.vocab, width=8, layers=1, heads=2, hidden=8))
        config = TrainingConfig(steps=12, batch_size=2, length=8, save_every=0)
        return train(net, stream, config, folder=folder, progress=False, **options)

    whole = run(tmp_path / "whole")
    run(tmp_path / "broken", stop=lambda metrics: metrics["step"] == 7)
    assert run(tmp_path / "broken", resume=True).losses == whole.losses


@needs_data
def test_a_folder_that_mixes_formats_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n')
    (tmp_path / "b.txt").write_text("words\n")
    with pytest.raises(CourseError, match=r"mixes formats \(.jsonl, .txt\)"):
        PackedStream(str(tmp_path), **SIZES)
