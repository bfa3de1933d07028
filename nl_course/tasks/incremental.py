"""Classes that come one group after another: from which part of which package is this scrap of text?

Real text with labels that no one had to write: a class is a part of a package (`sympy.physics`, `sympy.polys`, ...), an
example some bytes of its docstrings, a label one letter. Increments bring new classes; after each, all that
came so far may be asked, among them those that no text shows any more (van de Ven et al. 2022, Nature MI 4:1185, call
it class-incremental learning).

    task = ClassTask(classes=8, increments=4)
    train(model, task.lessons(0), ...)                  the first two classes only, for a learner that keeps weights
    text = task.text(number=3)                          all increments in one text, for a learner that keeps a state

An example reads `<scrap>` and a line end, then `=`, the label and a line end. The last fifth of every book is held out.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.tasks.text import SPLITS, hashed, library

IGNORED = -100  # a target that is not scored, as in nl_course.training.loop
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PARTS = (  # ordered by how much text they have; each has 60 kB or more
    "sympy.physics", "sympy.polys", "sympy.solvers", "sympy.core", "sympy.combinatorics", "sympy.functions",
    "sympy.matrices", "sympy.stats", "sympy.utilities", "sympy.integrals", "sympy.geometry", "sympy.printing",
    "sympy.ntheory", "sympy.simplify", "sympy.tensor", "networkx.algorithms.centrality",
    "networkx.algorithms.connectivity", "networkx.algorithms.shortest_paths", "sympy.plotting",
    "networkx.algorithms.bipartite", "networkx.algorithms.approximation", "networkx.algorithms.isomorphism",
    "networkx.algorithms.flow", "sympy.assumptions",
)  # fmt: skip
HELD_OUT = 0.2  # of every book, its end


@lru_cache(maxsize=64)
def part_text(part: str, split: str = "train") -> str:
    """All docstrings of a part, without each book's last fifth, or those fifths alone. ASCII only, as one line: a line
    end would end an example."""
    check_choice("part", part, PARTS)
    check_choice("split", split, SPLITS)
    books, texts = library("prose"), []
    for book in sorted(books.train + books.held_out, key=lambda book: book.name):
        if book.name == part or book.name.startswith(part + "."):
            text = " ".join(book.text.decode("ascii", "ignore").split())
            cut = round(len(text) * (1 - HELD_OUT))
            texts.append(text[:cut] if split == "train" else text[cut:])
    return " ".join(texts)


@dataclass(frozen=True)
class Answered:
    """A text that asks for labels: `tokens` (T,) int64, and of each question the `place` of its label, its `label`, its
    `increment`, and after how many increments it is asked, `learnt`."""

    tokens: Tensor
    places: Tensor
    labels: Tensor
    increments: Tensor
    learnt: Tensor


@dataclass(frozen=True)
class ClassTask:
    """`classes` of PARTS, in an order drawn from the seed, in `increments` equal groups; scraps of `scrap` bytes.

    `labels` "fixed" gives a class the same letter in every text, "drawn" a new one in each, so that only what the text
    has shown can tell. In a text every increment shows `shots` examples a class, then asks `asked` held-out ones of
    each class so far.
    """

    classes: int = 8
    increments: int = 4
    scrap: int = 48
    shots: int = 4
    asked: int = 1
    labels: str = "fixed"
    rows: int = 16  # a step of `lessons`
    seed: int = 0

    def __post_init__(self):
        for name in ("classes", "increments", "scrap", "shots", "asked", "rows"):
            check_int(name, getattr(self, name), 1)
        check_choice("labels", self.labels, ("fixed", "drawn"))
        if self.classes > len(PARTS):
            raise CourseError(f"classes must be at most {len(PARTS)}, not {self.classes}.")
        if self.classes % self.increments:
            raise CourseError(f"{self.classes} classes do not make {self.increments} equal increments.")

    @property
    def order(self) -> list[str]:
        """The classes in the order in which they come."""
        return random.Random(hashed(f"classes {self.seed}")).sample(PARTS, self.classes)

    def group(self, increment: int) -> range:
        """The numbers of the classes that come with an increment."""
        if not 0 <= check_int("increment", increment) < self.increments:
            raise CourseError(f"increment must lie between 0 and {self.increments - 1}, not {increment}.")
        each = self.classes // self.increments
        return range(increment * each, (increment + 1) * each)

    def example(self, rng: random.Random, part: str, label: str, split: str) -> str:
        """One scrap with its label."""
        text = part_text(part, split)
        start = rng.randrange(len(text) - self.scrap + 1)
        return f"{text[start : start + self.scrap]}\n={label}\n"

    # -- for a learner that keeps weights ------------------------------------------------------------------------------
    @property
    def length(self) -> int:
        """Bytes that are read of a single example, up to the byte before its label."""
        return self.scrap + 2

    def examples(self, increment: int, step: int, split: str = "train") -> tuple[Tensor, Tensor]:
        """(inputs, targets) (rows, length): examples of an increment's classes; the only target is the label, at the
        end. With drawn labels one example cannot tell: they are refused."""
        if self.labels == "drawn":
            raise CourseError("drawn labels mean something only within a text; lessons need labels='fixed'.")
        order, group, rows = self.order, self.group(increment), []
        for row in range(self.rows):
            key = (
                f"lesson {self.seed} {check_choice('split', split, SPLITS)} {increment} {check_int('step', step)} {row}"
            )
            rng = random.Random(hashed(key))
            number = rng.choice(group)
            rows.append(list(self.example(rng, order[number], LETTERS[number], split).encode()[:-1]))
        tokens = torch.tensor(rows)
        targets = torch.full_like(tokens[:, 1:], IGNORED)
        targets[:, -1] = tokens[:, -1]
        return tokens[:, :-1], targets

    def lessons(self, increment: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        """step -> (inputs, targets), for `training.train`: this increment's classes and no others."""
        self.group(increment)
        return lambda step: self.examples(increment, step)

    # -- for a learner that keeps a state ------------------------------------------------------------------------------
    def text(self, number: int, split: str = "train") -> Answered:
        """One text with all increments. Questions come from the held-out fifths where `split` is "held_out"."""
        rng = random.Random(
            hashed(f"class text {self.seed} {check_choice('split', split, SPLITS)} {check_int('number', number)}")
        )
        order = self.order
        letters = LETTERS[: self.classes] if self.labels == "fixed" else "".join(rng.sample(LETTERS, self.classes))
        written, places, labels, increments, learnt = "", [], [], [], []
        for increment in range(self.increments):
            shown = [c for c in self.group(increment) for _ in range(self.shots)]
            rng.shuffle(shown)
            written += "".join(self.example(rng, order[c], letters[c], "train") for c in shown)
            asked = [c for i in range(increment + 1) for c in self.group(i) for _ in range(self.asked)]
            rng.shuffle(asked)
            for c in asked:
                written += self.example(rng, order[c], letters[c], split)
                places.append(len(written) - 2)
                labels.append(ord(letters[c]))
                increments.append(c // len(self.group(0)))
                learnt.append(increment)
        tokens = torch.tensor(list(written.encode()))
        return Answered(tokens, *(torch.tensor(values) for values in (places, labels, increments, learnt)))

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of a step, `rows` whole texts; the targets are the labels of the questions."""
        texts = [self.text(check_int("step", step) * self.rows + row) for row in range(self.rows)]
        tokens = torch.stack([t.tokens for t in texts])
        targets = torch.full_like(tokens, IGNORED)
        for row, asked in zip(targets, texts, strict=True):
            row[asked.places] = asked.labels
        return tokens[:, :-1], targets[:, 1:]


# -- how well it was learnt --------------------------------------------------------------------------------------------
@torch.no_grad()
def class_accuracy(model: nn.Module, task: ClassTask, increment: int, steps: int = 4) -> float:
    """Share of an increment's held-out examples whose label, among the letters of all classes, is the likeliest."""
    device, training = next(model.parameters()).device, model.training
    letters, right, asked = torch.tensor(list(LETTERS[: task.classes].encode()), device=device), 0, 0
    model.eval()
    try:
        for step in range(check_int("steps", steps, 1)):
            inputs, targets = task.examples(increment, step, "held_out")
            logits = model(inputs.to(device))[0][:, -1, letters]
            right += int((letters[logits.argmax(-1)].cpu() == targets[:, -1]).sum())
            asked += len(inputs)
    finally:
        model.train(training)
    return right / asked


@torch.no_grad()
def text_accuracy(model: nn.Module, task: ClassTask, texts: int = 16, piece: int = 1024) -> Tensor:
    """(increments, increments): entry [i][j] the share of right labels for increment j's classes, asked in the text
    after increment i was shown; NaN where j was not yet. Held-out scraps, the likeliest byte, read in pieces with a
    state."""
    device, training = next(model.parameters()).device, model.training
    right = torch.zeros(task.increments, task.increments, dtype=torch.float64)
    asked = torch.zeros_like(right)
    model.eval()
    try:
        for number in range(check_int("texts", texts, 1)):
            text, state, found = task.text(number, "held_out"), None, []
            for part in text.tokens[None, :-1].to(device).split(check_int("piece", piece, 1), dim=1):
                logits, state = model(part, state)
                found.append(logits.argmax(-1).cpu())
            hit = torch.cat(found, dim=1)[0, text.places - 1] == text.labels
            index = (text.learnt, text.increments)
            right.index_put_(index, hit.double(), accumulate=True)
            asked.index_put_(index, torch.ones(len(hit), dtype=torch.float64), accumulate=True)
    finally:
        model.train(training)
    return right / asked
