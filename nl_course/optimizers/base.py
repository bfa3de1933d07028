"""What every optimiser of the course shares: checked settings, closures, and many parameters in one operation.

An optimiser is a memory too. Its state is what it has kept of the gradients it was shown, its step is what it reads
from there; each class says which memory it is. "N22" is an equation of the NeurIPS 2025 version of Behrouz et al.,
"Nested Learning", "E56" one of its extended version, arXiv 2512.24695. W is a weight matrix (o, d), g its gradient.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nl_course.errors import CourseError, check_min


class Descent(Optimizer):
    """A torch optimiser whose subclasses say only what their settings may be and how parameters are updated.

    Weight decay is decoupled everywhere: W <- (1 - lr * weight_decay) W before the step, whatever the memory holds.
    `foreach` True does all parameters of a group in one operation each, False one parameter after the other (less
    memory), None the former on a GPU only; the numbers are the same.
    """

    def __init__(self, params: Iterable, lr: float, weight_decay: float, foreach: bool | None = None, **settings: Any):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "foreach": foreach, **settings})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
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
        """Changes `params`, all of which have a gradient, in place."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step with the gradients in `.grad`; a closure computes them first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if p.grad.is_sparse or p.is_complex():
                    raise CourseError(f"{type(self).__name__} needs dense, real gradients.")
            for piece in pieces(group, params):
                self.update(group, piece)
        return loss

    # -- state --
    def buffers(self, name: str, params: list[Tensor]) -> list[Tensor]:
        """The state `name` of every parameter, of its shape; zeros to begin with."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p][name] for p in params]

    def count(self, params: list[Tensor]) -> list[int]:
        """Counts this step; how many each parameter has had, this one included."""
        for p in params:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
        return [self.state[p]["step"] for p in params]

    def state_elements(self) -> int:
        """Numbers held in the state, in elements (counters aside)."""
        return sum(v.numel() for state in self.state.values() for v in state.values() if isinstance(v, Tensor))


def pieces(group: dict[str, Any], params: list[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters that are updated together: all of them, or one at a time."""
    if not params:
        return
    if group["foreach"] or (group["foreach"] is None and all(p.is_cuda for p in params)):
        yield params
    else:
        yield from ([p] for p in params)


def gradients(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params]


def decay(group: dict[str, Any], params: list[Tensor]) -> None:
    """W <- (1 - lr * weight_decay) W."""
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


def fraction(what: str, value: float, one: bool = False) -> float:
    """Returns `value` if it is at least 0 and below 1 (`one`: or 1 itself), else raises a CourseError."""
    check_min(what, value, 0)
    if value > 1 or (value == 1 and not one):
        raise CourseError(f"{what} must be at least 0 and {'at most' if one else 'below'} 1, not {value!r}.")
    return value


def pair(what: str, value: tuple[float, float]) -> None:
    """Raises CourseError unless `value` is two numbers of at least 0 and below 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise CourseError(f"{what} must be two numbers of at least 0 and below 1, not {value!r}.")
    for beta in value:
        fraction(what, beta)
