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

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nl_course.memories.linear.chunks import decay_between, decay_from_start, in_chunks, joined
from nl_course.memories.linear.layer import MatrixConfig, MatrixMemory


def delta_reference(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """q, k (b, h, t, d_k), v (b, h, t, d_v), beta (b, h, t), S (b, h, d_k, d_v) -> o (b, h, t, d_v), the last
    S."""
    o = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t, beta_t = (z[:, :, t, None] for z in (q, k, v, beta[..., None]))
        S = S + beta_t * k_t.mT @ (v_t - k_t @ S)
        o.append(q_t @ S)
    return torch.cat(o, dim=2), S


def gated_delta_reference(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, alpha: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, with the whole memory fading by alpha (b, h, t) before each look-up and write."""
    o = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t, beta_t = (z[:, :, t, None] for z in (q, k, v, beta[..., None]))
        S = alpha[:, :, t, None, None] * S
        S = S + beta_t * k_t.mT @ (v_t - k_t @ S)
        o.append(q_t @ S)
    return torch.cat(o, dim=2), S


def delta_chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor | None, S: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Both of the above by chunks, `log_a` (b, h, t) the log of alpha or None for 1."""
    return _read_and_write(q, k, v, beta, log_a, S, chunk)[:2]


def delta_writes(k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor | None, S: Tensor, chunk: int) -> Tensor:
    """What is really written: w_t = beta_t (v_t - k_t alpha_t S_{t-1}), (b, h, t, d_v). The delta rule on (k,
    v) is Hebb's rule on (k, w)."""
    return _read_and_write(k, k, v, beta, log_a, S, chunk)[2]


def _read_and_write(q, k, v, beta, log_a, S, chunk) -> tuple[Tensor, Tensor, Tensor]:
    """o, the last S, and the writes w, by the WY / UT transform (arXiv 2406.06484, section 3; gated: 2412.06464,
    section 3). Each write depends on the earlier ones of its chunk:

        w_t = beta_t (v_t - d_t k_t S - sum_{j<t} D_tj (k_t . k_j) w_j)

    with S the matrix the chunk began with, d_t and D_tj the retention since then and since j. All tokens at once that
    is (I + A) W = beta (V - d K S), so one triangular solve gives U and P in W = U - P S before S is known. The
    matrix that the next chunk begins with is then linear in S, and the loop over chunks is one product a chunk.
    """
    tokens, chunk, width = q.shape[2], min(chunk, q.shape[2]), v.shape[-1]
    q, k, v, beta = (in_chunks(z, chunk) for z in (q, k, v, beta[..., None]))
    if log_a is None:
        D, since, until, kept = None, None, k, 1.0
    else:
        log_a = in_chunks(log_a, chunk)
        D, since = decay_between(log_a), decay_from_start(log_a)[..., None]
        until, kept = k * D[..., -1, :, None], since[..., -1:, :]
    A = beta * delta_mixing(k, D)
    right = beta * torch.cat([v, k if since is None else k * since], dim=-1)
    solved = torch.linalg.solve_triangular(A, right, upper=False, unitriangular=True)
    U, P = solved.split([width, k.shape[-1]], dim=-1)
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    starts, S = _carried(kept * eye - until.mT @ P, until.mT @ U, S)
    w = U - P @ starts
    scores = (q @ k.mT).tril() if D is None else q @ k.mT * D
    o = scores @ w + (q if since is None else q * since) @ starts
    return joined(o, tokens), S, joined(w, tokens)


def delta_mixing(k: Tensor, D: Tensor | None) -> Tensor:
    """How much of write j each later key t meets: D_tj (k_t . k_j) for j < t, else 0. k (..., c, d) -> (...,
    c, c)."""
    met = k @ k.mT
    return (met if D is None else met * D).tril(-1)


def _carried(moves: Tensor, added: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """S <- moves_n S + added_n from chunk to chunk: the matrix each chunk starts with (b, h, n, d_k, d_v),
    the last."""
    starts, shape = [], S.shape
    S = S.flatten(0, 1)
    for move, add in zip(moves.flatten(0, 1).unbind(1), added.flatten(0, 1).unbind(1)):
        starts.append(S)
        S = torch.baddbmm(add, move, S)
    return torch.stack(starts, dim=1).unflatten(0, shape[:2]), S.unflatten(0, shape[:2])


@dataclass(frozen=True)
class DeltaConfig(MatrixConfig):
    """`conv` taps of the causal convolution, 0 for none. `negative` lets beta reach 2 instead of 1, which
    turns an old entry round instead of only wiping it out: states can then be tracked (Grazzi et al. 2024,
    arXiv 2411.12537)."""

    conv: int = 4
    negative: bool = False


class DeltaNet(MatrixMemory):
    """The delta rule as a layer (arXiv 2406.06484): q, k, v by projection, convolution and SiLU,
    q and k of length 1, beta = sigmoid(x W_beta) per head; RMSNorm of each head's read before the output
    projection."""

    activation, unit_keys = "silu", True

    def __init__(self, config: DeltaConfig, path: str = "auto"):
        super().__init__(config, path)
        self.step = nn.Linear(config.width, config.heads, bias=False)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        beta = self.step(x).mT.to(torch.promote_types(x.dtype, torch.float32)).sigmoid()
        return 2 * beta if self.config.negative else beta, None

    def token_by_token(self, q, k, v, step, log_a, S):
        return delta_reference(q, k, v, step, S)

    def by_chunks(self, q, k, v, step, log_a, S):
        return delta_chunked(q, k, v, step, log_a, S, self.config.chunk)

    def writes(self, k, v, step, log_a, S):
        return delta_writes(k, v, step, log_a, S, self.config.chunk)

    def weights(self, q, k, step, log_a):
        """The writes' weights, with each write traced back to the values it was made of: an overwritten value
        has weight 0. (q k^T D) (I + A)^{-1} beta over all tokens."""
        D = None if log_a is None else decay_between(log_a)
        scores, A = super().weights(q, k, step, log_a), step[..., None] * delta_mixing(k, D)
        mixed = torch.linalg.solve_triangular(A, scores, upper=False, left=False, unitriangular=True)
        return mixed * step[..., None, :]


@dataclass(frozen=True)
class GatedDeltaConfig(DeltaConfig):
    """As `DeltaConfig`; what is read is gated by SiLU(x W_g) unless `gate` is off."""

    gate: bool = True


class GatedDeltaNet(DeltaNet):
    """The delta rule with a forgetting gate, alpha_t = exp(-Delta_t exp(A_h)), Delta_t = softplus(x_t W_Delta
    + b_h), the gate of Mamba-2 (Dao and Gu 2024, arXiv 2405.21060), and started as there: Delta between 0.001
    and 0.1, exp(A) between 1 and 16. Normalised and gated reads (arXiv 2412.06464, figure 1)."""

    def __init__(self, config: GatedDeltaConfig, path: str = "auto"):
        super().__init__(config, path)
        self.interval = nn.Linear(config.width, config.heads, bias=False)
        interval = torch.empty(config.heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        # The number whose softplus is the interval.
        self.interval_bias = nn.Parameter(interval + torch.log(-torch.expm1(-interval)))
        self.log_rate = nn.Parameter(torch.empty(config.heads).uniform_(1, 16).log())

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        beta, _ = super().gates(x)
        Delta = softplus(self.interval(x).to(beta.dtype) + self.interval_bias).mT
        return beta, -Delta * self.log_rate.to(beta.dtype).exp()[:, None]

    def token_by_token(self, q, k, v, step, log_a, S):
        return gated_delta_reference(q, k, v, step, log_a.exp(), S)
