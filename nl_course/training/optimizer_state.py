"""What an optimizer keeps, in a checkpoint: its class, its groups and its state, described in JSON beside the tensors.

A description from a file is compared with the optimizer that is there, in every part that its next step relies on:
numbers of parameters, shapes, kinds of settings. What does not fit is refused before anything is changed.
"""

import warnings
from collections.abc import Callable
from itertools import chain
from types import NoneType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nl_course.errors import CourseError
from nl_course.optimizers import check_state_dict, former_groups
from nl_course.renamed import translate
from nl_course.training.tensor_parts import Box, Source, box, sharded_like

_LARGEST = 3.4e38  # what torch can multiply numbers of 32 bits by
_OPEN = ("foreach", "fused")  # which of its forms torch takes; None leaves that to it
_ADAMW = {"step", "exp_avg", "exp_avg_sq"}  # what torch's AdamW relies on once it has taken a step


# -- writing -------------------------------------------------------------------------------------------------
def describe_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The optimizer as JSON: {"class", "groups", "state"}. Its tensors are added to `tensors`, sharded ones as they
    are."""
    present = optimizer.state_dict()
    return {
        "class": type(optimizer).__name__,
        "groups": present["param_groups"],
        "state": take_tensors(present["state"], "optimizer", tensors),
    }


def take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The tree `value` as JSON. Its tensors go into `tensors`, each under its path in the tree."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, dict):
        parts = {str(key): take_tensors(child, f"{path}.{key}", tensors) for key, child in value.items()}
        return {"parts": parts}
    if isinstance(value, (list, tuple)):
        return {"list": [take_tensors(child, f"{path}.{i}", tensors) for i, child in enumerate(value)]}
    return {"value": value}


# -- reading -------------------------------------------------------------------------------------------------
def give_tensors(described: Any, get_tensor: Callable[[str], Any]) -> Any:
    """The tree that `take_tensors` described, with `get_tensor(path)` where its tensors were. Keys are strings.

    Raises ValueError for what `take_tensors` does not write.
    """
    (kind, content), *more = described.items() if isinstance(described, dict) and described else [("", None)]
    if not more and kind == "tensor" and isinstance(content, str):
        return get_tensor(content)
    if not more and kind == "parts" and isinstance(content, dict):
        return {key: give_tensors(child, get_tensor) for key, child in content.items()}
    if not more and kind == "list" and isinstance(content, list):
        return [give_tensors(child, get_tensor) for child in content]
    if not more and kind == "value" and isinstance(content, (bool, int, float, str, NoneType)):
        return content
    raise ValueError(f"a part of its optimizer's state cannot be {described!r:.50}")


def check_described(described: dict[str, Any], fault: Callable[[str], CourseError]) -> None:
    """Raises `fault(why)` unless this describes an optimizer: its class, its groups and its state."""
    groups = described.get("groups")
    if not isinstance(described.get("class"), str) or not isinstance(groups, list):
        raise fault("its description says nothing of an optimizer's class or groups")
    for group in groups:
        params = group.get("params") if isinstance(group, dict) else None
        if not isinstance(params, list) or not all(type(index) is int for index in params):
            raise fault(f"a group of its optimizer cannot be {group!r:.50}")
    try:
        state = give_tensors(described.get("state"), lambda name: None)
    except ValueError as error:
        raise fault(str(error)) from error
    if not isinstance(state, dict) or not all(isinstance(values, dict) for values in state.values()):
        raise fault("the state of its optimizer does not go by parameters")


def saved_optimizer(
    source: Source, saved: dict[str, Any], model: nn.Module, optimizer: Optimizer
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The groups that the optimizer will have, and what its `load_state_dict` takes, each process its part.

    Raises CourseError for what this optimizer cannot go on with: another class, other groups, a number that no
    parameter has, a tensor of another shape.
    """
    name = type(optimizer).__name__
    if saved["class"] != name:
        raise CourseError(f"{source.path} was trained with {saved['class']}, not with {name}.")
    groups = _groups_to_go_on_with(source, saved["groups"], model, optimizer)
    _check_groups(source, saved["groups"], groups)
    # JSON has no numbers as keys, and torch knows parameters by their number.
    in_order = chain.from_iterable(group["params"] for group in groups)
    parameters = {str(number): parameter for number, parameter in enumerate(in_order)}
    state = {}
    for key, described in saved["state"]["parts"].items():
        if key not in parameters:
            raise source.fault(f"its optimizer has a parameter {key!r:.50}, and there are {len(parameters)}")
        values = _state_of(source, described, parameters[key])
        _, values = translate(saved["class"], values)
        _check_steps(source, key, values, name)
        state[int(key)] = values
    state_dict = {"state": state, "param_groups": [_with_tuples(group) for group in saved["groups"]]}
    try:
        check_state_dict(optimizer, state_dict, groups)
    except (CourseError, MemoryError) as error:  # MemoryError: settings as large as no run has them
        why = str(error) or "its optimizer asks for more memory than there is."
        raise CourseError(f"the checkpoint {source.path} does not fit this run: {why}") from error
    return groups, state_dict


