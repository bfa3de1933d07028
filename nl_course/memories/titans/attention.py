"""The attention inside Titans: a softmax over persistent tokens, which all may read, and over recent ones.

arXiv 2501.00663, section 4 (equations 22, 27, 31). The persistent tokens' keys stand outside of time: a score with one
of them is taken before queries and keys are turned, so that it does not change as the text goes on, wherever the text
was cut. Everything here is a plain softmax of plain products, which can be differentiated any number of times.

Axes: b batch, h heads, t queries, s keys, n persistent tokens, w window, f head width.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from nl_course.memories.attention.attention import attention_scores, visible
from nl_course.memories.attention.rope import Rotary


class Rows(NamedTuple):
    """What attention makes of rows (b, t, d): the query as projected and turned, the turned key, the value, each
    (b, h, t, f)."""

    plain: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    def between(self, start: int, stop: int) -> "Rows":
        return Rows(*(u[:, :, start:stop] for u in self))


class Prefix(NamedTuple):
    """Keys and values of the persistent tokens, (b or 1, h, n, f), n may be 0."""

    key: Tensor
    value: Tensor


class PrefixAttention(nn.Module):
    """Projections of a causal attention whose queries also read a prefix."""

    def __init__(self, width: int, heads: int, rope_theta: float | None):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.rotary = None if rope_theta is None else Rotary(width // heads, rope_theta)

    def rows(self, x: Tensor, position: int, period: int | None = None) -> Rows:
        """x (b, t, d), the first at `position`; with a `period` positions count from its last multiple."""
        plain, key, value = (self._heads(project(x)) for project in (self.query, self.key, self.value))
        if self.rotary is None:
            return Rows(plain, plain, key, value)
        return Rows(plain, self.rotary(plain, position, period), self.rotary(key, position, period), value)

    def prefix(self, x: Tensor) -> Prefix:
        """Persistent rows x (b or 1, n, d)."""
        return Prefix(self._heads(self.key(x)), self._heads(self.value(x)))

    def answer(self, y: Tensor) -> Tensor:
        """All heads side by side, projected: (b, h, t, f) -> (b, t, d)."""
        return self.output(rearrange(y, "b h t f -> b t (h f)"))

    def _heads(self, u: Tensor) -> Tensor:
        return rearrange(u, "b t (h f) -> b h t f", h=self.heads)


def attend(rows: Rows, prefix: Prefix, groups: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """One softmax over the prefix and several groups of keys, values and who may read them (t, s): (b, h, t, f)."""
    scale = rows.query.shape[-1] ** -0.5
    prefix = Prefix(*(u.expand(rows.query.shape[0], -1, -1, -1) for u in prefix))
    scores = [rows.plain @ prefix.key.mT * scale]
    scores += [attention_scores(rows.query, key, allowed, scale) for key, _, allowed in groups]
    weights = torch.cat(scores, dim=-1).softmax(-1)
    return weights @ torch.cat([prefix.value, *(value for _, value, _ in groups)], dim=-2)


def attend_window(rows: Rows, prefix: Prefix, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Every query reads the prefix and the last `window` tokens, itself one of them. key, value (b, h, s, f) end with
    the queries' own; tokens before them came in earlier calls."""
    allowed = visible(rows.query.shape[2], key.shape[2], window, key.device)
    return attend(rows, prefix, [(key, value, allowed)])


def attend_window_blocks(rows: Rows, prefix: Prefix, key: Tensor, value: Tensor, window: int) -> Tensor:
    """The same in blocks of `window` queries, each of which reads two blocks of keys at most: T window, not T^2."""
    tokens, held = rows.query.shape[2], key.shape[2] - rows.query.shape[2]
    if tokens <= window:
        return attend_window(rows, prefix, key, value, window)
    missing, scale = -tokens % window, rows.query.shape[-1] ** -0.5
    plain, query = (pad(u, (0, 0, 0, missing)).unflatten(2, (-1, window)) for u in (rows.plain, rows.query))
    # In front of the queries' own keys always `window` columns, of which the last `held` are real.
    key, value = (pad(u, (0, 0, window - held, missing)).unfold(2, 2 * window, window) for u in (key, value))
    places = torch.arange(2 * window, device=key.device)
    ahead = places[None, :] - torch.arange(window, device=key.device)[:, None]
    allowed = ((ahead > 0) & (ahead <= window)).repeat(query.shape[2], 1, 1)
    allowed[0] &= places >= window - held
    near = (query @ key * scale).masked_fill(~allowed, -math.inf)
    far = plain @ prefix.key.mT[:, :, None] * scale
    far, near = torch.cat([far, near], dim=-1).softmax(-1).split([far.shape[-1], near.shape[-1]], dim=-1)
    return (near @ value.mT + far @ prefix.value[:, :, None]).flatten(2, 3)[:, :, :tokens]
