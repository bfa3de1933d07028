"""A needle in a haystack: one small fact stands somewhere in a long text, and the last bytes of the text ask for it.

After RULER (Hsieh et al. 2024, arXiv 2404.06654, appendix B), in bytes:

    kind       hay                           a needle, style "mark"    after
    passkey    five sentences, repeated      <pass key:48213>          S-NIAH-1 (Titans: PK)
    number     the course's library          <plumb:48213>             S-NIAH-2 (Titans: N)
    word       the course's library          <plumb:TRIBE>             Titans: W (arXiv 2501.00663, table 2)
    uuid       the course's library          <plumb:7f3a09ce>          S-NIAH-3, a short uuid

Answers that are words stand in capitals, which are as rare in the hay as digits. The question is the needle again up to
the answer, and neither its key nor its answer occurs anywhere else, so only what was read can answer it. With more
`needles` the others distract; with more `questions` one text teaches more. `style="sentence"` says "The special magic
number for plumb is: 48213."; that is our wording, not RULER's. Everything follows from the seed and a row's number. The
splits share no document, and no word that serves as a key or an answer.

The published forms are `style="ruler"`, by RULER's names `ruler_task("S-NIAH-1", length)`:

    RULER's name   kind, needles   hay      key            answer                      sentence, question
    S-NIAH-1       passkey, 1      noise    two words      7 digits                    letter for letter
    S-NIAH-2       number, 1       text     two words      7 digits                    letter for letter
    S-NIAH-3       uuid, 1         text     two words      uuid, 36 bytes              letter for letter
    MK-NIAH-1      number, 4       text     two words      7 digits                    letter for letter

Equal to RULER's: the sentence that opens the text, the needle, the question, the noise, the law of the answers, needles
only between sentences (between lines of noise), the depths, and the score (`needle_scores`, scoring="contains"). What
remains different:

* A length counts bytes, not subwords, and is met exactly: the hay is cut to size, so its first sentence and, in
  text, its last may be cut.
* The hay of text is a random piece of the course's library, not the beginning of Paul Graham's essays. All white space
  is one space there as here. A point, a question mark or an exclamation mark ends a sentence; RULER asks nltk.
* A key is two words of the library joined by a hyphen, plumb-tribe, of `key` bytes in all. RULER joins an adjective and
  a noun of any length from the package wonderwords, where words are rarer and more of them exist.
* Keys and answers differ and stand nowhere else. RULER draws them and does not look.
* The space before the answer is part of the question. RULER leaves it to the model.
* `questions` above 1, for training, asks the same question again with the next key. RULER's MQ-NIAH asks for all keys
  in one question.
"""

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
from nl_course.tasks import ruler
from nl_course.tasks.documents import rank
from nl_course.tasks.targets import IGNORED
from nl_course.tasks.text import SPLITS, Library, hashed, library
from nl_course.tasks.tokenizer import BYTES

HAYS = ("text", "noise", "bytes")
NOISE = ruler.NOISE.encode() + b"\n"
PASS_KEY = "pass key"
KEY, RULER_KEY = 5, 11  # bytes: a word, or two and a hyphen
RULER_ANSWERS = {"passkey": ruler.DIGITS, "number": ruler.DIGITS, "word": RULER_KEY, "uuid": ruler.UUID_SIZE}
WORDS_HELD_OUT_ONE_IN = 5


@dataclass(frozen=True)
class Style:
    """How a fact is said: `before` the hay, then `opening`, answer, `closing`; a `question` ends before its answer."""

    opening: str
    closing: str
    question: str
    before: str = ""


