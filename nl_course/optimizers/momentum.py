"""Momentum: the simplest memory of gradients, and how far back it remembers."""

from collections.abc import Iterable
from math import ceil, log
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int
from nl_course.optimizers.base import Descent, decay, fraction, gradients


class Momentum(Descent):
    """Heavy ball: m <- momentum * m - lr * g,  W <- W + m  (Polyak 1964; Nested Learning, momentum as a memory).

    The memory is a matrix m (o, d) without values: a Hebbian memory of gradients. With momentum 1 the write is one
    gradient step of size lr on the inner loss <m g^T, I>; a momentum below 1 is an l2 penalty on m.
    State: o d elements a matrix. At a constant rate the same as `torch.optim.SGD(momentum=...)`; the rate is inside
    the memory here, as in the paper, so a change of rate touches only gradients still to come.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
    ):
        super().__init__(params, lr, weight_decay, foreach, momentum=momentum)

    def check(self, group: dict[str, Any]) -> None:
        fraction("momentum", group["momentum"], one=True)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        decay(group, params)
        m = self.buffers("momentum", params)
        torch._foreach_mul_(m, group["momentum"])
        torch._foreach_add_(m, gradients(params), alpha=-group["lr"])
        torch._foreach_add_(params, m)


def held(beta: float, last: int) -> float:
    """The share of a momentum's weight that lies on the `last` gradients: 1 - beta^last."""
    return 1 - fraction("beta", beta) ** check_int("last", last)


def span(beta: float, share: float) -> int:
    """How many of the last gradients hold at least `share` of a momentum's weight.

    At beta 0.9: 7 for a half (6 hold 46.9 %, 7 hold 52.2 %) and 44 for 0.99 (43 hold 98.92 %, 44 hold 99.03 %); the
    paper says 6 and 43.
    """
    fraction("beta", beta)
    if not 0 < share < 1:
        raise CourseError(f"share must lie between 0 and 1, not {share!r}.")
    count = max(1, ceil(log(1 - share) / log(beta)) - 1) if beta else 1
    while held(beta, count) < share:  # the logarithms may be one off, by rounding
        count += 1
    return count
