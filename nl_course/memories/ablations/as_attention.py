"""A memory that learns while it reads, written as linear attention: the same numbers, from features, errors and masks.

An inner network f(x) = phi(x) W whose last layer W is linear moves, on any loss, by -eta phi(k)^T e, e = dl/df at k.
However many steps, with momentum and retention, what token t reads is therefore

    f_t(q_t) = phi_t(q_t) (A_t W_0 + sum_{s <= t} c_ts phi_s(k_s)^T (-eta_s e_s))

with numbers A_t and c_ts: linear attention with queries phi_t(q_t), keys phi_s(k_s) and values -eta_s e_s. Its features
move, since phi learns too, and its values are errors. (Liu et al. 2026, arXiv 2602.21204, say that this is all there is
to it; the delta rule is the same formula, and it stores.) A bias of the last layer is a feature that is always 1. What
Titans' persistent tokens leave in momentum, S_0, is read like W_0, with a mask of its own. What the network adds behind
its last layer, LayerNorm and residual path, is not part of f here: the traces call it `read`.

Axes: B rows, T tokens, h heads, m features, f head width, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.errors import CourseError
from nl_course.memories.ablations.inner_muon import InnerMuon
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.memories.ablations.switches import ablation_of
from nl_course.memories.base import State
from nl_course.memories.common.inner_model import InnerModel
from nl_course.memories.common.weights import Weights
from nl_course.memories.titans.chunk import chunk_masks
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
        y = torch.einsum("bhts,bshf->bthf", self.scores, self.values)
        for share, W in self.starts:
            y = y + share[..., None] * torch.einsum("bthm,bhmf->bthf", self.queries, W)
        return y


@torch.no_grad()
def as_attention(memory: TTT | Titans, x: Tensor) -> AsAttention:
    """The parts of the formula for a text x (B, T, D) read from its beginning. Raises CourseError for several inner
    steps, and for memories whose write is another: self-modifying Titans erase, pooled gates wait, Muon turns the sum.
    """
    if not isinstance(memory, (TTT, Titans)) or isinstance(memory, (PooledTitans, InnerMuon)):
        raise CourseError(f"{type(memory).__name__} is not written as attention here: only TTT and Titans are.")
    learner = memory if isinstance(memory, TTT) else memory.neural
    if ablation_of(learner).inner_steps > 1:
        raise CourseError("with several inner steps a token has several errors: set inner_steps=1.")
    trace = Trace()
    state = memory.init_state(x.shape[0])
    memory(x, state, trace)
    if isinstance(memory, TTT):
        rate, mask, starts = _parts_of_ttt(memory, state, trace)
    else:
        rate, mask, starts = _parts_of_titans(memory, state, x, trace)
    # The layer's own numbers, as its trace tells them: the features move from token to token.
    queries, keys = trace["read_features"], trace["key_features"]  # (B, T, h, m)
    if learner.inner.bias:
        queries, keys = _with_one(queries), _with_one(keys)  # (B, T, h, m + 1)
    return AsAttention(queries, keys, -rate[..., None] * trace["error"], mask, starts)


def _parts_of_ttt(memory: TTT, state: State, trace: Trace) -> tuple[Tensor, Tensor, tuple]:
    """The rates (B, T, h), the mask (B, h, T, T) and the starts. TTT forgets nothing, so A is 1.

    Token t sees writes of its own mini-batch with the factor of its own index, earlier ones with that of the last."""
    rate = trace["rate"]
    factor = memory.position_factor()
    size = memory.config.mini_batch
    t = torch.arange(rate.shape[1], device=rate.device)
    same = t[:, None] // size == t // size  # (T, T)
    mask = torch.where(same, factor[t % size][:, None], factor[-1]).tril()
    mask = mask.expand(rate.shape[0], rate.shape[2], -1, -1)  # (B, h, T, T)
    return rate, mask, ((torch.ones_like(rate), _last_layer(memory.inner, state.anchor)),)


def _parts_of_titans(memory: Titans, state: State, x: Tensor, trace: Trace) -> tuple[Tensor, Tensor, tuple]:
    """The same of Titans. All three stand in the masks of one piece: errors are known, so its chunks do not matter."""
    _, _, _, gates, _ = memory.neural.write_inputs(x, state.conv_states)
    masks = chunk_masks(gates._replace(step=torch.ones_like(gates.step)))  # the steps are in the values
    inner = memory.neural.inner
    starts = [(_by_token(masks.beta), _last_layer(inner, state.neural.memory))]
    # What the persistent tokens left in the momentum goes on into the memory while the text is read.
    if state.neural.momentum and gates.log_momentum is not None:
        starts.append((_by_token(masks.phi), _last_layer(inner, state.neural.momentum)))
    return trace["step_size"], masks.G, tuple(starts)


def _by_token(share: Tensor) -> Tensor:
    """(B, h, T, 1) -> (B, T, h)."""
    return share[..., 0].transpose(1, 2)


def _with_one(features: Tensor) -> Tensor:
    """With the feature whose weights are the bias: (.., m) -> (.., m + 1)."""
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)


def _last_layer(inner: InnerModel, weights: Weights) -> Tensor:
    """The last layer (B, h, m, f), its bias as one row more below."""
    W = weights[f"W{inner.layers}"]
    if not inner.bias:
        return W
    return torch.cat([W, weights[f"b{inner.layers}"]], dim=-2)  # (B, h, m + 1, f)
