"""Why a chunk can be computed at once: the numbers of reference.py with matrix products only.

arXiv 2501.00663, section 3.2 (equations 16 to 18). The gradients of a chunk are all taken at one anchor M_a, so none of
them waits for another. Each is one outer product per layer, u_t = a_t^T e_t, of the layer's input and error
(common/inner_model.py). And both recurrences are linear:

    S_t = eta_t S_{t-1} - theta_t u_t,    M_t = (1 - alpha_t) M_{t-1} + S_t

So u_i enters M_t with one number, G[t, i], and what the chunk began with enters with two, beta_t and phi_t:

    A[t, j] = prod_{j < r <= t} (1 - alpha_r),    P[j, i] = theta_i prod_{i < r <= j} eta_r,    G = A P
    beta_t  = prod_{r <= t} (1 - alpha_r),        phi_t   = sum_{1 <= j <= t} A[t, j] prod_{r <= j} eta_r

    M_t = beta_t M_0 + phi_t S_0 - sum_{i <= t} G[t, i] a_i^T e_i        (eq. 16 is the case eta = 0: G = A theta)

With X what a layer is given when the chunk is read, for every layer in turn,

    Y = beta (X M_0) + phi (X S_0) - ((X a^T) * G) e

No weight matrix is made for any token. M_0 and S_0 are what the piece at hand begins with; M_0 is M_a only where that
piece opens its chunk.

Axes: b batch, h heads, t tokens of the piece, c tokens of a chunk, n chunks, f head width, `in` and `out` the widths of
a layer.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import InnerModel, Norm
from nl_course.memories.common.weights import Weights
from nl_course.memories.linear.chunks import decay_between, decay_from_start, in_chunks


class Gates(NamedTuple):
    """What a token decides about its own write, (b, h, t) each: the step theta, and the logarithms of the momentum eta
    (None: no momentum, eta = 0) and of the retention 1 - alpha (None: nothing is forgotten, alpha = 0).

    Logarithms, because a chunk multiplies many gates: a product of small ones underflows, a sum of logarithms does
    not."""

    step: Tensor
    log_momentum: Tensor | None
    log_retention: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gates":
        """`function` applied to every gate that there is."""
        return Gates(*(None if gate is None else function(gate) for gate in self))

    def time_slice(self, start: int, stop: int) -> "Gates":
        """Those of the tokens start .. stop - 1."""
        return self.map(lambda gate: gate[:, :, start:stop])

    def plain(self) -> tuple[Tensor, Tensor, Tensor]:
        """The paper's alpha, eta and theta, (b, h, t) each."""
        zero = torch.zeros_like(self.step)
        alpha = zero if self.log_retention is None else -self.log_retention.expm1()
        eta = zero if self.log_momentum is None else self.log_momentum.exp()
        return alpha, eta, self.step


class ChunkMasks(NamedTuple):
    """What follows from the gates of a piece, in the letters above: how much of each write (`G`), of the memory
    (`beta`) and of the momentum (`phi`) at the beginning stands in the memory after token t; and how much of each write
    (`P_last`) and of the momentum at the beginning (`eta_product`) stands in the momentum after the last token.

    G (b, h, t, t), beta and phi (b, h, t, 1), P_last (b, h, t, 1), eta_product (b, h, 1, 1)."""

    G: Tensor
    beta: Tensor
    phi: Tensor
    P_last: Tensor
    eta_product: Tensor

    def per_chunk(self) -> list["ChunkMasks"]:
        """The masks of each chunk, where they were made for all at once, (b, h, n, ...)."""
        # Unbound once: to pick one chunk at a time would make the backward pass quadratic in their number.
        parts = [part.unbind(2) for part in self]
        return [ChunkMasks(*masks) for masks in zip(*parts)]


def chunk_masks(gates: Gates) -> ChunkMasks:
    """The masks of one piece; gates (..., t) with any leading axes."""
    theta = gates.step  # (..., t)
    if gates.log_retention is None:
        A = torch.ones(theta.shape[-1], theta.shape[-1], dtype=theta.dtype, device=theta.device).tril()  # (t, t)
        beta = torch.ones_like(theta)
    else:
        A = decay_between(gates.log_retention)  # (..., t, t)
        beta = decay_from_start(gates.log_retention)  # (..., t)
    if gates.log_momentum is None:
        # P is diag(theta): a write enters the memory once, and only the last token's step is left in the momentum. That
        # row is needed only if momentum was carried in and is off now.
        G = A * theta[..., None, :]  # (..., t, t)
        phi = torch.zeros_like(theta)
        P_last = torch.cat([torch.zeros_like(theta[..., :-1]), theta[..., -1:]], dim=-1)  # (..., t)
        eta_product = torch.zeros_like(theta[..., -1])  # (...)
    else:
        P = decay_between(gates.log_momentum) * theta[..., None, :]  # (..., t, t)
        eta_from_start = decay_from_start(gates.log_momentum)  # (..., t)
        G = A @ P
        phi = (A @ eta_from_start[..., None])[..., 0]  # (..., t)
        P_last = P[..., -1, :]
        eta_product = eta_from_start[..., -1]
    return ChunkMasks(G, beta[..., None], phi[..., None], P_last[..., None], eta_product[..., None, None])


