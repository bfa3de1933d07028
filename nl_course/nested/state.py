"""What a model with clocked levels carries from token to token, for each row of the batch:

* every block's memory, as it is now;
* each moving level's weights since its last boundary; and for levels that are slower than the segments, the sum of the
  gradients of the segments since then;
* the open segment, which is run once more at its end: what went into the lowest moving level, the targets so far, and
  the memories above that level as they were when the segment began.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nl_course.memories import State, tree
from nl_course.memories.attention.cache import TokenCache
from nl_course.model import BlockState
from nl_course.nested.levels import FastWeights, LevelWeights


@dataclass(frozen=True)
class OpenState(State):
    """The state of a block above the lowest moving level: `now`, and `at_start` of the open segment, `tokens` ago.

    A memory may be nothing but a cache of tokens. Of such a state only the columns added since the segment began are
    counted and saved, beside those of its start. States of other memories are kept twice.
    """

    at_start: State
    now: State
    tokens: int

    def parts(self) -> dict[str, Any]:
        """What is saved and counted: `new` is `now` with only its last `tokens` columns, where it is a cache, and
        `held` how many columns each of its caches has in all."""
        new, held = _added_columns(self.now, self.tokens)
        return {"at_start": self.at_start, "new": new, "held": held, "tokens": self.tokens}

    @property
    def tokens_read(self) -> int | None:
        """Those of `now`."""
        return self.now.tokens_read

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> "OpenState":
        """The inverse of `parts`. Raises ValueError for parts that do not fit together, as a damaged file may have."""
        if not tree.fits(parts["held"], tuple[int, ...]):
            raise ValueError(f"the columns that an open state holds cannot be {parts['held']!r:.50}")
        now = _with_earlier_columns(parts["new"], parts["at_start"], parts["held"])
        return cls(parts["at_start"], now, parts["tokens"])


@dataclass(frozen=True)
class NestedState(State):
    """The state of a `NestedLanguageModel`.

    `below`: the blocks up to and with the memory under the lowest moving level; `above`: the blocks after it.
    `fast`: the moving levels' weights by the level's name, W1 and W2, (B, in, out) each.
    `grad_accum`: by name, the summed gradients of the closed segments since the level's last boundary, in the same
    shapes; only for levels that are slower than the segments.
    `pending` (B, n, width): the open segment's inputs of the lowest moving level; `targets` (B, n - 1): the tokens that
    followed them. `position`: how many tokens were read.
    """

    below: tuple[State, ...]
    above: tuple[OpenState, ...]
    fast: FastWeights
    grad_accum: dict[str, LevelWeights]
    pending: TokenCache
    targets: Tensor
    position: int

    @property
    def layers(self) -> tuple[State, ...]:
        """One state for each block as it is now, first block first, as a `ModelState` has them."""
        return (*self.below, *(block.now for block in self.above))

    def memory(self, layer: int) -> State:
        """The state of that layer's memory."""
        state = self.layers[layer]
        return state.memory if isinstance(state, BlockState) else state


def is_a_cache(state: State) -> bool:
    """Whether a memory's state is columns of tokens and nothing else, so that what was added can be told apart."""
    return all(isinstance(leaf, TokenCache) for _, leaf in tree.leaves(state, _is_cache_or_tensor))


def _added_columns(now: State, tokens: int) -> tuple[State, tuple[int, ...]]:
    """A cache's state with only the columns of its last `tokens` tokens, and how many columns each cache has in all.
    A state that is no cache comes back whole, with ()."""
    if isinstance(now, BlockState):
        memory, held = _added_columns(now.memory, tokens)
        return replace(now, memory=memory), held
    if not is_a_cache(now):
        return now, ()
    held = tuple(len(cache) for cache in _caches(now))
    return tree.map_leaves(now, lambda cache: cache.last(tokens), _is_cache), held


def _with_earlier_columns(new: State, at_start: State, held: tuple[int, ...]) -> State:
    """The inverse of `_added_columns`: the columns of the segment's start are put back before the new ones."""
    if isinstance(new, BlockState):
        return replace(new, memory=_with_earlier_columns(new.memory, at_start.memory, held))
    if len(held) != (len(_caches(new)) if is_a_cache(new) else 0):
        raise ValueError(f"an open state cannot have {len(held)} counts of columns")
    if not held:
        return new
    whole = []
    for earlier, added, count in zip(_caches(at_start), _caches(new), held, strict=True):
        columns = torch.cat([earlier.columns, added.columns], dim=-2)  # (B, ..., tokens, features)
        if not 0 <= count <= columns.shape[-2]:
            raise ValueError(f"an open state of {columns.shape[-2]} columns cannot hold {count} of them")
        whole.append(TokenCache.of(columns).last(count))  # a window may have dropped the oldest since
    remaining = iter(whole)
    return tree.map_leaves(new, lambda _: next(remaining), _is_cache)


def _is_cache(value: Any) -> bool:
    return isinstance(value, TokenCache)


def _is_cache_or_tensor(value: Any) -> bool:
    return isinstance(value, (TokenCache, Tensor))


def _caches(state: State) -> list[TokenCache]:
    """The caches of a state that is nothing else, in the order of the tree."""
    return [cache for _, cache in tree.leaves(state, _is_cache)]
