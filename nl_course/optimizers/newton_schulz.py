"""Newton-Schulz: all singular values of a matrix pushed to about 1 by matrix products alone.

    X <- X / |X|_F,  then a few times  X <- a X + b (X X^T) X + c (X X^T)^2 X

It is itself a small memory at work: a step of size 1/8 on the loss |X X^T - I|_F^2 is exactly the cubic rule, so an
optimiser that orthogonalises its momentum runs an inner loop inside every outer step. Only products: no
decomposition, no number that the CPU has to wait for, many matrices in one call, and bf16 where that is faster.
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
    """`matrix` (..., rows, columns) with its singular values pushed towards 1; same shape and dtype.

    `steps` None takes `steps_for` the shape. `precision`: "full" computes in the matrix's dtype, "bf16" in bfloat16,
    "auto" in bfloat16 on a GPU. `eps` is the least Frobenius norm that is scaled up to 1: zeros stay zeros.
    """
    if matrix.dim() < 2:
        raise CourseError(f"Newton-Schulz needs a matrix; this tensor has shape {tuple(matrix.shape)}.")
    a, b, c = COEFFICIENTS[check_choice("Newton-Schulz", kind, COEFFICIENTS)]
    rows, columns = matrix.shape[-2:]
    steps = steps_for(rows, columns, kind) if steps is None else check_int("Newton-Schulz steps", steps)
    half = check_choice("precision", precision, PRECISIONS) == "bf16" or (precision == "auto" and matrix.is_cuda)

    x = matrix.flatten(0, -3) if matrix.dim() > 2 else matrix[None]
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    x = x.bfloat16() if half else x
    x = x.mT if rows > columns else x  # the Gram matrix of the shorter side is the smaller one
    for _ in range(steps):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else gram * b
        x = torch.baddbmm(x, poly, x, beta=a)
    x = x.mT if rows > columns else x
    return x.reshape(matrix.shape).to(matrix.dtype)


def steps_for(rows: int, columns: int, kind: str = "quintic") -> int:
    """Steps that bring the singular values of a Gaussian matrix of this shape into [0.5, 1.5] (our choice).

    A step multiplies a small singular value by at most `a`. The smallest one of a Gaussian matrix is about
    sqrt(long) - sqrt(short); of a square one it is below 0.1 / sqrt(short) in one draw of ten, and then takes a step
    or two more. Hence 5 quintic steps for clearly rectangular matrices and 9 at 256 x 256, where 5 leave 0.2 or less.
    """
    short, long = sorted((check_int("rows", rows, 1), check_int("columns", columns, 1)))
    smallest = max(sqrt(long) - sqrt(short), 0.1 / sqrt(short)) / sqrt(short * long)  # |X|_F is sqrt(short * long)
    growth = COEFFICIENTS[check_choice("Newton-Schulz", kind, COEFFICIENTS)][0]
    return max(LEAST_STEPS[kind], ceil(log(0.6 / smallest) / log(growth))) if short > 1 else LEAST_STEPS[kind]


def orthogonalize(tensors: list[Tensor], together: bool, **options) -> list[Tensor]:
    """`newton_schulz` of every tensor with rows and columns, a convolution's taken as (out, everything else).

    Vectors and scalars come back as they are: a vector has one singular value, and pushing it to 1 would only forget
    how long it was. `together` stacks equal shapes, a matrix and its transpose too, and does each stack in one call.
    """
    result = list(tensors)
    groups: dict[tuple, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if tensor.dim() >= 2:
            shape = as_matrix(tensor).shape
            alone = () if together else (i,)
            groups.setdefault((*sorted(shape), tensor.dtype, tensor.device, *alone), []).append(i)
    for indices in groups.values():
        matrices = [as_matrix(tensors[i]) for i in indices]
        turned = [m.shape[0] > m.shape[1] for m in matrices]
        wide = [m.mT if turn else m for m, turn in zip(matrices, turned)]
        done = newton_schulz(torch.stack(wide) if len(wide) > 1 else wide[0][None], **options)
        for i, o, turn in zip(indices, done, turned):
            result[i] = (o.mT if turn else o).reshape(tensors[i].shape)
    return result


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor of two or more axes as (first axis, all the others); fewer axes as they are."""
    return tensor.flatten(1) if tensor.dim() > 2 else tensor
