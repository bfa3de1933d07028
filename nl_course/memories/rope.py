"""Rotary position embedding (Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2.2).

Each pair of neighbouring features is a point in the plane, turned by an angle that grows with the token's position:
pair i of a token at position t turns by t * theta^(-2 i / dim). A dot product of two turned vectors then depends on
their distance alone. Pairs are interleaved (features 0 1, 2 3, ...), as in the paper.
"""

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError


class Rotary(nn.Module):
    """Turns (..., T, dim) by position. Angles are computed in float64 and kept as cosines and sines, so that
    position 1,000,000 is as exact as position 1; the table grows by doubling and is no parameter."""

    def __init__(self, dim: int, theta: float = 10_000.0):
        super().__init__()
        if dim % 2:
            raise CourseError(f"rotary embedding turns pairs of features, so its width must be even, not {dim}.")
        self.dim, self.theta = dim, theta
        self._table: Tensor | None = None

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x (..., T, dim), its first token at position `start` -> the same shape and dtype, turned."""
        turns = self._turns(start + x.shape[-2], x)[start : start + x.shape[-2]]
        pairs = x.to(_wide(x.dtype)).unflatten(-1, (-1, 2))
        cos, sin = turns.unbind(-1)
        even, odd = pairs.unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
        return turned.flatten(-2).to(x.dtype)

    def _turns(self, positions: int, like: Tensor) -> Tensor:
        """(cos, sin) for positions 0, 1, ...: (at least `positions`, dim / 2, 2)."""
        table = self._table
        if table is None or table.shape[0] < positions or table.dtype != _wide(like.dtype) or table.device != like.device:
            count = max(1024, 1 << (positions - 1).bit_length())
            # On the CPU, since not every accelerator has float64.
            rates = self.theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)
            angles = torch.outer(torch.arange(count, dtype=torch.float64), rates)
            table = torch.stack([angles.cos(), angles.sin()], dim=-1).to(like.device, _wide(like.dtype))
            self._table = table
        return table


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to turn in: at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
