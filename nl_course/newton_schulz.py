"""Newton-Schulz: all singular values of a matrix pushed to about 1 by matrix products alone.

    X <- X / |X|_F,  then a few times  X <- a X + b (X X^T) X + c (X X^T)^2 X

It is itself a small memory at work: a step of size 1/8 on the loss |X X^T - I|_F^2 is exactly the cubic rule. So an
optimizer that makes its momentum orthogonal runs an inner loop inside every outer step. It needs only products: no
decomposition, no number that the CPU has to wait for, many matrices in one call, and bf16 where that is faster.

Optimizers use it outside (optimizers/muon.py, m3.py), memories inside (memories/ablations/inner_muon.py).
"""

from math import ceil, log, sqrt

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_choice, check_int

# (a, b, c). The cubic rule ends at 1 exactly. The quintic of Jordan's Muon (2024) has the steepest start that stays
# bounded: it triples small singular values, and then wanders between 0.68 and 1.20 for ever.
COEFFICIENTS = {"quintic": (3.4445, -4.7750, 2.0315), "cubic": (1.5, -0.5, 0.0)}
LEAST_STEPS = {"quintic": 5, "cubic": 9}
PRECISIONS = ("auto", "full", "bf16")


def newton_schulz(
    matrix: Tensor,
    steps: int | None = None,
    kind: str = "quintic",
    precision: str = "full",
    eps: float = 1e-7,
) -> Tensor:
    """`matrix` (..., rows, columns) with its singular values pushed toward 1; same shape and dtype.

    `steps` None takes `steps_for` the shape. `precision`: "full" computes in the matrix's dtype, "bf16" in bfloat16,
    "auto" in bfloat16 on a GPU. `eps` is the least Frobenius norm that is scaled up to 1, so zeros stay zeros.
    Raises CourseError for a tensor of fewer than two axes and for settings it does not know.
    """
    if matrix.dim() < 2:
        raise CourseError(f"Newton-Schulz needs a matrix; this tensor has shape {tuple(matrix.shape)}.")
    a, b, c = COEFFICIENTS[check_choice("Newton-Schulz", kind, COEFFICIENTS)]
    rows, columns = matrix.shape[-2:]
    steps = steps_for(rows, columns, kind) if steps is None else check_int("Newton-Schulz steps", steps)
    check_choice("precision", precision, PRECISIONS)
    in_bfloat16 = precision == "bf16" or (precision == "auto" and matrix.is_cuda)

    x = matrix.flatten(0, -3) if matrix.dim() > 2 else matrix[None]  # (n, rows, columns)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    if in_bfloat16:
        x = x.bfloat16()
    if rows > columns:
        x = x.mT  # (n, short, long): the Gram matrix of the shorter side is the smaller one
    for _ in range(steps):
        gram = x @ x.mT  # (n, short, short)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else gram * b  # b G + c G^2
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a X + (b G + c G^2) X
    if rows > columns:
        x = x.mT  # (n, rows, columns)
    return x.reshape(matrix.shape).to(matrix.dtype)


def steps_for(rows: int, columns: int, kind: str = "quintic") -> int:
    """Steps that bring the singular values of a Gaussian matrix of this shape into [0.5, 1.5] (our choice).

    A step multiplies a small singular value by at most `a`. The smallest one of a Gaussian matrix is about
    sqrt(long) - sqrt(short). Of a square one it is below 0.1 / sqrt(short) in one draw of ten, and then takes a step
    or two more. Hence 5 quintic steps for clearly rectangular matrices and 9 at 256 x 256, where 5 leave 0.2 or less.
    """
    short, long = sorted((check_int("rows", rows, 1), check_int("columns", columns, 1)))
    growth = COEFFICIENTS[check_choice("Newton-Schulz", kind, COEFFICIENTS)][0]
    if short == 1:
        return LEAST_STEPS[kind]
    length = sqrt(short * long)  # |X|_F, by which the matrix is divided first
    smallest = max(sqrt(long) - sqrt(short), 0.1 / sqrt(short)) / length
    return max(LEAST_STEPS[kind], ceil(log(0.6 / smallest) / log(growth)))
