"""One chunk of self-modifying Titans, or a piece of one, with matrix products only.

In a chunk every error is taken at the anchor, the weights it began with; decay and erase compose token by token. Each
layer meets an input a_t and gets an error e_t (hope_core.py), and moves by

    W_t = (alpha_t I - eps_t a_t^T a_t) W_{t-1} - eta_t a_t^T e_t       eps_t = eta_t / |a_t|^2, for keys eta_t, or 0

(arXiv 2512.24695, section 8.2, equations 90 to 93; delta gradient descent, section 4.5, applied to each layer with its
own input). What token t changes has rank one, a_t^T u_t, so with r_ts = a_{s+1} .. a_{t-1}, the retention between them,

    u_t = eta_t e_t + eps_t (kept_{t-1} a_t W_0 - sum_{s < t} r_ts (a_t . a_s) u_s)
    (I + diag(eps) [r * A A^T]) U = diag(eta) E + diag(eps kept_before) A W_0              one triangular solve
    W_c = kept_c W_0 - A^T diag(r_c) U,     x_t W_t = kept_t x_t W_0 - ([r * X A^T] U)_t    r including token t's own

Every factor is a retention between two places, at most 1: nothing is divided by a product of retentions, which in
float32 is soon 0. With momentum beta, S_t = beta S_{t-1} - eta_t a_t^T e_t stands in the place of the last term, and
the writes reach through both recurrences: `reach` = r F with F_ji = beta^(j - i).

Axes as in hope_core.py; c tokens of a piece. The first layers and linear memories all have the key for input, so that
one solve serves every memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from nl_course.memories.common.inner_model import Weights
from nl_course.memories.hope.bank import TINY, Bank, Fast, Rule
from nl_course.memories.linear.chunks import decay_between


class Fading(NamedTuple):
    """What momentum adds to `Masks`: `reach` and `reach_before` (.., c, c), how much of write i is in the weights after
    and before token t; `spread` and `spread_before` (.., c, 1), how much of S_0 is; `last` (c, 1), how much of write i
    is in S_c; and `total`, how much of S_0 is."""

    reach: Tensor
    reach_before: Tensor
    spread: Tensor
    spread_before: Tensor
    last: Tensor
    total: float


class Masks(NamedTuple):
    """What the gates of a piece come to: `step` (.., c, 1); `kept` and `kept_before` (.., c, 1), retention from the
    start to after and before a token; `between` and `earlier` (.., c, c), that from after write s to after and before
    token t; `inverse` (.., c, c), of the keys' triangular system, None if nothing is erased."""

    step: Tensor
    kept: Tensor
    kept_before: Tensor
    between: Tensor
    earlier: Tensor
    inverse: Tensor | None
    fading: Fading | None

    def map(self, function) -> "Masks":
        """All masks through `function`; F's constants stay."""
        one = [None if m is None else function(m) for m in self[:-1]]
        if self.fading is None:
            return Masks(*one, None)
        return Masks(*one, Fading(*(function(m) for m in self.fading[:4]), *self.fading[4:]))

    def pieces(self) -> list["Masks"]:
        """Those of many pieces at once, (b, h, pieces, ..), one by one."""
        count = self.step.shape[2]
        # Taken apart once: picking one at a time would make the backward pass quadratic in their number.
        apart = self.map(lambda m: m.unbind(2))
        return [apart.map(lambda m, i=i: m[i]) for i in range(count)]


def masks(k: Tensor, step: Tensor, log_retention: Tensor, erase: bool, momentum: float) -> Masks:
    """k (.., c, f), step and log_retention (.., c): for one piece, or for many at once."""
    # One table holds them all: D[t, s] from after write s to after token t, where 0 is the start of the piece.
    D, step = decay_between(pad(log_retention, (1, 0))), step[..., None]
    between, earlier = D[..., 1:, 1:], D[..., :-1, 1:]
    inverse = None
    if erase:
        one = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device)
        inverse = _solved(step * earlier * (k @ k.mT), one.expand(*k.shape[:-1], -1))
    fading = _fading(between, momentum) if momentum else None
    return Masks(step, D[..., 1:, :1], D[..., :-1, :1], between, earlier, inverse, fading)


def _fading(between: Tensor, beta: float) -> Fading:
    place = torch.arange(between.shape[-1], dtype=between.dtype, device=between.device)
    fade = torch.where(place[:, None] >= place, beta ** (place[:, None] - place).clamp_min(0), 0.0)
    reach, spread = between @ fade, between @ (beta ** (place[:, None] + 1))
    return Fading(reach, _delayed(reach), spread, _delayed(spread), fade[-1, :, None], beta ** len(place))


def _delayed(rows: Tensor) -> Tensor:
    """Row t of the result is row t - 1, and the first is 0: what holds before token t instead of after it."""
    return pad(rows[..., :-1, :], (0, 0, 1, 0))


def _solved(system: Tensor, right: Tensor) -> Tensor:
    """(I + system)^{-1} right, for a system that is 0 on the diagonal and above."""
    return torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)


