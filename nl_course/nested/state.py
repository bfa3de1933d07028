"""What a model with clocked levels carries from token to token, for each row of the batch:

* every block's memory, as it is now;
* each moving level's weights since its last boundary, and for levels slower than the segments the sum of the gradients
  of the segments since then;
* the open segment, which is run once more at its end: what went into the lowest moving level, the targets so far, and
  the memories above that level as they were when the segment began.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nl_course.memories import State
from nl_course.memories.attention.cache import TokenCache
from nl_course.model import BlockState
from nl_course.nested.levels import Pair


@dataclass(frozen=True)
class OpenState(State):
    """A block's state `now`, and `then`, `tokens` ago, when the open segment began. Of a memory that is nothing but a
    cache of tokens only the columns added since are counted and saved beside those of then; others are kept twice."""

    then: State
    now: State
    tokens: int

    def parts(self) -> dict[str, Any]:
        new, held = _cut(self.now, self.tokens)
        return {"then": self.then, "new": new, "held": held, "tokens": self.tokens}

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> "OpenState":
        now = _mend(parts["new"], parts["then"], parts["held"])
        return cls(parts["then"], now, parts["tokens"])


@dataclass(frozen=True)
class NestedState(State):
    """`below`: the blocks up to the memory under the lowest moving level. `above`: the others. `fast`: weights by
    level. `gathered`: sums of gradients by level. `pending` (B, n, width) and `targets` (B, n - 1): the open
    segment's inputs, and the tokens they were followed by. `position`: tokens read."""

    below: tuple[State, ...]
    above: tuple[OpenState, ...]
    fast: dict[str, Pair]
    gathered: dict[str, Pair]
    pending: TokenCache
    targets: Tensor
    position: int

    @property
    def layers(self) -> tuple[State, ...]:
        """One state a block as it is now, first block first, as a `ModelState` has them."""
        return (*self.below, *(block.now for block in self.above))

    def memory(self, layer: int) -> State:
        """The state of that layer's memory."""
        state = self.layers[layer]
        return state.memory if isinstance(state, BlockState) else state


def is_a_cache(state: State) -> bool:
    """Whether a memory's state is columns of tokens and nothing else, so that what was added can be told apart."""
    return all(isinstance(leaf, TokenCache) for leaf in _leaves(state))


def _cut(now: State, tokens: int) -> tuple[State, tuple[int, ...]]:
    """A state with only the columns of its last `tokens` tokens, and how many columns its caches hold; others whole."""
    if isinstance(now, BlockState):
        memory, held = _cut(now.memory, tokens)
        return BlockState(memory, now.conv_state), held
    if not is_a_cache(now):
        return now, ()
    caches = list(_leaves(now))
    return _with_caches(now, iter([cache.last(tokens) for cache in caches])), tuple(len(cache) for cache in caches)


def _mend(new: State, then: State, held: tuple[int, ...]) -> State:
    """The inverse of `_cut`: the columns of then put back before the new ones."""
    if isinstance(new, BlockState):
        return BlockState(_mend(new.memory, then.memory, held), new.conv_state)
    if not held:
        return new
    pairs = zip(_leaves(then), _leaves(new), held, strict=True)
    caches = [TokenCache.of(torch.cat([a.columns, b.columns], dim=-2)).last(count) for a, b, count in pairs]
    return _with_caches(new, iter(caches))


def _leaves(value: Any) -> Iterator[Any]:
    """The caches and the other tensors of a tree."""
    if isinstance(value, (TokenCache, Tensor)):
        yield value
    elif isinstance(value, State):
        yield from _leaves(value.parts())
    elif isinstance(value, (dict, tuple)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _leaves(child)


def _with_caches(value: Any, caches: Iterator[TokenCache]) -> Any:
    """The tree with its caches replaced, in the order of `_leaves`."""
    if isinstance(value, TokenCache):
        return next(caches)
    if isinstance(value, State):
        return type(value).from_parts(_with_caches(value.parts(), caches))
    if isinstance(value, dict):
        return {name: _with_caches(child, caches) for name, child in value.items()}
    if isinstance(value, tuple):
        return tuple(_with_caches(child, caches) for child in value)
    return value
