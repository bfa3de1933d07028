"""Kimi Delta Attention: the gated delta rule with a forget gate of its own for every channel of the key.

    S_t = Diag(alpha_t) S_{t-1}                        alpha_t in (0, 1)^{d_k}: row i of the memory keeps alpha_ti
    S_t = S_t + beta_t k_t^T (v_t - k_t S_t)           then the delta rule looks up and writes, as in delta.py
    o_t = q_t S_t

Kimi Team 2025 (arXiv 2510.26692, eq. 1). If all channels of a head share one gate, this is Gated DeltaNet. kda_chunk.py
computes the same by chunks.
Rows are vectors: q, k (1, d_k), v (1, d_v), S (d_k, d_v). Axes: b batch, h heads, t time, d_k channels of the key.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.memories.linear.delta import DeltaNet, GatedDeltaConfig, first_interval_bias, softplus
from nl_course.memories.linear.kda_chunk import all_scores, hebb_by_channel, kda_chunked, kda_writes
from nl_course.roles import BIAS, RATE, Roles


def kda_reference(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, alpha: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Kimi Delta Attention as written (arXiv 2510.26692, eq. 1): q, k, alpha (b, h, t, d_k), v (b, h, t, d_v), beta
    (b, h, t), S (b, h, d_k, d_v) -> o (b, h, t, d_v), the last S."""
    o = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t, beta_t = (z[:, :, t, None] for z in (q, k, v, beta[..., None]))  # (b, h, 1, d), (b, h, 1, 1)
        S = alpha[:, :, t, :, None] * S  # (b, h, d_k, d_v)
        S = S + beta_t * k_t.mT @ (v_t - k_t @ S)  # (b, h, d_k, d_v)
        o.append(q_t @ S)  # (b, h, 1, d_v)
    return torch.cat(o, dim=2), S  # (b, h, t, d_v), (b, h, d_k, d_v)


@dataclass(frozen=True)
class KDAConfig(GatedDeltaConfig):
    """As `GatedDeltaConfig`; reads are gated by sigmoid(x W_g) here. `lower_bound`, a number below 0 such as -5, bounds
    the log of every forget gate from below, as Kimi K3 and GLM-5.3 do; None leaves it unbounded, as in Kimi Linear."""

    lower_bound: float | None = None

    def __post_init__(self):
        super().__post_init__()
        bound = self.lower_bound
        if bound is not None and not (isinstance(bound, (int, float)) and -math.inf < bound < 0):
            raise CourseError(f"lower_bound must be None or a number below 0, such as -5, not {bound!r}.")


class LowRank(nn.Module):
    """x W_down W_up: a projection (..., width) -> (..., out) through `rank` numbers."""

    def __init__(self, width: int, rank: int, out: int):
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., out)."""
        return self.up(self.down(x))


class KDA(DeltaNet):
    """Kimi Delta Attention as a layer (arXiv 2510.26692; the layer of Kimi Linear, and with `lower_bound` that of
    GLM-5.3). Its forget gate is Gated DeltaNet's, but with an interval for every channel,

        alpha_t = exp(-exp(A_h) softplus(x_t W_down W_up + b))         with `lower_bound` L:
        alpha_t = exp(L sigmoid(exp(A_h) (x_t W_down W_up + b)))       so that log alpha_t lies between L and 0

    and the start is that of Mamba-2; with a bound exp(A) starts at 1. Normalized reads are gated by sigmoid(x W_g).
    """

    param_roles: ClassVar[Roles] = {"interval_bias": BIAS, "log_rate": RATE}

    def __init__(self, config: KDAConfig, path: str = "auto"):
        super().__init__(config, path)
        keys, values = config.heads * config.head_dim, config.heads * config.value_dim
        if config.gate:
            self.gate = LowRank(config.width, config.value_dim, values)
        self.interval = LowRank(config.width, config.head_dim, keys)
        self.interval_bias = nn.Parameter(first_interval_bias(keys))  # (h d_k,)
        rate = torch.empty(config.heads).uniform_(1, 16) if config.lower_bound is None else torch.ones(config.heads)
        self.log_rate = nn.Parameter(rate.log())  # A, (h,)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, t, width) -> beta (b, h, t), and the log of alpha for every channel, (b, h, t, d_k)."""
        beta, _ = super().gates(x)
        interval = self.interval(x).to(beta.dtype) + self.interval_bias  # (b, t, h d_k)
        interval = rearrange(interval, "b t (h d) -> b h t d", h=self.config.heads)  # (b, h, t, d_k)
        rate = self.log_rate.to(beta.dtype).exp()[:, None, None]  # (h, 1, 1)
        if self.config.lower_bound is None:
            return beta, -rate * softplus(interval)
        return beta, self.config.lower_bound * (rate * interval).sigmoid()

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """What was read, y (b, t, h d_v), times sigmoid(x W_g W_g'), where there is a gate."""
        return y if self.gate is None else y * self.gate(x).sigmoid()

    def token_by_token(
        self, q: Tensor, k: Tensor, v: Tensor, step: Tensor, log_a: Tensor, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.token_by_token`; log_a is (b, h, t, d_k) here, and so below."""
        return kda_reference(q, k, v, step, log_a.exp(), S)

    def by_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, step: Tensor, log_a: Tensor, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.by_chunks`."""
        return kda_chunked(q, k, v, step, log_a, S, self.config.chunk)

    def writes(self, k: Tensor, v: Tensor, step: Tensor, log_a: Tensor, S: Tensor) -> Tensor:
        """See `DeltaNet.writes`."""
        return kda_writes(k, v, step, log_a, S, self.config.chunk)

    def scores(self, q: Tensor, k: Tensor, log_a: Tensor) -> Tensor:
        """See `MatrixMemory.scores`."""
        return all_scores(q, k, log_a)

    def hebb(self, q: Tensor, k: Tensor, w: Tensor, log_a: Tensor, S: Tensor) -> Tensor:
        """See `MatrixMemory.hebb`."""
        return hebb_by_channel(q, k, w, log_a, S, self.config.chunk)
