"""One walk through trees of tensors: states, dicts and tuples inside each other.

A state is anything with `parts()`, its children by name, and `from_parts`, the way back; `State` in base.py is the one
of the course. What has no children is a leaf: a tensor, a number, a string or None. `is_leaf` may stop the walk
earlier, e.g. at whole caches.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from torch import Tensor

from nl_course.memories.common.weights import Weights

IsLeaf = Callable[[Any], bool]


def is_tensor(value: Any) -> bool:
    """Whether the walk ends here in the usual sense."""
    return isinstance(value, Tensor)


def is_state(value: Any) -> bool:
    """Whether `value` is a state: it names its children and can be built from others."""
    return hasattr(value, "parts") and hasattr(value, "from_parts")


def is_node(value: Any) -> bool:
    """Whether `value` may have children: a state, a dict or a tuple."""
    return is_state(value) or isinstance(value, (dict, tuple))


def children(value: Any) -> dict[str, Any]:
    """The children of a state, a dict or a tuple by name (in a tuple by number); {} for everything else."""
    if is_state(value):
        return value.parts()
    if isinstance(value, dict):
        return value
    if isinstance(value, tuple):
        return {str(i): child for i, child in enumerate(value)}
    return {}


def with_children(value: Any, new: Mapping[str, Any]) -> Any:
    """A node of the kind of `value` (a `Weights` stays one) with the children `new`, named as `children` names them."""
    if is_state(value):
        return _with_owner(value.from_parts(dict(new)), getattr(value, "owner", None))
    if isinstance(value, tuple):
        return tuple(new.values())
    return type(value)(new)


def _with_owner(state: Any, owner: str | None) -> Any:
    """A state that says who made it, as the one before it did: `from_parts` knows nothing of that."""
    return state if owner is None else replace(state, owner=owner)


def leaves(value: Any, is_leaf: IsLeaf = is_tensor, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path, e.g. ("key.columns", tensor), in the order in which the nodes name them."""
    if is_leaf(value):
        yield path, value
        return
    for name, child in children(value).items():
        yield from leaves(child, is_leaf, join(path, name))


def map_leaves(value: Any, function: Callable[[Any], Any], is_leaf: IsLeaf = is_tensor) -> Any:
    """The same tree with `function` applied to every leaf, in the order of `leaves`; numbers, strings and None stay."""
    if is_leaf(value):
        return function(value)
    if not is_node(value):
        return value
    mapped = {name: map_leaves(child, function, is_leaf) for name, child in children(value).items()}
    return with_children(value, mapped)


def join(path: str, name: str) -> str:
    """The dotted path of a child."""
    return f"{path}.{name}" if path else name


# -- a tree as JSON beside its tensors ---------------------------------------------------------------------------------
def describe(value: Any, path: str = "") -> dict[str, Any]:
    """The tree as JSON, each tensor by its path. Raises TypeError for a leaf that a file cannot hold."""
    if isinstance(value, Tensor):
        return {"tensor": path}
    if is_node(value):
        inside = {name: describe(child, join(path, name)) for name, child in children(value).items()}
        owner = getattr(value, "owner", None)
        return {"kind": _kind(value), "parts": inside} | ({} if owner is None else {"owner": owner})
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a state cannot hold a {type(value).__name__} (at {path!r})")


def _kind(value: Any) -> str:
    """What a file calls a node. Every dict is a "dict", of whatever class, so that files do not depend on it."""
    if is_state(value):
        return type(value).__name__
    return "tuple" if isinstance(value, tuple) else "dict"


def restore(
    description: Mapping[str, Any], tensor: Callable[[str], Tensor], state: Callable[[str, dict[str, Any]], Any]
) -> Any:
    """The tree that `describe` described. `tensor(path)` gives a tensor, `state(kind, parts)` builds a state.

    Raises ValueError for what `describe` does not write.
    """
    if not isinstance(description, Mapping):
        raise ValueError(f"a part of a state cannot be {description!r:.50}")
    if description.keys() == {"tensor"} and isinstance(description["tensor"], str):
        return tensor(description["tensor"])
    if description.keys() == {"value"} and isinstance(description["value"], (bool, int, float, str, NoneType)):
        return description["value"]
    kind = description.get("kind")
    described_parts = description.get("parts")
    owner = description.get("owner", "")  # of a state that knows it
    known = description.keys() - {"owner"} == {"kind", "parts"}
    if not (known and isinstance(kind, str) and isinstance(described_parts, Mapping) and isinstance(owner, str)):
        raise ValueError(f"a part of a state cannot be {dict(description)!r:.50}")
    parts = {name: restore(child, tensor, state) for name, child in described_parts.items()}
    if kind == "tuple":
        if list(parts) != [str(i) for i in range(len(parts))]:
            raise ValueError(f"the parts of a tuple cannot be called {', '.join(parts)!r:.50}")
        return tuple(parts.values())
    if kind != "dict":
        return _with_owner(state(kind, parts), owner or None)
    # A dict of nothing but tensors is what memories call weights: they calculate with it as with one vector.
    if all(isinstance(part, Tensor) for part in parts.values()):
        return Weights(parts)
    return parts


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value from a file is of a type, as a field's annotation says it: `int`, `Tensor | None`,
    `dict[str, Tensor]`, `tuple[State, ...]`. A type that says nothing of its parts allows any."""
    inside = get_args(wanted)
    if wanted is Any:
        return True
    if get_origin(wanted) in (Union, UnionType):
        return any(fits(value, one) for one in inside)
    if isinstance(value, bool) or wanted is float:  # True is an int to Python, and a whole float is one to JSON
        return isinstance(value, bool) == (wanted is bool) and isinstance(value, (bool, int, float))
    if not isinstance(value, get_origin(wanted) or wanted):
        return False
    if isinstance(value, dict) and inside:
        return all(fits(child, inside[-1]) for child in value.values())
    if isinstance(value, tuple) and inside:
        each = [inside[0]] * len(value) if inside[1:] == (...,) else inside
        return len(value) == len(each) and all(map(fits, value, each))
    return True