def chunked_piece(
    f: InnerModel,
    norm: Norm | None,
    M: Weights,
    S: Weights,
    M_a: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    masks: ChunkMasks,
    create_graph: bool = True,
) -> tuple[Tensor, Weights, Weights]:
    """One chunk, or a piece of one: y (b, h, t, f), and M and S after its last token. S {} is no momentum."""
    M_next = dict.fromkeys(M)  # filled in below, in the order of M's names
    S_next = dict.fromkeys(S)
    beta_last = masks.beta[:, :, -1:]  # (b, h, 1, 1)
    G_last = masks.G[:, :, -1, :, None]  # (b, h, t, 1)
    x = q
    for i, (a, e) in enumerate(f.key_side(M_a, k, v, norm), 1):  # eq. 17; a (b, h, t, in), e (b, h, t, out)
        if not create_graph:
            a, e = a.detach(), e.detach()

        # Read: what the piece began with, and then every earlier write, weighed by how well its input fits x.
        y = masks.beta * f.layer(M, i, x)  # (b, h, t, out)
        if S:
            y = y + masks.phi * f.layer(S, i, x)
        fits = x @ a.mT  # (b, h, t, t)
        if f.bias:
            fits = fits + 1  # a bias is a weight whose input is always 1
        y = y - (fits * masks.G) @ e

        # Write: the same sum for the last token alone, as weights.
        inputs = {f"W{i}": a}
        if f.bias:
            inputs[f"b{i}"] = torch.ones_like(a[..., :1])
        for name, given in inputs.items():
            M_next[name] = beta_last * M[name] - (G_last * given).mT @ e  # (b, h, in, out)
            if S:
                M_next[name] = M_next[name] + masks.phi[:, :, -1:] * S[name]
                S_next[name] = masks.eta_product * S[name] - (masks.P_last * given).mT @ e  # eq. 18

        x = f.activate(y) if i < f.layers else y
    return f.answer(q, x, norm), Weights(M_next), Weights(S_next)


def whole_chunks(
    f: InnerModel,
    norm: Norm | None,
    M: Weights,
    S: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    chunk: int,
    create_graph: bool = True,
) -> tuple[Tensor, Weights, Weights]:
    """Whole chunks, one after the other, each with the memory it begins with as its anchor: y, M and S as above."""
    # The masks depend on the gates alone, so those of all chunks are made at once.
    masks = chunk_masks(gates.map(lambda gate: in_chunks(gate, chunk))).per_chunk()
    outputs = []
    for q_c, k_c, v_c, mask in zip(q.split(chunk, 2), k.split(chunk, 2), v.split(chunk, 2), masks):  # (b, h, c, f)
        y, M, S = chunked_piece(f, norm, M, S, M, q_c, k_c, v_c, mask, create_graph)
        outputs.append(y)
    return torch.cat(outputs, dim=2), M, S


def chunked(
    f: InnerModel,
    norm: Norm | None,
    M: Weights,
    S: Weights,
    M_a: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    position: int = 0,
    chunk: int = 1,
    create_graph: bool = True,
) -> tuple[Tensor, Weights, Weights, Weights]:
    """What `reference` returns, from the same arguments except the gates: y (b, h, t, f), M, S and M_a.

    Exactly at a boundary M_a may still be an older anchor: the next token sets it."""
    tokens = q.shape[2]
    # A text may be cut anywhere: first the rest of the open chunk, then whole chunks, then the beginning of the next.
    first = min(tokens, -position % chunk)
    last = tokens - (tokens - first) % chunk
    outputs = []
    for start, stop in ((0, first), (first, last), (last, tokens)):
        if start == stop:
            continue
        piece = [x[:, :, start:stop] for x in (q, k, v)]
        own = gates.time_slice(start, stop)
        if (position + start) % chunk == 0:
            M_a = M
        if stop - start > chunk:
            y, M, S = whole_chunks(f, norm, M, S, *piece, own, chunk, create_graph)
        else:
            y, M, S = chunked_piece(f, norm, M, S, M_a, *piece, chunk_masks(own), create_graph)
        outputs.append(y)
    return torch.cat(outputs, dim=2), M, S, M_a
