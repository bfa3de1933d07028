"""Fitting a power law with an irreducible loss, and saying how sure we are.

Approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556, equation 3): minimize the Huber loss, delta = 0.001,
between the logarithms of predicted and observed loss, with log A, log B and log E as unknowns (a log-sum-exp:
nothing can turn negative), by L-BFGS from a grid of starts. Two of their pitfalls are avoided as Besiroglu et
al. 2024 (arXiv 2404.10102) advise: the objective is a sum and the tolerance tight, so that the optimizer does
not stop early, and nothing is rounded. Error bars: resample the runs with replacement, fit again, take
percentiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import TYPE_CHECKING

import numpy as np

from nl_course.errors import CourseError, check_int
from nl_course.scaling.power_laws import Numbers, ParametricLaw

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

DELTA = 1e-3


@dataclass(frozen=True)
class Fit:
    """A fitted law: `values` by name, bootstrap `samples` (resamples, values), and the `residual` (root mean
    square of the logarithms' differences; 0.01 is about one per cent of the loss)."""

    names: tuple[str, ...]
    values: dict[str, float]
    samples: np.ndarray
    residual: float
    points: int

    def interval(self, name: str, coverage: float = 0.9) -> tuple[float, float]:
        """The central `coverage` of the bootstrap's values of one name."""
        if not len(self.samples):
            raise CourseError("this fit was made without a bootstrap: ask for resamples.")
        tail = 50 * (1 - coverage)
        low, high = np.percentile(self.samples[:, self.names.index(name)], [tail, 100 - tail])
        return float(low), float(high)

    def predict(self, *sizes) -> np.ndarray:
        """Loss at N (or at N and D, for a joint fit)."""
        return _predict(np.array([[self.values[n] for n in self.names]]), sizes)[0]

    def band(self, *sizes, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end, at each size, of the central `coverage` of the bootstrap's curves."""
        tail = 50 * (1 - coverage)
        low, high = np.percentile(_predict(self.samples, sizes), [tail, 100 - tail], axis=0)
        return low, high

    def law(self, title: str = "our fit") -> ParametricLaw:
        """A joint fit as a ParametricLaw, with its optimum and exponents."""
        if "beta" not in self.names:
            raise CourseError("only a fit over parameters and tokens is a law of both; use fit_law.")
        return ParametricLaw("ours", title, **self.values)


def _predict(rows: np.ndarray, sizes: Sequence[np.ndarray]) -> np.ndarray:
    """rows (R, 3 or 5) of floor, A, alpha[, B, beta]; sizes broadcast over their own axis -> (R, points)."""
    total = rows[:, :1].copy()
    for i, size in enumerate(sizes):
        scale, exponent = rows[:, 1 + 2 * i, None], rows[:, 2 + 2 * i, None]
        total = total + scale / np.asarray(size, dtype=float)[None] ** exponent
    return total


def _objective(theta: np.ndarray, logs: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """Huber loss and its gradient. theta = log E, then (log A, alpha) for each size; logs (sizes, points)."""
    terms = [np.full_like(target, theta[0])]
    for i, x in enumerate(logs):
        terms.append(theta[1 + 2 * i] - theta[2 + 2 * i] * x)
    terms = np.stack(terms)
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    error = top + np.log(total) - target
    small = np.abs(error) <= DELTA
    value = np.where(small, 0.5 * error**2, DELTA * (np.abs(error) - 0.5 * DELTA))
    slope = weight * np.where(small, error, DELTA * np.sign(error))
    share = parts / total * slope
    gradient = np.empty_like(theta)
    gradient[0] = share[0].sum()
    for i, x in enumerate(logs):
        gradient[1 + 2 * i] = share[i + 1].sum()
        gradient[2 + 2 * i] = -(share[i + 1] * x).sum()
    return 1e4 * float(weight @ value), 1e4 * gradient  # scaled so that tolerances bite late, not early


def _minimize(start: np.ndarray, logs: np.ndarray, target: np.ndarray, weight: np.ndarray) -> "OptimizeResult":
    """The law with the least Huber loss, from one start; see `_objective`."""
    from scipy.optimize import minimize

    bounds = [(None, None)] + [(None, None), (0.0, 3.0)] * len(logs)
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-9}
    return minimize(_objective, start, (logs, target, weight), "L-BFGS-B", jac=True, bounds=bounds, options=options)


def _fit(sizes: dict[str, Numbers], loss: Numbers, names: tuple[str, ...], resamples: int, seed: int) -> Fit:
    loss = np.asarray(loss, dtype=float)
    columns = [np.asarray(column, dtype=float) for column in sizes.values()]
    check_int("resamples", resamples)
    for what, column in {**dict(zip(sizes, columns)), "loss": loss}.items():
        if column.shape != loss.shape or column.ndim != 1:
            raise CourseError(
                f"{what} must be a list as long as the losses ({loss.size}), not of shape {column.shape}."
            )
        if not (np.isfinite(column).all() and (column > 0).all()):
            raise CourseError(f"{what} must be finite and more than 0 everywhere.")
    if len(loss) <= len(names):
        raise CourseError(f"a law of {len(names)} unknowns needs more than {len(names)} runs, not {len(loss)}.")
    if any(len(np.unique(column)) < 3 for column in columns):
        raise CourseError(f"a power law needs at least three different values of {' and of '.join(sizes)}.")
    # Logarithms are centered, so that a start means the same at any scale.
    middle = np.array([np.log(column).mean() for column in columns])
    logs, target = np.stack([np.log(c) for c in columns]) - middle[:, None], np.log(loss)
    lowest, even = target.min(), np.ones_like(target)
    pairs = list(product((-4.0, -2.0, -0.5), (0.1, 0.3, 0.7)))
    grid = []  # of starts
    for log_floor, of_sizes in product((lowest - 1.0, lowest - 0.1), product(pairs, repeat=len(logs))):
        grid.append(np.array([log_floor, *chain.from_iterable(of_sizes)]))
    if len(logs) > 1:
        grid = grid[::9]
    best = min((_minimize(start, logs, target, even) for start in grid), key=lambda r: r.fun)
    rng, n = np.random.default_rng(seed), len(target)
    rows = [best.x]
    for _ in range(resamples):
        weight = np.bincount(rng.integers(n, size=n), minlength=n).astype(float)
        rows.append(_minimize(best.x, logs, target, weight).x)
    rows = np.array(rows)
    rows[:, 0] = np.exp(rows[:, 0])
    for i, center in enumerate(middle):
        rows[:, 1 + 2 * i] = np.exp(rows[:, 1 + 2 * i] + rows[:, 2 + 2 * i] * center)
    values = {name: float(v) for name, v in zip(names, rows[0])}
    error = np.log(_predict(rows[:1], columns)[0]) - target
    return Fit(names, values, rows[1:], float(np.sqrt(np.mean(error**2))), n)


def fit_parameters(parameters: Numbers, loss: Numbers, *, resamples: int = 200, seed: int = 0) -> Fit:
    """L(N) = floor + A / N^alpha, for runs that all saw the same data (or of D, for runs of one model).

    Returns a Fit with names floor, A, alpha. Raises CourseError for fewer than four runs, or fewer than three
    sizes.
    """
    return _fit({"parameters": parameters}, loss, ("floor", "A", "alpha"), resamples, seed)


def fit_law(parameters: Numbers, tokens: Numbers, loss: Numbers, *, resamples: int = 200, seed: int = 0) -> Fit:
    """L(N, D) = floor + A / N^alpha + B / D^beta, for runs that differ in both.

    Returns a Fit with names floor, A, alpha, B, beta; `.law()` gives its optimum. Raises CourseError as
    fit_parameters.
    """
    return _fit(
        {"parameters": parameters, "tokens": tokens},
        loss,
        ("floor", "A", "alpha", "B", "beta"),
        resamples,
        seed,
    )
