"""What the memories of a self-modifying Titans are: small networks side by side, all written at the same keys.

    M(z) = z + act(z A) B        two layers, with a residual path; step and retention answer one number: act(z A) B
    M(z) = z W                   linear

(Behrouz et al., arXiv 2512.24695, equation 89.) Memories that move at the same clock stand in one `Bank`, so that one
matrix product serves them all: their first layers are the columns of one matrix `into`, since they all meet the same
input; their second layers are `wide` (answers of a head's width) and `narrow` (answers of one number).

Axes: b batch, h heads, n memories of a bank, t tokens, f head width, m hidden width. Rows are vectors, y = x @ W.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import ACTIVATIONS, Weights

WIDE = ("key", "value", "query", "memory")
NARROW = ("step", "retention")
TINY = 1e-6  # beside |a|^2, where a layer's input is scaled to length 1


class Fast(NamedTuple):
    """A bank's fast weights: at the last boundary, after the last token, and their momentum (empty without)."""

    anchor: Weights
    running: Weights
    momentum: Weights


class Rule(NamedTuple):
    """How memories are written: `erase` "per-layer", "input" or "off"; the `momentum` beta; which gradients `stop`; and
    the `sign` of a gradient's step, 1 to descend the inner loss. (The step eta also erases, which has no sign.)"""

    erase: str
    momentum: float
    stop: str
    sign: int = 1


class Side(NamedTuple):
    """One layer's part in a write: what it was given, a, the error that comes back to it, e (the gradient of a token's
    loss is a^T e), and `said`, what it answered: a W at the anchor."""

    a: Tensor
    error: Tensor
    said: Tensor


