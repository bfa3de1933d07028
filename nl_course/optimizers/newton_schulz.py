"""Newton-Schulz for an optimizer's list of tensors, each with its matrices where its layout says they are.

The iteration itself is in nl_course/newton_schulz.py, since memories use it too."""

from typing import Any

import torch
from torch import Tensor

from nl_course.newton_schulz import COEFFICIENTS, LEAST_STEPS, PRECISIONS, newton_schulz, steps_for
from nl_course.optimizers.layout import as_matrix, from_matrix, is_vector

__all__ = ["COEFFICIENTS", "LEAST_STEPS", "PRECISIONS", "newton_schulz", "orthogonalize", "steps_for"]


def orthogonalize(tensors: list[Tensor], together: bool, layout: str = "out-in", **options: Any) -> list[Tensor]:
    """`newton_schulz` of each tensor's matrices, where `layout` says they are (layout.py).

    Vectors and scalars come back as they are: a vector has one singular value, and pushing it to 1 would only forget
    how long it was. `together` stacks equal shapes, a matrix and its transpose too, and does each stack in one call;
    `options` are those of `newton_schulz`.
    """
    # One call for a stack spares a GPU many small ones. A matrix and its transpose have the same singular values, so
    # they may share a stack.
    stacks: dict[tuple, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if is_vector(tensor, layout):
            continue
        key = (*sorted(as_matrix(tensor, layout).shape[-2:]), tensor.dtype, tensor.device)
        if not together:
            key = (*key, i)
        stacks.setdefault(key, []).append(i)

    result = list(tensors)
    for indices in stacks.values():
        matrices = [as_matrix(tensors[i], layout) for i in indices]  # (..., o, d) each
        is_tall = [m.shape[-2] > m.shape[-1] for m in matrices]
        wide = []
        for m, tall in zip(matrices, is_tall):
            short_first = m.mT if tall else m  # (..., short, long)
            wide.append(short_first.reshape(-1, *short_first.shape[-2:]))  # (heads or 1, short, long)
        stack = torch.cat(wide) if len(wide) > 1 else wide[0]  # (n, short, long)
        pieces = newton_schulz(stack, **options).split([len(w) for w in wide])
        for i, m, o, tall in zip(indices, matrices, pieces, is_tall):
            matrix = (o.mT if tall else o).reshape(m.shape)  # (..., o, d)
            result[i] = from_matrix(matrix, tensors[i], layout)
    return result
