"""A saved state comes back, or is refused in one line: whatever a file's description says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nl_course.errors import CourseError
from nl_course.memories import State, build_memory
from nl_course.memories.base import _FORMAT
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel

pytestmark = pytest.mark.filterwarnings("ignore:.*kept no checksums.*")

SIZES = dict(vocab=32, width=8, layers=2, heads=2)
LEVELS = (LevelConfig(8, 4, 0.1), LevelConfig(8, 8, 0.1))
# None of these can stand anywhere in the description of a state.
WRONG = [
    None,
    -5,
    1e308,
    "x",
    [],
    {},
    {"tensor": "nope"},
    {"tensor": 3},
    {"value": -1},
    {"value": [1]},
    {"value": True},
    {"kind": "Unknown", "parts": {}},
    {"kind": ["tuple"], "parts": {}},
    {"kind": "tuple", "parts": 3},
    {"kind": "tuple", "parts": {"1": {"value": 1}}},
    {"kind": "MatrixState", "parts": {}},
    {"kind": "OpenState", "parts": {}},
]


@torch.no_grad()
def state_of(name: str) -> State:
    torch.manual_seed(0)
    if name == "clocks":
        model = NestedLanguageModel(NestedConfig(**SIZES, levels=LEVELS, conv=2))
        return model(torch.randint(32, (2, 6)))[1]
    return build_memory(name, 8, 2)(torch.randn(2, 5, 8))[1]


def description_in(path) -> str:
    with safe_open(path, framework="pt") as file:
        return json.dumps(json.loads(file.metadata()[_FORMAT])["description"])


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path to every part of the description."""
    yield path
    if isinstance(node, dict):
        for name, child in node.items():
            yield from places(child, (*path, name))


def changed(text: str, path: tuple, value: Any) -> str | None:
    """The description with another value in one place, or without it where `value` is `...`; None if it is the same."""
    root = [json.loads(text)]
    node, last = root, 0
    for name in path:
        node, last = node[last], name
    if value is ...:
        del node[last]
    else:
        node[last] = value
    changed = json.dumps(root[0]) if root else "null"
    return changed if changed != text else None


@pytest.mark.parametrize("name", ["delta", "attention", "ttt-linear", "mac", "clocks"])
def test_a_description_that_is_changed_anywhere_is_refused_in_one_line(name, tmp_path):
    """Without its checksums: those would notice every change."""
    path = tmp_path / "state"
    state_of(name).save(path)
    tensors = load_file(path)
    text = description_in(path)
    tried = 0
    for number, place in enumerate(places(json.loads(text))):
        # In every place something is left out, or two of the wrong values in turn.
        for value in (..., WRONG[number % len(WRONG)], WRONG[(number + 7) % len(WRONG)]):
            description = changed(text, place, value)
            # Another owner, or none, is a state of something else: what reads it on compares it.
            is_an_owner = place[-1:] == ("owner",) and (value is ... or isinstance(value, str))
            if description is None or is_an_owner:
                continue
            save_file(tensors, path, {_FORMAT: description})
            with pytest.raises(CourseError) as refused:
                State.load(path)
            assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
            tried += 1
    assert tried > 20


def test_a_part_of_another_type_size_or_batch_is_named(tmp_path):
    path = tmp_path / "state"
    state = state_of("delta")
    state.save(path)
    tensors = load_file(path)
    text = description_in(path)
    description = json.loads(text)

    def refusal(tensors: dict, **parts: Any) -> str:
        changed = {"kind": "MatrixState", "parts": description["parts"] | parts}
        save_file(tensors, path, {_FORMAT: json.dumps(changed)})
        with pytest.raises(CourseError) as refused:
            State.load(path)
        return str(refused.value)

    assert "position of MatrixState cannot be -3" in refusal(tensors, position={"value": -3})
    assert "position of MatrixState cannot be 1.5" in refusal(tensors, position={"value": 1.5})
    assert "position of MatrixState cannot be a tensor" in refusal(tensors, position={"tensor": "matrix"})
    assert "no part of the state is the tensor 'conv_state'" in refusal(tensors, conv_state={"value": None})
    assert "has other rows than" in refusal(tensors | {"conv_state": tensors["conv_state"][:1].clone()})
    assert "has other rows than" in refusal(tensors | {"matrix": torch.tensor(1.0)})
    assert "lacks the tensor 'matrix'" in refusal({"conv_state": tensors["conv_state"]})
    save_file(tensors, path, {_FORMAT: text})
    assert torch.equal(State.load(path).matrix, state.matrix)
