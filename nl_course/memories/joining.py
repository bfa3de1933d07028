"""One batch from the states of separate prompts.

    batch = join(model, [model(prompt)[1] for prompt in prompts])

Prompts of unequal length cannot be read as one batch: what pads the shorter ones would be written into their states
like any other token. So each is read by itself, and the states are put together as rows.

A state also counts its tokens, with one number for all rows. Whether rows may count differently is said by the memory's
`position_period`: 1 where the count has no meaning; k where it has one within chunks of k tokens; None where every
token has a position of its own, as in attention, whose caches are as long as their texts.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError
from nl_course.memories import tree
from nl_course.memories.base import Memory, State


def join(model: nn.Module, states: Sequence[State]) -> State:
    """The rows of all `states` of `model` (a memory or a model of memories) as one state, in their order.

    Rows that have read unequally many tokens count as the longest. Raises CourseError for no states at all, for states
    of something else, and where the memory cannot go on with unequal counts.
    """
    if not states:
        raise CourseError("there are no states to join.")
    for state in states:
        model.check_owner(state)
    period = position_period(model)
    ends = [dict(tree.leaves(state, is_leaf=_is_end)) for state in states]
    if any(end.keys() != ends[0].keys() for end in ends):
        raise CourseError("the states to join have different parts.")
    joined = []
    for name in ends[0]:
        parts = [end[name] for end in ends]
        joined.append(_joined(name, parts, period))
    in_order = iter(joined)
    return tree.map_leaves(states[0], lambda _: next(in_order), is_leaf=_is_end)


def position_period(model: nn.Module) -> int | None:
    """After how many tokens a position comes again for all memories in `model`; None if it never does."""
    periods = [module.position_period for module in model.modules() if isinstance(module, Memory)]
    return None if None in periods else math.lcm(*periods)


def _is_end(value: Any) -> bool:
    return not tree.is_node(value)


def _joined(name: str, parts: list[Any], period: int | None) -> Any:
    """One part of the joined state. Raises CourseError if the parts do not go together."""
    first = parts[0]
    if isinstance(first, Tensor):
        if len({part.shape[1:] for part in parts}) > 1:
            sizes = " and ".join(str(tuple(part.shape[1:])) for part in parts)
            raise CourseError(f"{name!r} has the sizes {sizes}: it grows with the text, so join texts of one length.")
        return torch.cat(parts)
    if len(set(parts)) == 1:
        return first
    if period is None or not all(isinstance(part, int) for part in parts):
        raise CourseError(f"{name!r} is {' and '.join(map(str, parts))}, and this memory needs them to be equal.")
    if len({part % period for part in parts}) > 1:
        raise CourseError(
            f"{name!r} is {' and '.join(map(str, parts))}: the rows must stand at the same place in a chunk of "
            f"{period} tokens."
        )
    return max(parts)
