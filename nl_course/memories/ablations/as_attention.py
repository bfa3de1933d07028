"""A memory that learns while it reads, written as linear attention: the same numbers, from features, errors and masks.

An inner network f(x) = phi(x) W whose last layer W is linear moves, on any loss, by -eta phi(k)^T e, e = dl/df at k.
However many steps, with momentum and retention, what token t reads is therefore

    f_t(q_t) = phi_t(q_t) (A_t W_0 + sum_{s <= t} c_ts phi_s(k_s)^T (-eta_s e_s))

with numbers A_t and c_ts: linear attention with queries phi_t(q_t), keys phi_s(k_s) and values -eta_s e_s. Its features
move, since phi learns too, and its values are errors. (Liu et al. 2026, arXiv 2602.21204, say that this is all there is
to it; the delta rule is the same formula, and it stores.) A bias of the last layer is a feature that is always 1. What
Titans' persistent tokens leave in momentum, S_0, is read like W_0, with a mask of its own. What the network adds behind
its last layer, LayerNorm and residual path, is not part of f here: the traces call it `read`.

Axes: B rows, T tokens, h heads, m features, f head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.ablations.switches import ablation_of
from nl_course.memories.titans.chunk import masks
from nl_course.memories.titans.lmm import Titans
from nl_course.memories.trace import Trace
from nl_course.memories.ttt.layer import TTT


@dataclass(frozen=True)
class AsAttention:
    """queries phi_t(q_t) and keys phi_s(k_s) (B, T, h, m), values -eta_s e_s (B, T, h, f), mask c (B, h, T, T), and
    what was there before the text: pairs of a mask (B, T, h) and weights (B, h, m, f), the first A and W_0."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor
    starts: tuple[tuple[Tensor, Tensor], ...]

    @property
    def scores(self) -> Tensor:
        """c_ts phi_t(q_t) . phi_s(k_s): how much of each value is in each read, (B, h, T, T)."""
        return torch.einsum("bthm,bshm->bhts", self.queries, self.keys) * self.mask

    def read(self) -> Tensor:
        """The right-hand side, (B, T, h, f)."""
        start = sum(a[..., None] * torch.einsum("bthm,bhmf->bthf", self.queries, W) for a, W in self.starts)
        return start + torch.einsum("bhts,bshf->bthf", self.scores, self.values)


@torch.no_grad()
def as_attention(memory: TTT | Titans, x: Tensor) -> AsAttention:
    """The parts of the formula for a text x (B, T, D) read from its beginning. Raises CourseError for memories whose
    write is another (self-modifying Titans erase, pooled gates wait) and for several inner steps."""
    if not isinstance(memory, (TTT, Titans)) or getattr(memory.config, "gates", "") == "pooled":
        raise CourseError(f"{type(memory).__name__} is not written as attention here: only TTT and Titans are.")
    learner = memory if isinstance(memory, TTT) else memory.neural
    if ablation_of(learner).inner_steps > 1:
        raise CourseError("with several inner steps a token has several errors: set inner_steps=1.")
    trace, state = Trace(), memory.init_state(x.shape[0])
    memory(x, state, trace)
    queries, keys = trace["read_features"], trace["key_features"]
    if learner.inner.bias:
        queries, keys = (torch.cat([u, torch.ones_like(u[..., :1])], dim=-1) for u in (queries, keys))
    if isinstance(memory, TTT):
        rate, kept = trace["rate"], torch.ones_like(trace["rate"])
        starts = ((kept, _last(learner, state.anchor)),)
        return AsAttention(queries, keys, -rate[..., None] * trace["error"], _ttt_mask(memory, rate), starts)
    _, _, _, gates, _ = learner.write_inputs(x, state.tails)
    mask = masks(gates._replace(step=torch.ones_like(gates.step)))  # the step is in the values
    starts = [(mask.kept, state.neural.memory)]
    if mask.spread is not None:
        starts.append((mask.spread, state.neural.momentum))
    starts = tuple((m[..., 0].transpose(1, 2), _last(learner, W)) for m, W in starts)
    return AsAttention(queries, keys, -trace["step_size"][..., None] * trace["error"], mask.reach, starts)


def _last(learner, weights: dict[str, Tensor]) -> Tensor:
    """The last layer, its bias a row below: (B, h, m, f)."""
    W = weights[f"W{learner.inner.layers}"]
    return torch.cat([W, weights[f"b{learner.inner.layers}"]], dim=-2) if learner.inner.bias else W


def _ttt_mask(memory: TTT, rate: Tensor) -> Tensor:
    """c_ts: the factor of t's place for its own mini-batch, that of the last place for those before."""
    factor, size = memory.position_factor(), memory.config.mini_batch
    at = torch.arange(rate.shape[1], device=rate.device)
    same = at[:, None] // size == at // size
    mask = torch.where(same, factor[at % size][:, None], factor[-1]).tril()
    return mask.expand(rate.shape[0], rate.shape[2], -1, -1)
