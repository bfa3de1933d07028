"""What every optimizer of the course shares: checked settings, closures, and many parameters in one operation.

An optimizer is a memory too. Its state is what it keeps of the gradients it was shown, and its step is what it reads
from that state; each class says which memory it is. W is a weight matrix (o, d), o outputs by d inputs, and g is its
gradient, of the same shape. "N22" is an equation of the NeurIPS 2025 version of Behrouz et al., "Nested Learning",
"E56" one of its extended version, arXiv 2512.24695.

The `torch._foreach_*` functions used in this folder do one operation on every tensor of a list at once; those that end
in `_` change the first list in place.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nl_course.errors import CourseError, check_min


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
        group = {**self.defaults, **param_group}
        check_min("lr", group["lr"], 0)
        check_min("weight_decay", group["weight_decay"], 0)
        if group["foreach"] not in (None, True, False):
            raise CourseError(f"foreach must be True, False or None, not {group['foreach']!r}.")
        self.check(group)
        super().add_param_group(param_group)

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
        raise CourseError(f"{name} must be two numbers of at least 0 and below 1, not {value!r}.")
    for beta in value:
        check_fraction(name, beta)
