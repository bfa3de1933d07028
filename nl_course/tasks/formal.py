"""Formal languages and words of groups: how much of a state a model keeps exactly, at lengths it has never seen.

Languages: after each symbol, the set of symbols that may come next, the end among them (Bhattamishra et al. 2020, arXiv
2009.11264; the six of Irie et al. 2023, arXiv 2310.16076). The end is in the set exactly when what was read is a word.

    parity      strings of 0 and 1; a word has an even number of 1
    aa          (aa)*                    abab     (abab)*
    anbn        a^n b^n, n >= 1          anbncn   a^n b^n c^n, n >= 1
    shuffle2    two kinds of brackets, each kind balanced, mixed at will

Groups: after each element, the product of all so far (word problems: Merrill et al. 2024, arXiv 2404.08819):

    z2, z3, z5  additions modulo n       s3, s5, a5   (even) permutations; s5 and a5 are not solvable

A position has one target, a class. For a language it is the set, written as a binary number (bit 0 the end, bit i
symbol i); for a group it is the number of the element. So `training.train` learns both with one softmax, where the
papers train a sigmoid per symbol; right means the whole set either way. Token 0 is the blank after a string; symbols
and elements count from 1. Axes: rows, length."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.tasks.targets import IGNORED
from nl_course.tasks.text import hashed

BLANK = 0
BIN0, BIN1 = (2, 50), (51, 100)  # lengths to train on, and beyond


# -- languages ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Language:
    """`symbols`, how to `draw` a word of a length (None where there is none), and the `allowed` next symbols after each
    prefix of a string, as texts, "$" for the end."""

    symbols: str
    draw: Callable[[random.Random, int], str | None]
    allowed: Callable[[str], list[str]]


def _parity(text: str) -> list[str]:
    allowed, odd = [], False
    for symbol in text:
        odd ^= symbol == "1"
        allowed.append("01" if odd else "01$")
    return allowed


def _cycle(word: str) -> Callable[[str], list[str]]:
    """Words that repeat `word`."""

    def allowed(text: str) -> list[str]:
        after = []
        for i in range(1, len(text) + 1):
            inside = i % len(word)
            after.append(word[inside] if inside else word[0] + "$")
        return after

    return allowed


def _counted(letters: str) -> Callable[[str], list[str]]:
    """a^n b^n ...: as many of each letter, n >= 1."""

    def allowed(text: str) -> list[str]:
        after, n = [], text.count(letters[0])
        for i in range(1, len(text) + 1):
            block, inside = divmod(i, n)  # blocks that are full, letters in the one that is not
            if i <= n:  # one more of the first letter, or the second: n is not known yet
                after.append(letters[:2])
            elif inside or block < len(letters):
                after.append(letters[block])
            else:
                after.append("$")
        return after

    return allowed


def _shuffle(text: str) -> list[str]:
    allowed, open_round, open_square = [], 0, 0
    for symbol in text:
        open_round += {"(": 1, ")": -1}.get(symbol, 0)
        open_square += {"[": 1, "]": -1}.get(symbol, 0)
        ends = "$" if open_round == open_square == 0 else ""
        allowed.append("([" + ")" * (open_round > 0) + "]" * (open_square > 0) + ends)
    return allowed


def _balanced(rng: random.Random, pairs: int, brackets: str) -> list[str]:
    """A balanced word, all equally likely. Of all rotations of pairs + 1 opening and pairs closing brackets exactly one
    stays above zero (the cycle lemma); without its first bracket that one is balanced."""
    steps = [1] * (pairs + 1) + [-1] * pairs
    rng.shuffle(steps)
    height, lowest, start = 0, 0, 0
    for i, step in enumerate(steps):
        height += step
        if height <= lowest:
            lowest, start = height, i + 1
    turned = (steps[start:] + steps[:start])[1:]
    return [brackets[0] if step > 0 else brackets[1] for step in turned]


def _draw_shuffle(rng: random.Random, length: int) -> str | None:
    if length % 2:
        return None
    round_pairs = sum(rng.random() < 0.5 for _ in range(length // 2))
    words = [_balanced(rng, round_pairs, "()"), _balanced(rng, length // 2 - round_pairs, "[]")]
    # Any interleaving of two balanced words is a word of the language.
    order = [0] * len(words[0]) + [1] * len(words[1])
    rng.shuffle(order)
    symbols = [iter(word) for word in words]
    return "".join(next(symbols[i]) for i in order)


def _repeats(word: str) -> Callable[[random.Random, int], str | None]:
    def draw(rng: random.Random, length: int) -> str | None:
        return None if length % len(word) else word * (length // len(word))

    return draw


def _blocks(letters: str) -> Callable[[random.Random, int], str | None]:
    def draw(rng: random.Random, length: int) -> str | None:
        n, rest = divmod(length, len(letters))
        return None if rest else "".join(letter * n for letter in letters)

    return draw


LANGUAGES = {
    "parity": Language("01", lambda rng, length: "".join(rng.choices("01", k=length)), _parity),
    "aa": Language("a", _repeats("aa"), _cycle("aa")),
    "abab": Language("ab", _repeats("abab"), _cycle("abab")),
    "anbn": Language("ab", _blocks("ab"), _counted("ab")),
    "anbncn": Language("abc", _blocks("abc"), _counted("abc")),
    "shuffle2": Language("()[]", _draw_shuffle, _shuffle),
}


# -- groups ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Group:
    """`elements` as permutations, the identity first, and the `table` of products: table[i][j] does i, then j."""

    elements: tuple[tuple[int, ...], ...]
    table: tuple[tuple[int, ...], ...]


def _even(permutation: tuple[int, ...]) -> bool:
    inversions = sum(earlier > later for earlier, later in combinations(permutation, 2))
    return inversions % 2 == 0


@lru_cache(maxsize=8)
def group(name: str) -> Group:
    """A group of GROUPS by name."""
    kind, n = check_choice("group", name, GROUPS)[0], int(name[1:])
    if kind == "z":
        numbers = tuple(range(n))
        elements = [numbers[turn:] + numbers[:turn] for turn in range(n)]
    else:
        elements = [p for p in permutations(range(n)) if kind == "s" or _even(p)]
    number_of = {p: i for i, p in enumerate(elements)}
    table = []
    for p in elements:
        row = []
        for q in elements:
            product = tuple(q[i] for i in p)  # p moves what stands at i to p[i]; then q moves it to q[p[i]]
            row.append(number_of[product])
        table.append(tuple(row))
    return Group(tuple(elements), tuple(table))


GROUPS = ("z2", "z3", "z5", "s3", "s5", "a5")
TASKS = (*LANGUAGES, *GROUPS)


# -- the task ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FormalBatch:
    """tokens and targets (rows, length) int64; `mask` is true where a string goes on, false on the blanks after it."""

    tokens: Tensor
    targets: Tensor
    mask: Tensor


@dataclass(frozen=True)
class FormalTask:
    """Strings of a language or a group of TASKS, their lengths drawn evenly from those between `lengths` (least, most)
    that have any. `letters` are the elements of a group that occur, by number (None: all): few that generate it make a
    small alphabet. As a function of a step it gives (inputs, targets) for `training.train`."""

    name: str = "parity"
    lengths: tuple[int, int] = BIN0
    letters: tuple[int, ...] | None = None
    rows: int = 32
    seed: int = 0

    def __post_init__(self):
        check_choice("language or group", self.name, TASKS)
        check_int("rows", self.rows, 1)
        least, most = self.lengths
        check_int("least length", least, 1)
        check_int("longest length", most, least)
        object.__setattr__(self, "lengths", (least, most))
        if self.letters is not None:
            object.__setattr__(self, "letters", tuple(self.letters))
            size = 0 if self.name in LANGUAGES else len(group(self.name).elements)
            if not size:
                raise CourseError(f"letters are elements of a group; {self.name!r} is a language.")
            if not self.letters or not all(0 <= check_int("letter", letter) < size for letter in self.letters):
                raise CourseError(f"letters must be numbers of elements, 0 .. {size - 1}, not {self.letters}.")
        if not self._possible():
            raise CourseError(f"{self.name!r} has no word of {least} to {most} symbols.")

    @property
    def length(self) -> int:
        """Tokens per row."""
        return self.lengths[1]

    @property
    def vocab(self) -> int:
        """Tokens that a model of this task needs: its symbols and its classes."""
        if self.name in LANGUAGES:
            return 2 ** (len(LANGUAGES[self.name].symbols) + 1)
        return len(group(self.name).elements) + 1

    def _possible(self) -> list[int]:
        lengths = range(self.lengths[0], self.lengths[1] + 1)
        if self.name not in LANGUAGES:
            return list(lengths)
        draw = LANGUAGES[self.name].draw
        return [n for n in lengths if draw(random.Random(0), n) is not None]

    def batch(self, step: int) -> FormalBatch:
        """Step `step`'s strings, the same on every machine."""
        check_int("step", step)
        possible, rows = self._possible(), []
        for row in range(self.rows):
            rng = random.Random(hashed(f"formal {self.name} {self.seed} {self.lengths} {step} {row}"))
            rows.append(self._row(rng, rng.choice(possible)))
        tokens = torch.zeros(self.rows, self.length, dtype=torch.int64)
        targets = torch.zeros_like(tokens)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for i, (string, classes) in enumerate(rows):
            tokens[i, : len(string)] = torch.tensor(string)
            targets[i, : len(string)] = torch.tensor(classes)
            mask[i, : len(string)] = True
        return FormalBatch(tokens, targets, mask)

    def _row(self, rng: random.Random, length: int) -> tuple[list[int], list[int]]:
        if self.name in LANGUAGES:
            word = LANGUAGES[self.name].draw(rng, length)
            return encode(self.name, word), classes(self.name, word)
        letters = self.letters or range(len(group(self.name).elements))
        word = rng.choices(letters, k=length)
        return [letter + 1 for letter in word], products(self.name, word)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a step, (rows, length) each; -100 after a string's end."""
        batch = self.batch(step)
        return batch.tokens, batch.targets.masked_fill(~batch.mask, IGNORED)


