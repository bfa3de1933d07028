"""What an optimizer is given is checked before anything changes: states of another kind, numbers that are none."""

import copy
import math
from inspect import signature

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.optimizers import OPTIMIZERS, Descent, build_optimizer
from tests.optimizers.test_conventions import build, model, train

OURS = [name for name, kind in OPTIMIZERS.items() if issubclass(kind, Descent)]


def trained(name: str) -> dict:
    net = model()
    optimizer = build(name, net)
    train(net, optimizer, 2)
    return optimizer.state_dict()


STATES = {name: trained(name) for name in OPTIMIZERS}


def refusal(name: str, state: object) -> str:
    """What is said of a state; nothing may have changed."""
    net = model()
    optimizer = build(name, net)
    train(net, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(CourseError) as refused:
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, parts in after["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(before["state"][number][n])) for n, v in parts.items()
        )
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("other", OPTIMIZERS)
@pytest.mark.parametrize("name", OURS)
def test_the_state_of_another_kind_is_refused(name, other):
    state = copy.deepcopy(STATES[other])
    if other == name:
        build(name, model()).load_state_dict(state)
        return
    if len(state["param_groups"]) != len(STATES[name]["param_groups"]):
        assert "groups of" in refusal(name, state)
        # The kinds differ also where the groups are alike.
        sizes = [len(group["params"]) for group in STATES[name]["param_groups"]]
        numbers = iter(range(sum(sizes)))
        settings = state["param_groups"][0]
        state["param_groups"] = [{**settings, "params": [next(numbers) for _ in range(size)]} for size in sizes]
    assert "another kind" in refusal(name, state)


@pytest.mark.parametrize("name", OURS)
def test_the_state_of_another_model_is_refused(name):
    state = copy.deepcopy(STATES[name])
    if not state["state"]:
        pytest.skip("it keeps nothing")
    number, parts = next(iter(state["state"].items()))
    part = next(n for n, value in parts.items() if isinstance(value, torch.Tensor))
    parts[part] = torch.zeros(3, 5, 2)
    assert f"'{part}' of parameter {number} is (3, 5, 2), and should be" in refusal(name, state)


@pytest.mark.parametrize("name", OURS)
def test_a_damaged_state_is_refused(name):
    for damaged in (None, [], {}, {"state": {}}, {"state": 3, "param_groups": []}, {"state": {}, "param_groups": [3]}):
        assert "is not what `state_dict()` of an optimizer gives" in refusal(name, damaged)
    state = copy.deepcopy(STATES[name])
    state["state"][9999] = {}
    assert "holds parameter 9999, which is in none of its groups" in refusal(name, state)
    state = copy.deepcopy(STATES[name])
    state["param_groups"][0]["params"].pop()
    assert "groups of" in refusal(name, state)
    for setting, value in (("lr", math.nan), ("weight_decay", math.inf), ("lr", "fast"), ("lr", -1.0)):
        state = copy.deepcopy(STATES[name])
        state["param_groups"][-1][setting] = value
        assert refusal(name, state).startswith(setting)


def test_a_number_where_a_tensor_belongs_is_refused():
    state = copy.deepcopy(STATES["muon"])
    state["state"][0]["momentum"] = 3
    assert "'momentum' of parameter 0 is 3, and should be" in refusal("muon", state)
    state = copy.deepcopy(STATES["adam"])
    state["state"][0]["step"] = torch.zeros(2)
    assert "'step' of parameter 0 is a tensor and no number" in refusal("adam", state)


@pytest.mark.parametrize("name", OURS)
def test_a_state_without_the_settings_that_came_later_is_taken(name):
    net = model()
    extra = {"model": net} if name == "dgd" else {}
    optimizer = OPTIMIZERS[name](net.parameters(), **extra)
    train(net, optimizer, 1)
    state = optimizer.state_dict()
    (group,) = state["param_groups"]
    group.pop("layout", None)
    optimizer.load_state_dict(state)
    train(net, optimizer, 1)
    assert optimizer.param_groups[0].get("layout", "out-in") == "out-in"


# -- numbers -----------------------------------------------------------------------------------------------------------
NUMBERS = []
for _name, _kind in OPTIMIZERS.items():
    for _option, _setting in signature(_kind).parameters.items():
        if isinstance(_setting.default, (float, tuple)) or _option in ("lr", "weight_decay"):
            NUMBERS.append((_name, _option, _setting.default))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400], ids=["nan", "inf", "-inf", "huge"])
@pytest.mark.parametrize(("name", "option", "default"), NUMBERS, ids=[f"{n}-{o}" for n, o, _ in NUMBERS])
def test_a_number_that_is_not_finite_is_refused(name, option, default, value):
    given = (value, *default[1:]) if isinstance(default, tuple) else value
    with pytest.raises(CourseError, match=option) as refused:
        build_optimizer(name, model(), **{option: given})
    assert "\n" not in str(refused.value)
    kind = OPTIMIZERS[name]
    if issubclass(kind, Descent):
        net = model()
        extra = {"model": net} if name == "dgd" else {}
        with pytest.raises(CourseError, match=option):
            kind([{"params": net.parameters(), option: given}], **extra)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_torch_refuses_is_said_as_all_else(name):
    for option, value in (("lr", -1.0), ("lr", "fast"), ("weight_decay", -0.1)):
        with pytest.raises(CourseError, match=rf"{name} cannot be built|{option}"):
            build_optimizer(name, model(), **{option: value})
    with pytest.raises(CourseError, match="built for a model, not for list"):
        build_optimizer(name, [torch.zeros(2)])
