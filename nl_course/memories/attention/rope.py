"""Rotary position embedding (Su et al. 2021, RoFormer, arXiv 2104.09864, section 3.2.2).

Each pair of neighboring features is a point in the plane, turned by an angle that grows with the token's position:
pair i of a token at position t turns by t * theta^(-2 i / dim). A dot product of two turned vectors then depends on
their distance alone. Pairs are interleaved (features 0 1, 2 3, ...), as in the paper.

Cosines and sines depend on positions and not on the text, so they are no layer's own. All layers share a few blocks of
them: at most `KEPT_BLOCKS` blocks of `BLOCK` positions, 4 MiB at head width 128 in float32, however long the text is.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack

from nl_course.errors import CourseError, check_int, check_min

BLOCK = 1024  # positions whose cosines and sines are computed together
KEPT_BLOCKS = 8  # blocks that stay in memory, of all layers together


class Rotary(nn.Module):
    """Turns (..., T, dim) by position. Angles are computed in float64, so that position 1,000,000 is as exact as
    position 1. The module holds no tensor."""

    def __init__(self, dim: int, theta: float = 10_000.0):
        """`dim` features, `theta` the base of the rates. Raises CourseError for an odd width or a base below 1."""
        super().__init__()
        if check_int("rotary width", dim, 1) % 2:
            raise CourseError(
                f"rotary embedding turns pairs of features, so its width must be even, not {dim}: "
                "give an even head width, or rope_theta=None where positions may be left out."
            )
        self.dim, self.theta = dim, check_min("rope_theta", theta, 1)

    def forward(self, x: Tensor, start: int, period: int | None = None) -> Tensor:
        """x (..., T, dim), its first token at position `start` -> the same shape and dtype, turned. With a `period`
        positions begin again at 0 after so many tokens."""
        # Half precision cannot hold the cosine of a large angle; the product is rounded only at its end.
        accum_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        turns = self._turns(start, x.shape[-2], period, accum_dtype, x.device)  # (T, dim / 2)
        # Always a copy. A complex number must begin at an even place in memory; a slice of one token may begin anywhere
        # and counts as contiguous all the same.
        copy = x.to(accum_dtype, copy=True, memory_format=torch.contiguous_format)
        # A pair as a complex number: a turn is then one product, with cos + i sin.
        pairs = torch.view_as_complex(copy.view(*x.shape[:-1], self.dim // 2, 2))  # (..., T, dim / 2)
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)  # (..., T, dim)

    def _turns(self, start: int, tokens: int, period: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
        """cos + i sin of the angles of `tokens` tokens, (tokens, dim / 2)."""
        table = (self.dim, self.theta, dtype, device)
        if period is None:
            return turns_between(start, start + tokens, *table)
        first = start % period
        if first + tokens <= period:
            return turns_between(first, first + tokens, *table)
        # A text of at least a period: every position of it occurs, and no more than these are computed.
        if tokens >= period:
            positions = torch.arange(start, start + tokens, device=device) % period  # (tokens,)
            return turns_between(0, period, *table)[positions]
        end = turns_between(first, period, *table)
        return torch.cat([end, turns_between(0, first + tokens - period, *table)])


def check_theta(theta: float | None) -> None:
    """Raises CourseError for a `rope_theta` that is neither None (no positions) nor a finite number of at least 1."""
    if theta is not None:
        check_min("rope_theta", theta, 1)


def turns_between(start: int, stop: int, dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """cos + i sin of the angles at positions start .. stop - 1, (stop - start, dim / 2); `dtype` is that of cos."""
    # What is made while torch compiles, transforms or only pretends to compute is no tensor to keep for later.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or _len_torch_dispatch_stack():
        return compute_turns(start, stop, dim, theta, dtype, device)
    parts = []
    for block in range(start // BLOCK, max(start, stop - 1) // BLOCK + 1):
        begin = block * BLOCK
        rows = _kept_block(block, dim, theta, dtype, device)  # (BLOCK, dim / 2)
        parts.append(rows[max(0, start - begin) : stop - begin])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@lru_cache(maxsize=KEPT_BLOCKS)
def _kept_block(block: int, dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    # What is made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        return compute_turns(block * BLOCK, (block + 1) * BLOCK, dim, theta, dtype, device)


def compute_turns(start: int, stop: int, dim: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `turns_between`, computed anew in float64."""
    exact = device if device.type in ("cpu", "cuda") else torch.device("cpu")  # not every accelerator has float64
    features = torch.arange(0, dim, 2, dtype=torch.float64, device=exact)  # (dim / 2,)
    positions = torch.arange(start, stop, dtype=torch.float64, device=exact)  # (T,)
    angles = torch.outer(positions, theta ** (-features / dim))  # (T, dim / 2)
    turns = torch.stack([angles.cos(), angles.sin()], dim=-1).to(device, dtype)  # (T, dim / 2, 2)
    return torch.view_as_complex(turns)  # (T, dim / 2)
