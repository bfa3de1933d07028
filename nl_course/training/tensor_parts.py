"""The part of a tensor that this process holds: all of it, or, of a sharded tensor, a box of it.

A box is where the part begins in the whole tensor and how many entries it has, one number per axis each. Files name
tensors by whole shapes and boxes, so that any number of processes can read what any other number wrote.
"""

import os
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from nl_course.errors import CourseError


@dataclass(frozen=True)
class Box:
    """A part of a tensor: the entries from `starts` on, `sizes` many along each axis."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "Box":
        """All of a tensor of that shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def count(self) -> int:
        """Entries in it; 1 for a number, which has no axes."""
        count = 1
        for size in self.sizes:
            count *= size
        return count

    def slices(self, origin: tuple[int, ...] | None = None) -> tuple[slice, ...]:
        """What indexes this part in a tensor that begins at `origin` (default: at the very beginning)."""
        origin = origin or (0,) * len(self.starts)
        triples = zip(self.starts, self.sizes, origin, strict=True)
        return tuple(slice(start - zero, start - zero + size) for start, size, zero in triples)

    def overlap(self, other: "Box") -> "Box | None":
        """What is in both of two parts of one tensor; None if nothing is."""
        starts = tuple(map(max, self.starts, other.starts))
        ends = [min(a + m, b + n) for a, m, b, n in zip(self.starts, self.sizes, other.starts, other.sizes)]
        sizes = tuple(end - start for start, end in zip(starts, ends))
        return Box(starts, sizes) if all(size > 0 for size in sizes) else None


class Source(Protocol):
    """Where the tensors of a checkpoint stand: in one file, or in one file of each process that wrote."""

    names: frozenset[str]
    path: str | os.PathLike

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's shape."""

    def part(self, name: str, wanted: Box) -> Tensor:
        """A part of it, on the processor. Raises CourseError if it is missing or damaged."""

    def fault(self, why: str) -> CourseError:
        """An error that says that this checkpoint is damaged, and why."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds only a part of it."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def box(tensor: Tensor) -> Box:
    """Where `local(tensor)` stands in the whole tensor."""
    if not is_sharded(tensor):
        return Box.whole(tensor.shape)
    # What torch's own checkpoints ask of a sharded tensor. Under fsdp a process holds one part, maybe an empty one.
    (chunk,) = tensor.__create_chunk_list__()
    return Box(tuple(chunk.offsets), tuple(chunk.sizes))


def sharded_like(part: Tensor, model: Tensor) -> Tensor:
    """`part` as this process's part of a tensor that is divided as `model` is; unchanged where `model` is whole."""
    if not is_sharded(model):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part.to(model.to_local().device),
        model.device_mesh,
        model.placements,
        run_check=False,
        shape=model.shape,
        stride=model.stride(),
    )
