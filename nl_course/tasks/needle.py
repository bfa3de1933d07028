"""A needle in a haystack: one small fact stands somewhere in a long text, and the last bytes of the text ask for it.

The single-needle forms of RULER (Hsieh et al. 2024, arXiv 2404.06654, appendix B), in bytes:

    kind       hay                           a needle                          RULER's name
    passkey    five sentences, repeated      <pass key:48213>                  S-NIAH-1 (Titans: PK)
    number     the course's library          <plumb:48213>                     S-NIAH-2 (Titans: N)
    word       the course's library          <plumb:TRIBE>                     Titans: W (arXiv 2501.00663, table 2)
    uuid       the course's library          <plumb:7f3a09ce>                  S-NIAH-3, a short uuid

Answers that are words stand in capitals, which are as rare in the hay as digits. `style="sentence"` says it as RULER
does. The question is the needle again up to the answer, and neither its key nor its answer occurs anywhere else, so
only what was read can answer it. With more `needles` the others distract (RULER's MK-NIAH-1); with more `questions` one
text teaches more. Everything follows from the seed and a row's number. The splits share no document, and no
word that serves as a key or an answer."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.tasks.documents import rank
from nl_course.tasks.targets import IGNORED
from nl_course.tasks.text import SPLITS, Library, hashed, library
from nl_course.tasks.tokenizer import BYTES

HAYS = ("text", "noise", "bytes")
STYLES = {
    "mark": ("<{key}:", ">"),
    "sentence": ("The special magic {what} for {key} is: ", "."),
}
NOISE = b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"  # RULER's
PASS_KEY = "pass key"
WORDS_HELD_OUT_ONE_IN = 5


@dataclass(frozen=True)
class Kind:
    """What an answer is made of (None: words of the library), how long it is, and the hay around it."""

    what: str
    alphabet: str | None
    answer: int
    hay: str


KINDS = {
    "passkey": Kind("number", "0123456789", 5, "noise"),
    "number": Kind("number", "0123456789", 5, "text"),
    "word": Kind("word", None, 5, "text"),
    "uuid": Kind("uuid", "0123456789abcdef", 8, "text"),
}


@dataclass(frozen=True)
class Needle:
    """One fact. Its needle begins at byte `place` of the text, the answer to the question about it at byte `asked` (-1
    if nothing asks for it). `depth` is where it stands in the hay: 0 the beginning, 1 the end."""

    key: str
    answer: str
    place: int
    asked: int
    depth: float


@dataclass(frozen=True)
class NeedleText:
    """`text` (length + 1 bytes) with its needles, those that are asked for first, in the order of the questions."""

    text: bytes
    needles: tuple[Needle, ...]

    @property
    def asked(self) -> tuple[Needle, ...]:
        """The needles that are asked for, in the order of the questions."""
        return tuple(needle for needle in self.needles if needle.asked >= 0)


@dataclass(frozen=True)
class NeedleBatch:
    """inputs and targets (rows, length) int64, targets one ahead; `mask` is true where a byte of an answer is to be
    predicted. `depth` (rows, questions), and `asked` (rows, questions): where in `targets` each answer begins."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    depth: Tensor
    asked: Tensor


