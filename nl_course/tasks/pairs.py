"""Pairs of vectors: what a matrix can hold, with no model around it and nothing trained.

Unit keys k_i and unit values v_i are written one after the other into one matrix S (d, d), or kept apart as attention
keeps them. Then every key is asked. Reading key k_i gives v_i plus the crosstalk of all other keys.

    Hebb       S = sum_i k_i^T v_i                             read error |k_i S - v_i|^2, expected (n - 1) / d
    delta      S <- S + step k_i^T (v_i - k_i S), one by one
    attention  sum_j softmax_j(sharpness k_i . k_j) v_j

The expectation is for independent random keys: each of the n - 1 other values comes back with weight k_i . k_j, whose
square is 1 / d on average. Axes: rows (independent draws), n pairs, d features.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories.linear.chunks import hebb_chunked
from nl_course.memories.linear.delta import delta_chunked

RULES = ("hebb", "delta")


@dataclass(frozen=True)
class Pairs:
    """keys and values, (rows, n, d) each, oldest first, of length 1."""

    keys: Tensor
    values: Tensor


def draw_pairs(pairs: int, width: int, similarity: float = 0.0, rows: int = 1, seed: int = 0) -> Pairs:
    """Random unit keys and values, float64. `similarity` in [0, 1] is the expected cosine between two keys: each is
    sqrt(similarity) of one common direction and sqrt(1 - similarity) of its own."""
    check_int("pairs", pairs, 1)
    check_int("width", width, 1)
    check_int("rows", rows, 1)
    if not 0 <= similarity <= 1:
        raise CourseError(f"similarity must lie between 0 and 1, not {similarity}.")
    rng = torch.Generator().manual_seed(seed)

    def directions(count: int) -> Tensor:
        """Random unit vectors, (rows, count, d), float64."""
        return normalize(torch.randn(rows, count, width, generator=rng, dtype=torch.float64), dim=-1)

    common = directions(1)  # (rows, 1, d)
    own = directions(pairs)  # (rows, n, d)
    keys = normalize(math.sqrt(similarity) * common + math.sqrt(1 - similarity) * own, dim=-1)
    return Pairs(keys, values=directions(pairs))


def written(
    pairs: Pairs, rule: str, step: float = 1.0, retention: float = 1.0, passes: int = 1, start: Tensor | None = None
) -> Tensor:
    """The matrices (rows, d, d) after writing all pairs in order, `passes` times over. `retention` multiplies the
    memory before each write; `step` scales the write (in Hebb's rule the value, in the delta rule the correction)."""
    check_choice("rule", rule, RULES)
    check_int("passes", passes, 1)
    check_min("step", step, 0)
    if not 0 <= retention <= 1:
        raise CourseError(f"retention must lie between 0 and 1, not {retention}.")
    # The memories' own chunked paths do the work; they want a head axis, here of one head.
    k, v = pairs.keys[:, None], pairs.values[:, None]  # (rows, 1, n, d)
    if start is None:
        S = k.new_zeros(k.shape[0], 1, k.shape[-1], v.shape[-1])  # (rows, 1, d, d)
    else:
        S = start[:, None]
    log_a = None if retention == 1 else torch.full_like(k[..., 0], retention).log()  # (rows, 1, n)
    beta = torch.full_like(k[..., 0], step)
    for _ in range(passes):
        if rule == "hebb":
            _, S = hebb_chunked(k, k, step * v, log_a, S, chunk=64)
        else:
            _, S = delta_chunked(k, k, v, beta, log_a, S, chunk=64)
    return S[:, 0]


def attended(pairs: Pairs, queries: Tensor, sharpness: float) -> Tensor:
    """What attention reads for queries (rows, m, d): softmax weights of sharpness * q . k. At 0 it is the mean of all
    values. The sharper, the nearer to the value of the nearest key."""
    check_min("sharpness", sharpness, 0)
    return (sharpness * queries @ pairs.keys.mT).softmax(dim=-1) @ pairs.values


@dataclass(frozen=True)
class Recalled:
    """How well each pair is read back, (rows, n), oldest first: squared read `error`, and whether the value nearest to
    what was read is the `right` one."""

    error: Tensor
    right: Tensor

    @property
    def by_age(self) -> Tensor:
        """Share of right answers by age, over the rows: (n,), entry a for the pair with a newer ones after it."""
        return self.right.double().mean(0).flip(0)


def recalled(pairs: Pairs, reads: Tensor) -> Recalled:
    """Scores reads (rows, n, d) of every key in turn, e.g. `pairs.keys @ written(pairs, "delta")`."""
    nearest = (reads @ pairs.values.mT).argmax(dim=-1)  # (rows, n): values have length 1
    own = torch.arange(pairs.keys.shape[1], device=nearest.device)
    squared_error = (reads - pairs.values).square().sum(-1)
    return Recalled(squared_error, right=nearest == own)
