"""Adam: a memory of gradients read through a memory of their squares.

    M <- beta1 M + (1 - beta1) g          H <- beta2 H + (1 - beta2) g^2
    W <- W - lr M' / (sqrt(H') + eps)     M' = M / (1 - beta1^t),  H' = H / (1 - beta2^t)  after t steps

All of it element by element: no axis of W means anything to Adam.
"""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import check_choice, check_min
from nl_course.optimizers.base import Descent, apply_weight_decay, check_pair, gradients

MODES = ("ema", "printed")


class Adam(Descent):
    """Two memories, element by element: M of gradients and H of their squares.

    For each element Adam solves min over m of sum_i (m g_i - P)^2 + lambda m^2, whose solution is M P / (H + lambda),
    with M and H sums. With the values P = sqrt(sum g^2) that is Adam, with P = sum g^2 it is momentum (arXiv
    2512.24695, appendix B).

    `mode="ema"` is AdamW as everyone runs it (Kingma and Ba 2015, arXiv 1412.6980; decay as in Loshchilov and Hutter
    2019, arXiv 1711.05101), number for number `torch.optim.AdamW`. `mode="printed"` is the derivation's: sums that
    never forget, M <- M + beta1 g and H <- H + beta2 g^2, and no bias correction.

    State: 2 o d elements per matrix.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        mode: str = "ema",
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, weight_decay, foreach, betas=betas, eps=eps, mode=mode)

    def check(self, group: dict[str, Any]) -> None:
        """Raises CourseError for betas, eps or a mode that make no sense."""
        check_pair("betas", group["betas"])
        check_min("eps", group["eps"], 0)
        check_choice("mode", group["mode"], MODES)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """One step on `params`, in place: `adam_update`."""
        adam_update(self, group, params, group["mode"])

    def state_shapes(self, group: dict[str, Any], parameter: Tensor) -> dict[str, torch.Size | None]:
        """Adam's two memories and the count of steps."""
        return adam_shapes(parameter)


def adam_shapes(parameter: Tensor) -> dict[str, torch.Size | None]:
    """What `adam_update` keeps of a parameter: see `Descent.state_shapes`."""
    return {"mean": parameter.shape, "square": parameter.shape, "step": None}


def adam_update(optimizer: Descent, group: dict[str, Any], params: list[Tensor], mode: str = "ema") -> None:
    """One step of Adam on `params`, in place. Its two memories are in `optimizer`'s state, so others can use it."""
    apply_weight_decay(group, params)
    beta1, beta2 = group["betas"]
    g = gradients(params)
    M = optimizer.buffers("mean", params)
    H = optimizer.buffers("square", params)
    steps = optimizer.count(params)
    if mode == "printed":
        torch._foreach_add_(M, g, alpha=beta1)
        torch._foreach_addcmul_(H, g, g, beta2)
        root = torch._foreach_sqrt(H)
        step_sizes = [-group["lr"]] * len(params)
    else:
        torch._foreach_lerp_(M, g, 1 - beta1)
        torch._foreach_mul_(H, beta2)
        torch._foreach_addcmul_(H, g, g, 1 - beta2)
        # The memories began at zero; divided by what weights they have seen so far, they are means again.
        root = torch._foreach_sqrt(H)
        torch._foreach_div_(root, [sqrt(1 - beta2**t) for t in steps])
        step_sizes = [-group["lr"] / (1 - beta1**t) for t in steps]
    torch._foreach_add_(root, group["eps"])
    torch._foreach_addcdiv_(params, M, root, step_sizes)
