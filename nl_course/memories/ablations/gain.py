"""Linear self-modifying memories share one gain: however many there are, one matrix a clock is their whole state.

A linear memory that makes its own target moves by (hope/reference.py; W^a the anchor, so also with boundary reads)

    W_t = (alpha_t I - eta_t k_t^T k_t) W_{t-1} - eta_t k_t^T (k_t - v_t) W^a

Every factor stands to the left of the weights and is the same for all memories: W_t = P_t W_0 with P_0 = I, and P moves
by this very rule. So the gain is itself a linear memory, begun at the identity, and all projections of a linear
self-modifying Titans turn together; only other keys, clocks, gates, or a non-linearity set them apart. It also shows
that a memory begun at zero stays zero.

This is ours, not the paper's, and no memory of the course needs it: notebook 07b shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import Bank, LinearBank, RankOneGrad
from nl_course.memories.hope.config import SelfModifyingConfig
from nl_course.memories.hope.layer import SelfModifying


class SharedGain(SelfModifying):
    """A linear self-modifying layer that keeps one gain P (b, h, f, f) per clock instead of its memories.

    The same parameters, the same answers, the same rule: only the state is smaller. Raises CourseError for memories
    that do not share a gain: those of two layers, those that do not move, those with a shared target."""

    def __init__(self, config: SelfModifyingConfig):
        if config.kind != "linear" or not config.self_made or set(config.moving) != set(config.names):
            raise CourseError('a shared gain is for kind "linear" with targets "self", all memories moving.')
        super().__init__(config)

    def banks(self) -> tuple[tuple[Bank, int], tuple[Bank, int]]:
        """The banks of the layer, as gains; each with the length of its chunks."""
        (others, chunk_others), (memory, chunk) = super().banks()
        return (self._as_gain(others), chunk_others), (self._as_gain(memory), chunk)

    def _as_gain(self, bank: Bank) -> "GainBank":
        return GainBank(bank.names, bank.width, super().start_weights(bank)["out"])

    def start_weights(self, bank: Bank) -> Weights:
        """P_0 = I, (1, h, f, f)."""
        identity = torch.eye(bank.width, dtype=self.accum_dtype, device=self.device)
        return Weights(out=identity.expand(1, self.config.heads, -1, -1))


@dataclass(frozen=True, eq=False)
class GainBank(LinearBank):
    """A linear bank that keeps P (b, h, f, f) as its `out`; `start` (1, h, f, columns) is W_0 of all its memories."""

    start: Tensor

    def spread(self, weights: Weights) -> dict[str, Weights]:
        """Every memory's own weights, P W_0."""
        return super().spread(Weights(out=weights["out"] @ self.start))

    def outputs(self, weights: Weights, z: Tensor) -> Weights:
        """All memories' answers to z (b, h, t, f): z P W_0."""
        return Weights(out=z @ weights["out"] @ self.start)  # (b, h, t, columns)

    def rank_one_grads(
        self, anchor: Weights, k: Tensor, v: Tensor | None, shared_targets: Weights | None, stop: bool
    ) -> dict[str, RankOneGrad]:
        """Those of P itself, whose error is (k - v) P^a: W_0 stands to the right of it and takes no part."""
        return LinearBank(self.names, self.width).rank_one_grads(anchor, k, v, shared_targets, stop)

    def read_running(self, writes: Mapping, before: Weights, q: Tensor) -> Tensor:
        """What M_memory answers to q (b, h, t, f) with each token's own write in it."""
        return super().read_running(writes, before, q) @ self.start
