"""What can be chosen of a self-modifying Titans (hope.py), with the checks of it."""

from dataclasses import dataclass

import torch

from nl_course.errors import CourseError, check_choice, check_int
from nl_course.memories.common.inner_model import ACTIVATIONS, unit

STOPS = ("none", "targets", "first-order", "write")
VALUES = {
    "bounded": lambda v: v * torch.rsqrt(1 + v.square().sum(-1, keepdim=True)),  # shorter than 1
    "unit": unit,
    "plain": lambda v: v,
}
RUNGS = {  # which memories move, None for all; towards what
    "plain": (("memory",), "shared"),
    "adaptive": (None, "shared"),
    "self-modifying": (None, "self"),
}


@dataclass(frozen=True)
class SelfModifyingConfig:
    """`kind` "mlp" (two layers, `hidden` wide, the head's width if not given) or "linear". `adaptive` and `targets`
    ("shared" or "self") None are the rung's. `erase` "per-layer", "input" (first layers only) or "off"; `momentum` a
    constant beta; `retention` False keeps everything. `read` "boundary" or "running": M_memory with each token's own
    write. `max_step` bounds eta, which begins at a tenth of it; alpha begins at `start_retention`. `values` "bounded"
    (v / sqrt(1 + |v|^2), so that memories which write what they say do not run away), "unit" (length 1) or "plain".
    `start` "identity" (second layers zero: every memory begins as the identity) or "random". `stop_gradient`, for the
    same forward pass: "targets" takes v^ for constants, "first-order" all errors and layer inputs, "write" whole
    writes."""

    width: int
    heads: int
    kind: str = "mlp"
    hidden: int | None = None
    activation: str = "silu"
    rung: str = "self-modifying"
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

    def __post_init__(self):
        for name in ("width", "heads", "chunk"):
            check_int(name, getattr(self, name), 1)
        check_int("conv", self.conv, 0)
        if self.width % self.heads:
            raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}.")
        check_choice("kind", self.kind, ("mlp", "linear"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("rung", self.rung, RUNGS)
        for name, value in (("hidden", self.head_dim), ("chunk_others", self.chunk)):
            check_int(name, value if getattr(self, name) is None else getattr(self, name), 1)
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.adaptive is not None:
            object.__setattr__(
                self, "adaptive", tuple(check_choice("adaptive memory", n, self.names) for n in self.adaptive)
            )
        if self.targets is not None:
            check_choice("targets", self.targets, ("shared", "self"))
        check_choice("read", self.read, ("boundary", "running"))
        check_choice("erase", self.erase, ("per-layer", "input", "off"))
        check_choice("values", self.values, VALUES)
        check_choice("start", self.start, ("identity", "random"))
        check_choice("stop_gradient", self.stop_gradient, STOPS)
        for name, low, high in (("momentum", -1e-9, 1), ("max_step", 0, 1e9), ("start_retention", 0, 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
                raise CourseError(f"{name} must be a number between {max(0, low)} and {high:g}, not {value!r}.")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def moving(self) -> tuple[str, ...]:
        """The memories that move: `adaptive`, or the rung's."""
        return (RUNGS[self.rung][0] or self.names) if self.adaptive is None else self.adaptive

    @property
    def self_made(self) -> bool:
        """Whether each memory makes its own target."""
        return (self.targets or RUNGS[self.rung][1]) == "self"

    @property
    def names(self) -> tuple[str, ...]:
        """All memories: key, value, (query,) step, (retention,) memory."""
        query, retention = ("query",) * self.adaptive_query, ("retention",) * self.retention
        return ("key", "value", *query, "step", *retention, "memory")
