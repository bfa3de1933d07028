"""One text after another: real corpora with known switches between them, and measures of what is kept and carried over.

    corpora = [domain(name) for name in ("sympy-prose", "networkx-prose", "numpy-code", "torch-code")]
    stream = domain_stream(corpora, bytes_each=20_000, rounds=2)      stream.switches, stream.at(30_000)
    train(model, visits(corpora, steps_each=200), ...)                the same order, in batches of windows
    scores = transfer(matrix)                                         average, forgetting, backward, forward

matrix[i][j] is how good the learner is at corpus j when it has just learned corpus i (Lopez-Paz and Ranzato 2017, arXiv
1706.08840, section 2).
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.tasks.documents import CORPORA, PACKAGES
from nl_course.tasks.text import batch, hashed, library

# Name -> (corpus, package). Each has documents that are held out.
DOMAINS = {f"{package}-{corpus}": (corpus, package) for package, corpus in product(PACKAGES, CORPORA)}


@dataclass(frozen=True)
class Domain:
    """A corpus: `train` and `held_out` (N,) uint8, of different documents."""

    name: str
    train: Tensor
    held_out: Tensor

    def __repr__(self) -> str:
        return f"Domain({self.name}: {self.train.numel():,} bytes to learn from, {self.held_out.numel():,} held out)"


@lru_cache(maxsize=16)
def domain(name: str, apart_from: tuple[str, ...] = ()) -> Domain:
    """One of DOMAINS, e.g. "numpy-code". `apart_from` names domains too: no line of 40 bytes or more that is held out
    in one of them stands in the text to learn from."""
    corpus, package = DOMAINS[check_choice("domain", name, DOMAINS)]
    texts = library(corpus, package)
    if apart_from:
        others = [library(*DOMAINS[check_choice("domain", other, DOMAINS)]) for other in apart_from]
        texts = texts.without_shared_lines(others=others)
    return Domain(name, texts.stream("train"), texts.stream("held_out"))


# -- one long text -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stream:
    """`tokens` (N,) int64, the visits' `names` in order, and `switches`, the position at which each visit begins (the
    first at 0)."""

    tokens: Tensor
    names: tuple[str, ...]
    switches: tuple[int, ...]

    def visit(self, position: int) -> int:
        """The number of the visit that a position belongs to."""
        if not 0 <= check_int("position", position) < self.tokens.numel():
            raise CourseError(f"position {position} is not in a stream of {self.tokens.numel():,} bytes.")
        return bisect_right(self.switches, position) - 1

    def at(self, position: int) -> str:
        """The corpus that the byte at a position is from."""
        return self.names[self.visit(position)]


def domain_stream(
    domains: Sequence[Domain], bytes_each: int, rounds: int = 1, seed: int = 0, split: str = "train"
) -> Stream:
    """`bytes_each` bytes of every domain in turn, `rounds` times over. A domain continues where its last visit ended,
    so nothing is read twice; where it begins depends on the seed. Raises CourseError for a domain that is too short."""
    check_int("bytes_each", bytes_each, 1)
    check_int("rounds", rounds, 1)
    check_choice("split", split, ("train", "held_out"))
    if not domains:
        raise CourseError("a stream needs at least one domain.")
    needed = rounds * bytes_each  # of each domain
    excerpts = []
    for d in domains:
        text = getattr(d, split)
        if text.numel() < needed:
            raise CourseError(f"{d.name} has {text.numel():,} bytes ({split}); {needed:,} are needed.")
        start = hashed(f"visits {seed} {d.name} {split}") % (text.numel() - needed + 1)
        excerpts.append(text[start : start + needed])
    turns = [excerpt.view(rounds, bytes_each) for excerpt in excerpts]
    by_visit = torch.stack(turns, dim=1)  # (rounds, domains, bytes_each)
    names = tuple(d.name for d in domains) * rounds
    switches = tuple(range(0, len(names) * bytes_each, bytes_each))
    return Stream(by_visit.flatten().long(), names, switches)


def visits(
    domains: Sequence[Domain], steps_each: int, batch_size: int = 16, length: int = 256, seed: int = 0
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """step -> (inputs, targets), for `training.train`: `steps_each` steps of windows from each domain's train split in
    turn, and again from the first when all were visited."""
    check_int("steps_each", steps_each, 1)
    if not domains:
        raise CourseError("visits need at least one domain.")

    def at(step: int) -> tuple[Tensor, Tensor]:
        """The rows of one step, (batch, T) inputs and targets, from the domain that is visited then."""
        here = domains[step // steps_each % len(domains)]
        return batch(here.train, step, batch_size, length, seed)

    return at


# -- what is kept, and what is carried over ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Transfer:
    """`average` at the end over all tasks; `forgetting`, how far each task but the last fell below its best; `backward`
    transfer, what learning later tasks did to earlier ones (negative: forgotten); `forward` transfer, what learning
    earlier tasks did for those not yet seen, None without a baseline. All in the units of the matrix."""

    average: float
    forgetting: float
    backward: float
    forward: float | None


def transfer(
    matrix: Tensor | Sequence[Sequence[float]],
    untrained: Tensor | Sequence[float] | None = None,
    better: str = "higher",
) -> Transfer:
    """The measures of a matrix (tasks, tasks), matrix[i][j] the score at task j after learning task i.

        average      1/T sum_j R_Tj                               Lopez-Paz and Ranzato 2017, eq. 2
        backward     1/(T-1) sum_{i<T} (R_Ti - R_ii)              eq. 3
        forward      1/(T-1) sum_{i>1} (R_{i-1,i} - b_i)          eq. 4, b = `untrained`, the scores before any task
        forgetting   1/(T-1) sum_{j<T} max_{l<T} (R_lj - R_Tj)    Chaudhry et al. 2018, arXiv 1801.10112, eq. 3

    With `better="lower"` the matrix holds losses: the average stays a loss, and the signs of the others are turned so
    that forgetting is bad and transfer is good in either case. The forgetting of a single task is 0.
    """
    check_choice("better", better, ("higher", "lower"))
    R = torch.as_tensor(matrix, dtype=torch.float64)
    if R.dim() != 2 or R.shape[0] != R.shape[1] or not len(R):
        raise CourseError(f"the matrix must be (tasks, tasks), not {tuple(R.shape)}.")
    if not R.isfinite().all():
        raise CourseError("the matrix must hold numbers only: every task is scored after every task.")
    b = None if untrained is None else torch.as_tensor(untrained, dtype=torch.float64)
    if b is not None and b.shape != R.shape[:1]:
        raise CourseError(f"untrained must hold one score per task ({len(R)}), not {tuple(b.shape)}.")
    average = R[-1].mean().item()
    sign = 1 if better == "higher" else -1
    R = sign * R
    if len(R) == 1:  # there is nothing before or after a single task
        return Transfer(average, forgetting=0.0, backward=0.0, forward=None if b is None else 0.0)
    final = R[-1]  # scores of all tasks at the end
    best_before = R[:-1].max(dim=0).values
    backward = (final - R.diagonal())[:-1].mean().item()  # eq. 3
    forgetting = (best_before - final)[:-1].mean().item()
    forward = None
    if b is not None:
        forward = (R.diagonal(1) - sign * b[1:]).mean().item()  # eq. 4
    return Transfer(average, forgetting, backward, forward)
