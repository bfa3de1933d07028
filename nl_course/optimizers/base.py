"""What every optimizer of the course shares: checked settings, closures, and many parameters in one operation.

An optimizer is a memory too. Its state is what it keeps of the gradients it was shown, and its step is what it reads
from that state; each class says which memory it is. W is a weight matrix (o, d), o outputs by d inputs, and g is its
gradient, of the same shape. "N22" is an equation of the NeurIPS 2025 version of Behrouz et al., "Nested Learning",
"E56" one of its extended version, arXiv 2512.24695.

The `torch._foreach_*` functions used in this folder do one operation on every tensor of a list at once; those that end
in `_` change the first list in place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nl_course.errors import CourseError, check_min, shortened


class Descent(Optimizer):
    """A torch optimizer whose subclasses say only what their settings may be and how parameters are updated.

    Weight decay is decoupled everywhere: W <- (1 - lr * weight_decay) W before the step, whatever the memory holds
    (Loshchilov and Hutter 2019, arXiv 1711.05101).
    `foreach`: True does all parameters of a group in one operation each; False does one parameter after the other,
    which takes less memory; None is the former on a GPU only. The numbers are the same.
    """

    def __init__(
        self, params: Iterable, lr: float, weight_decay: float, foreach: bool | None = None, **settings: Any
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "foreach": foreach, **settings})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, with settings of its own where it has some. Raises CourseError for bad ones."""
        self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises CourseError for a setting of a group that makes no sense."""
        check_min("lr", group["lr"], 0)
        check_min("weight_decay", group["weight_decay"], 0)
        if group["foreach"] not in (None, True, False):
            raise CourseError(f"foreach must be True, False or None, not {group['foreach']!r}.")
        self.check(group)

    def check(self, group: dict[str, Any]) -> None:
        """Raises CourseError for a setting of `group` that makes no sense."""

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Changes `params` in place; all of them have a gradient."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step with the gradients in `.grad`. A closure computes them first, and its loss is returned.

        Raises CourseError for a sparse or complex gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if p.grad.is_sparse or p.is_complex():
                    raise CourseError(f"{type(self).__name__} needs dense, real gradients.")
            for batch in updated_together(group, params):
                self.update(group, batch)
        return loss

    # -- state --
    def buffers(self, name: str, params: list[Tensor]) -> list[Tensor]:
        """The state `name` of each parameter, in the parameter's shape; zeros to begin with."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p][name] for p in params]

    def count(self, params: list[Tensor]) -> list[int]:
        """Counts this step; returns how many steps each parameter has had, this one included."""
        for p in params:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
        return [self.state[p]["step"] for p in params]

    def state_shapes(self, group: dict[str, Any], parameter: Tensor) -> dict[str, torch.Size | None]:
        """What the state of one parameter holds, by name: the shape of a tensor, or None for a number."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over settings and state that `state_dict()` gave, of an optimizer of this class for such parameters.

        Raises CourseError, with nothing changed, for those of another kind of optimizer or of another model.
        """
        check_state_dict(self, state_dict)
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Settings that came later are missing in what earlier versions wrote.
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)


