"""Delta momentum: a memory of gradients that erases what it held under the present one before it writes.

    m <- m (momentum I - lr g^T g) - lr P g                                        N22, E48-E49
    W <- W + m

W, m and g are (o, d); P g is a function of g that the user may give, g itself by default.
"""

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_min
from nl_course.optimizers.base import Descent, apply_weight_decay, check_fraction
from nl_course.optimizers.layout import as_matrix, check_layout, from_matrix


class DeltaMomentum(Descent):
    """Momentum by the delta rule.

    The memory is the matrix m (o, d). Its keys are the rows of g (o, d) and its values P, the identity if no
    `preconditioner` g -> P g is given. The write is a gradient step on the half squared inner loss |m g^T + P|^2 / 2,
    where momentum takes one on the dot product <m g^T, P>: directions that come again are corrected, not piled up.
    The paper prints the erase on the left and without the rate. This is the gradient of its own loss, with the target
    -P that descent needs. `erase=False` is preconditioned momentum, and with P = I heavy ball.

    The erase contracts only while lr |g|_2^2 < 1 + momentum. `clip` (ours) shortens g until lr |g|_F^2 is at most
    `clip`; None never does. `layout` is that of `Muon`: of a stack each matrix is a memory by itself. Vectors and
    scalars are matrices of one row.

    State: o d elements per matrix.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        erase: bool = True,
        clip: float | None = 1.0,
        preconditioner: Callable[[Tensor], Tensor] | None = None,
        layout: str = "out-in",
    ) -> None:
        if preconditioner is not None and not callable(preconditioner):
            raise CourseError(f"preconditioner must be a function from g (o, d) to P g, not {preconditioner!r}.")
        self.preconditioner = preconditioner
        settings = dict(momentum=momentum, erase=erase, clip=clip, layout=layout)
        super().__init__(params, lr, weight_decay, foreach=False, **settings)

    def check(self, group: dict[str, Any]) -> None:
        """Raises CourseError for a momentum or a clip that makes no sense."""
        check_fraction("momentum", group["momentum"], one=True)
        if group["clip"] is not None and not check_min("clip", group["clip"], 0) > 0:
            raise CourseError("clip must be more than 0, or None for no limit.")
        check_layout(group)

    def state_shapes(self, group: dict[str, Any], parameter: Tensor) -> dict[str, torch.Size | None]:
        """One memory of gradients."""
        return {"momentum": parameter.shape}

    def update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Erases and writes each memory, then W <- W + m; in place."""
        apply_weight_decay(group, params)
        eta, layout = group["lr"], group["layout"]
        for parameter, memory in zip(params, self.buffers("momentum", params)):
            g = as_matrix(parameter.grad, layout)  # (..., o, d)
            m = as_matrix(memory, layout)  # (..., o, d)
            if group["clip"] is not None and eta:
                longest = sqrt(group["clip"] / eta)
                length = torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True)  # (..., 1, 1)
                g = g * (longest / length.clamp(min=1e-30)).clamp(max=1)
            erased = times_gram(m, g) if group["erase"] else 0
            m = group["momentum"] * m - eta * (erased + self._written(g))
            memory.copy_(from_matrix(m, memory, layout))
            parameter.add_(memory)

    def _written(self, g: Tensor) -> Tensor:
        """P g of each matrix in g (..., o, d)."""
        if self.preconditioner is None:
            return g
        if g.dim() == 2:
            return self.preconditioner(g)
        matrices = g.reshape(-1, *g.shape[-2:])  # (n, o, d)
        return torch.stack([self.preconditioner(one) for one in matrices]).reshape(g.shape)


def times_gram(m: Tensor, g: Tensor) -> Tensor:
    """m g^T g for matrices (..., o, d), by way of the smaller of g^T g (d, d) and m g^T (o, o)."""
    if g.shape[-2] <= g.shape[-1]:
        return (m @ g.mT) @ g
    return m @ (g.mT @ g)
