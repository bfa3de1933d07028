"""One walk through trees of tensors: `nl_course.memories.tree`."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from nl_course.memories import State, tree
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.common.weights import Weights


@dataclass(frozen=True)
class TreeState(State):
    """All that a state may hold."""

    pair: tuple
    weights: Weights
    mixed: dict = field(default_factory=dict)
    position: int = 0


@pytest.fixture
def state() -> TreeState:
    a, b, c = (torch.full((2, i + 1), float(i)) for i in range(3))
    cache = TokenCache.of(torch.ones(2, 3, 1))
    return TreeState((a, None), Weights(W1=b), {"cache": cache, "word": "x", "more": (c,)}, 7)


def test_leaves_come_with_their_paths_in_order(state):
    paths = [path for path, _ in tree.leaves(state)]
    assert paths == ["pair.0", "weights.W1", "mixed.cache.columns", "mixed.more.0"]
    ends = dict(tree.leaves(state, is_leaf=lambda value: not tree.is_node(value)))
    assert ends["pair.1"] is None and ends["mixed.word"] == "x" and ends["position"] == 7


def test_a_walk_may_stop_at_whole_caches(state):
    def stops(value) -> bool:
        return isinstance(value, (TokenCache, Tensor))

    assert dict(tree.leaves(state, stops))["mixed.cache"] is state.mixed["cache"]
    cut = tree.map_leaves(state, lambda leaf: leaf.last(1) if isinstance(leaf, TokenCache) else leaf, stops)
    assert len(cut.mixed["cache"]) == 1 and cut.pair[0] is state.pair[0]


def test_a_mapped_tree_has_the_same_kinds_of_nodes(state):
    doubled = tree.map_leaves(state, lambda t: 2 * t)
    assert type(doubled) is TreeState and type(doubled.weights) is Weights and type(doubled.mixed) is dict
    assert doubled.position == 7 and doubled.pair[1] is None and doubled.mixed["word"] == "x"
    assert all(torch.equal(doubled.tensors()[name], 2 * t) for name, t in state.tensors().items())


def test_described_and_restored_it_is_the_same(state):
    restored = tree.restore(tree.describe(state), state.tensors().__getitem__, lambda kind, parts: (kind, parts))
    kind, parts = restored
    assert kind == "TreeState" and parts["position"] == 7 and type(parts["weights"]) is Weights
    kind, inside = parts["mixed"]["cache"]
    assert kind == "TokenCache" and torch.equal(inside["columns"], state.mixed["cache"].columns)
    with pytest.raises(TypeError, match=r"cannot hold a list \(at 'a.0'\)"):
        tree.describe({"a": ([],)})


def test_a_cache_inside_counts_its_room(state):
    with torch.no_grad():
        grown = state.mixed["cache"].append(torch.ones(2, 1, 1))
    state = TreeState(state.pair, state.weights, {"cache": grown})
    assert state.nbytes == 4 * (2 * 1 + 2 * 2 + 2 * 4)
    assert state.capacity_bytes == state.nbytes - 4 * 2 * 4 + grown.capacity_bytes > state.nbytes
