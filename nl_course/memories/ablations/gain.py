"""Linear self-modifying memories share one gain: however many there are, one matrix a clock is their whole state.

A linear memory that makes its own target moves by (hope_reference.py; W^a the anchor, so also with boundary reads)

    W_t = (alpha_t I - eta_t k_t^T k_t) W_{t-1} - eta_t k_t^T (k_t - v_t) W^a

Every factor stands to the left of the weights and is the same for all memories: W_t = P_t W_0 with P_0 = I, and P moves
by this very rule. So the gain is itself a linear memory, begun at the identity, and all projections of a linear
self-modifying Titans turn together; only other keys, clocks, gates, or a non-linearity set them apart. It also shows
that a memory begun at zero stays zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import Weights
from nl_course.memories.hope.bank import Bank, Side


@dataclass(frozen=True, eq=False)
class GainBank(Bank):
    """A linear bank that keeps P (b, h, f, f) as its `out`; `start` (1, h, f, columns) is W_0 of all its memories."""

    start: Tensor | None = None

    def begin(self) -> Weights:
        """P_0 = I, (1, h, f, f)."""
        eye = torch.eye(self.width, dtype=self.start.dtype, device=self.start.device)
        return {"out": eye.expand(1, self.start.shape[1], -1, -1)}

    def spread(self, weights: Weights) -> dict[str, Weights]:
        return super().spread({"out": self.finish(weights["out"])})

    def answers(self, weights: Weights, z: Tensor) -> Weights:
        return {"out": self.finish(z @ weights["out"])}

    def finish(self, y: Tensor) -> Tensor:
        return y @ self.start

    def sides(self, anchor: Weights, k: Tensor, v: Tensor, shared, stop: bool) -> dict[str, Side]:
        target, said = (torch.cat([v, k], dim=2) @ anchor["out"]).chunk(2, dim=2)
        return {"out": Side(k, said - (target.detach() if stop else target), said)}