# What torch's own classes keep, tensors in the parameter's shape; they are not asked for it as ours are.
TORCHS = {"SGD": ("momentum_buffer",), "AdamW": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
CAME_LATER = ("layout",)  # settings that what earlier versions wrote does not have


def check_state_dict(
    optimizer: Optimizer, state_dict: Mapping[str, Any], groups: list[dict[str, Any]] | None = None
) -> None:
    """Raises CourseError unless `optimizer` can go on with what `state_dict()` of another one gave.

    `groups` are the groups that it will have, by default those it has.
    """
    name = type(optimizer).__name__
    groups = optimizer.param_groups if groups is None else groups
    try:
        saved_groups = [dict(group) for group in state_dict["param_groups"]]
        saved_state = dict(state_dict["state"])
        numbers = [list(group["params"]) for group in saved_groups]
    except (KeyError, TypeError, ValueError) as error:
        raise CourseError(f"this is not what `state_dict()` of an optimizer gives: {error!r}.") from error
    sizes = [len(group["params"]) for group in groups]
    if [len(of_group) for of_group in numbers] != sizes:
        counts = [len(of_group) for of_group in numbers]
        raise CourseError(f"the optimizer state has groups of {counts} parameters, and this {name} of {sizes}.")
    known = {number for of_group in numbers for number in of_group}
    if unknown := sorted(map(str, saved_state.keys() - known)):
        raise CourseError(f"the optimizer state holds parameter {unknown[0]}, which is in none of its groups.")
    for group, saved, of_group in zip(groups, saved_groups, numbers):
        settings = {**optimizer.defaults, **saved}
        if isinstance(optimizer, Descent):
            _check_kind(optimizer, saved)
            optimizer._check_group(settings)
        for number, parameter in zip(of_group, group["params"]):
            if saved_state.get(number):
                _check_parameter_state(optimizer, settings, number, parameter, saved_state[number])


def _check_kind(optimizer: "Descent", saved: dict[str, Any]) -> None:
    """Raises CourseError unless the settings of a saved group are those of an optimizer of this class."""
    name = type(optimizer).__name__
    missing = [setting for setting in optimizer.defaults if setting not in (*saved, *CAME_LATER)]
    if missing:
        raise CourseError(f"the optimizer state is of another kind than {name}: it has no setting {missing[0]!r}.")
    of_others: set[str] = set()
    for kind in Descent.__subclasses__():
        of_others |= signature(kind).parameters.keys()
    foreign = [setting for setting in saved if setting in of_others - optimizer.defaults.keys() - {"params", "model"}]
    if foreign:
        raise CourseError(f"the optimizer state is of another kind than {name}: it has a setting {foreign[0]!r}.")


def _check_parameter_state(
    optimizer: Optimizer, settings: dict[str, Any], number: Any, parameter: Tensor, saved: Mapping[str, Any]
) -> None:
    """Raises CourseError unless what is saved of one parameter is what this optimizer keeps of such a one."""
    name = type(optimizer).__name__
    if isinstance(optimizer, Descent):
        shapes = optimizer.state_shapes(settings, parameter)
        if saved.keys() != shapes.keys():
            raise CourseError(
                f"the optimizer state is of another kind than {name}: of parameter {number} it holds "
                f"{', '.join(sorted(saved))}, where {name} keeps {', '.join(sorted(shapes)) or 'nothing'}."
            )
    else:
        shapes = dict.fromkeys(TORCHS.get(name, ()), parameter.shape)
    for part, shape in shapes.items():
        value = saved.get(part)
        if shape is None and isinstance(value, Tensor):
            raise CourseError(f"in the optimizer state, {part!r} of parameter {number} is a tensor and no number.")
        if shape is not None and value is not None and getattr(value, "shape", None) != shape:
            have = tuple(value.shape) if isinstance(value, Tensor) else value
            raise CourseError(
                f"in the optimizer state, {part!r} of parameter {number} is {have}, and should be {tuple(shape)}."
            )


def updated_together(group: dict[str, Any], params: list[Tensor]) -> Iterator[list[Tensor]]:
    """The lists of parameters to update in one go: all of them in one list, or one list for each."""
    if not params:
        return
    foreach = group["foreach"]
    if foreach is None:
        foreach = all(p.is_cuda for p in params)
    if foreach:
        yield params
    else:
        for p in params:
            yield [p]


def gradients(params: list[Tensor]) -> list[Tensor]:
    """The gradient of each parameter."""
    return [p.grad for p in params]


def apply_weight_decay(group: dict[str, Any], params: list[Tensor]) -> None:
    """W <- (1 - lr * weight_decay) W, in place."""
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


def check_fraction(name: str, value: float, one: bool = False) -> float:
    """Returns `value` if it is at least 0 and below 1 (`one`: or 1 itself), else raises a CourseError."""
    check_min(name, value, 0)
    if value > 1 or (value == 1 and not one):
        raise CourseError(f"{name} must be at least 0 and {'at most' if one else 'below'} 1, not {value!r}.")
    return value


def check_pair(name: str, value: tuple[float, float]) -> None:
    """Raises CourseError unless `value` is two numbers of at least 0 and below 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise CourseError(f"{name} must be two numbers of at least 0 and below 1, not {shortened(value)}.")
    for beta in value:
        check_fraction(name, beta)