def _groups_to_go_on_with(
    source: Source, saved: list[dict[str, Any]], model: nn.Module, optimizer: Optimizer
) -> list[dict[str, Any]]:
    """The optimizer's groups, or those of earlier versions where the file was written with them.

    Raises CourseError if the file groups the parameters in neither way.
    """
    sizes = [len(group["params"]) for group in saved]
    if sizes == [len(group["params"]) for group in optimizer.param_groups]:
        return optimizer.param_groups
    groups = former_groups(optimizer, model, sizes)
    if groups is None:
        raise CourseError(f"{source.path} groups the parameters in another way than this optimizer does.")
    warnings.warn(
        f"{source.path} is from a version that told by shape which parameters decay and which are matrices. The run "
        "goes on in that way; a run that is started anew has the groups of today.",
        stacklevel=2,
    )
    return groups


def _check_groups(source: Source, saved: list[dict[str, Any]], groups: list[dict[str, Any]]) -> None:
    """Raises CourseError unless the saved groups number the parameters as torch does, one after the other, and every
    setting is of the kind that stands there now."""
    numbers = [number for group in saved for number in group["params"]]
    if numbers != list(range(len(numbers))):
        raise source.fault("the groups of its optimizer do not number the parameters one after the other")
    for saved_group, group in zip(saved, groups, strict=True):
        if "initial_lr" in group and "initial_lr" not in saved_group:  # a run's schedule multiplies it
            raise source.fault("a group of its optimizer has no 'initial_lr'")
        for setting, value in saved_group.items():
            if setting in _OPEN and value is None:
                continue
            if setting != "params" and not _same_kind(value, group.get(setting)):
                raise source.fault(f"{setting!r} of its optimizer cannot be {value!r:.50}")


def _same_kind(value: Any, present: Any) -> bool:
    """Whether a setting from a file can stand where `present` stands now: a finite number for a number, a switch for a
    switch, a name for a name. Where nothing stands now, anything may."""
    if present is None:
        return True
    if isinstance(present, bool):
        return isinstance(value, bool)
    if isinstance(present, (tuple, list)):
        fits = isinstance(value, (tuple, list)) and len(value) == len(present)
        return fits and all(map(_same_kind, value, present))
    if isinstance(present, (int, float)):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
    return isinstance(value, type(present))


def _state_of(source: Source, described: Any, parameter: Tensor) -> dict[str, Any]:
    """What is kept of one parameter. Tensors of its shape are divided as it is; the others are whole."""

    def take(name: str) -> Tensor:
        shape = source.shape(name)
        if shape == tuple(parameter.shape):
            return sharded_like(source.part(name, box(parameter)), parameter)
        return source.part(name, Box.whole(shape))

    return give_tensors(described, take)


def _check_steps(source: Source, number: str, values: dict[str, Any], optimizer: str) -> None:
    """Raises CourseError for a count of steps that is none, and where torch's AdamW would miss something."""
    steps = values.get("step", 0)
    if isinstance(steps, Tensor):
        steps = steps.item() if steps.numel() == 1 else -1
    if type(steps) not in (int, float) or not 0 <= steps < 2**53:
        raise source.fault(f"the optimizer's step of parameter {number} cannot be {values['step']!r:.50}")
    if optimizer == "AdamW" and not values.keys() >= _ADAMW:
        raise source.fault(f"the optimizer's state of parameter {number} is not complete")


def _with_tuples(group: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's group as torch has it: JSON made lists of its tuples (betas), but `params` was a list."""
    restored = {}
    for name, value in group.items():
        was_tuple = isinstance(value, list) and name != "params"
        restored[name] = tuple(value) if was_tuple else value
    return restored
