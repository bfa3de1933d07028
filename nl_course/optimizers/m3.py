"""M3, multi-scale momentum Muon: a fast and a slow memory of gradients, each on its own clock.

    M1 <- M1 + beta1 g                      every step                            arXiv 2512.24695, Algorithm 1
    V  <- V + beta2 g^2                     every step
    M2 <- M2 + beta3 sum of the chunk's g   every `slow_every` steps,  O2 = NS(M2)
    W  <- W - lr (NS(M1) + alpha O2) / (sqrt(V) + eps)                                                     E75

All memories have the shape of W. This is the algorithm as printed; M3's docstring says what is ours.
"""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.optimizers.adam import MODES, adam_shapes, adam_update
from nl_course.optimizers.base import Descent, apply_weight_decay, check_fraction, gradients
from nl_course.optimizers.layout import as_matrix, check_layout, from_matrix, is_vector
from nl_course.optimizers.muon import check_newton_schulz, orthogonal


class M3(Descent):
    """A continuum memory system of two levels (section 7.2), with Adam's memory of squares.

    M1 is written at every step and read at every step. M2 is read only every `slow_every` steps, through O2 = NS(M2),
    which then stands for the whole next chunk. V is Adam's memory of squares. The paper's sum over a chunk is added to
    M2 as it comes, since nobody reads M2 before the chunk is full.

    `mode="printed"` is the algorithm as printed, above: sums without any decay or bias correction. NS(M) has entries of
    order 1 / sqrt(o) whatever the gradients, and V is of their size, so small gradients make huge steps: it is for the
    page. `mode="ema"` is ours, for training: M1 and V are exponential means with betas[0] and betas[1], M2 one with
    betas[2] over the chunks' mean gradients, V is bias-corrected, and the step of a matrix is scaled to a root mean
    square of `rms`. Values of betas, alpha, eps and period are not in the paper.

    Vectors and scalars are not made orthogonal. In ema mode they are not rescaled either but bias-corrected, so that
    with alpha 0 they are Adam's. A group with `adam=True` is AdamW's altogether (betas[:2]): for embeddings.
    `ns_steps`, `ns_kind`, `precision` and `layout` are those of `Muon`; of a stack each matrix steps by itself.

    State: 4 o d elements per matrix (M1, M2, V, O2).
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
        layout: str = "out-in",
        foreach: bool | None = None,
    ) -> None:
        settings = dict(betas=betas, alpha=alpha, slow_every=slow_every, mode=mode, rms=rms, eps=eps, adam=adam)
        settings["layout"] = layout
        ns = dict(ns_steps=ns_steps, ns_kind=ns_kind, precision=precision)
        super().__init__(params, lr, weight_decay, foreach, **settings, **ns)

    def check(self, group: dict[str, Any]) -> None:
        """Raises CourseError for a setting of its own that makes no sense."""
        check_choice("mode", group["mode"], MODES)
        check_betas(group["betas"], one=group["mode"] == "printed")
        for name in ("alpha", "eps", "rms"):
            check_min(name, group[name], 0)
        check_int("slow_every", group["slow_every"], 1)
        check_newton_schulz(group)
        check_layout(group)

    def state_shapes(self, group: dict[str, Any], parameter: Tensor) -> dict[str, torch.Size | None]:
        """The fast and the slow memory, squares, the slow memory's last answer, the count of steps; or Adam's."""
        if group["adam"]:
            return adam_shapes(parameter)
        tensors = dict.fromkeys(("fast", "slow", "square", "slow_step"), parameter.shape)
        return {**tensors, "step": None}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """One step, in place: write, read the fast memory, and read the slow one where its chunk is full."""
        if group["adam"]:
            adam_update(self, {**group, "betas": group["betas"][:2]}, params)
            return
        apply_weight_decay(group, params)
        g = gradients(params)
        steps = self.count(params)
        M1 = self.buffers("fast", params)
        M2 = self.buffers("slow", params)
        V = self.buffers("square", params)
        O2 = self.buffers("slow_step", params)

        # Write. Every memory sees every gradient.
        write = write_sums if group["mode"] == "printed" else write_means
        root = write(group, steps, g, M1, M2, V)

        # Read the fast memory now; the slow one still answers with what it held when its last chunk was full.
        step = torch._foreach_add(self._fast_step(group, steps, M1), O2, alpha=group["alpha"])
        torch._foreach_add_(root, group["eps"])
        torch._foreach_div_(step, root)
        if group["mode"] == "ema":
            step = [with_rms(s, group["rms"], group["layout"]) for s in step]
        torch._foreach_add_(params, step, alpha=-group["lr"])

        # The slow clock: where a chunk is full, O2 is read anew and first acts on the next step.
        full = [i for i, t in enumerate(steps) if t % group["slow_every"] == 0]
        slow_steps = orthogonal(group, [M2[i] for i in full])
        for i, o in zip(full, slow_steps):
            O2[i].copy_(o)
            if group["mode"] == "ema" and is_vector(o, group["layout"]):
                O2[i].div_(1 - group["betas"][2] ** (steps[i] // group["slow_every"]))

    @staticmethod
    def _fast_step(group: dict[str, Any], steps: list[int], M1: list[Tensor]) -> list[Tensor]:
        """NS(M1) of each memory. The bias of an exponential mean matters to vectors only: NS takes it out."""
        fast = orthogonal(group, M1)
        if group["mode"] == "printed":
            return fast
        corrected = []
        for o, t in zip(fast, steps):
            corrected.append(o / (1 - group["betas"][0] ** t) if is_vector(o, group["layout"]) else o)
        return corrected


def with_rms(step: Tensor, rms: float, layout: str) -> Tensor:
    """A step in which every matrix has the root mean square `rms`; vectors as they are."""
    if is_vector(step, layout):
        return step
    matrix = as_matrix(step, layout)  # (..., o, d)
    o, d = matrix.shape[-2:]
    length = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)  # (..., 1, 1)
    return from_matrix(matrix * (rms * sqrt(o * d) / length.clamp(min=1e-30)), step, layout)


Memories = list[Tensor]  # one for each parameter, in its shape


def write_sums(
    group: dict[str, Any], steps: list[int], g: list[Tensor], M1: Memories, M2: Memories, V: Memories
) -> list[Tensor]:
    """Algorithm 1's writes, in place; returns sqrt(V)."""
    beta1, beta2, beta3 = group["betas"]
    torch._foreach_add_(M1, g, alpha=beta1)
    torch._foreach_add_(M2, g, alpha=beta3)
    torch._foreach_addcmul_(V, g, g, beta2)
    return torch._foreach_sqrt(V)


def write_means(
    group: dict[str, Any], steps: list[int], g: list[Tensor], M1: Memories, M2: Memories, V: Memories
) -> list[Tensor]:
    """The same memories as exponential means, in place. Returns the bias-corrected sqrt(V)."""
    beta1, beta2, beta3 = group["betas"]
    period = group["slow_every"]
    # On its own clock M2 is a mean over chunks: it forgets once per chunk, at its first step, and each gradient of the
    # chunk brings its share of the chunk's mean.
    begins_chunk = [m for m, t in zip(M2, steps) if (t - 1) % period == 0]
    if begins_chunk:
        torch._foreach_mul_(begins_chunk, beta3)
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
        check_fraction("betas", beta, one)
