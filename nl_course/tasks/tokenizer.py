"""Text as subwords: byte-level BPE, trained on the text that is to be read, by the library `tokenizers`.

    pip install tokenizers
    tokenizer = train_tokenizer((document.text for document in documents), vocab=8192)
    tokenizer.save("own.tokenizer.json")
    tokenizer = load_tokenizer("own.tokenizer.json")
    tokens = tokenizer.encode("a memory")                    # (T,) int64; decode gives the text back, byte for byte

Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) over bytes (Radford et al. 2019, section 2.2): every text
can be encoded, no symbol is unknown. Token 0 is the separator between two documents; no text turns into it. A file of
another model's tokenizer (tokenizer.json) is read too, with what it has for a separator. `BYTES` is
the course's default, bytes as tokens, with the same methods: it needs no library."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int, check_text, shortened
from nl_course.files import check_file, pip_install, reason, write_atomically
from nl_course.tasks import text as bytewise

SEPARATOR = "<|book|>"  # token 0, between two documents; the spelling stands in tokenizer files, so it stays
# How the tokenizers of other models call the token between two documents, in the order of trying.
ENDS = (SEPARATOR, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
LEAST = 257  # 256 bytes and the separator
MOST = 10_000_000  # subwords; the library reserves room for them all, and ends the process where there is none


class Tokenizer:
    """Subwords of a trained vocabulary. `vocab` is the number of token ids, also of those that no subword has; token
    `separator` stands between documents, None if the vocabulary has none for that."""

    def __init__(self, inner: Any, separator: int | None = 0):
        self._inner = inner
        inner.encode_special_tokens = True  # a text that spells out the separator is encoded as ordinary text
        inner.no_truncation()
        inner.no_padding()
        self.vocab: int = 1 + max(inner.get_vocab(with_added_tokens=True).values())
        self.separator = separator

    def encode(self, text: str | bytes) -> Tensor:
        """Text -> (T,) int64. Bytes that are not UTF-8 become the replacement character."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        return torch.tensor(
            self._inner.encode(check_text("the text", text), add_special_tokens=False).ids, dtype=torch.int64
        )

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        """Tokens -> text; the separator becomes an empty line. Raises CourseError for a token beyond the vocabulary."""
        if isinstance(tokens, Tensor):
            tokens = tokens.flatten().tolist()
        values = [int(token) for token in tokens]
        if any(not 0 <= value < self.vocab for value in values):
            raise CourseError(f"tokens must be from 0 to {self.vocab - 1}, not {min(values)} to {max(values)}.")
        parts: list[list[int]] = [[]]
        for value in values:
            if value == self.separator:
                parts.append([])
            else:
                parts[-1].append(value)
        return "\n\n".join(self._inner.decode(part) for part in parts)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the library's own JSON format, which other programs can read."""
        return write_atomically(path, lambda temporary: temporary.write_text(self._inner.to_str(), encoding="utf-8"))

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with the vocabulary."""
        return hashlib.sha256(self._inner.to_str().encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Size and hash, as runs write them down."""
        return f"{self.vocab:,} subwords, {self.hash}"

    def __repr__(self) -> str:
        return f"Tokenizer({self.name})"


class Bytes:
    """A token is a byte, and the separator is the zero byte."""

    vocab = bytewise.VOCAB
    separator = bytewise.SEPARATOR
    hash = "bytes"
    name = "bytes"

    def encode(self, text: str | bytes) -> Tensor:
        """Text -> its UTF-8 bytes, (T,) int64."""
        return bytewise.encode(text)

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        """Bytes -> text; see `nl_course.tasks.text.decode`."""
        return bytewise.decode(tokens)

    def token_unit(self) -> dict[str, Any]:
        """A token is one byte of text."""
        return {"tokenizer": self.name, "bytes_per_token": 1.0}

    def __repr__(self) -> str:
        return "bytes as tokens"


BYTES = Bytes()