@dataclass(frozen=True)
class NeedleTask:
    """Texts that a model reads `length` bytes of; the byte after them is the last of the last answer.

    `kind` is one of KINDS. `depth` 0 .. 1 puts the first needle that is asked for at that share of the hay, None at
    random; all other needles stand at random. `hay` "text", "noise" or "bytes" (random printable ones), and `answer`
    and `key`, lengths in bytes, have defaults by kind. `loss` "answer" scores answers only, "all" every byte. `books`
    replaces the default library. Called as a function of a step it gives (inputs, targets) for `training.train`."""

    kind: str = "number"
    length: int = 256
    needles: int = 1
    questions: int = 1
    depth: float | None = None
    hay: str | None = None
    answer: int | None = None
    key: int = 5
    style: str = "mark"
    split: str = "train"
    loss: str = "answer"
    rows: int = 16  # per step
    seed: int = 0
    books: Library | None = field(default=None, repr=False)

    def token_unit(self) -> dict[str, Any]:
        """A token is one byte of text."""
        return BYTES.token_unit()

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        check_choice("style", self.style, STYLES)
        check_choice("split", self.split, SPLITS)
        check_choice("loss", self.loss, ("answer", "all"))
        if self.hay is None:
            object.__setattr__(self, "hay", KINDS[self.kind].hay)
        if self.answer is None:
            object.__setattr__(self, "answer", KINDS[self.kind].answer)
        check_choice("hay", self.hay, HAYS)
        for name in ("length", "needles", "questions", "answer", "key", "rows"):
            check_int(name, getattr(self, name), 1)
        if self.depth is not None and not check_min("depth", self.depth, 0) <= 1:
            raise CourseError(f"depth must lie between 0 and 1, not {self.depth}.")
        if self.questions > self.needles:
            raise CourseError(f"questions ({self.questions}) must be at most needles ({self.needles}).")
        if self.kind == "passkey" and self.needles > 1:
            raise CourseError("a pass key has no key to tell it from another: needles must be 1.")
        if self.spare < 0:
            raise CourseError(
                f"length {self.length} is too short: needles and questions alone need {self.bytes_used - 1}."
            )

    @property
    def bytes_used(self) -> int:
        """Bytes of a text that are not hay: needles and questions, with the line breaks around them."""
        opening, closing = self._form(PASS_KEY if self.kind == "passkey" else "k" * self.key)
        line = len(opening) + self.answer + len(closing)
        return self.needles * (line + 2) + self.questions * (line + 1) - len(closing)

    @property
    def spare(self) -> int:
        """Bytes of hay."""
        return self.length + 1 - self.bytes_used

    def _form(self, key: str) -> tuple[str, str]:
        """What stands before and after the answer."""
        opening, closing = STYLES[self.style]
        return opening.format(key=key, what=KINDS[self.kind].what), closing

    def text(self, number: int, depth: float | None = None) -> NeedleText:
        """Text number `number`, the same on every machine; `depth` replaces the task's own."""
        check_int("number", number)
        rng = random.Random(hashed(f"needle {self.kind} {self.split} {self.seed} {number}"))
        depth = self.depth if depth is None else depth
        hay = self._hay(rng)
        depths = [rng.random() for _ in range(self.needles)]
        if depth is not None:
            depths[0] = depth
        cuts = [round(d * len(hay)) for d in depths]
        keys, answers = self._facts(rng, hay)

        # The hay with the needles in it, in the order of their cuts.
        text, last = b"", 0
        needle_at = [0] * self.needles
        for i in sorted(range(self.needles), key=lambda i: (cuts[i], i)):
            opening, closing = self._form(keys[i])
            text += hay[last : cuts[i]] + b"\n"
            needle_at[i] = len(text)
            text += f"{opening}{answers[i]}{closing}\n".encode()
            last = cuts[i]
        text += hay[last:]

        # The questions, each a needle again. The text ends with the last answer, so nothing closes that one.
        asked_at = [-1] * self.needles
        for i in range(self.questions):
            opening, closing = self._form(keys[i])
            text += f"\n{opening}".encode()
            asked_at[i] = len(text)
            text += answers[i].encode()
            if i < self.questions - 1:
                text += closing.encode()
        return NeedleText(text, tuple(map(Needle, keys, answers, needle_at, asked_at, depths)))

    def rows_at(self, numbers: Sequence[int], depths: Sequence[float] | None = None) -> NeedleBatch:
        """The texts of these numbers as tensors; `depths` gives every row its own."""
        tokens, asked, depth = [], [], []
        for i, number in enumerate(numbers):
            text = self.text(number, depths[i] if depths else None)
            tokens.append(list(text.text))
            asked.append([needle.asked - 1 for needle in text.asked])  # the byte before predicts the answer's first
            depth.append([needle.depth for needle in text.asked])
        tokens = torch.tensor(tokens)  # (rows, length + 1)
        asked = torch.tensor(asked)  # (rows, questions)
        answer_at = asked[..., None] + torch.arange(self.answer)  # (rows, questions, answer)
        mask = torch.zeros(len(tokens), self.length, dtype=torch.bool).scatter(1, answer_at.flatten(1), True)
        return NeedleBatch(
            inputs=tokens[:, :-1], targets=tokens[:, 1:], mask=mask, depth=torch.tensor(depth), asked=asked
        )

    def batch(self, step: int) -> NeedleBatch:
        """Step `step`'s texts."""
        first = check_int("step", step) * self.rows
        return self.rows_at(range(first, first + self.rows))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a step, (rows, length) each; targets that `loss` leaves out are -100."""
        batch = self.batch(step)
        if self.loss == "all":
            return batch.inputs, batch.targets
        return batch.inputs, batch.targets.masked_fill(~batch.mask, IGNORED)

    # -- what a text is made of ------------------------------------------------------------------------------------
    def _hay(self, rng: random.Random) -> bytes:
        size = self.spare
        if self.hay == "bytes":
            return bytes(rng.choices(_PRINTABLE, k=size))
        source = NOISE if self.hay == "noise" else hay_bytes(self.split, self.books)
        if self.hay == "text" and size > len(source):
            raise CourseError(f"the library's split {self.split!r} has {len(source):,} bytes; {size:,} are needed.")
        if self.hay == "noise":
            start = rng.randrange(len(NOISE))
            return (NOISE * (size // len(NOISE) + 2))[start : start + size]
        start = rng.randrange(len(source) - size + 1)
        return source[start : start + size]

    def _facts(self, rng: random.Random, hay: bytes) -> tuple[list[str], list[str]]:
        """Keys and answers that differ and occur nowhere in the hay."""
        kind, around = KINDS[self.kind], hay + "".join(self._form("")).encode()
        keys = [PASS_KEY] if self.kind == "passkey" else self._words(rng, around, self.key)
        if kind.alphabet is None:
            return keys, [word.upper() for word in self._words(rng, around, self.answer, taken=keys)]
        answers: list[str] = []
        for _ in range(1000):  # tries; too few where answers are short and the hay is long
            answer = "".join(rng.choices(kind.alphabet, k=self.answer))
            in_a_key = any(answer in key for key in keys)
            if answer not in answers and answer.encode() not in hay and not in_a_key:
                answers.append(answer)
            if len(answers) == self.needles:
                return keys, answers
        raise CourseError(f"answers of {self.answer} bytes are too short to be told from {len(hay):,} bytes of hay.")

    def _words(self, rng: random.Random, around: bytes, size: int, taken: Sequence[str] | None = None) -> list[str]:
        """As many words as there are needles, none of which occurs in `around`: keys, or, if keys are `taken`, answers
        in capitals."""
        words = word_list(size, self.split, self.books)
        chosen: list[str] = []
        for word in rng.sample(words, len(words)):
            spelling = word if taken is None else word.upper()
            if spelling.encode() not in around and word not in (taken or ()):
                chosen.append(word)
            if len(chosen) == self.needles:
                return chosen
        raise CourseError(
            f"the library has too few words of {size} letters ({len(words)} in split {self.split!r}) that do not occur "
            f"in the hay: {self.needles} are needed. Take another length, fewer needles or shorter texts."
        )


_PRINTABLE = [b for b in range(33, 127) if chr(b) not in "<>:"]


@lru_cache(maxsize=8)
def _default_hay(split: str) -> bytes:
    return _ascii(library("prose"), split)


def _ascii(books: Library, split: str) -> bytes:
    """A split's text; only its ASCII bytes, so that no cut goes through a character."""
    text = b"\n\n".join(document.text for document in books.documents(split))
    return text.decode("ascii", "ignore").encode()


