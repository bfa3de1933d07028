"""Adam: a memory of gradients read through a memory of their squares."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import check_choice, check_min
from nl_course.optimizers.base import Descent, decay, gradients, pair

MODES = ("ema", "printed")


class Adam(Descent):
    """Two memories, element by element: M of gradients and H of their squares; the step is M / (sqrt(H) + eps).

    It solves, for each element, min over m of sum_i (m g_i - P)^2 + lambda m^2, whose solution is M P / (H + lambda):
    with the values P = sqrt(sum g^2) that is Adam, with P = sum g^2 it is momentum (arXiv version, appendix B).
    `mode="ema"` is AdamW as everyone runs it (Kingma and Ba 2015, arXiv 1412.6980; decay as Loshchilov and Hutter
    2019, arXiv 1711.05101), number for number `torch.optim.AdamW`. `mode="printed"` is the derivation's: sums that
    never forget, M <- M + beta1 g and H <- H + beta2 g^2, and no bias correction. State: 2 o d elements a matrix.
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
    ):
        super().__init__(params, lr, weight_decay, foreach, betas=betas, eps=eps, mode=mode)

    def check(self, group: dict[str, Any]) -> None:
        pair("betas", group["betas"])
        check_min("eps", group["eps"], 0)
        check_choice("mode", group["mode"], MODES)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        adam_update(self, group, params, group["mode"])


def adam_update(optimizer: Descent, group: dict[str, Any], params: list[Tensor], mode: str = "ema") -> None:
    """One step of Adam on `params`, its two memories kept in `optimizer`'s state."""
    decay(group, params)
    (beta1, beta2), g = group["betas"], gradients(params)
    M, H = optimizer.buffers("mean", params), optimizer.buffers("square", params)
    steps = optimizer.count(params)
    if mode == "printed":
        torch._foreach_add_(M, g, alpha=beta1)
        torch._foreach_addcmul_(H, g, g, beta2)
        root, rates = torch._foreach_sqrt(H), [-group["lr"]] * len(params)
    else:
        torch._foreach_lerp_(M, g, 1 - beta1)
        torch._foreach_mul_(H, beta2)
        torch._foreach_addcmul_(H, g, g, 1 - beta2)
        root = torch._foreach_sqrt(H)
        torch._foreach_div_(root, [sqrt(1 - beta2**t) for t in steps])
        rates = [-group["lr"] / (1 - beta1**t) for t in steps]
    torch._foreach_add_(root, group["eps"])
    torch._foreach_addcdiv_(params, M, root, rates)