class TokenIds:
    """A vocabulary of which only the number of tokens is known: for files that hold token ids already.

    `separator` is the id that ends a document; None if nobody says which.
    """

    def __init__(self, vocab: int, separator: int | None = None):
        """Raises CourseError for a vocabulary without tokens, or a separator that is none of them."""
        self.vocab = check_int("vocab", vocab, 1, MOST)
        self.separator = None if separator is None else check_int("separator", separator, 0, vocab - 1)
        self.hash = f"ids-{vocab}" if separator is None else f"ids-{vocab}-{separator}"
        self.name = f"{vocab:,} token ids"

    def encode(self, text: str | bytes) -> Tensor:
        """Raises CourseError: nothing is known by which a text becomes ids."""
        raise CourseError(
            "the data holds text, and only the size of a vocabulary was given; add --tokenizer FILE, or read bytes."
        )

    def __repr__(self) -> str:
        return self.name


def check_ids(tokens: Tensor, vocab: int, where: str, first: int = 0) -> Tensor:
    """Returns token ids, (T,) int64, if each of them is below `vocab`. Else raises a CourseError that names the first
    one that is not and its position, counted from `first`; `where` says in which file or row."""
    wrong = (tokens < 0) | (tokens >= vocab)  # (T,)
    if wrong.any():
        position = int(wrong.nonzero()[0])
        raise CourseError(
            f"{where} has the token id {int(tokens[position])} at position {first + position:,}; "
            f"the vocabulary has the ids 0 to {vocab - 1:,}."
        )
    return tokens


def token_unit(data: Any) -> dict[str, Any]:
    """What a token of training data is: the tokenizer's name, and the bytes of text that a token stands for on average.
    Both are None where that is not known, as of a stream of numbers or of a task that is no text."""
    if isinstance(data, Tensor):
        return BYTES.token_unit() if data.dtype == torch.uint8 else {"tokenizer": None, "bytes_per_token": None}
    measure = getattr(data, "token_unit", None)
    return {"tokenizer": None, "bytes_per_token": None} if measure is None else measure()


def train_tokenizer(texts: Iterable[str | bytes], vocab: int = 32_000) -> Tokenizer:
    """A vocabulary of at most `vocab` subwords learned from `texts`: fewer if the texts have no more pairs that occur
    twice. The same texts in the same order give the same vocabulary. Raises CourseError for a vocabulary below 257, the
    bytes and the separator, or above ten million."""
    check_int("vocab", vocab, LEAST, MOST)
    tokenizers = _library()
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    as_text = (text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text for text in texts)
    inner.train_from_iterator(as_text, trainer)
    return Tokenizer(inner)


def load_tokenizer(path: str | os.PathLike, separator: str | None = None) -> Tokenizer:
    """A tokenizer from a file of `save`, or from any other file of the library `tokenizers` (tokenizer.json).

    `separator` is the token that stands between documents, by its text or its id; None takes the first of ENDS that the
    vocabulary has. A text is encoded without the tokens that a file would put around it. Raises CourseError if the file
    is missing or damaged, or has no such token.
    """
    tokenizers = _library()
    path = check_file(path, "tokenizer")
    try:
        inner = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exceptions for a damaged file
        raise CourseError(f"{path} is not a tokenizer that can be read ({reason(error)}).") from error
    if inner.get_vocab_size() == 0:
        raise CourseError(f"the tokenizer {path} has no tokens.")
    return Tokenizer(inner, _separator_of(inner, path, separator))


def _separator_of(inner: Any, path: Path, wanted: str | None) -> int:
    """The id of the token between documents. Raises CourseError if the vocabulary has none of that name."""
    if wanted is None:
        there = [end for end in ENDS if inner.token_to_id(end) is not None]
        if not there:
            raise CourseError(
                f"the tokenizer {path} has none of the usual tokens to end a document ({', '.join(ENDS)}); name its "
                "own with --separator TOKEN."
            )
        return inner.token_to_id(there[0])
    token = inner.token_to_id(wanted)
    if token is None and wanted.isascii() and wanted.isdigit() and inner.id_to_token(int(wanted)) is not None:
        token = int(wanted)
    if token is None:
        raise CourseError(f"the tokenizer {path} has no token {shortened(wanted)} to end a document.")
    return token


def _library() -> ModuleType:
    """The library `tokenizers` with its parts. Raises CourseError if it is not installed."""
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise CourseError(
            f"subwords need the library `tokenizers`, which is not installed; run `{pip_install('tokenizers')}`."
        ) from None
    return tokenizers
