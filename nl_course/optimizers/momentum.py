"""Momentum: the simplest memory of gradients, and how far back it remembers.

    m <- momentum * m - lr * g
    W <- W + m

m, W and the gradient g have one shape.
"""

from collections.abc import Iterable
from math import ceil, log
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int
from nl_course.optimizers.base import Descent, apply_weight_decay, check_fraction, gradients


class Momentum(Descent):
    """Heavy ball (Polyak 1964), which Nested Learning, section 4, reads as a memory of gradients.

    The memory is a matrix m (o, d) without values: a Hebbian memory of gradients. With momentum 1 the write is one
    gradient step of size lr on the inner loss <m g^T, I>. A momentum below 1 is an l2 penalty on m.

    State: o d elements per matrix. At a constant rate it is the same as `torch.optim.SGD(momentum=...)`. Here the rate
    is inside the memory, as in the paper, so a change of the rate touches only gradients still to come.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, weight_decay, foreach, momentum=momentum)

    def check(self, group: dict[str, Any]) -> None:
        """Raises CourseError for a momentum outside 0 .. 1."""
        check_fraction("momentum", group["momentum"], one=True)

    def state_shapes(self, group: dict[str, Any], parameter: Tensor) -> dict[str, torch.Size | None]:
        """One memory of gradients."""
        return {"momentum": parameter.shape}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """m <- momentum * m - lr * g, then W <- W + m, in place."""
        apply_weight_decay(group, params)
        m = self.buffers("momentum", params)
        torch._foreach_mul_(m, group["momentum"])
        torch._foreach_add_(m, gradients(params), alpha=-group["lr"])
        torch._foreach_add_(params, m)


def held(beta: float, last: int) -> float:
    """The share of a momentum's weight that the `last` gradients hold: 1 - beta^last."""
    return 1 - check_fraction("beta", beta) ** check_int("last", last)


def span(beta: float, share: float) -> int:
    """How many of the last gradients hold at least `share` of a momentum's weight.

    At beta 0.9 it is 7 for a half (6 hold 46.9 %, 7 hold 52.2 %) and 44 for 0.99 (43 hold 98.92 %, 44 hold 99.03 %).
    The paper says 6 and 43. Raises CourseError for a share that does not lie between 0 and 1.
    """
    check_fraction("beta", beta)
    if not 0 < share < 1:
        raise CourseError(f"share must lie between 0 and 1, not {share!r}.")
    if beta == 0:
        return 1
    count = max(1, ceil(log(1 - share) / log(beta)) - 1)
    while held(beta, count) < share:  # rounding may put the logarithms one off, so the last step is counted out
        count += 1
    return count
