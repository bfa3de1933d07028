"""What `nl-course train` reads: a text, documents in files or on a hub, or token ids; and what its tokens are."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nl_course.errors import CourseError, shortened

if TYPE_CHECKING:  # imported where they are needed: `nl-course --help` must not wait for torch
    import torch

    from nl_course.tasks.documents import Document, TokenDocument
    from nl_course.tasks.packed import PackedStream
    from nl_course.tasks.text import Library
    from nl_course.tasks.token_files import TokenFiles
    from nl_course.tasks.tokenizer import Bytes, TokenIds, Tokenizer
    from nl_course.training import Data, TrainingConfig
    from nl_course.training.distributed import Ranks

TOKENIZER_BYTES = 20_000_000  # of a corpus that a new tokenizer is trained on
TOKENIZER_VOCAB = 32_000
EVALUATED_WINDOWS = 64  # of the training's length, which evaluations read of --data
LONG_WINDOWS = 16  # of the longest context of --evaluate-lengths, where those are more
# The settings that name what is read. A checkpoint may come from anyone, so they are never taken from it.
SOURCES = ("text", "data", "tokenizer", "held_out", "memory")


def corpus(
    settings: dict[str, Any], config: "TrainingConfig", folder: Path, ranks: "Ranks", longest: int
) -> tuple["Data", "torch.Tensor", "Tokenizer | Bytes | TokenIds", str, dict[str, str | None]]:
    """What is read: the data for `train`, the held-out tokens, the tokenizer, a sentence about it, and hashes by which
    a resumed run knows it again. `longest`: of the contexts at which it is evaluated, in tokens."""
    from nl_course.tasks.token_files import is_packed

    if settings["data"] is None:
        return text_corpus(settings)
    held_out_tokens = evaluated_tokens(config, longest)
    column = settings["column"] or "text"
    check_split(settings)
    if is_packed(settings["data"]) and settings["tokenizer"] is None and settings["vocab"] is None:
        raise CourseError(
            f"{settings['data']} holds token ids; say how many there are with --vocab N, or which they are with "
            "--tokenizer FILE."
        )
    tokenizer = tokenizer_of(settings, column, ranks)
    positions = folder / "positions.jsonl"
    write = ranks.is_main and not settings.get("estimate")
    stream = documents_or_ids(settings, "data", tokenizer, config, positions=positions, write=write)
    hashes = {"tokenizer_hash": tokenizer.hash, "data_hash": stream.data_hash}
    words = f"It reads {settings['data']} as {tokenizer}."
    if settings["held_out"] is None:
        return stream, stream.held_out(held_out_tokens), tokenizer, words, hashes
    other = documents_or_ids(settings, "held_out", tokenizer, config)
    held_out = other.first(held_out_tokens)
    hashes["held_out_hash"] = other.data_hash
    return stream, held_out, tokenizer, f"{words[:-1]}, and is evaluated on {settings['held_out']}.", hashes


def evaluated_tokens(config: "TrainingConfig", longest: int) -> int:
    """Held-out tokens that are read at most, where the longest context has so many."""
    return max(EVALUATED_WINDOWS * (config.length + 1), LONG_WINDOWS * (longest + 1))


def text_corpus(
    settings: dict[str, Any],
) -> tuple["torch.Tensor", "torch.Tensor", "Bytes", str, dict[str, str | None]]:
    """The same for --text, whose tokens are bytes."""
    from nl_course.tasks import text
    from nl_course.tasks.documents import read_path
    from nl_course.tasks.tokenizer import BYTES

    library = library_named(settings["text"])
    hashes = {"tokenizer_hash": BYTES.hash}
    if settings["held_out"] is not None:
        train = library.train
        if settings["text"] not in text.CORPORA:
            train = read_path(settings["text"])  # all of it
        library = text.Library(library.name, train, read_path(settings["held_out"]))
        held_out = library.stream("held_out")
        hashes["held_out_hash"] = hashlib.sha256(held_out.numpy()).hexdigest()[:12]
    return library.stream("train"), library.stream("held_out"), BYTES, str(library), hashes


def documents_or_ids(
    settings: dict[str, Any],
    what: str,
    tokenizer: "Tokenizer | Bytes | TokenIds",
    config: "TrainingConfig",
    **options: Any,
) -> "PackedStream | TokenFiles":
    """Documents or packed ids of --data or --held-out, as `what` says; which of both, by the kind of the files.
    `options`: where documents note their positions."""
    from nl_course.tasks.packed import PackedStream
    from nl_course.tasks.token_files import TokenFiles, is_packed

    source = settings[what]
    sizes = {"batch_size": config.batch_size, "length": config.length, "hold_out": settings["held_out"] is None}
    if is_packed(source):
        return TokenFiles(source, tokenizer, width=settings["width"], **sizes)
    if settings["width"] is not None:
        raise CourseError(f"--width is about packed token ids in .bin files, and {source} holds none.")
    split = settings["split" if what == "data" else "held_out_split"]
    column = settings["column"] or "text"
    return PackedStream(source, tokenizer, column=column, split=split or "train", **sizes, **options)


def check_split(settings: dict[str, Any]) -> None:
    """Raises CourseError for a split of local files, which have none."""
    from nl_course.tasks.streaming import local_files

    for name, source in (("split", settings["data"]), ("held_out_split", settings["held_out"])):
        if settings[name] is None:
            continue
        if source is None or local_files(source):
            option = f"--{name.replace('_', '-')}"
            raise CourseError(f"{option} is about a dataset on a hub, and {source or 'none'} is none.")


def tokenizer_of(settings: dict[str, Any], column: str, ranks: "Ranks") -> "Tokenizer | Bytes | TokenIds":
    """What a token of --data is: a subword of --tokenizer, one of --vocab ids, or else a byte."""
    from nl_course.tasks.tokenizer import BYTES, TokenIds

    if settings["tokenizer"] is not None:
        return tokenizer_named(settings, column, ranks)
    if settings["vocab"] is not None:
        separator = separator_in(settings)
        if separator is not None and not (separator.isascii() and separator.isdigit()):
            raise CourseError(
                f"--separator must be a token id where no tokenizer is given, not {shortened(separator)}."
            )
        return TokenIds(settings["vocab"], None if separator is None else int(separator))
    return BYTES


def separator_in(settings: dict[str, Any]) -> str | None:
    """What --separator says, as text, whatever a damaged checkpoint holds there."""
    return None if settings["separator"] is None else str(settings["separator"])


def tokenizer_named(settings: dict[str, Any], column: str, ranks: "Ranks") -> "Tokenizer":
    """The tokenizer in a file. Where there is no file yet, the main process trains one on the first documents of
    --data, leaving out those that are held out. A run that is resumed has one already, so it must be there."""
    from nl_course.tasks.packed import is_held_out
    from nl_course.tasks.streaming import stream_datasets
    from nl_course.tasks.tokenizer import load_tokenizer, train_tokenizer

    path = Path(settings["tokenizer"])
    # The others must not look for the file before the main process has made it.
    with ranks.together():
        if ranks.is_main and path.exists():
            wanted = None if settings["resume"] else settings["vocab"]
            check_vocab(path, load_tokenizer(path, separator_in(settings)).vocab, wanted)
        elif ranks.is_main and not settings["resume"]:
            hold_out = settings["held_out"] is None
            documents = stream_datasets(settings["data"], column, settings["split"] or "train")
            texts = first_texts(document for document in documents if not (hold_out and is_held_out(document)))
            train_tokenizer(texts, settings["vocab"] or TOKENIZER_VOCAB).save(path)
    return load_tokenizer(path, separator_in(settings))


def check_vocab(path: Path, vocab: int, wanted: int | None) -> None:
    """Says that --vocab is of no use beside a tokenizer that is there already. Raises CourseError if it is there with
    more subwords than are wanted."""
    if wanted in (None, vocab):
        return
    words = f"{path} is there already, with {vocab:,} subwords; --vocab {wanted} is for a new tokenizer"
    if vocab > wanted:
        raise CourseError(f"{words}. Leave it out, or name another file.")
    # It may have been made with this very option: a small text has fewer subwords than one asks for.
    warnings.warn(f"{words} and is not used.", stacklevel=2)


def first_texts(documents: Iterable["Document | TokenDocument"]) -> Iterator[str | bytes]:
    """The texts of the first documents, until TOKENIZER_BYTES have been read; the document that crosses it is whole.

    Raises CourseError for documents that are token ids already.
    """
    from nl_course.tasks.documents import TokenDocument

    read = 0
    for document in documents:
        if read >= TOKENIZER_BYTES:
            return
        if isinstance(document, TokenDocument):
            raise CourseError(
                f"{document.name} holds token ids, from which no tokenizer can be trained; name the file of the one "
                "that made them."
            )
        read += len(document.text)
        yield document.text


def library_named(name: str) -> "Library":
    """`prose` or `code` of the course's library, else the text in a file or a folder.

    Raises CourseError if it is none of these.
    """
    from nl_course.tasks import text

    if name in text.CORPORA:
        return text.library(name)
    if not Path(name).expanduser().exists():
        close = get_close_matches(name, text.CORPORA, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise CourseError(f"--text must be prose, code, or a file or folder that exists, not {name!r}.{guess}")
    return text.from_path(name)
