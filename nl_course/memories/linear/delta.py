"""The delta rule: look up what the memory already says under this key, and write only the difference.

    S_t = (I - beta_t k_t^T k_t) S_{t-1} + beta_t k_t^T v_t              DeltaNet
        = S_{t-1} + beta_t k_t^T (v_t - k_t S_{t-1})
    S_t = alpha_t (I - beta_t k_t^T k_t) S_{t-1} + beta_t k_t^T v_t      Gated DeltaNet
    o_t = q_t S_t

DeltaNet: Schlag et al. 2021 (arXiv 2102.11174), by chunks Yang et al. 2024 (arXiv 2406.06484). Gated DeltaNet: Yang et
al. 2024 (arXiv 2412.06464, eq. 10). Each write is one step of gradient descent, of size beta_t, on the squared error
1/2 |k S - v|^2. With |k| = 1 and beta = 1 the new pair is stored exactly and the old value under that key is gone;
keys at right angles do not notice.
Rows are vectors: q, k (1, d_k), v (1, d_v), S (d_k, d_v). Axes: b batch, h heads, t time, n chunks, c in a chunk.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from nl_course.errors import check_bool
from nl_course.memories.linear.chunks import decay_between, decay_from_start, in_chunks, joined
from nl_course.memories.linear.layer import MatrixConfig, MatrixMemory
from nl_course.roles import BIAS, RATE, Roles


def delta_reference(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The delta rule as written (arXiv 2102.11174, section 4.2): q, k (b, h, t, d_k), v (b, h, t, d_v), beta (b, h, t),
    S (b, h, d_k, d_v) -> o (b, h, t, d_v), the last S."""
    o = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t, beta_t = (z[:, :, t, None] for z in (q, k, v, beta[..., None]))  # (b, h, 1, d), (b, h, 1, 1)
        S = S + beta_t * k_t.mT @ (v_t - k_t @ S)  # (b, h, d_k, d_v)
        o.append(q_t @ S)  # (b, h, 1, d_v)
    return torch.cat(o, dim=2), S  # (b, h, t, d_v), (b, h, d_k, d_v)


