"""Cutting time into chunks, so that a recurrence becomes a few large matrix products and a short loop.

The loop carries a matrix from chunk to chunk; everything else is done for all chunks at once.
Axes: b batch, h heads, t time, n chunks, c tokens in a chunk. A last chunk that is not full is filled up with
zeros: a token with key 0, value 0, step 0 and log retention 0 leaves every memory of this course as it was.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad


def in_chunks(x: Tensor, chunk: int) -> Tensor:
    """(b, h, t, ...) -> (b, h, n, c, ...), zeros after the last token."""
    missing = -x.shape[2] % chunk
    if missing:
        # `pad` counts axes from the last: nothing for those behind time, `missing` tokens after its end.
        behind_time = (0, 0) * (x.dim() - 3)
        x = pad(x, (*behind_time, 0, missing))  # (b, h, n c, ...)
    return x.unflatten(2, (-1, chunk))  # (b, h, n, c, ...)


def joined(x: Tensor, tokens: int) -> Tensor:
    """The inverse of `in_chunks`: (b, h, n, c, ...) -> (b, h, t, ...), without what was filled up."""
    return x.flatten(2, 3)[:, :, :tokens]  # (b, h, t, ...)


def decay_between(log_a: Tensor) -> Tensor:
    """Retention between any two tokens of a chunk: log_a (..., c) -> D (..., c, c), where row t, column j holds
    D[t, j] = a_{j+1} ... a_t for j <= t, else 0.

    Each sum of logs is added up by itself. Taking differences of one running sum would be cheaper, but loses digits
    behind a token that forgot nearly everything, and is not a number behind one that forgot all (log 0 - log 0). What
    lies above the diagonal is set to minus infinity before the exponential: there it would overflow.
    """
    size = log_a.shape[-1]
    causal = torch.ones(size, size, dtype=torch.bool, device=log_a.device).tril()  # (c, c), True for j <= t
    # Column j is to sum the logs of tokens j+1 to t: row t gets log a_t in every column j < t, the others stay 0.
    steps = log_a[..., :, None].expand(*log_a.shape, size)  # (..., c, c)
    sums = steps.masked_fill(~causal.tril(-1), 0).cumsum(-2)  # (..., t, j)
    return sums.masked_fill(~causal, -math.inf).exp()  # (..., t, j)


def decay_from_start(log_a: Tensor) -> Tensor:
    """Retention since the chunk began: log_a (..., c) -> a_1 ... a_t, (..., c)."""
    return log_a.cumsum(-1).exp()


def hebb_chunked(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor | None, S: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """S_t = a_t S_{t-1} + k_t^T v_t, o_t = q_t S_t by chunks (RetNet, arXiv 2307.08621, eq. 7): q, k (b, h,
    t, d_k), v (b, h, t, d_v), log_a (b, h, t) or None for a = 1, S (b, h, d_k, d_v) -> o (b, h, t, d_v) and
    the last S.

    Inside a chunk a read is masked attention without a softmax; what came before the chunk is read through
    the one matrix that the chunk began with. Only that matrix is carried from chunk to chunk.
    """
    tokens = q.shape[2]
    chunk = min(chunk, tokens)  # a short piece is not filled up to a whole chunk
    q = in_chunks(q, chunk)  # (b, h, n, c, d_k)
    k = in_chunks(k, chunk)  # (b, h, n, c, d_k)
    v = in_chunks(v, chunk)  # (b, h, n, c, d_v)
    if log_a is None:
        # Without forgetting every write of a chunk arrives at its end whole.
        added = k.mT @ v  # (b, h, n, d_k, d_v)
        starts, S = carried(None, added, S)
        inside = (q @ k.mT).tril() @ v  # (b, h, n, c, d_v)
        return joined(inside + q @ starts, tokens), S
    log_a = in_chunks(log_a, chunk)  # (b, h, n, c)
    D = decay_between(log_a)  # (b, h, n, t, j)
    since = decay_from_start(log_a)[..., None]  # (b, h, n, c, 1)
    # What is left of each write at the chunk's end is the last row of D.
    added = (k * D[..., -1, :, None]).mT @ v  # (b, h, n, d_k, d_v)
    starts, S = carried(since[..., -1:, :], added, S)
    inside = (q @ k.mT * D) @ v  # (b, h, n, c, d_v)
    return joined(inside + since * (q @ starts), tokens), S


def carried(retention: Tensor | None, added: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """S <- retention_n S + added_n from chunk to chunk: retention of whole chunks (b, h, n, 1, 1) or None for 1,
    added (b, h, n, d_k, d_v), S (b, h, d_k, d_v). Returns the matrix that each chunk starts with, (b, h, n, d_k,
    d_v), and the last one."""
    # Taken apart once: picking one chunk at a time would make the backward pass quadratic in their number.
    of_chunks = None if retention is None else retention.unbind(2)
    starts = []
    for n, add in enumerate(added.unbind(2)):  # add (b, h, d_k, d_v)
        starts.append(S)
        S = add + (S if of_chunks is None else of_chunks[n] * S)
    return torch.stack(starts, dim=2), S  # (b, h, n, d_k, d_v), (b, h, d_k, d_v)
