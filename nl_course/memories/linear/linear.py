"""Linear attention and retention: one matrix for the whole past, written by outer products.

    S_t = S_{t-1} + k_t^T v_t              linear attention (Katharopoulos et al. 2020, arXiv 2006.16236, eq. 18)
    S_t = gamma S_{t-1} + k_t^T v_t        retention (Sun et al. 2023, RetNet, arXiv 2307.08621, eq. 6)
    o_t = q_t S_t

By chunks both are `chunks.hebb_chunked`. This is Hebb's rule: a key and a value that are seen together are tied
together, whatever is in memory already. Every write therefore disturbs what was written before with a similar key
("crosstalk"), and nothing is ever corrected.
Rows are vectors: q, k (1, d_k), v (1, d_v), S (d_k, d_v). Axes: b batch, h heads, t time.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_min
from nl_course.memories.attention.rope import Rotary, check_theta
from nl_course.memories.linear.chunks import hebb_chunked
from nl_course.memories.linear.layer import MatrixConfig, MatrixMemory


def linear_attention_reference(q: Tensor, k: Tensor, v: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Linear attention as written (arXiv 2006.16236, eq. 18 and 20): q, k (b, h, t, d_k), v (b, h, t, d_v), S (b, h,
    d_k, d_v) -> o (b, h, t, d_v) and the last S."""
    o = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t = (z[:, :, t, None] for z in (q, k, v))  # (b, h, 1, d)
        S = S + k_t.mT @ v_t  # (b, h, d_k, d_v)
        o.append(q_t @ S)  # (b, h, 1, d_v)
    return torch.cat(o, dim=2), S  # (b, h, t, d_v), (b, h, d_k, d_v)


def retention_reference(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The same, with everything older fading by gamma (b, h, t) before each write (arXiv 2307.08621, eq. 6); RetNet's
    gamma is one number per head for ever."""
    o = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t = (z[:, :, t, None] for z in (q, k, v))  # (b, h, 1, d)
        S = gamma[:, :, t, None, None] * S + k_t.mT @ v_t  # (b, h, d_k, d_v)
        o.append(q_t @ S)  # (b, h, 1, d_v)
    return torch.cat(o, dim=2), S  # (b, h, t, d_v), (b, h, d_k, d_v)


def half_life(retention: float) -> float:
    """Tokens until half of a write is left, for a retention per token between 0 and 1: ln(1/2) / ln(retention).
    Infinite where all is kept, 0 where nothing is. Raises CourseError for any other retention."""
    if check_min("retention", retention, 0) > 1:
        raise CourseError(f"a half-life needs a retention between 0 and 1, not {retention}.")
    if retention in (0, 1):
        return math.inf if retention else 0.0
    return math.log(0.5) / math.log(retention)


def retnet_retention(heads: int) -> list[float]:
    """RetNet's retention per token of each head, 1 - 2^(-5-h) for h = 0, 1, ... (arXiv 2307.08621, eq. 8): half-lives
    22, 44, 88, 177 tokens ..."""
    return [1 - 2.0 ** (-5 - h) for h in range(heads)]


@dataclass(frozen=True)
class LinearAttentionConfig(MatrixConfig):
    """The sizes of `MatrixConfig`; nothing more to choose."""


class LinearAttention(MatrixMemory):
    """S_t = S_{t-1} + k_t^T v_t. The paper divides each read by the sum of its weights; we normalize the read
    instead, as RetNet does and as Qin et al. 2022 (arXiv 2210.10340) recommend: that sum can come near 0. For the
    same reason queries and keys are used as they are, and not made positive."""

    def __init__(self, config: LinearAttentionConfig, path: str = "auto"):
        super().__init__(config, path)

    def token_by_token(
        self, q: Tensor, k: Tensor, v: Tensor, step: None, log_a: None, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.token_by_token`."""
        return linear_attention_reference(q, k, v, S)

    def by_chunks(self, q: Tensor, k: Tensor, v: Tensor, step: None, log_a: None, S: Tensor) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.by_chunks`."""
        return hebb_chunked(q, k, v, log_a, S, self.config.chunk)


@dataclass(frozen=True)
class RetentionConfig(MatrixConfig):
    """As `MatrixConfig`. RetNet turns queries and keys by position (`rope_theta`, None leaves that out) and gates
    what it reads."""

    gate: bool = True
    rope_theta: float | None = 10_000.0

    def __post_init__(self):
        super().__post_init__()
        check_theta(self.rope_theta)


class Retention(MatrixMemory):
    """S_t = gamma_h S_{t-1} + k_t^T v_t, with one fixed retention per head (see `retnet_retention`). As in the
    paper (arXiv 2307.08621, eq. 8) heads are normalized one by one and gated by SiLU(x W_g); ours by RMSNorm, the
    paper by GroupNorm."""

    def __init__(self, config: RetentionConfig, path: str = "auto"):
        super().__init__(config, path)
        theta = config.rope_theta
        self.rotary = None if theta is None else Rotary(config.head_dim, theta)

    @property
    def position_period(self) -> int | None:
        """None where queries and keys are turned by their positions."""
        return None if self.rotary is not None else 1

    def queries_and_keys(self, q: Tensor, k: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """q, k (b, h, t, d_k), turned by the position of each token."""
        if self.rotary is None:
            return q, k
        return self.rotary(q, position), self.rotary(k, position)

    def gates(self, x: Tensor) -> tuple[None, Tensor]:
        """x (b, t, width) -> no step size, and the log of each head's retention, the same for every token (b, h, t)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        gamma = torch.tensor(retnet_retention(self.config.heads), dtype=dtype, device=x.device)  # (h,)
        return None, gamma.log()[None, :, None].expand(x.shape[0], -1, x.shape[1])  # (b, h, t)

    def token_by_token(
        self, q: Tensor, k: Tensor, v: Tensor, step: None, log_a: Tensor, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.token_by_token`."""
        return retention_reference(q, k, v, log_a.exp(), S)

    def by_chunks(self, q: Tensor, k: Tensor, v: Tensor, step: None, log_a: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.by_chunks`."""
        return hebb_chunked(q, k, v, log_a, S, self.config.chunk)
