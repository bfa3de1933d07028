"""The inner loop of Titans, one chunk or a piece of one: by autograd a token at a time, and with matmuls only.

Behrouz, Zhong and Mirrokni 2024, "Titans: Learning to Memorize at Test Time", arXiv 2501.00663, section 3.1:

    S_t = eta_t S_{t-1} - theta_t u_t,    u_t = grad l(M^a; k_t, v_t)         surprise, carried on by momentum  (eq. 10)
    M_t = (1 - alpha_t) M_{t-1} + S_t,    y_t = f(q_t; M_t)                   retention, then the read     (eqs. 13, 15)

M^a, the anchor, is the memory as the chunk began. `reference` does just that. `chunked` never makes a weight matrix
for a token: u_t is one outer product a_t^T e_t a layer (inner.py), and both recurrences are linear, so with

    A[t, j] = prod_{j < r <= t} (1 - alpha_r),    P[j, i] = theta_i prod_{i < r <= j} eta_r,    G = A P
    kept_t = A[t, 0],    spread_t = sum_{1 <= j <= t} A[t, j] prod_{r <= j} eta_r

    Y = kept (X M_0) + spread (X S_0) - ((X a^T) * G) e                  for every layer in turn, X what it reads with
    M_c = kept_c M_0 + spread_c S_0 - (G_c a)^T e,    S_c = (prod eta) S_0 - (P_c a)^T e

for a piece that begins with M_0 and S_0 (which is M^a only where the piece opens its chunk).

Axes: b batch, h heads, t tokens of the piece, c of a chunk, f head width. q, k, v (b, h, t, f), gates (b, h, t).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nl_course.memories.common.inner_model import InnerModel, Norm, Weights, grad_loss
from nl_course.memories.linear.chunks import decay_between, decay_from_start, in_chunks


class Gates(NamedTuple):
    """What a token decides about its own write, (b, h, t) each: the step theta, and the logarithms of the momentum eta
    (None: no momentum) and of the retention 1 - alpha (None: everything is kept)."""

    step: Tensor
    log_momentum: Tensor | None
    log_retention: Tensor | None

    def map(self, function) -> "Gates":
        return Gates(*(None if g is None else function(g) for g in self))

    def between(self, start: int, stop: int) -> "Gates":
        """Those of tokens start .. stop - 1."""
        return self.map(lambda g: g[:, :, start:stop])

    def split(self, sizes: list[int] | int) -> list["Gates"]:
        """Pieces along time."""
        parts = [None if g is None else g.split(sizes, dim=2) for g in self]
        count = len(parts[0])
        return [Gates(*(None if p is None else p[i] for p in parts)) for i in range(count)]


class Masks(NamedTuple):
    """What the gates of a piece of t tokens come to: `reach` G (b, h, t, t), `kept` and `spread` (b, h, t, 1),
    `carried` the last row of P (b, h, t, 1), and `momentum` the product of all eta (b, h, 1, 1)."""

    reach: Tensor
    kept: Tensor
    spread: Tensor | None
    carried: Tensor | None
    momentum: Tensor | None


def masks(gates: Gates) -> Masks:
    """The masks of a piece, from sums of logarithms: products of small gates would underflow. Any leading axes."""
    step, log_momentum, log_retention = gates
    places, spread, carried, momentum = step.shape[-1], None, None, None
    if log_retention is None:
        A = torch.ones(places, places, dtype=step.dtype, device=step.device).tril()
        kept = torch.ones_like(step)
    else:
        A, kept = decay_between(log_retention), decay_from_start(log_retention)
    if log_momentum is None:
        reach = A * step[..., None, :]
    else:
        P = decay_between(log_momentum) * step[..., None, :]
        lasting = decay_from_start(log_momentum)
        reach, spread = A @ P, A @ lasting[..., None]
        carried, momentum = P[..., -1, :, None], lasting[..., -1, None, None]
    return Masks(reach, kept[..., None], spread, carried, momentum)


def reference(
    inner: InnerModel,
    norm: Norm | None,
    anchor: Weights,
    memory: Weights,
    momentum: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    first_order: bool = False,
) -> tuple[Tensor, Weights, Weights]:
    """One token at a time: its surprise, the momentum, the write, the read. Returns y (b, h, t, f), M and S after the
    last. `momentum` {} is none: then S is the token's own step alone. With `first_order` surprises are constants."""
    answers = []
    for t in range(q.shape[2]):
        token = slice(t, t + 1)
        surprise = grad_loss(
            inner.inner_loss, anchor, k[:, :, token], v[:, :, token], norm, create_graph=not first_order
        )
        theta, eta, keep = (None if g is None else g[:, :, token, None] for g in gates)
        S = {name: -theta * u for name, u in surprise.items()}
        if momentum:
            S = {name: eta.exp() * momentum[name] + s for name, s in S.items()}
            momentum = S
        kept = memory if keep is None else {name: keep.exp() * w for name, w in memory.items()}
        memory = {name: kept[name] + s for name, s in S.items()}
        answers.append(inner.read(memory, q[:, :, token], norm))
    return torch.cat(answers, dim=2), memory, momentum


def chunked(
    inner: InnerModel,
    norm: Norm | None,
    anchor: Weights,
    memory: Weights,
    momentum: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Masks,
    first_order: bool = False,
) -> tuple[Tensor, Weights, Weights]:
    """The same numbers with matmuls only, given the piece's masks."""
    sides = inner.key_side(anchor, k, v, norm)
    if first_order:
        sides = [(a.detach(), e.detach()) for a, e in sides]
    last, x, after, moving = mask.reach[:, :, -1, :, None], q, {}, {}
    for i, (a, e) in enumerate(sides, 1):
        z = mask.kept * inner.layer(memory, i, x)
        if momentum:
            z = z + mask.spread * inner.layer(momentum, i, x)
        products = x @ a.mT + 1 if inner.bias else x @ a.mT
        z = z - (products * mask.reach) @ e
        given = {f"W{i}": a} | ({f"b{i}": torch.ones_like(a[..., :1])} if inner.bias else {})
        for name, u in given.items():
            after[name] = mask.kept[:, :, -1:] * memory[name] - (last * u).mT @ e
            if momentum:
                after[name] = after[name] + mask.spread[:, :, -1:] * momentum[name]
                moving[name] = mask.momentum * momentum[name] - (mask.carried * u).mT @ e
        x = inner.activate(z) if i < inner.layers else z
    return inner.answer(q, x, norm), after, moving


def chunked_sequence(
    inner: InnerModel,
    norm: Norm | None,
    memory: Weights,
    momentum: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    chunk: int,
    first_order: bool = False,
) -> tuple[Tensor, Weights, Weights]:
    """Whole chunks, one after the other; their masks are made all at once."""
    answers, every = [], masks(gates.map(lambda g: in_chunks(g, chunk)))
    every = zip(*(part.unbind(2) if part is not None else [None] * (q.shape[2] // chunk) for part in every))
    for part, mask in zip(zip(*(u.split(chunk, dim=2) for u in (q, k, v))), every):
        y, memory, momentum = chunked(inner, norm, memory, memory, momentum, *part, Masks(*mask), first_order)
        answers.append(y)
    return torch.cat(answers, dim=2), memory, momentum
