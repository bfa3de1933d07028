"""The attention inside Titans: one softmax over persistent tokens, which every query reads, and over recent tokens.

arXiv 2501.00663, section 4 (equations 23, 27 and 31). Persistent tokens have no position. So a score with one of them
uses the query before its rotation: otherwise the score would change as the text goes on. Everything here is a plain
softmax of plain products, which autograd can differentiate any number of times.

Axes: b batch, h heads, t queries, s keys, n persistent tokens, w window, f head width, d = h f model width.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from nl_course.memories.attention.attention import attention_scores, visible
from nl_course.memories.attention.rope import Rotary


class Projected(NamedTuple):
    """Queries, keys and values of tokens, (b, h, t, f) each. `plain_query` is the query before its rotation."""

    plain_query: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    def time_slice(self, start: int, stop: int) -> "Projected":
        """Those of the tokens start .. stop - 1."""
        return Projected(*(u[:, :, start:stop] for u in self))


class Prefix(NamedTuple):
    """Keys and values of the persistent tokens, (b or 1, h, n, f) each; n may be 0."""

    key: Tensor
    value: Tensor


class Readable(NamedTuple):
    """Keys and values (b, h, s, f), and which of them each query may read: `allowed` (t, s), True for yes."""

    key: Tensor
    value: Tensor
    allowed: Tensor


class PrefixAttention(nn.Module):
    """The projections of a causal attention whose queries also read a prefix. `rope_theta` None: no positions."""

    def __init__(self, width: int, heads: int, rope_theta: float | None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.rotary = None if rope_theta is None else Rotary(width // heads, rope_theta)

    def project(self, x: Tensor, position: int, period: int | None = None) -> Projected:
        """Queries, keys and values of x (b, t, d), whose first token stands at `position`. With a `period`, positions
        count from its last multiple."""
        query = self._split_heads(self.query(x))  # (b, h, t, f)
        key = self._split_heads(self.key(x))
        value = self._split_heads(self.value(x))
        if self.rotary is None:
            return Projected(query, query, key, value)
        turned_query = self.rotary(query, position, period)
        turned_key = self.rotary(key, position, period)
        return Projected(query, turned_query, turned_key, value)

    def prefix(self, x: Tensor) -> Prefix:
        """Keys and values of persistent rows x (b or 1, n, d). They are not rotated: they have no position."""
        return Prefix(self._split_heads(self.key(x)), self._split_heads(self.value(x)))

    def join_heads(self, y: Tensor) -> Tensor:
        """All heads side by side, through the output projection: (b, h, t, f) -> (b, t, d)."""
        return self.output(rearrange(y, "b h t f -> b t (h f)"))

    def _split_heads(self, u: Tensor) -> Tensor:
        return rearrange(u, "b t (h f) -> b h t f", h=self.heads)


def attend(own: Projected, prefix: Prefix, groups: list[Readable]) -> Tensor:
    """One softmax over the prefix and all groups together: what the queries of `own` read, (b, h, t, f)."""
    scale = own.query.shape[-1] ** -0.5
    rows = own.query.shape[0]
    prefix_key = prefix.key.expand(rows, -1, -1, -1)  # (b, h, n, f)
    prefix_value = prefix.value.expand(rows, -1, -1, -1)
    # The prefix has no position, so its scores take the query that was not rotated.
    scores = [own.plain_query @ prefix_key.mT * scale]  # (b, h, t, n)
    values = [prefix_value]
    for group in groups:
        scores.append(attention_scores(own.query, group.key, group.allowed, scale))  # (b, h, t, s)
        values.append(group.value)
    weights = torch.cat(scores, dim=-1).softmax(-1)  # (b, h, t, n + all s)
    return weights @ torch.cat(values, dim=-2)  # (b, h, t, f)


def attend_window(own: Projected, prefix: Prefix, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Every query reads the prefix and the last `window` tokens, itself included: (b, h, t, f).

    key, value (b, h, s, f) end with the queries' own; the tokens before them came in earlier calls."""
    allowed = visible(own.query.shape[2], key.shape[2], window, key.device)  # (t, s)
    return attend(own, prefix, [Readable(key, value, allowed)])


def attend_window_blocks(own: Projected, prefix: Prefix, key: Tensor, value: Tensor, window: int) -> Tensor:
    """The same numbers in blocks of `window` queries. Each block reads two blocks of keys at most, so the cost is
    T window, not T^2.

    Further axes: j blocks, w the queries of one block, 2w the keys that one block may read."""
    tokens = own.query.shape[2]
    earlier = key.shape[2] - tokens
    if tokens <= window:
        return attend_window(own, prefix, key, value, window)
    scale = own.query.shape[-1] ** -0.5

    # The last block is filled up with zeros; what they read is cut off at the end.
    missing = -tokens % window
    plain_query = pad(own.plain_query, (0, 0, 0, missing)).unflatten(2, (-1, window))  # (b, h, j, w, f)
    query = pad(own.query, (0, 0, 0, missing)).unflatten(2, (-1, window))

    # Every block needs `window` keys in front of its own. Before the first block only `earlier` of them are real.
    in_front = window - earlier
    key = pad(key, (0, 0, in_front, missing)).unfold(2, 2 * window, window)  # (b, h, j, f, 2w)
    value = pad(value, (0, 0, in_front, missing)).unfold(2, 2 * window, window)

    # Query i of a block is key i + window of its two blocks, and reads that one and the window - 1 keys before it.
    index = torch.arange(2 * window, device=key.device)  # (2w,)
    behind = index[None, :] - torch.arange(window, device=key.device)[:, None]  # (w, 2w)
    allowed = ((behind > 0) & (behind <= window)).repeat(query.shape[2], 1, 1)  # (j, w, 2w)
    allowed[0] &= index >= in_front

    near = (query @ key * scale).masked_fill(~allowed, -math.inf)  # (b, h, j, w, 2w)
    far = plain_query @ prefix.key.mT[:, :, None] * scale  # (b, h, j, w, n)
    weights = torch.cat([far, near], dim=-1).softmax(-1)
    far, near = weights.split([far.shape[-1], near.shape[-1]], dim=-1)
    y = near @ value.mT + far @ prefix.value[:, :, None]  # (b, h, j, w, f)
    return y.flatten(2, 3)[:, :, :tokens]  # (b, h, t, f)
