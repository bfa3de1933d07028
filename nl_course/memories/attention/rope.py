"""Rotary position embedding (Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2.2).

Each pair of neighboring features is a point in the plane, turned by an angle that grows with the token's position:
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
        """`dim` features, `theta` the base of the rates. Raises CourseError for an odd width."""
        super().__init__()
        if dim % 2:
            raise CourseError(f"rotary embedding turns pairs of features, so its width must be even, not {dim}.")
        self.dim, self.theta = dim, theta
        self._turns: Tensor | None = None

    def forward(self, x: Tensor, start: int, period: int | None = None) -> Tensor:
        """x (..., T, dim), its first token at position `start` -> the same shape and dtype, turned. With a `period`
        positions begin again at 0 after so many tokens."""
        stop = start + x.shape[-2]
        # Half precision cannot hold the cosine of a large angle; the product is rounded only at its end.
        accum_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        if period is None:
            turns = self._table(stop, accum_dtype, x.device)[start:stop]  # (T, dim / 2, 2)
        else:
            positions = torch.arange(start, stop, device=x.device) % period  # (T,)
            turns = self._table(period, accum_dtype, x.device)[positions]  # (T, dim / 2, 2)
        # A pair as a complex number: a turn is then one product, with cos + i sin.
        turns = torch.view_as_complex(turns)  # (T, dim / 2)
        pairs = x.to(accum_dtype).unflatten(-1, (-1, 2))  # (..., T, dim / 2, 2)
        pairs = torch.view_as_complex(pairs.contiguous())  # (..., T, dim / 2)
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)  # (..., T, dim)

    def _table(self, positions: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(cos, sin) of the angles for positions 0, 1, ...: (at least `positions`, dim / 2, 2)."""
        turns = self._turns
        if turns is None or turns.shape[0] < positions or turns.dtype != dtype or turns.device != device:
            # The next power of two, so that reading token by token makes few tables.
            count = max(1024, 1 << (positions - 1).bit_length())
            # On the CPU, since not every accelerator has float64.
            rates = self.theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)  # (dim / 2,)
            angles = torch.outer(torch.arange(count, dtype=torch.float64), rates)  # (count, dim / 2)
            turns = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (count, dim / 2, 2)
            self._turns = turns = turns.to(dtype).to(device)
        return turns
