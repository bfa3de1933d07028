"""One chunk of self-modifying Titans, or a piece of one, with matrix products only; and why that gives the same numbers
as one token after the other (reference.py).

In a chunk every error is taken at the anchor, the weights that the chunk began with (Behrouz et al. 2025, arXiv
2512.24695, section 8.2, equations 90 and 91; 93 for one matrix). So all errors e_t are known at once. Retention and
erase still follow token by token. With a_t (1, in) what a layer is given for token t, that layer moves by

    W_t = (alpha_t I - eps_t a_t^T a_t) W_{t-1} - eta_t a_t^T e_t                                              (1)

with eps_t = eta_t for keys, eta_t / |a_t|^2 for inputs of other lengths (our choice), or 0 without an erase.

**What token t takes away has rank one**, a_t^T u_t, so that only the rows u_t (1, out) have to be found. Let r(s, t) be
the retention between two tokens, alpha_{s+1} ... alpha_t, and r(t) that since the start of the piece. Put

    W_t = r(t) W_0 - sum_{s <= t} r(s, t) a_s^T u_s                                                            (2)

into (1): it holds for every t if and only if

    u_t = eta_t e_t + eps_t a_t W_{t-1}
        = eta_t e_t + eps_t (r(t-1) a_t W_0 - sum_{s < t} r(s, t-1) (a_t . a_s) u_s)

which is one triangular system for all tokens of the piece:

    (I + diag(eps) [r_before * A A^T]) U = diag(eta) E + diag(eps * r_before_start) A W_0                      (3)

with r_before[t, s] = r(s, t-1) for s < t and 0 elsewhere, and r_before_start[t] = r(t-1) (`write_before` and
`start_before` of `DecayMasks`).

**What is read follows from (2)**, without any W_t: x_t W_t = r(t) x_t W_0 - sum_{s <= t} r(s, t) (x_t . a_s) u_s.

**It is safe in float32.** Every factor is a retention between two tokens, at most 1. Nothing is divided by a product of
retentions, which is soon too small a number.

**Momentum** beta puts S_t = beta S_{t-1} - eta_t a_t^T e_t in the place of the last term of (1). Gradient i then
reaches W_t through both recurrences, with the share sum_{j=i..t} r(j, t) beta^(j-i), and S_0 with sum_{j=1..t} r(j, t)
beta^j. U then holds only what is erased.

First layers and linear memories all have the key for their input: one system serves them all.
Axes: b batch, h heads, n memories of a bank, c tokens of the piece, f head width, m hidden width. `..` is (b, h), or
(b, h, n) for second layers.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from nl_course.memories.common.weights import Weights
from nl_course.memories.hope.bank import TINY, Bank, FastWeights, RankOneGrad, Rule
from nl_course.memories.linear.chunks import decay_between

KEYED = ("into", "out")  # layers whose input is the key: first layers, and linear memories


class MomentumMasks(NamedTuple):
    """With momentum: how much of gradient s and of S_0 is in the weights and in the momentum.

    `gradient` and `gradient_before` (.., c, c): of gradient s in the weights after and before token t; `start` and
    `start_before` (.., c, 1): of S_0 in them; `gradient_in_last` (c, 1): of gradient s in the momentum after the last
    token, S_c; `start_in_last`: of S_0 in S_c."""

    gradient: Tensor
    gradient_before: Tensor
    start: Tensor
    start_before: Tensor
    gradient_in_last: Tensor
    start_in_last: float


class DecayMasks(NamedTuple):
    """What the gates of a piece come to, the same for all layers.

    `step` (.., c, 1): eta_t; `start` and `start_before` (.., c, 1): retention from the start of the piece to after and
    before token t; `write` and `write_before` (.., c, c): that from after token s to after and before token t, 0 where
    s comes later; `key_inverse` (.., c, c): the inverse of system (3) for keys, None if nothing is erased; `momentum`:
    None without momentum."""

    step: Tensor
    start: Tensor
    start_before: Tensor
    write: Tensor
    write_before: Tensor
    key_inverse: Tensor | None
    momentum: MomentumMasks | None

    def map(self, function: Callable[[Tensor], Tensor]) -> "DecayMasks":
        """All masks through `function`, but not what depends on no gate (`gradient_in_last`, `start_in_last`)."""
        momentum = self.momentum
        if momentum is not None:
            momentum = momentum._replace(
                gradient=function(momentum.gradient),
                gradient_before=function(momentum.gradient_before),
                start=function(momentum.start),
                start_before=function(momentum.start_before),
            )
        return DecayMasks(
            step=function(self.step),
            start=function(self.start),
            start_before=function(self.start_before),
            write=function(self.write),
            write_before=function(self.write_before),
            key_inverse=None if self.key_inverse is None else function(self.key_inverse),
            momentum=momentum,
        )

    def pieces(self) -> list["DecayMasks"]:
        """The masks of many pieces at once, (b, h, pieces, ..), one by one."""
        count = self.step.shape[2]
        # Taken apart once: picking one at a time would make the backward pass quadratic in their number.
        apart = self.map(lambda mask: mask.unbind(2))
        return [apart.map(lambda masks, i=i: masks[i]) for i in range(count)]


def decay_masks(k: Tensor, step: Tensor, log_retention: Tensor, erase: bool, momentum: float) -> DecayMasks:
    """Masks of one piece, or of many at once: k (.., c, f), step and log_retention (.., c)."""
    # One table holds them all: entry (t, s) is the retention from after token s to after token t, where token 0 is the
    # start of the piece.
    table = decay_between(pad(log_retention, (1, 0)))  # (.., c + 1, c + 1)
    step = step[..., None]  # (.., c, 1)
    write, write_before = table[..., 1:, 1:], table[..., :-1, 1:]  # (.., c, c)
    key_inverse = None
    if erase:
        # Keys are the input of most layers. Their system is inverted once; each layer then costs one product.
        identity = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device).expand(*k.shape[:-1], -1)  # (.., c, c)
        key_inverse = _solve(step * write_before * (k @ k.mT), identity)
    return DecayMasks(
        step=step,
        start=table[..., 1:, :1],  # (.., c, 1)
        start_before=table[..., :-1, :1],
        write=write,
        write_before=write_before,
        key_inverse=key_inverse,
        momentum=momentum_masks(write, momentum) if momentum else None,
    )


def momentum_masks(write: Tensor, beta: float) -> MomentumMasks:
    """The masks of momentum beta, from `write` (.., c, c) of `DecayMasks`."""
    index = torch.arange(write.shape[-1], dtype=write.dtype, device=write.device)  # (c,)
    distance = index[:, None] - index  # (c, c), from token s to token t
    # A gradient is still in the momentum with beta to the distance. Later ones are masked, and their distance is
    # clamped, since a negative power would overflow.
    fade = torch.where(distance >= 0, beta ** distance.clamp_min(0), 0.0)  # (c, c)
    gradient = write @ fade  # (.., c, c)
    start = write @ (beta ** (index[:, None] + 1))  # (.., c, 1)
    return MomentumMasks(
        gradient=gradient,
        gradient_before=_one_later(gradient),
        start=start,
        start_before=_one_later(start),
        gradient_in_last=fade[-1, :, None],  # (c, 1)
        start_in_last=beta ** len(index),
    )


def _one_later(rows: Tensor) -> Tensor:
    """Row t becomes row t - 1 and the first one 0: what held after token t - 1 holds before token t."""
    return pad(rows[..., :-1, :], (0, 0, 1, 0))


def _solve(system: Tensor, right: Tensor) -> Tensor:
    """(I + system)^{-1} right, for a system (.., c, c) that is 0 on the diagonal and above."""
    return torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)


class LayerWrite(NamedTuple):
    """How one layer moves in a piece, in the letters of (2): its inputs A (.., c, in), what it takes away U (.., c,
    out), and the weights W_0 and momentum S_0 (.., in, out) before. With momentum the gradients G = diag(eta) E stand
    apart from U, which then is what is erased, or None."""

    masks: DecayMasks
    A: Tensor
    U: Tensor | None
    G: Tensor | None
    W_0: Tensor
    S_0: Tensor | None

    def after(self) -> tuple[Tensor, Tensor | None]:
        """The weights and the momentum after the last token, (.., in, out); None without momentum."""
        m = self.masks
        kept = m.start[..., -1:, :]  # (.., 1, 1)
        change = 0  # U and G are never both None: without an erase U holds the gradients, or momentum keeps them in G
        if self.U is not None:
            change = -m.write[..., -1, :, None] * self.U  # (.., c, out)
        if self.S_0 is None:
            return torch.addcmul(self.A.mT @ change, self.W_0, kept), None
        momentum = m.momentum
        change = change - momentum.gradient[..., -1, :, None] * self.G
        W = self.A.mT @ change + kept * self.W_0 + momentum.start[..., -1:, :] * self.S_0
        S = momentum.start_in_last * self.S_0 - self.A.mT @ (momentum.gradient_in_last * self.G)
        return W, S

    def read(self, x: Tensor) -> Tensor:
        """x (.., c, in) -> (.., c, out): row t read with W_t, the weights after token t, none of which is made."""
        m = self.masks
        overlaps = x @ self.A.mT  # (.., c, c), x_t . a_s
        y = m.start * (x @ self.W_0)
        if self.U is not None:
            y = y - (m.write * overlaps) @ self.U
        if self.S_0 is not None:
            y = y + m.momentum.start * (x @ self.S_0) - (m.momentum.gradient * overlaps) @ self.G
        return y


def write_layer(
    m: DecayMasks, grad: RankOneGrad, eps: Tensor | None, keyed: bool, W_0: Tensor, S_0: Tensor | None
) -> LayerWrite:
    """Solves (3) for one layer. `grad` holds A, E and A W_0; `eps` (.., c, 1), or None without an erase; `keyed`: A are
    the keys, whose system is inverted already; S_0 None without momentum."""
    A = grad.input
    G = m.step * grad.error  # (.., c, out)
    if eps is None:
        if S_0 is None:
            return LayerWrite(masks=m, A=A, U=G, G=None, W_0=W_0, S_0=None)
        return LayerWrite(masks=m, A=A, U=None, G=G, W_0=W_0, S_0=S_0)
    overlaps = None
    if not keyed or S_0 is not None:
        overlaps = A @ A.mT  # (.., c, c)
    if S_0 is None:
        right = torch.addcmul(G, eps * m.start_before, grad.output)  # (.., c, out)
    else:
        # Before token t the weights also hold what momentum has brought.
        before = m.start_before * grad.output + m.momentum.start_before * (A @ S_0)
        right = eps * (before - (m.momentum.gradient_before * overlaps) @ G)
    U = m.key_inverse @ right if keyed else _solve(eps * m.write_before * overlaps, right)
    return LayerWrite(masks=m, A=A, U=U, G=None if S_0 is None else G, W_0=W_0, S_0=S_0)


def write_layers(
    grads: Mapping[str, RankOneGrad], m: DecayMasks, rule: Rule, running: Weights, momentum: Weights, fresh: bool
) -> dict[str, LayerWrite]:
    """Every layer's `LayerWrite` by its weights' name. `fresh`: the piece opens its chunk, so that `running` is the
    anchor, whose answers A W_0 the gradients hold already."""
    # `stop` changes no number: it detaches what the outer loop shall take for a constant (as in reference.py).
    constant = rule.stop in ("first-order", "write")
    if rule.stop == "write":
        m = m.map(Tensor.detach)
    # Second layers have an axis of memories: (b, h, ..) -> (b, h, 1, ..).
    m_second = m.map(lambda mask: mask.unsqueeze(2)) if set(grads) - set(KEYED) else None
    writes = {}
    for name, grad in grads.items():
        keyed = name in KEYED
        W_0 = running[name]
        if rule.sign == -1:
            grad = grad._replace(error=-grad.error)
        if constant:
            grad = grad._replace(input=grad.input.detach(), error=grad.error.detach())
        # A W_0 was computed at the anchor. It is another product if the piece begins inside its chunk, and it must be
        # made from the detached input if that input counts as a constant.
        if constant or not fresh:
            grad = grad._replace(output=grad.input @ W_0)
        masks = m if keyed else m_second
        eps = erase_rates(rule, keyed, grad.input, masks.step)
        write = write_layer(masks, grad, eps, keyed, W_0, momentum.get(name))
        if rule.stop == "write":
            write = write._replace(U=_detached(write.U), G=_detached(write.G))
        writes[name] = write
    return writes


def erase_rates(rule: Rule, keyed: bool, A: Tensor, eta: Tensor) -> Tensor | None:
    """eps (.., c, 1) of (1) for inputs A (.., c, in) and steps eta (.., c, 1); None: nothing is erased."""
    if rule.erase == "off":
        return None
    if keyed:
        return eta
    if rule.erase == "input":
        return None
    return eta / (A.square().sum(-1, keepdim=True) + TINY)


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def write_chunk(
    bank: Bank,
    rule: Rule,
    fast: FastWeights,
    k: Tensor,
    v: Tensor,
    m: DecayMasks,
    shared_targets: Weights | None,
    fresh: bool,
    q: Tensor | None = None,
) -> tuple[FastWeights, Tensor | None]:
    """A piece of one chunk written into a bank: k, v (b, h, c, f) and the masks of the piece.

    `shared_targets` as `bank.targets` makes them, or None: each memory makes its own. `fresh`: the piece opens its
    chunk. Returns the fast weights after the piece and, given q (b, h, c, f), what a bank of M_memory alone answers
    with each token's own write in it (b, h, c, f)."""
    grads = bank.rank_one_grads(fast.anchor, k, v, shared_targets, rule.stop == "targets")
    writes = write_layers(grads, m, rule, fast.running, fast.momentum, fresh)
    running, momentum = Weights(fast.running), Weights(fast.momentum)
    for name, write in writes.items():
        running[name], S = write.after()
        if S is not None:
            momentum[name] = S
    o = None if q is None else bank.read_running(writes, fast.running, q)
    return FastWeights(fast.anchor, running, momentum), o


def boundaries(position: int, tokens: int, chunk: int) -> list[int]:
    """Where to cut `tokens` tokens that come after `position`: 0, each chunk boundary among them, and the end."""
    first = -position % chunk
    inner = [t for t in range(first, tokens, chunk) if t]
    return [0, *inner, tokens]


def equal_pieces(position: int, tokens: int, chunk: int) -> list[tuple[int, int, int]]:
    """The same cuts, in up to three runs of pieces of one size, as (start, stop, size of each piece): what fills the
    open chunk, the whole chunks, and what opens the next one."""
    first = min(tokens, -position % chunk)
    last = first + (tokens - first) // chunk * chunk
    runs = ((0, first, first), (first, last, chunk), (last, tokens, tokens - last))
    return [(start, stop, size) for start, stop, size in runs if start < stop]
