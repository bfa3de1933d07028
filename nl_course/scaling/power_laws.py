"""Published scaling laws: what loss to expect from N parameters, D tokens, or C operations. Context is not
among them.

    Kaplan et al. 2020 (arXiv 2001.08361)      L(N) = (N_c / N)^0.076, and likewise for D and for C
    Hoffmann et al. 2022 (arXiv 2203.15556)    L(N, D) = E + A / N^alpha + B / D^beta,   C = 6 N D
    Muennighoff et al. 2023 (arXiv 2305.16264) D counts repeated tokens for less and less

Losses in nats per token of each paper's own text and tokenizer: levels of different papers are not
comparable.
"""

import math
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import NamedTuple

import numpy as np

from nl_course.errors import CourseError, check_choice, check_min, check_positive, shortened
from nl_course.scaling.shapes import read_table

FLOPS_PER_PARAMETER_AND_TOKEN = 6  # training; 2 for the forward pass alone
PF_DAY = 1e15 * 86400  # operations
Numbers = float | np.ndarray


def _positive(what: str, value: Numbers) -> Numbers:
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "iuf":
        raise CourseError(f"{what} must be a number or an array of numbers, not {shortened(value)}.")
    if np.any(~(numbers > 0)):
        raise CourseError(f"{what} must be more than 0, not {shortened(value)}.")
    return value if isinstance(value, Real) else numbers


@cache
def kaplan_constants() -> dict:
    """The constants of Kaplan et al. as they stand in `assets/scaling_laws.json`."""
    return read_table("scaling_laws.json")["kaplan"]


def kaplan_loss(
    *, parameters: Numbers | None = None, tokens: Numbers | None = None, pf_days: Numbers | None = None
) -> Numbers:
    """Nats per token when exactly one of the three is the limit: non-embedding parameters, tokens, or compute.

    `pf_days` is compute spent in the best proportion (C_min), in petaflop-days. Numbers or arrays.
    """
    limits = {"parameters": parameters, "tokens": tokens, "compute": pf_days}
    given = {kind: value for kind, value in limits.items() if value is not None}
    if len(given) != 1:
        raise CourseError("kaplan_loss takes exactly one of parameters, tokens and pf_days.")
    ((kind, value),) = given.items()
    law = kaplan_constants()[kind]
    return (law["scale"] / _positive(kind, value)) ** law["exponent"]


class Optimum(NamedTuple):
    """The best split of a budget: parameters, tokens, and the loss it is worth."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class ParametricLaw:
    """L(N, D) = floor + A / N^alpha + B / D^beta  (Hoffmann et al. 2022, equation 2; floor is their E)."""

    name: str
    title: str
    floor: float
    A: float
    alpha: float
    B: float
    beta: float
    source: str = ""
    confidence: str = "recalled"

    def loss(self, parameters: Numbers, tokens: Numbers) -> Numbers:
        """Nats per token. Numbers or arrays."""
        N, D = _positive("parameters", parameters), _positive("tokens", tokens)
        return self.floor + self.A / N**self.alpha + self.B / D**self.beta

    @property
    def parameters_exponent(self) -> float:
        """a in N_opt ~ C^a (their equation 4); tokens get 1 - a."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: float) -> Optimum:
        """The N and D with 6 N D = `flops` at which the loss is least (their equation 4)."""
        _positive("flops", flops)
        gain = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        N = gain * (flops / FLOPS_PER_PARAMETER_AND_TOKEN) ** self.parameters_exponent
        D = flops / (FLOPS_PER_PARAMETER_AND_TOKEN * N)
        return Optimum(N, D, self.loss(N, D))

    def tokens_for(self, parameters: float, loss: float) -> float:
        """Tokens that bring `parameters` to `loss`; `math.inf` where even endless data would not."""
        rest = loss - self.floor - self.A / _positive("parameters", parameters) ** self.alpha
        return math.inf if rest <= 0 else (self.B / rest) ** (1 / self.beta)


@cache
def laws() -> dict[str, ParametricLaw]:
    """The published fits of the parametric law, by name."""
    rows = read_table("scaling_laws.json")["parametric"]
    fits = {}
    for row in rows:
        known = {key: value for key, value in row.items() if key in ParametricLaw.__dataclass_fields__}
        fits[row["name"]] = ParametricLaw(**known)
    return fits


def law(name: str | ParametricLaw) -> ParametricLaw:
    """A published fit by name, e.g. `law("besiroglu")`. Raises CourseError for a misspelled name."""
    return name if isinstance(name, ParametricLaw) else laws()[check_choice("scaling law", name, laws())]


# -- when data runs out: Muennighoff et al. 2023 -------------------------------------------------------------
@cache
def _decay() -> dict:
    return read_table("scaling_laws.json")["data_constrained"]


def _worth(repeats: float, decay: float) -> float:
    """How many unique passes 1 + `repeats` passes are worth (their equation 5)."""
    return 1 + decay * (1 - math.exp(-repeats / decay))


def effective_epochs(epochs: float) -> float:
    """What `epochs` passes over the same text are worth, in passes over new text: 4 are worth 3.73, none more
    than 16.4."""
    return _worth(check_min("epochs", epochs, 1) - 1, _decay()["tokens_decay"])


def data_constrained_loss(parameters: float, unique_tokens: float, epochs: float, name: str = "muennighoff") -> float:
    """L for `epochs` passes over `unique_tokens`: repeats count less, and so do parameters beyond what the
    unique tokens call for (their equations 5 and 6, with U_N the optimum's parameters for the unique
    tokens)."""
    fit = law(name)
    D = check_positive("unique_tokens", unique_tokens) * effective_epochs(epochs)
    N = check_positive("parameters", parameters)
    # the budget whose optimum trains on unique_tokens: D_opt = (C/6)^(1-a) / gain
    gain = (fit.alpha * fit.A / (fit.beta * fit.B)) ** (1 / (fit.alpha + fit.beta))
    base = (unique_tokens * gain) ** (1 / (1 - fit.parameters_exponent)) / unique_tokens
    if base < N:
        N = base * _worth(N / base - 1, _decay()["parameters_decay"])
    return fit.loss(N, D)
