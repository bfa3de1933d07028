"""What can be chosen of a self-modifying Titans, and what we chose where the paper is silent.

Behrouz et al. 2025, "Nested Learning", arXiv 2512.24695, section 8, says what is read and what is written (equations 76
to 93). No code or weights of its authors are public. These are **our choices**, not the paper's:

    bounded values     the paper puts no bound on v. A memory that writes what it says of v can make its next answer
                       longer, and that answer is its next target: such memories run away. So v is kept shorter than 1.
    the network        two layers, SiLU, as wide as a head (eq. 89 says: a residual path around an MLP); several heads
    step, retention    one number per head and token: eta = max_step * sigmoid, alpha = sigmoid, with learned biases.
                       Their memories have no residual path (one number out, a vector in) and learn before the sigmoid.
    the erase          eq. 88 types for one matrix only. We erase each layer along that layer's own input.
    the loss           half the squared error, whose gradient is the one that eq. 93 prints
    the query          a fixed projection: six memories are printed, but the text calls W_q the one that does not adapt
    momentum           eq. 88 has none, but a table of the paper has a row without it (perplexity 13.58 beside 12.24):
                       its HOPE has a momentum that is written nowhere. Here it is a constant beta, off by default.
    the start          the identity for every memory, learned by the outer loop
    reads              at the last chunk boundary, as the text says (the printed index is the end of the present chunk)
    around it          a causal convolution of width 4 first; an RMSNorm, a SiLU gate and a projection last
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_bool, check_choice, check_int, check_min, check_positive
from nl_course.memories.common.inner_model import ACTIVATIONS, unit

STOPS = ("none", "targets", "first-order", "write")
# Which memories move (None: all), and toward what: the ladder of section 8.1.
VARIANTS = {
    "plain": (("memory",), "shared"),  # eq. 76 to 78
    "adaptive": (None, "shared"),  # eq. 79 to 82
    "self-modifying": (None, "self"),  # eq. 83 to 88
}


def bounded(v: Tensor) -> Tensor:
    """v / sqrt(1 + |v|^2) over the last axis: the same direction, shorter than 1. Our choice, see above."""
    return v * torch.rsqrt(1 + v.square().sum(-1, keepdim=True))


def plain(v: Tensor) -> Tensor:
    """v as the memory says it."""
    return v


VALUES = {"bounded": bounded, "unit": unit, "plain": plain}


@dataclass(frozen=True)
class SelfModifyingConfig:
    """The choices, by name. Raises CourseError for a value that does not exist.

    `width`, `heads`: the model's width and the number of heads; each head has memories of its own.
    `kind`: "mlp" (two layers, `hidden` wide, by default as wide as a head, with `activation` between) or "linear".
    `variant`: which memories move and toward what; `adaptive` (names) and `targets` ("shared" or "self") override it.
    `adaptive_query`: the query is a memory too. `retention` False: nothing is forgotten, and no memory decides it.
    `chunk`, `chunk_others`: tokens between two boundaries of M_memory, and of the others (by default the same).
    `read`: M_memory at the last "boundary", or "running", with every token's own write in it.
    `erase`: "per-layer", "input" (first layers only) or "off". `momentum`: a constant beta, 0 for none.
    `max_step`: the bound of eta, which begins at a tenth of it. `start_retention`: where alpha begins.
    `values`: "bounded" (shorter than 1), "unit" (length 1) or "plain". `conv`: width of the convolution, 0 for none.
    `start`: "identity" (second layers zero, so that every memory begins as the identity) or "random".
    `stop_gradient`: what the outer loop takes for constants, for the same forward pass: "targets" v^, "first-order" all
    errors and layer inputs, "write" whole writes.
    """

    width: int
    heads: int
    kind: str = "mlp"
    hidden: int | None = None
    activation: str = "silu"
    variant: str = "self-modifying"
    adaptive: tuple[str, ...] | None = None
    targets: str | None = None
    adaptive_query: bool = False
    chunk: int = 16
    chunk_others: int | None = None
    read: str = "boundary"
    erase: str = "per-layer"
    momentum: float = 0.0
    retention: bool = True
    max_step: float = 0.5
    start_retention: float = 0.99
    values: str = "bounded"
    conv: int = 4
    start: str = "identity"
    stop_gradient: str = "none"

    def __post_init__(self) -> None:
        for name in ("width", "heads", "chunk"):
            check_int(name, getattr(self, name), 1)
        check_int("conv", self.conv, 0)
        if self.width % self.heads:
            raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}.")
        check_choice("kind", self.kind, ("mlp", "linear"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("variant", self.variant, VARIANTS)
        for name, default in (("hidden", self.head_dim), ("chunk_others", self.chunk)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
            check_int(name, getattr(self, name), 1)
        check_bool("adaptive_query", self.adaptive_query)
        check_bool("retention", self.retention)
        if self.adaptive is not None:
            # A list is what JSON makes of a tuple. A string would be read letter by letter.
            if not isinstance(self.adaptive, (tuple, list)):
                raise CourseError(
                    f'adaptive must be a tuple of names, such as ("key", "value"), not {self.adaptive!r}.'
                )
            adaptive = tuple(check_choice("adaptive memory", name, self.names) for name in self.adaptive)
            object.__setattr__(self, "adaptive", adaptive)
        if self.targets is not None:
            check_choice("targets", self.targets, ("shared", "self"))
        check_choice("read", self.read, ("boundary", "running"))
        check_choice("erase", self.erase, ("per-layer", "input", "off"))
        check_choice("values", self.values, VALUES)
        check_choice("start", self.start, ("identity", "random"))
        check_choice("stop_gradient", self.stop_gradient, STOPS)
        if check_min("momentum", self.momentum, 0) >= 1:
            raise CourseError(f"momentum must be a number of at least 0 and below 1, not {self.momentum!r}.")
        check_positive("max_step", self.max_step)
        # As a bias in float32, before the sigmoid: closer to 0 or 1 the bias would be rounded to infinity.
        if not 1e-7 <= check_positive("start_retention", self.start_retention) <= 1 - 1e-7:
            raise CourseError(f"start_retention must lie between 1e-7 and 1 - 1e-7, not {self.start_retention!r}.")

    @property
    def head_dim(self) -> int:
        """f, the width of a head."""
        return self.width // self.heads

    @property
    def moving(self) -> tuple[str, ...]:
        """The memories that move: `adaptive`, or the variant's."""
        if self.adaptive is not None:
            return self.adaptive
        memories, _ = VARIANTS[self.variant]
        return memories or self.names

    @property
    def self_made(self) -> bool:
        """Whether each memory makes its own target."""
        _, targets = VARIANTS[self.variant]
        return (self.targets or targets) == "self"

    @property
    def names(self) -> tuple[str, ...]:
        """All memories: key, value, (query,) step, (retention,) memory."""
        query = ("query",) if self.adaptive_query else ()
        retention = ("retention",) if self.retention else ()
        return ("key", "value", *query, "step", *retention, "memory")
