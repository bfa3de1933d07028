"""Strings that repeat: the next letter is unknowable (or hard) the first time and certain from then on.

No knowledge of language helps. Whatever a model with frozen weights gains at the second showing, it has read in its
context (Olsson et al. 2022, arXiv 2209.11895, call the heads that do this induction heads).
"""

import torch
from torch import Tensor

from nl_course.errors import CourseError, check_int, check_min

LETTERS = torch.arange(ord("a"), ord("z") + 1)


def repeated_strings(rows: int, length: int, period: int | tuple[int, int], seed: int, blanks: float = 0.0) -> Tensor:
    """Random lower-case letters repeated with a period, as bytes: (rows, length) int64.

    `period` is one number of letters, or (least, most): each row then draws its own. `blanks` is the share of letters
    that are blanks instead, which makes words of them.
    """
    check_min("blanks", blanks, 0)
    check_int("rows", rows, 1)
    check_int("length", length, 1)
    least, most = (period, period) if isinstance(period, int) else period
    check_int("period", least, 1)
    check_int("longest period", most, least)
    rng = torch.Generator().manual_seed(seed)
    periods = torch.randint(least, most + 1, (rows, 1), generator=rng)
    letters = LETTERS[torch.randint(len(LETTERS), (rows, most), generator=rng)]  # (rows, most)
    if blanks:
        letters[torch.rand(rows, most, generator=rng) < blanks] = ord(" ")
    index = torch.arange(length).expand(rows, -1) % periods  # (rows, length)
    return letters.gather(1, index)


def repeated_passages(stream: Tensor, rows: int, length: int, period: tuple[int, int], seed: int) -> Tensor:
    """Passages of a text, each from a random position and repeated with a period of its own: (rows, length) int64.

    `period` is (least, most) bytes. Unlike random letters, a passage can be guessed in part the first time.
    """
    check_int("rows", rows, 1)
    check_int("length", length, 1)
    least = check_int("period", period[0], 1)
    most = check_int("longest period", period[1], period[0])
    if stream.numel() < most:
        raise CourseError(f"the text is too short for passages of {most} bytes: it has {stream.numel():,}.")
    rng = torch.Generator().manual_seed(seed)
    periods = torch.randint(least, most + 1, (rows, 1), generator=rng)
    starts = torch.randint(stream.numel() - most + 1, (rows, 1), generator=rng)
    index = starts + torch.arange(length).expand(rows, -1) % periods  # (rows, length)
    return stream[index].long()