@dataclass(frozen=True)
class Bank:
    """Memories at one clock, by name, the wide ones first. `hidden` is m, or 0 for linear memories.

    Weights are a dict. Two layers: into (b, h, f, n m), wide (b, h, n, m, f), narrow (b, h, n, m, 1). Linear: out
    (b, h, f, columns), the answers of all memories side by side."""

    names: tuple[str, ...]
    width: int
    hidden: int
    activation: str = "silu"

    @property
    def wide(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name in WIDE)

    @property
    def narrow(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name in NARROW)

    def gather(self, start: dict[str, Weights]) -> Weights:
        """The bank's weights from each memory's own, {"into" (..., f, m), "out" (..., m, f or 1)}."""
        outs = [start[name]["out"] for name in self.names]
        if not self.hidden:
            return {"out": torch.cat(outs, dim=-1)}
        weights = {"into": torch.cat([start[name]["into"] for name in self.names], dim=-1)}
        for part, names in (("wide", self.wide), ("narrow", self.narrow)):
            if names:
                weights[part] = torch.stack([start[name]["out"] for name in names], dim=-3)
        return weights

    def spread(self, weights: Weights) -> dict[str, Weights]:
        """The inverse of `gather`: every memory's own weights by its name."""
        if not self.hidden:
            return {name: {"out": w} for name, w in self._named(weights["out"]).items()}
        into = weights["into"].split(self.hidden, dim=-1)
        outs = [w for part in ("wide", "narrow") if part in weights for w in weights[part].unbind(-3)]
        return {name: {"into": a, "out": b} for name, a, b in zip(self.names, into, outs)}

    # -- reading -------------------------------------------------------------------------------------------------
    def read(self, weights: Weights, z: Tensor) -> dict[str, Tensor]:
        """Every memory's answer to z (b, h, t, f): (b, h, t, f or 1) by name."""
        return self.named(self.answers(weights, z))

    def named(self, answers: Weights) -> dict[str, Tensor]:
        """Each memory's own part of `answers` (or of `targets`, where the wide ones have one in common)."""
        if not self.hidden:
            return self._named(answers["out"])
        wide = answers["wide"].expand(-1, -1, len(self.wide), -1, -1).unbind(2) if self.wide else ()
        return dict(zip(self.names, (*wide, *(answers["narrow"].unbind(2) if self.narrow else ()))))

    def answers(self, weights: Weights, z: Tensor) -> Weights:
        """The same, together: wide (b, h, n, t, f) and narrow (b, h, n, t, 1), or out (b, h, t, columns)."""
        if not self.hidden:
            return {"out": z @ weights["out"]}
        return self._with_residual(self._layers(weights, z)[1], z)

    def inputs(self, weights: Weights, k: Tensor) -> Weights:
        """What each layer is given for keys k, by its weight's name."""
        return {"into": k, **self._layers(weights, k)[2]} if self.hidden else {"out": k}

    def finish(self, y: Tensor) -> Tensor:
        """A linear bank's answer from what its moving matrix said: the same, but for a gain's (hope_gain.py)."""
        return y

    def activate(self, z: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation].value(z)

    def apart(self, x: Tensor) -> Tensor:
        """(b, h, t, n m) -> (b, h, n, t, m)."""
        return x.unflatten(-1, (-1, self.hidden)).transpose(2, 3)

    def _layers(self, weights: Weights, z: Tensor) -> tuple[Tensor, Weights, Weights]:
        """z A (b, h, t, n m), and by part act(z A) B and act(z A), (b, h, n, t, ..)."""
        before = z @ weights["into"]
        counts = {"wide": len(self.wide), "narrow": len(self.narrow)}
        pieces = self.apart(self.activate(before)).split(list(counts.values()), dim=2)
        given = {part: piece for part, piece in zip(counts, pieces) if counts[part]}
        return before, {part: a @ weights[part] for part, a in given.items()}, given

    def _with_residual(self, said: Weights, z: Tensor) -> Weights:
        return {part: y + z[:, :, None] if part == "wide" else y for part, y in said.items()}

    def _named(self, joined: Tensor) -> dict[str, Tensor]:
        sizes = [self.width] * len(self.wide) + [1] * len(self.narrow)
        return dict(zip(self.names, joined.split(sizes, dim=-1)))

    # -- writing -------------------------------------------------------------------------------------------------
    def sides(self, anchor: Weights, k: Tensor, v: Tensor, shared: Weights | None, stop: bool) -> dict[str, Side]:
        """Every layer's `Side` for the pairs k, v (b, h, t, f), by its weight's name, from l = |M(k) - target|^2 / 2.

        The target is the memory's own answer to v, or one that all `share`, as `targets` makes it. It is a constant of
        the inner gradient, and of the outer one too if `stop`."""
        tokens, rows = k.shape[2], k if shared else torch.cat([v, k], dim=2)
        if not self.hidden:
            answer = rows @ anchor["out"]
            target, said = (shared["out"], answer) if shared else answer.chunk(2, dim=2)
            return {"out": Side(k, said - (target.detach() if stop else target), said)}
        before, said, given = self._layers(anchor, rows)
        answers = self._with_residual(said, rows)
        if not shared:
            before = before[:, :, tokens:]
            said, given = ({p: x[..., tokens:, :] for p, x in each.items()} for each in (said, given))
        sides, back = {}, []
        for part, answer in answers.items():
            target, answer = (shared[part], answer) if shared else answer.chunk(2, dim=-2)
            error = answer - (target.detach() if stop else target)
            sides[part] = Side(given[part], error, said[part])
            back.append(error @ anchor[part].mT)
        back = (back[0] if len(back) == 1 else torch.cat(back, dim=2)).transpose(2, 3).flatten(3)
        return {"into": Side(k, back * ACTIVATIONS[self.activation].slope(before), before), **sides}

    def targets(self, v: Tensor, numbers: list[Tensor]) -> Weights:
        """One target for all memories: v (b, h, t, f), and for each narrow one its reading as a number (b, h, t)."""
        numbers = [u[..., None] for u in numbers]
        if not self.hidden:
            return {"out": torch.cat([v] * len(self.wide) + numbers, dim=-1)}
        targets = {"wide": v[:, :, None]} if self.wide else {}
        return targets | {"narrow": torch.stack(numbers, dim=2)} if numbers else targets