class Write(NamedTuple):
    """One layer's writes in a piece: its inputs a (.., c, in), `vectors` u (.., c, out), the weights and the momentum
    it began with, and with momentum the `fresh` writes eta e apart from u, which then holds only what is erased."""

    masks: Masks
    a: Tensor
    vectors: Tensor | None
    fresh: Tensor | None
    W: Tensor
    S: Tensor | None

    def after(self) -> tuple[Tensor, Tensor | None]:
        """The weights and the momentum after the last token."""
        m, change = self.masks, 0
        if self.vectors is not None:
            change = -m.between[..., -1, :, None] * self.vectors
        if self.S is None:
            return torch.addcmul(self.a.mT @ change, self.W, m.kept[..., -1:, :]), None
        f = m.fading
        change = change - f.reach[..., -1, :, None] * self.fresh
        W = self.a.mT @ change + m.kept[..., -1:, :] * self.W + f.spread[..., -1:, :] * self.S
        return W, f.total * self.S - self.a.mT @ (f.last * self.fresh)

    def read(self, x: Tensor) -> Tensor:
        """x (.., c, in): row t read with the weights after token t, W_t."""
        m, met = self.masks, x @ self.a.mT
        y = m.kept * (x @ self.W)
        if self.vectors is not None:
            y = y - (m.between * met) @ self.vectors
        if self.S is not None:
            y = y + m.fading.spread * (x @ self.S) - (m.fading.reach * met) @ self.fresh
        return y


def write(m: Masks, a: Tensor, error: Tensor, said: Tensor, erase: Tensor | None, keyed: bool, W, S) -> Write:
    """One layer. `said` is a W, `erase` eps (.., c, 1) or None; `keyed`: a is the key, whose inverse is known."""
    fresh = m.step * error
    if erase is None:
        return Write(m, a, None if S is not None else fresh, fresh if S is not None else None, W, S)
    met = None if keyed and S is None else a @ a.mT
    if S is None:
        right = torch.addcmul(fresh, erase * m.kept_before, said)
    else:
        right = m.kept_before * said + m.fading.spread_before * (a @ S) - (m.fading.reach_before * met) @ fresh
        right = erase * right
    u = m.inverse @ right if keyed else _solved(erase * m.earlier * met, right)
    return Write(m, a, u, None if S is None else fresh, W, S)


def writes(sides: dict, m: Masks, rule: Rule, running: Weights, momentum: Weights, fresh: bool) -> dict[str, Write]:
    """Every layer's `Write` by its weight's name. `fresh`: the piece opens its chunk, so that the running weights are
    the anchor's. With `stop` "first-order" inputs and errors are constants, with "write" gates and vectors too."""
    found, own, cut = {}, None, rule.stop in ("first-order", "write")
    if rule.stop == "write":
        m = m.map(Tensor.detach)
    for name, (a, error, said) in sides.items():
        error = error if rule.sign == 1 else -error
        keyed, W = name in ("into", "out"), running[name]
        if cut:
            a, error = a.detach(), error.detach()
        if cut or not fresh:
            said = a @ W
        if not keyed and own is None:
            own = m.map(lambda x: x.unsqueeze(2))  # room for the axis of memories
        erase = None
        if keyed and rule.erase != "off":
            erase = m.step
        elif rule.erase == "per-layer":
            erase = own.step / (a.square().sum(-1, keepdim=True) + TINY)
        one = write(m if keyed else own, a, error, said, erase, keyed, W, momentum.get(name))
        if rule.stop == "write":
            one = one._replace(vectors=_detached(one.vectors), fresh=_detached(one.fresh))
        found[name] = one
    return found


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def learn(
    bank: Bank, rule: Rule, fast: Fast, k, v, m: Masks, shared, fresh: bool, q=None
) -> tuple[Fast, Tensor | None]:
    """A piece of one chunk written into a bank: k, v (b, h, c, f) and their masks. Returns the fast weights after it
    and, given q (b, h, c, f), what a bank of one memory answers with the weights after each token's own write."""
    sides = bank.sides(fast.anchor, k, v, shared, rule.stop == "targets")
    found = writes(sides, m, rule, fast.running, fast.momentum, fresh)
    moved = {name: one.after() for name, one in found.items()}
    running = fast.running | {name: W for name, (W, _) in moved.items()}
    momentum = fast.momentum | {name: S for name, (_, S) in moved.items() if S is not None}
    return Fast(fast.anchor, running, momentum), None if q is None else _running_read(bank, found, fast.running, q)


def _running_read(bank: Bank, found: dict[str, Write], before: Weights, q: Tensor) -> Tensor:
    if "out" in found:
        return bank.finish(found["out"].read(q))
    into = found["into"].read(q) if "into" in found else q @ before["into"]
    given = bank.apart(bank.activate(into))
    return found["wide"].read(given).squeeze(2) + q


def cuts(position: int, tokens: int, chunk: int) -> list[int]:
    """0, the boundaries that fall within `tokens` tokens after `position`, and the end."""
    first = -position % chunk
    inner = [t for t in range(first, tokens, chunk) if t]
    return [0, *inner, tokens]


def runs(position: int, tokens: int, chunk: int) -> list[tuple[int, int, int]]:
    """(start, stop, size of its pieces): what fills the open chunk, the whole chunks, what opens the next one."""
    first = min(tokens, -position % chunk)
    last = first + (tokens - first) // chunk * chunk
    every = ((0, first, first), (first, last, chunk), (last, tokens, tokens - last))
    return [run for run in every if run[0] < run[1]]