def gated_delta_reference(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, alpha: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, with the whole memory fading by alpha (b, h, t) before each look-up and write (arXiv 2412.06464,
    eq. 10)."""
    o = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t, beta_t = (z[:, :, t, None] for z in (q, k, v, beta[..., None]))  # (b, h, 1, d), (b, h, 1, 1)
        S = alpha[:, :, t, None, None] * S  # (b, h, d_k, d_v)
        S = S + beta_t * k_t.mT @ (v_t - k_t @ S)  # (b, h, d_k, d_v)
        o.append(q_t @ S)  # (b, h, 1, d_v)
    return torch.cat(o, dim=2), S  # (b, h, t, d_v), (b, h, d_k, d_v)


def delta_chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor | None, S: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Both of the above by chunks, `log_a` (b, h, t) the log of alpha or None for 1: o (b, h, t, d_v), the last S."""
    o, S, _ = _read_and_write(q, k, v, beta, log_a, S, chunk)
    return o, S


def delta_writes(k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor | None, S: Tensor, chunk: int) -> Tensor:
    """What is really written: w_t = beta_t (v_t - k_t alpha_t S_{t-1}), (b, h, t, d_v). The delta rule on (k,
    v) is Hebb's rule on (k, w)."""
    return _read_and_write(k, k, v, beta, log_a, S, chunk)[2]


def _read_and_write(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor | None, S: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """o, the last S, and the writes w, by the WY / UT transform (arXiv 2406.06484, section 3; gated: 2412.06464,
    section 3). Each write depends on the earlier ones of its chunk:

        w_t = beta_t (v_t - d_t k_t S - sum_{j<t} D_tj (k_t . k_j) w_j)

    with S the matrix the chunk began with, d_t and D_tj the retention since then and since j. All tokens at once that
    is (I + A) W = beta (V - d K S), so one triangular solve gives U and P in W = U - P S before S is known. The
    matrix that the next chunk begins with is then linear in S, and the loop over chunks is one product per chunk.
    """
    tokens = q.shape[2]
    chunk = min(chunk, tokens)  # a short piece is not filled up to a whole chunk
    q, k, v, beta = (in_chunks(z, chunk) for z in (q, k, v, beta[..., None]))  # (b, h, n, c, d), beta (b, h, n, c, 1)
    if log_a is None:
        D = None
        read_keys, read_queries = k, q
        write_keys, retention = k, 1.0
    else:
        log_a = in_chunks(log_a, chunk)  # (b, h, n, c)
        D = decay_between(log_a)  # (b, h, n, t, j)
        since = decay_from_start(log_a)[..., None]  # (b, h, n, c, 1)
        # What the chunk began with has faded by d_t when token t looks it up, ...
        read_keys, read_queries = k * since, q * since  # (b, h, n, c, d_k)
        # ... and what token j wrote has faded by the last row of D at the chunk's end.
        write_keys = k * D[..., -1, :, None]  # (b, h, n, c, d_k)
        retention = since[..., -1:, :]  # (b, h, n, 1, 1)
    mixing = delta_mixing(k, D)  # (b, h, n, t, j)
    scores = (q @ k.mT).tril() if D is None else q @ k.mT * D  # (b, h, n, t, j)
    o, S, w = solved(v, beta, mixing, scores, read_keys, read_queries, write_keys, retention, S)
    return joined(o, tokens), S, joined(w, tokens)  # (b, h, t, d_v), (b, h, d_k, d_v), (b, h, t, d_v)


def solved(
    v: Tensor,
    beta: Tensor,
    mixing: Tensor,
    scores: Tensor,
    read_keys: Tensor,
    read_queries: Tensor,
    write_keys: Tensor,
    retention: Tensor | float,
    S: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The solve and the loop over chunks, for any way of forgetting: v (b, h, n, c, d_v), beta (b, h, n, c, 1), and
    what the caller let fade: `mixing` and `scores` (b, h, n, t, j), how much of write j the key (j < t) and the query
    (j <= t) of token t meet; `read_keys` and `read_queries` (b, h, n, c, d_k), which meet S as it stood when the chunk
    began; `write_keys` (b, h, n, c, d_k), as far as their writes last to its end; `retention`, what then remains of S,
    (b, h, n, 1 or d_k, 1). Returns o (b, h, n, c, d_v), the last S, and the writes (b, h, n, c, d_v)."""
    key_dim, value_dim = write_keys.shape[-1], v.shape[-1]
    # W = U - P S solves the chunk's writes for any S: the right sides of both stand side by side.
    A = beta * mixing  # (b, h, n, c, c)
    right = beta * torch.cat([v, read_keys], dim=-1)  # (b, h, n, c, d_v + d_k)
    solution = torch.linalg.solve_triangular(A, right, upper=False, unitriangular=True)  # (b, h, n, c, d_v + d_k)
    U, P = solution.split([value_dim, key_dim], dim=-1)  # (b, h, n, c, d_v), (b, h, n, c, d_k)
    # At the chunk's end: retention S + K^T W = (retention I - K^T P) S + K^T U.
    eye = torch.eye(key_dim, dtype=v.dtype, device=v.device)  # (d_k, d_k)
    moves = retention * eye - write_keys.mT @ P  # (b, h, n, d_k, d_k)
    starts, S = _carried(moves, write_keys.mT @ U, S)  # (b, h, n, d_k, d_v), (b, h, d_k, d_v)
    # With every chunk's start known, all chunks are read at once.
    w = U - P @ starts  # (b, h, n, c, d_v)
    o = scores @ w + read_queries @ starts  # (b, h, n, c, d_v)
    return o, S, w


def delta_mixing(k: Tensor, D: Tensor | None) -> Tensor:
    """How much of write j each later key t meets: D_tj (k_t . k_j) for j < t, else 0. k (..., c, d) -> (...,
    c, c)."""
    overlap = k @ k.mT  # (..., t, j)
    return (overlap if D is None else overlap * D).tril(-1)


def _carried(moves: Tensor, added: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """S <- moves_n S + added_n from chunk to chunk: moves (b, h, n, d_k, d_k), added (b, h, n, d_k, d_v) -> the matrix
    each chunk starts with (b, h, n, d_k, d_v), the last (b, h, d_k, d_v)."""
    starts, batch_and_heads = [], S.shape[:2]
    # One batch axis: `baddbmm` multiplies and adds in one call, and takes no more than three axes.
    S, moves, added = S.flatten(0, 1), moves.flatten(0, 1), added.flatten(0, 1)  # (b h, ...)
    for move, add in zip(moves.unbind(1), added.unbind(1)):  # (b h, d_k, d_k), (b h, d_k, d_v)
        starts.append(S)
        S = torch.baddbmm(add, move, S)  # (b h, d_k, d_v)
    starts = torch.stack(starts, dim=1).unflatten(0, batch_and_heads)  # (b, h, n, d_k, d_v)
    return starts, S.unflatten(0, batch_and_heads)


@dataclass(frozen=True)
class DeltaConfig(MatrixConfig):
    """As `MatrixConfig`, with `conv` taps of the causal convolution, 0 for none. `negative` lets beta reach 2 instead
    of 1, which turns an old entry round instead of only wiping it out: states can then be tracked (Grazzi et al. 2024,
    arXiv 2411.12537)."""

    conv: int = 4
    negative: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_bool("negative", self.negative)


class DeltaNet(MatrixMemory):
    """The delta rule as a layer (arXiv 2406.06484): q, k, v by projection, convolution and SiLU,
    q and k of length 1, beta = sigmoid(x W_beta) per head; RMSNorm of each head's read before the output
    projection."""

    activation, unit_keys = "silu", True

    def __init__(self, config: DeltaConfig, path: str = "auto"):
        super().__init__(config, path)
        self.step = nn.Linear(config.width, config.heads, bias=False)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (b, t, width) -> beta (b, h, t) in (0, 1), or (0, 2) with `negative`; nothing fades."""
        logits = self.step(x).mT  # (b, h, t)
        beta = logits.to(torch.promote_types(x.dtype, torch.float32)).sigmoid()
        return 2 * beta if self.config.negative else beta, None

    def token_by_token(
        self, q: Tensor, k: Tensor, v: Tensor, step: Tensor, log_a: Tensor | None, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.token_by_token`."""
        return delta_reference(q, k, v, step, S)

    def by_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, step: Tensor, log_a: Tensor | None, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.by_chunks`."""
        return delta_chunked(q, k, v, step, log_a, S, self.config.chunk)

    def writes(self, k: Tensor, v: Tensor, step: Tensor, log_a: Tensor | None, S: Tensor) -> Tensor:
        """What each token ties to its key, (b, h, t, d_v): what its value differs by from what is there already."""
        return delta_writes(k, v, step, log_a, S, self.config.chunk)

    def weights(self, q: Tensor, k: Tensor, step: Tensor, log_a: Tensor | None) -> Tensor:
        """The writes' weights, with each write traced back to the values it was made of, (b, h, t, t): an overwritten
        value has weight 0. (q k^T D) (I + A)^{-1} beta over all tokens."""
        scores = self.scores(q, k, log_a)  # (b, h, t, t)
        A = step[..., None] * self.scores(k, k, log_a).tril(-1)  # (b, h, t, t)
        mixed = torch.linalg.solve_triangular(A, scores, upper=False, left=False, unitriangular=True)
        return mixed * step[..., None, :]


def first_interval_bias(*shape: int) -> Tensor:
    """Mamba-2's start for the forgetting gates: numbers of this shape, whose softplus lies between 0.001 and 0.1."""
    # Drawn evenly on a log scale: some heads forget within a few tokens, others over a thousand.
    interval = torch.empty(*shape).uniform_(math.log(0.001), math.log(0.1)).exp()
    # The number whose softplus is the interval.
    return interval + torch.log(-torch.expm1(-interval))


def softplus(u: Tensor) -> Tensor:
    """log(1 + exp(u)), elementwise."""
    # PyTorch's softplus cannot be compiled with a backward pass here: version 2.13 expects its gradient in another
    # memory layout than it comes in.
    return -logsigmoid(-u)


@dataclass(frozen=True)
class GatedDeltaConfig(DeltaConfig):
    """As `DeltaConfig`; what is read is gated by SiLU(x W_g) unless `gate` is off."""

    gate: bool = True


class GatedDeltaNet(DeltaNet):
    """The delta rule with a forgetting gate, alpha_t = exp(-Delta_t exp(A_h)), Delta_t = softplus(x_t W_Delta
    + b_h), the gate of Mamba-2 (Dao and Gu 2024, arXiv 2405.21060), and started as there: Delta between 0.001
    and 0.1, exp(A) between 1 and 16. Normalized and gated reads (arXiv 2412.06464, figure 1)."""

    param_roles: ClassVar[Roles] = {"interval_bias": BIAS, "log_rate": RATE}

    def __init__(self, config: GatedDeltaConfig, path: str = "auto"):
        super().__init__(config, path)
        self.interval = nn.Linear(config.width, config.heads, bias=False)
        self.interval_bias = nn.Parameter(first_interval_bias(config.heads))
        self.log_rate = nn.Parameter(torch.empty(config.heads).uniform_(1, 16).log())  # A

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, t, width) -> beta and log alpha = -Delta exp(A), both (b, h, t)."""
        beta, _ = super().gates(x)
        interval = self.interval(x).to(beta.dtype) + self.interval_bias
        Delta = softplus(interval).mT  # (b, h, t)
        return beta, -Delta * self.log_rate.to(beta.dtype).exp()[:, None]

    def token_by_token(
        self, q: Tensor, k: Tensor, v: Tensor, step: Tensor, log_a: Tensor, S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `MatrixMemory.token_by_token`."""
        return gated_delta_reference(q, k, v, step, log_a.exp(), S)
