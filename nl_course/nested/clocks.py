"""Which level moves when: arithmetic on the number of tokens read, and nothing else.

A level of period C has its boundaries after C, 2C, 3C, ... tokens. What happens at a boundary after n tokens happens
when token n + 1 arrives, which is the last target of the chunk, and before that token is read: floor((T - 1) / C)
updates after T tokens. The tokens between two successive boundaries, of whichever clock, are a segment: in it no weight
moves. With periods that are multiples of the fastest, segments are the fastest clock's chunks.
"""

from collections.abc import Sequence


def updates_after(tokens: int, chunk: int) -> int:
    """How many times a level of that chunk has moved after so many tokens; never if the chunk is 0."""
    return (tokens - 1) // chunk if chunk and tokens else 0


def open_since(tokens: int, chunks: Sequence[int]) -> int:
    """After how many tokens the segment began in which the last of `tokens` tokens stands."""
    return max(((tokens - 1) // chunk * chunk for chunk in chunks), default=0) if tokens else 0


def closes_at(start: int, chunks: Sequence[int]) -> int:
    """After how many tokens the segment ends that begins after `start`."""
    return min((start // chunk + 1) * chunk for chunk in chunks)


def needs_accumulator(chunk: int, chunks: Sequence[int]) -> bool:
    """Whether a level of that chunk has to add up more than one segment: no, if every segment is one chunk of it."""
    return any(other % chunk for other in chunks)


def reset_period(chunk: int, block: Sequence[int]) -> int | None:
    """Nested variant: how many tokens a level learns before it goes back to its start, ceil(C_slow / C) of its own
    chunks, with C_slow the next slower clock of its block; None for the slowest."""
    slower = [other for other in block if other > chunk]
    return -(-min(slower) // chunk) * chunk if slower else None