SENTENCE = "The special magic {what} for {key} is: "
STYLES = {
    "mark": Style("<{key}:", ">", question="\n<{key}:"),
    "sentence": Style(SENTENCE, ".", question="\n" + SENTENCE),
    "ruler": Style(*ruler.NEEDLE.split("{answer}"), question=ruler.QUESTION, before=ruler.BEFORE),
}


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

    `kind` is one of KINDS, `style` one of STYLES. `depth` 0 .. 1 puts the first needle that is asked for at that share
    of the hay, None at random; all other needles stand at random. `hay` "text", "noise" or "bytes" (random printable
    ones), and `answer` and `key`, lengths in bytes, have defaults by kind and style. `loss` "answer" scores answers
    only, "all" every byte. `books` replaces the default library. Called as a function of a step it gives (inputs,
    targets) for `training.train`."""

    kind: str = "number"
    length: int = 256
    needles: int = 1
    questions: int = 1
    depth: float | None = None
    hay: str | None = None
    answer: int | None = None
    key: int | None = None
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
            answer = RULER_ANSWERS[self.kind] if self.style == "ruler" else KINDS[self.kind].answer
            object.__setattr__(self, "answer", answer)
        if self.key is None:
            object.__setattr__(self, "key", RULER_KEY if self.style == "ruler" else KEY)
        check_choice("hay", self.hay, HAYS)
        for name in ("length", "needles", "questions", "answer", "key", "rows"):
            check_int(name, getattr(self, name), 1)
        if self.depth is not None and not check_min("depth", self.depth, 0) <= 1:
            raise CourseError(f"depth must lie between 0 and 1, not {self.depth}.")
        if self.questions > self.needles:
            raise CourseError(f"questions ({self.questions}) must be at most needles ({self.needles}).")
        if self.style == "ruler":
            self._check_ruler()
        elif self.kind == "passkey" and self.needles > 1:
            raise CourseError("a pass key has no key to tell it from another: needles must be 1.")
        if self.spare < 0:
            raise CourseError(
                f"length {self.length} is too short: needles and questions alone need {self.bytes_used - 1}."
            )

    def _check_ruler(self) -> None:
        if self.hay == "bytes":
            raise CourseError("RULER's needles stand between sentences: hay must be 'text' or 'noise', not 'bytes'.")
        check_int("key", self.key, 3)
        if self.kind == "word":
            check_int("answer", self.answer, 3)
        if self.kind == "uuid" and self.answer != ruler.UUID_SIZE:
            raise CourseError(f"RULER's uuids have {ruler.UUID_SIZE} bytes: leave answer out, or take that number.")

    @property
    def bytes_used(self) -> int:
        """Bytes of a text that are not hay: needles, questions, and what stands around them."""
        said = self._said(PASS_KEY if self.has_pass_key else "k" * self.key)
        needle = len(said.opening) + self.answer + len(said.closing)
        breaks = 1 if self.style == "ruler" else 2
        question = len(said.question) + self.answer + len(said.closing)  # nothing closes the last one
        return len(said.before) + self.needles * (needle + breaks) + self.questions * question - len(said.closing)

    @property
    def spare(self) -> int:
        """Bytes of hay."""
        return self.length + 1 - self.bytes_used

    @property
    def has_pass_key(self) -> bool:
        """Whether every text has the same key."""
        return self.kind == "passkey" and self.style != "ruler"

    def _said(self, key: str) -> Style:
        """The style's sentences about a key."""
        words = {"key": key, "what": KINDS[self.kind].what}
        style = STYLES[self.style]
        return Style(
            opening=style.opening.format(**words),
            closing=style.closing,
            question=style.question.format(**words),
            before=style.before.format(**words),
        )

    def text(self, number: int, depth: float | None = None) -> NeedleText:
        """Text number `number`, the same on every machine; `depth` replaces the task's own."""
        check_int("number", number)
        rng = random.Random(hashed(f"needle {self.kind} {self.split} {self.seed} {number}"))
        depth = self.depth if depth is None else depth
        hay = self._hay(rng)
        depths = self._depths(rng)
        if depth is not None:
            depths[0] = depth
        keys, answers = self._facts(rng, hay)
        said = [self._said(key) for key in keys]
        needles = [f"{s.opening}{a}{s.closing}".encode() for s, a in zip(said, answers, strict=True)]

        text = said[0].before.encode()
        if self.style == "ruler":
            hay, needle_at = ruler.with_needles(hay, needles, depths, b"\n" if self.hay == "noise" else b" ")
        else:
            hay, needle_at = _with_lines(hay, needles, depths)
        needle_at = [len(text) + place for place in needle_at]
        text += hay

        # The questions. The text ends with the last answer, so nothing closes that one.
        asked_at = [-1] * self.needles
        for i in range(self.questions):
            text += said[i].question.encode()
            asked_at[i] = len(text)
            text += answers[i].encode()
            if i < self.questions - 1:
                text += said[i].closing.encode()
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
        if self.hay == "noise":
            copies = NOISE * (size // len(NOISE) + 2)
            if self.style == "ruler":  # whole lines, but for the first
                return copies[len(copies) - 1 - size : -1]
            start = rng.randrange(len(NOISE))
            return copies[start : start + size]
        source = hay_bytes(self.split, self.books, one_line=self.style == "ruler")
        if size > len(source):
            raise CourseError(f"the library's split {self.split!r} has {len(source):,} bytes; {size:,} are needed.")
        start = rng.randrange(len(source) - size + 1)
        return source[start : start + size]

    def _depths(self, rng: random.Random) -> list[float]:
        """A random depth for each needle. In RULER's prose they are 40, and no two needles share one."""
        if self.style == "ruler" and self.hay == "text" and self.needles <= len(ruler.DEPTHS):
            return rng.sample(ruler.DEPTHS, self.needles)
        return [rng.random() for _ in range(self.needles)]

    def _facts(self, rng: random.Random, hay: bytes) -> tuple[list[str], list[str]]:
        """Keys and answers that differ and occur nowhere in the hay."""
        said = self._said("")
        around = hay + f"{said.before}{said.opening}{said.closing}{said.question}".encode()
        keys = [PASS_KEY] if self.has_pass_key else self._words(rng, around, self.key)
        if self.kind == "word":
            answers = self._words(rng, around, self.answer, taken=keys)
            return keys, answers if self.style == "ruler" else [word.upper() for word in answers]
        answers: list[str] = []
        for _ in range(1000):  # tries; too few where answers are short and the hay is long
            answer = self._draw_answer(rng)
            in_a_key = any(answer in key for key in keys)
            if answer not in answers and answer.encode() not in around and not in_a_key:
                answers.append(answer)
            if len(answers) == self.needles:
                return keys, answers
        raise CourseError(f"answers of {self.answer} bytes are too short to be told from {len(hay):,} bytes of hay.")

    def _draw_answer(self, rng: random.Random) -> str:
        """A number or a uuid."""
        if self.style != "ruler":
            return "".join(rng.choices(KINDS[self.kind].alphabet, k=self.answer))
        return ruler.random_uuid(rng) if self.kind == "uuid" else ruler.number(rng, self.answer)

    def _words(self, rng: random.Random, around: bytes, size: int, taken: Sequence[str] | None = None) -> list[str]:
        """As many words as there are needles, none of which occurs in `around`: keys, or, if keys are `taken`, answers.
        Answers stand in capitals; RULER's are pairs of words, and do not."""
        capitals = taken is not None and self.style != "ruler"
        chosen: list[str] = []
        for word in self._shuffled_words(rng, size):
            spelling = word.upper() if capitals else word
            if spelling.encode() not in around and word not in (taken or ()):
                chosen.append(word)
            if len(chosen) == self.needles:
                return chosen
        raise CourseError(
            f"the library has too few words of {size} letters in split {self.split!r} that do not occur in the hay: "
            f"{self.needles} are needed. Take another length, fewer needles or shorter texts."
        )

    def _shuffled_words(self, rng: random.Random, size: int) -> list[str]:
        """Words of `size` letters in random order; for RULER, pairs of words of `size` bytes in all."""
        if self.style != "ruler":
            words = word_list(size, self.split, self.books)
            return rng.sample(words, len(words))
        letters = (size - 1) // 2
        first = word_list(letters, self.split, self.books)
        second = word_list(size - 1 - letters, self.split, self.books)
        pairs = zip(rng.sample(first, len(first)), rng.sample(second, len(second)), strict=False)
        return ["-".join(pair) for pair in pairs]


def ruler_task(name: str, length: int, **options: Any) -> NeedleTask:
    """One of RULER's tasks by its name, with texts of `length` bytes and any further options of NeedleTask.
    Raises CourseError for a name that is not among S-NIAH-1, S-NIAH-2, S-NIAH-3 and MK-NIAH-1."""
    form = ruler.FORMS[check_choice("name", name, ruler.FORMS)]
    return NeedleTask(**{**form, **options}, length=length, style="ruler")


def _with_lines(hay: bytes, needles: list[bytes], depths: list[float]) -> tuple[bytes, list[int]]:
    """The hay, cut anywhere, with each needle on a line of its own, and at which byte each needle begins."""
    cuts = [round(depth * len(hay)) for depth in depths]
    text, last = b"", 0
    begins = [0] * len(needles)
    for i in sorted(range(len(needles)), key=lambda i: (cuts[i], i)):
        text += hay[last : cuts[i]] + b"\n"
        begins[i] = len(text)
        text += needles[i] + b"\n"
        last = cuts[i]
    return text + hay[last:], begins


_PRINTABLE = [b for b in range(33, 127) if chr(b) not in "<>:"]


@lru_cache(maxsize=8)
def _default_hay(split: str, one_line: bool = False) -> bytes:
    return _ascii(library("prose"), split, one_line)


def _ascii(books: Library, split: str, one_line: bool = False) -> bytes:
    """A split's text; only its ASCII bytes, so that no cut goes through a character."""
    text = b"\n\n".join(document.text for document in books.documents(split))
    ascii_only = text.decode("ascii", "ignore").encode()
    return ruler.prose(ascii_only) if one_line else ascii_only


def hay_bytes(split: str, books: Library | None = None, one_line: bool = False) -> bytes:
    """The text of a split that hay is cut from; `one_line` makes every run of white space one space."""
    return _default_hay(split, one_line) if books is None else _ascii(books, split, one_line)


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
        """One step's inputs and targets, the tasks' rows below each other."""
        inputs, targets = zip(*(task(step) for task in tasks), strict=True)
        return torch.cat(inputs), torch.cat(targets)

    return at


def stages(*parts: tuple[int, Data]) -> Data:
    """A curriculum of (steps, task): each task for so many steps, the last one forever."""

    def at(step: int) -> tuple[Tensor, Tensor]:
        """The rows of the task whose turn it is. Each task counts its own steps from 0."""
        for steps, task in parts:
            if step < steps:
                return task(step)
            step -= steps
        return parts[-1][1](step + parts[-1][0])

    return at
