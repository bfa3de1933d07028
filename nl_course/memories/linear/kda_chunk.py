"""Kimi Delta Attention by chunks: the solve of delta.py, with a retention of its own for every channel of the key.

Token t meets write j of its chunk with the score

    sum_i q_ti k_ji exp(G_ti - G_ji)            G the running sum of log alpha, j <= t

Split into (q exp(G)) (k exp(-G))^T this is one product, but exp(-G) overflows: 64 tokens that each keep exp(-5) make
exp(320), and float32 ends at exp(88). So a chunk is cut into blocks of 16 tokens. Inside a block the decay is written
out for every pair of tokens and every channel. Between blocks it is split where the later block begins: what a write
loses up to there, times what is lost from there to the query. Every exponent is a sum of logs of gates, none is
positive, and nothing overflows for any gate. (The kernels of flash-linear-attention cut chunks in the same way.)
Axes: b batch, h heads, n chunks, c tokens in a chunk, s blocks in a chunk, r tokens in a block, d channels of the key.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from nl_course.memories.linear.chunks import carried, decay_between, in_chunks, joined
from nl_course.memories.linear.delta import solved

BLOCK = 16  # tokens whose decays are written out pair by pair


def kda_chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor, S: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """`kda_reference` by chunks: q, k, log_a (b, h, t, d_k) with `log_a` the log of alpha, v (b, h, t, d_v), beta (b,
    h, t), S (b, h, d_k, d_v) -> o (b, h, t, d_v), the last S."""
    o, S, _ = _read_and_write(q, k, v, beta, log_a, S, chunk)
    return o, S


def kda_writes(k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor, S: Tensor, chunk: int) -> Tensor:
    """What is really written, beta_t (v_t - k_t Diag(alpha_t) S_{t-1}), (b, h, t, d_v): see `delta_writes`."""
    return _read_and_write(k, k, v, beta, log_a, S, chunk)[2]


def _read_and_write(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_a: Tensor, S: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """o, the last S, and the writes w: `delta._read_and_write` with channelwise decays."""
    tokens = q.shape[2]
    chunk = whole_blocks(min(chunk, tokens))
    q, k, v, log_a = (in_chunks(z, chunk) for z in (q, k, v, log_a))  # (b, h, n, c, d)
    beta = in_chunks(beta[..., None], chunk)  # (b, h, n, c, 1)
    faded = FadedKeys(k, log_a)
    since = log_a.cumsum(-2).exp()  # (b, h, n, c, d_k), kept since the chunk began
    write_keys = k * sum_after(log_a).exp()  # (b, h, n, c, d_k)
    retention = since[..., -1, :, None]  # (b, h, n, d_k, 1), one for every row of S
    scores, overlap = faded.met_by(q, k)  # (b, h, n, t, j) each
    o, S, w = solved(v, beta, overlap.tril(-1), scores, k * since, q * since, write_keys, retention, S)
    return joined(o, tokens), S, joined(w, tokens)  # (b, h, t, d_v), (b, h, d_k, d_v), (b, h, t, d_v)


def hebb_by_channel(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, S: Tensor, chunk: int) -> Tensor:
    """S_t = Diag(a_t) S_{t-1} + k_t^T v_t, o_t = q_t S_t by chunks (gated linear attention, arXiv 2312.06635): shapes
    as in `kda_chunked`, o (b, h, t, d_v)."""
    tokens = q.shape[2]
    chunk = whole_blocks(min(chunk, tokens))
    q, k, v, log_a = (in_chunks(z, chunk) for z in (q, k, v, log_a))  # (b, h, n, c, d)
    since = log_a.cumsum(-2).exp()  # (b, h, n, c, d_k)
    write_keys = k * sum_after(log_a).exp()  # (b, h, n, c, d_k)
    starts, _ = carried(since[..., -1, :, None], write_keys.mT @ v, S)  # (b, h, n, d_k, d_v)
    (scores,) = FadedKeys(k, log_a).met_by(q)  # (b, h, n, t, j)
    o = scores @ v + (q * since) @ starts  # (b, h, n, c, d_v)
    return joined(o, tokens)


def all_scores(q: Tensor, k: Tensor, log_a: Tensor) -> Tensor:
    """The scores of a whole text as one chunk, 0 for later tokens: q, k, log_a (b, h, t, d_k) -> (b, h, t, t)."""
    tokens = q.shape[2]
    q, k, log_a = (in_chunks(z, whole_blocks(tokens))[:, :, 0] for z in (q, k, log_a))  # (b, h, c, d_k)
    (scores,) = FadedKeys(k, log_a).met_by(q)  # (b, h, c, c)
    return scores[..., :tokens, :tokens]  # (b, h, t, t)


def whole_blocks(tokens: int) -> int:
    """The chunk that holds so many tokens: a single block, or blocks of 16."""
    return tokens if tokens <= BLOCK else BLOCK * -(-tokens // BLOCK)


def sum_after(log_a: Tensor) -> Tensor:
    """What tokens after each one add up to: log_a (..., c, d) -> log_a_{t+1} + ... + log_a_c, (..., c, d). Summed from
    the end: the difference of two running sums would lose digits, see `decay_between`."""
    later = pad(log_a[..., 1:, :], (0, 0, 0, 1))  # (..., c, d)
    return later.flip(-2).cumsum(-2).flip(-2)


class FadedKeys:
    """The keys of a chunk as its later tokens meet them: k, log_a (..., c, d), with c one block or whole blocks."""

    def __init__(self, k: Tensor, log_a: Tensor):
        self.block = min(BLOCK, k.shape[-2])
        k, log_a = (z.unflatten(-2, (-1, self.block)) for z in (k, log_a))  # (..., s, r, d)
        # Token t of a block meets key j of the same block: every pair has decays of its own.
        self.near = decay_of_pairs(log_a) * k[..., None, :, :]  # (..., s, t, j, d)
        self.blocks = k.shape[-3]
        if self.blocks == 1:
            return
        # Later blocks meet a key as it stands when they begin: at its own block's end, and then block by block.
        self.since = log_a.cumsum(-2).exp()  # (..., s, r, d), kept since the own block began
        at_end = k * sum_after(log_a).exp()  # (..., s, r, d)
        whole = log_a.sum(-2)[..., :-1, :]  # (..., s - 1, d), all but the last block, after which nothing comes
        between = decay_between(whole.mT).movedim(-3, -1)  # (..., i, j, d): from block j's end to that of i
        far = at_end[..., None, :-1, :, :] * between[..., None, :]  # (..., i, j, r, d)
        self.far = far.flatten(-3, -2)  # (..., s - 1, (s - 1) r, d)

    def met_by(self, *queries: Tensor) -> list[Tensor]:
        """Scores of each token's q (..., c, d) with each key, 0 for later ones, (..., c, c): one for each of
        `queries`, in one product."""
        blocks = [q.unflatten(-2, (-1, self.block)) for q in queries]  # (..., s, r, d) each
        near = self.near @ torch.stack(blocks, dim=-1)  # (..., s, t, j, queries)
        return [self._whole(q, scores.tril()) for q, scores in zip(blocks, near.unbind(-1))]

    def _whole(self, q: Tensor, near: Tensor) -> Tensor:
        """The scores of all blocks with all blocks, (..., c, c), from those of each with itself, (..., s, t, j)."""
        if self.blocks == 1:
            return near[..., 0, :, :]  # (..., c, c)
        # A block's scores with itself stand on the diagonal of the table of blocks.
        diagonal = torch.eye(self.blocks, dtype=q.dtype, device=q.device)[:, None, :, None]  # (s, 1, s, 1)
        inside = (near[..., None, :] * diagonal).flatten(-2).flatten(-3, -2)  # (..., c, c)
        # All blocks but the first meet all but the last.
        far = (q * self.since)[..., 1:, :, :] @ self.far.mT  # (..., s - 1, r, (s - 1) r)
        outside = pad(far.flatten(-3, -2), (0, self.block, self.block, 0))  # (..., c, c)
        return inside + outside


def decay_of_pairs(log_a: Tensor) -> Tensor:
    """`decay_between` for every channel: log_a (..., r, d) -> D (..., r, r, d), D[t, j] = a_{j+1} ... a_t for j <= t.
    Above the diagonal stands 1. Each sum of logs is one row of a product with zeros and ones, several times faster than
    running sums over pairs; the logs must be finite."""
    size = log_a.shape[-2]
    place = torch.arange(size, device=log_a.device)
    t, j = place[:, None, None], place[:, None]
    summed = (j < place) & (place <= t)  # (t, j, i): whether log a_i is in the sum of t and j
    summed = summed.to(log_a.dtype).flatten(0, 1)  # (t j, i)
    return (summed @ log_a).exp().unflatten(-2, (size, size))  # (..., t, j, d)