def hay_bytes(split: str, books: Library | None = None) -> bytes:
    """The text of a split that hay is cut from."""
    return _default_hay(split) if books is None else _ascii(books, split)


@lru_cache(maxsize=32)
def _default_words(size: int, split: str) -> list[str]:
    return _words_of(_default_hay("train"), size, split)


def _words_of(text: bytes, size: int, split: str) -> list[str]:
    """Lower-case words of `size` letters that the text has three times or more; a fifth, by name, is held out."""
    counts = Counter(re.findall(rb"(?<![A-Za-z])[a-z]{%d}(?![A-Za-z])" % size, text))
    words = sorted(word.decode() for word, count in counts.items() if count >= 3)
    wanted = split == "held_out"
    return [word for word in words if (rank(word) % WORDS_HELD_OUT_ONE_IN == 0) == wanted]


def word_list(size: int, split: str, books: Library | None = None) -> list[str]:
    """The words of `size` letters that keys and answers of a split are drawn from."""
    return _default_words(size, split) if books is None else _words_of(hay_bytes("train", books), size, split)


# -- what to train on --------------------------------------------------------------------------------------------------
Data = Callable[[int], tuple[Tensor, Tensor]]


def mixed(*tasks: Data) -> Data:
    """A step's rows of every task, one after the other. They must be of one length."""

    def at(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = zip(*(task(step) for task in tasks), strict=True)
        return torch.cat(inputs), torch.cat(targets)

    return at


def stages(*parts: tuple[int, Data]) -> Data:
    """A curriculum of (steps, task): each task for so many steps, the last one forever."""

    def at(step: int) -> tuple[Tensor, Tensor]:
        for steps, task in parts:
            if step < steps:
                return task(step)
            step -= steps
        return parts[-1][1](step + parts[-1][0])

    return at