def encode(name: str, word: str) -> list[int]:
    """A language's word as tokens. Raises CourseError for a symbol that is not its own."""
    symbols = LANGUAGES[check_choice("language", name, LANGUAGES)].symbols
    strange = set(word) - set(symbols)
    if strange:
        raise CourseError(f"{name!r} has the symbols {' '.join(symbols)}, not {min(strange)!r}.")
    return [symbols.index(symbol) + 1 for symbol in word]


def classes(name: str, word: str) -> list[int]:
    """The class after each symbol: 1 if it may end there, and 2^i for each symbol i that may follow."""
    language = LANGUAGES[check_choice("language", name, LANGUAGES)]
    bits = {"$": 1} | {symbol: 2 ** (i + 1) for i, symbol in enumerate(language.symbols)}
    numbers = []
    for allowed in language.allowed(word):
        numbers.append(sum(bits[symbol] for symbol in allowed))
    return numbers


def products(name: str, word: Iterable[int]) -> list[int]:
    """The number of the product of all elements so far, after each."""
    table, state, states = group(name).table, 0, []
    for letter in word:
        state = table[state][letter]
        states.append(state)
    return states


# -- how well it was learned -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bin:
    """Of `strings` with lengths from `low` to `high`, `right` had the right class at every position; of their
    `positions`, `right_positions` had."""

    low: int
    high: int
    strings: int
    right: int
    positions: int
    right_positions: int

    @property
    def accuracy(self) -> float:
        """Share of strings without a single mistake, as the papers count."""
        return self.right / self.strings

    @property
    def by_place(self) -> float:
        """Share of positions with the right class (the name under which recordings keep it)."""
        return self.right_positions / self.positions


