"""Muon: a memory of gradients that is read through an inner loop of its own.

    m <- momentum * m + (1 - momentum) g
    W <- W - lr * scale * NS(m)            NS: newton_schulz.py                        Jordan 2024; E43-E44

m, W and the gradient g are (o, d).
"""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import check_choice, check_int, check_min
from nl_course.optimizers.adam import adam_shapes, adam_update
from nl_course.optimizers.base import Descent, apply_weight_decay, check_fraction, check_pair, gradients
from nl_course.optimizers.layout import as_matrix, check_layout, is_vector
from nl_course.optimizers.newton_schulz import COEFFICIENTS, PRECISIONS, orthogonalize

SCALES = ("rows", "adam", "none")


class Muon(Descent):
    """Momentum whose step has all singular values near 1.

    The memory is momentum's. What is read from it goes through Newton-Schulz, in its cubic form gradient steps on
    |O O^T - I|^2, so every direction that was written at all counts the same. In the paper's words: deep momentum with
    a linear memory and sigma = NS.

    `layout` says where a group's tensors have their matrices (layout.py): (out, everything else) by default, and with
    "in-out" a stack (heads, in, out), each of which steps by itself. Vectors and scalars step by the momentum as it is,
    without Newton-Schulz. A group with `adam=True` is AdamW's instead, with `betas` and `eps`: the place for embeddings
    and vectors, as `build_optimizer` does it.

    `nesterov` reads momentum * m + (1 - momentum) g, one gradient ahead. `scale`: "rows" is sqrt(max(1, o / d));
    "adam" is 0.2 sqrt(max(o, d)), with which rates that were tuned for Adam serve (Liu et al. 2025, arXiv 2502.16982);
    "none" is 1. `ns_steps` None takes as many as the shape needs (`newton_schulz.steps_for`), `ns_kind` and `precision`
    are those of `newton_schulz`. With `ns_steps=5, precision="bf16"` it is `torch.optim.Muon`.

    State: o d elements per matrix.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        scale: str = "rows",
        ns_steps: int | None = None,
        ns_kind: str = "quintic",
        precision: str = "auto",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        adam: bool = False,
        layout: str = "out-in",
        foreach: bool | None = None,
    ) -> None:
        settings = dict(momentum=momentum, nesterov=nesterov, scale=scale, betas=betas, eps=eps, adam=adam)
        settings["layout"] = layout
        ns = dict(ns_steps=ns_steps, ns_kind=ns_kind, precision=precision)
        super().__init__(params, lr, weight_decay, foreach, **settings, **ns)

    def check(self, group: dict[str, Any]) -> None:
        """Raises CourseError for a setting of its own that makes no sense."""
        check_fraction("momentum", group["momentum"])
        check_choice("scale", group["scale"], SCALES)
        check_newton_schulz(group)
        check_layout(group)
        check_pair("betas", group["betas"])
        check_min("eps", group["eps"], 0)

    def state_shapes(self, group: dict[str, Any], parameter: Tensor) -> dict[str, torch.Size | None]:
        """One memory of gradients, or Adam's."""
        return adam_shapes(parameter) if group["adam"] else {"momentum": parameter.shape}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Writes g into the momentum, and steps along what Newton-Schulz makes of it; in place."""
        if group["adam"]:
            adam_update(self, group, params)
            return
        apply_weight_decay(group, params)
        m = self.buffers("momentum", params)
        g = gradients(params)
        torch._foreach_lerp_(m, g, 1 - group["momentum"])
        read = torch._foreach_lerp(g, m, group["momentum"]) if group["nesterov"] else m
        step = orthogonal(group, read)
        step_sizes = [-group["lr"] * step_scale(group["scale"], p, group["layout"]) for p in params]
        torch._foreach_add_(params, torch._foreach_mul(step, step_sizes))


def step_scale(kind: str, parameter: Tensor, layout: str = "out-in") -> float:
    """What a matrix's rate is multiplied by, for a `scale` of Muon; 1 for vectors and scalars."""
    if kind == "none" or is_vector(parameter, layout):
        return 1.0
    rows, columns = as_matrix(parameter, layout).shape[-2:]
    if kind == "rows":
        return sqrt(max(1, rows / columns))
    return 0.2 * sqrt(max(rows, columns))


def orthogonal(group: dict[str, Any], memories: list[Tensor]) -> list[Tensor]:
    """NS of each memory, with the group's settings; vectors and scalars as they are."""
    return orthogonalize(memories, together=len(memories) > 1, layout=group["layout"], **ns_options(group))


def ns_options(group: dict[str, Any]) -> dict[str, Any]:
    """A group's settings under the names that `newton_schulz` gives them."""
    return {"steps": group["ns_steps"], "kind": group["ns_kind"], "precision": group["precision"]}


def check_newton_schulz(group: dict[str, Any]) -> None:
    """Raises CourseError for a Newton-Schulz setting of `group` that makes no sense."""
    if group["ns_steps"] is not None:
        check_int("ns_steps", group["ns_steps"], 1)
    check_choice("ns_kind", group["ns_kind"], COEFFICIENTS)
    check_choice("precision", group["precision"], PRECISIONS)
