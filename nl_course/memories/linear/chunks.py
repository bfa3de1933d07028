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
        x = pad(x, (0, 0) * (x.dim() - 3) + (0, missing))
    return x.unflatten(2, (-1, chunk))


def joined(x: Tensor, tokens: int) -> Tensor:
    """The inverse of `in_chunks`: (b, h, n, c, ...) -> (b, h, t, ...)."""
    return x.flatten(2, 3)[:, :, :tokens]


def decay_between(log_a: Tensor) -> Tensor:
    """Retention between any two places: log_a (..., c) -> D (..., c, c), D[t, j] = a_{j+1} ... a_t for j <= t, else 0.

    Each sum of logs is added up by itself. Taking differences of one running sum would be cheaper, but loses digits
    behind a token that forgot nearly everything, and is not a number behind one that forgot all (log 0 - log 0). What
    lies above the diagonal is set to minus infinity before the exponential: there it would overflow.
    """
    places = log_a.shape[-1]
    below = torch.ones(places, places, dtype=torch.bool, device=log_a.device).tril()
    steps = log_a[..., :, None].expand(*log_a.shape, places)
    sums = steps.masked_fill(~below.tril(-1), 0).cumsum(-2)
    return sums.masked_fill(~below, -math.inf).exp()


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
    tokens, chunk = q.shape[2], min(chunk, q.shape[2])
    q, k, v = in_chunks(q, chunk), in_chunks(k, chunk), in_chunks(v, chunk)
    if log_a is None:
        added = k.mT @ v
        starts, S = carried(None, added, S)
        return joined((q @ k.mT).tril() @ v + q @ starts, tokens), S
    log_a = in_chunks(log_a, chunk)
    D, since = decay_between(log_a), decay_from_start(log_a)[..., None]
    added = (k * D[..., -1, :, None]).mT @ v
    starts, S = carried(since[..., -1:, :], added, S)
    return joined((q @ k.mT * D) @ v + since * (q @ starts), tokens), S


def carried(kept: Tensor | None, added: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """S <- kept_n S + added_n from chunk to chunk: kept (b, h, n, 1, 1) or None for 1, added (b, h, n, d_k,
    d_v). Returns the matrix each chunk starts with, (b, h, n, d_k, d_v), and the last one."""
    starts, factors = [], None if kept is None else kept.unbind(2)
    # Taken apart once: picking one chunk at a time would make the backward pass quadratic in their number.
    for n, add in enumerate(added.unbind(2)):
        starts.append(S)
        S = add + (S if kept is None else factors[n] * S)
    return torch.stack(starts, dim=2), S