@torch.no_grad()
def formal_accuracy(
    model: nn.Module,
    task: FormalTask,
    bins: Iterable[tuple[int, int]] = (BIN0, BIN1),
    steps: int = 4,
    seed: int = 1_000_003,
) -> list[Bin]:
    """Right strings and right positions in each bin of lengths, over `steps` batches of strings from a seed of their
    own. The model's training mode is left as it was."""
    check_int("steps", steps, 1)
    device, training = next(model.parameters()).device, model.training
    results = []
    model.eval()
    try:
        for low, high in bins:
            questions = FormalTask(task.name, (low, high), task.letters, task.rows, seed)
            hits, masks = [], []
            for step in range(steps):
                batch = questions.batch(step)
                logits, _ = model(batch.tokens.to(device))
                chosen = logits.argmax(-1).cpu()  # (rows, length)
                hits.append((chosen == batch.targets) & batch.mask)
                masks.append(batch.mask)
            hit, mask = torch.cat(hits), torch.cat(masks)  # (steps * rows, length)
            without_mistake = (hit == mask).all(dim=1)
            counts = Bin(
                low,
                high,
                strings=len(hit),
                right=int(without_mistake.sum()),
                positions=int(mask.sum()),
                right_positions=int(hit.sum()),
            )
            results.append(counts)
    finally:
        model.train(training)
    return results
