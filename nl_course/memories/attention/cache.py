"""A cache of tokens that only ever grows at its end: the state of attention.

Appending one token with `torch.cat` copies the whole past each time, so that reading T tokens costs T^2 copies. Here
the storage doubles when it is full, so the copies add up to at most 2 T. Growing in place is allowed only where nobody
can notice: without autograd, and by the state that stands at the storage's end. Anyone else gets a copy of their own.

A cache has the dtype of its newest columns. Inside of autocast that is autocast's, which softmax attention would bring
every column to anyway; outside of it, a cache that was filled inside is brought back, which loses nothing more.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nl_course.memories.base import State

LEAST_ROOM = 16  # columns, where storage is made
SPARE = 3  # times what is filled: more storage than that is given back


class _End:
    """How far a storage is filled, shared by every state that looks into it. The state whose `stop` equals `filled`
    stands at the end and may write there; a state left behind (a branch) may not."""

    __slots__ = ("filled",)

    def __init__(self, filled: int):
        self.filled = filled


@dataclass(frozen=True)
class TokenCache(State):
    """Columns of tokens, (B, ..., tokens, features), of which `[start, stop)` in `storage` are this state's own."""

    storage: Tensor
    start: int
    stop: int
    end: _End

    follows_autocast: ClassVar[bool] = True

    @classmethod
    def of(cls, columns: Tensor) -> "TokenCache":
        """A cache that holds just these columns (B, ..., tokens, features), with no room to spare."""
        tokens = columns.shape[-2]
        return cls(columns, 0, tokens, _End(tokens))

    @property
    def columns(self) -> Tensor:
        """What is this state's own, (B, ..., tokens, features), as a view."""
        return self.storage[..., self.start : self.stop, :]

    def __len__(self) -> int:
        """Tokens in it."""
        return self.stop - self.start

    def append(self, new: Tensor) -> "TokenCache":
        """The cache with the columns of `new` (B, ..., T, features) after its own, in the dtype of `new`."""
        if new.shape[-2] == 0:
            return self
        if len(self) == 0:
            return TokenCache.of(new)
        # Autograd keeps what it has seen: a storage written in place would spoil the backward pass.
        if torch.is_grad_enabled() and (new.requires_grad or self.storage.requires_grad):
            return TokenCache.of(torch.cat([self.columns.to(new.dtype), new], dim=-2))
        stop = self.stop + new.shape[-2]
        in_place = self.storage.dtype == new.dtype and self._may_grow_in_place()
        if in_place and stop <= self.storage.shape[-2]:
            self.storage[..., self.stop : stop, :] = new
            self.end.filled = stop
            return TokenCache(self.storage, self.start, stop, self.end)
        # A storage of its own, with room for what comes next.
        filled = len(self) + new.shape[-2]
        storage = new.new_empty(*new.shape[:-2], _room(filled), new.shape[-1])  # (B, ..., room, features)
        storage[..., : len(self), :] = self.columns
        storage[..., len(self) : filled, :] = new
        return TokenCache(storage, 0, filled, _End(filled))

    def last(self, count: int) -> "TokenCache":
        """The cache with only its last `count` columns. Forgotten columns stay allocated only while they are few:
        `capacity_bytes` is at most `SPARE` times `nbytes`, or that of `SPARE * LEAST_ROOM` columns."""
        kept = TokenCache(self.storage, max(self.start, self.stop - count), self.stop, self.end)
        if self.storage.shape[-2] > SPARE * max(len(kept), LEAST_ROOM):
            # A text that was read at once would stay whole in memory for the sake of a few columns.
            return TokenCache.of(kept.columns.clone())
        return kept

    def _may_grow_in_place(self) -> bool:
        """Whether nobody can notice: see the head of this file."""
        # Outside of inference mode torch refuses to write into a tensor that was made in it.
        foreign = self.storage.is_inference() and not torch.is_inference_mode_enabled()
        return self.end.filled == self.stop and not foreign and not torch.is_grad_enabled()

    @property
    def tokens_read(self) -> int:
        """Those that it holds."""
        return len(self)

    # A cache is defined by its columns: only they are saved, moved, counted and mapped.
    def parts(self) -> dict[str, Any]:
        """The columns alone."""
        return {"columns": self.columns}

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> "TokenCache":
        """A cache of these columns, with no room to spare."""
        return cls.of(parts["columns"])

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the storage, which other states may share."""
        # `storage` may itself be a view, e.g. after `detach`; a batch that was expanded is less than its columns.
        return max(self.nbytes, self.storage.untyped_storage().nbytes())


def _room(filled: int) -> int:
    """Room to make when `filled` columns must be held: twice as much, so that a cache doubles as it grows and a window
    of fixed length is copied once in a window's length."""
    return max(LEAST_ROOM, 2 * filled)
