"""M3, multi-scale momentum Muon: a fast and a slow memory of gradients, each on its own clock."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.optimizers.adam import MODES, adam_update
from nl_course.optimizers.base import Descent, decay, fraction, gradients
from nl_course.optimizers.muon import check_newton_schulz, orthogonal


class M3(Descent):
    """W <- W - lr (NS(M1) + alpha NS(M2)) / (sqrt(V) + eps)  (arXiv version, section 7.2, Algorithm 1, E75).

    M1 is written at every step and read at every step; M2 is read only every `slow_every` steps, through
    O2 = NS(M2), which then stands for the whole next chunk: a continuum memory system of two levels. V is Adam's memory
    of squares. State: 4 o d elements a matrix (M1, M2, V, O2; the paper's sum over a chunk is added to M2 as it comes,
    since nobody reads it before the chunk is full).

    `mode="printed"` is the algorithm as printed: M1 += beta1 g, M2 += beta3 g, V += beta2 g^2, sums without any decay
    or bias correction. NS(M) has entries of order 1 / sqrt(o) whatever the gradients, V is of their size, so small
    gradients make huge steps: it is for the page. `mode="ema"` is ours, for training: M1 and V are exponential means
    with betas[0] and betas[1], M2 one with betas[2] over the chunks' mean gradients, V is bias-corrected and the step
    of a matrix is scaled to a root mean square of `rms`. Values of betas, alpha, eps and period are not in the paper.

    Vectors and scalars are not orthogonalised; in ema mode they are not rescaled either but bias-corrected, so that
    with alpha 0 they are Adam's. A group with `adam=True` is AdamW's altogether (betas[:2]): for embeddings.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9),
        alpha: float = 1.0,
        slow_every: int = 100,
        mode: str = "ema",
        rms: float = 1.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        ns_steps: int | None = None,
        ns_kind: str = "quintic",
        precision: str = "auto",
        adam: bool = False,
        foreach: bool | None = None,
    ):
        settings = dict(betas=betas, alpha=alpha, slow_every=slow_every, mode=mode, rms=rms, eps=eps, adam=adam)
        ns = dict(ns_steps=ns_steps, ns_kind=ns_kind, precision=precision)
        super().__init__(params, lr, weight_decay, foreach, **settings, **ns)

    def check(self, group: dict[str, Any]) -> None:
        check_choice("mode", group["mode"], MODES)
        check_betas(group["betas"], one=group["mode"] == "printed")
        for name in ("alpha", "eps", "rms"):
            check_min(name, group[name], 0)
        check_int("slow_every", group["slow_every"], 1)
        check_newton_schulz(group)

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if group["adam"]:
            return adam_update(self, {**group, "betas": group["betas"][:2]}, params)
        decay(group, params)
        g, steps = gradients(params), self.count(params)
        M1, M2, V, O2 = (self.buffers(name, params) for name in ("fast", "slow", "square", "slow_step"))
        write = write_sums if group["mode"] == "printed" else write_means
        root = write(group, steps, g, M1, M2, V)

        step = torch._foreach_add(self._fast_step(group, steps, M1), O2, alpha=group["alpha"])
        torch._foreach_add_(root, group["eps"])
        torch._foreach_div_(step, root)
        if group["mode"] == "ema":
            for p, s in zip(params, step):
                if p.dim() >= 2:
                    s.mul_(group["rms"] * sqrt(s.numel()) / s.norm().clamp(min=1e-30))
        torch._foreach_add_(params, step, alpha=-group["lr"])

        full = [i for i, t in enumerate(steps) if t % group["slow_every"] == 0]
        for i, o in zip(full, orthogonal(group, [M2[i] for i in full])):
            O2[i].copy_(o)
            if group["mode"] == "ema" and o.dim() < 2:
                O2[i].div_(1 - group["betas"][2] ** (steps[i] // group["slow_every"]))

    @staticmethod
    def _fast_step(group: dict[str, Any], steps: list[int], M1: list[Tensor]) -> list[Tensor]:
        """O1 of every memory; the bias of an exponential mean matters to vectors only, NS takes it out."""
        fast = orthogonal(group, M1)
        if group["mode"] == "printed":
            return fast
        return [o if o.dim() >= 2 else o / (1 - group["betas"][0] ** t) for o, t in zip(fast, steps)]


def write_sums(group: dict[str, Any], steps: list[int], g: list[Tensor], M1, M2, V) -> list[Tensor]:
    """Algorithm 1's writes; returns sqrt(V)."""
    beta1, beta2, beta3 = group["betas"]
    torch._foreach_add_(M1, g, alpha=beta1)
    torch._foreach_add_(M2, g, alpha=beta3)
    torch._foreach_addcmul_(V, g, g, beta2)
    return torch._foreach_sqrt(V)


def write_means(group: dict[str, Any], steps: list[int], g: list[Tensor], M1, M2, V) -> list[Tensor]:
    """The same memories as exponential means; M2 forgets once a chunk. Returns the bias-corrected sqrt(V)."""
    (beta1, beta2, beta3), period = group["betas"], group["slow_every"]
    begins = [m for m, t in zip(M2, steps) if (t - 1) % period == 0]
    if begins:
        torch._foreach_mul_(begins, beta3)
    torch._foreach_add_(M2, g, alpha=(1 - beta3) / period)
    torch._foreach_lerp_(M1, g, 1 - beta1)
    torch._foreach_mul_(V, beta2)
    torch._foreach_addcmul_(V, g, g, 1 - beta2)
    root = torch._foreach_sqrt(V)
    torch._foreach_div_(root, [sqrt(1 - beta2**t) for t in steps])
    return root


def check_betas(betas: tuple[float, ...], one: bool) -> None:
    """Raises CourseError unless `betas` is three numbers of at least 0 and below 1 (`one`: or 1, for sums)."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 3:
        raise CourseError(f"betas must be three numbers (fast memory, squares, slow memory), not {betas!r}.")
    for beta in betas:
        fraction("betas", beta, one)
