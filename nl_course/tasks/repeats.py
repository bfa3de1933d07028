"""Random strings that repeat: what comes next is unknowable the first time and certain from then on.

No knowledge of language helps, so whatever a model with frozen weights gains on the second showing, it read in its
context (Olsson et al. 2022, arXiv 2209.11895, call the heads that do this induction heads).
"""

import torch
from torch import Tensor

from nl_course.errors import whole

LETTERS = torch.arange(ord("a"), ord("z") + 1)


def repeated_strings(rows: int, length: int, period: int | tuple[int, int], seed: int) -> Tensor:
    """Random lower-case letters repeated with a period, as bytes: (rows, length) int64.

    `period` is one number of letters, or (least, most): each row then draws its own.
    """
    whole("rows", rows, 1), whole("length", length, 1)
    least, most = (period, period) if isinstance(period, int) else period
    whole("period", least, 1), whole("longest period", most, least)
    generator = torch.Generator().manual_seed(seed)
    periods = torch.randint(least, most + 1, (rows, 1), generator=generator)
    letters = LETTERS[torch.randint(len(LETTERS), (rows, most), generator=generator)]
    return letters.gather(1, torch.arange(length).expand(rows, -1) % periods)
