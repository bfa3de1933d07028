"""When a level updates: arithmetic on the number of tokens that were read, and nothing else.

A level with chunk C has a boundary after C, 2 C, 3 C, ... tokens. At each boundary it takes one step (steps.py), which
is the case "C divides i" of arXiv 2512.24695, eq. 71. One rule says when:

    The step of the boundary after n tokens is taken when token n + 1 arrives, and before token n + 1 is read.

Token n + 1 is the target of token n, so only now are all losses of the chunk known. After T tokens a level has
therefore taken floor((T - 1) / C) steps.

A segment is the stretch of tokens between two successive boundaries, of whichever levels. No weight changes within a
segment, so its tokens run in parallel:

    chunks 2, 6    boundaries after 2, 4, 6, 8, ...       segments of 2 tokens: the chunks of the fastest level
    chunks 3, 5    boundaries after 3, 5, 6, 9, 10, ...   segments of 3, 2, 1, 3, 1, ... tokens
"""

from collections.abc import Sequence


def at_boundary(position: int, chunk: int) -> bool:
    """Whether a level with this chunk updates at the boundary after `position` tokens. Who asks: inner_loop.py, when
    the next token arrives, and steps.py, which then takes the step of every level that is due."""
    return position % chunk == 0


def updates_after(tokens: int, chunk: int) -> int:
    """How many steps a level with this chunk has taken after `tokens` tokens. A chunk of 0 means that the
    level never updates."""
    if chunk == 0 or tokens == 0:
        return 0
    return (tokens - 1) // chunk


def segment_start(tokens: int, chunks: Sequence[int]) -> int:
    """After how many tokens the open segment began, when `tokens` tokens have been read.

    Exactly at a boundary the segment that ends there is still the open one: its last target has not arrived.
    """
    if tokens == 0:
        return 0
    starts = [(tokens - 1) // chunk * chunk for chunk in chunks]
    return max(starts, default=0)


def segment_end(start: int, chunks: Sequence[int]) -> int:
    """After how many tokens the segment ends that begins after `start` tokens: the next boundary of any level."""
    return min((start // chunk + 1) * chunk for chunk in chunks)


def needs_accumulator(chunk: int, chunks: Sequence[int]) -> bool:
    """Whether a level with this chunk must add up gradients over several segments before its boundary.

    It need not if all other chunks are multiples of its own: then every segment is one whole chunk of this level.
    """
    return any(other % chunk for other in chunks)


def reset_period(chunk: int, block_chunks: Sequence[int]) -> int | None:
    """For the nested variant (eq. 72): after how many tokens a level goes back to its start, again and again.

    That is ceil(C_slow / C) of its own chunks, where C_slow is the next slower chunk among those of its block. None for
    the slowest level of a block, which is never reset.
    """
    slower_chunks = [other for other in block_chunks if other > chunk]
    if not slower_chunks:
        return None
    own_chunks = -(-min(slower_chunks) // chunk)  # division that rounds up
    return own_chunks * chunk
