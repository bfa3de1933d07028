"""The loss on held-out text: the same windows every time, so that two evaluations can be compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_int
from nl_course.training.config import TrainingConfig
from nl_course.training.loss import autocast, token_losses

ROW_TOKENS = 1 << 13  # that are read at once where contexts differ in length


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over windows of held-out tokens, in nats per token; the mean at each position of a window, (t,);
    and how many tokens were scored."""

    loss: float
    by_position: Tensor
    tokens: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    stream: Tensor,
    length: int,
    batches: int = 8,
    batch_size: int = 8,
    precision: str = "auto",
    reset_at: int | None = None,
) -> Evaluation:
    """The loss on windows of `length` tokens that are spread evenly over `stream`.

    At most `batches` times `batch_size` windows are read, fewer where they would overlap. `reset_at` is that of
    `token_losses`. The model's training mode is left as it was. Raises CourseError if the stream is shorter than one
    window and its targets.
    """
    check_int("length", length, 1)
    check_int("batches", batches, 1)
    check_int("batch_size", batch_size, 1)
    starts = evaluate_windows(stream, length, batches * batch_size)
    count = len(starts)
    device = next(model.parameters()).device
    was_training = model.training
    # float64: a float32 sum over many batches would depend on how the windows were batched.
    sums = torch.zeros(length, dtype=torch.float64)  # (t,)
    model.eval()
    try:
        for first in range(0, count, batch_size):
            batch_starts = starts[first : first + batch_size]
            windows = torch.stack([stream[start : start + length + 1] for start in batch_starts]).long()  # (b, t + 1)
            with autocast(device, precision):
                inputs, targets = windows[:, :-1].to(device), windows[:, 1:].to(device)  # (b, t) each
                losses = token_losses(model, inputs, targets, reset_at)  # (b, t)
            sums += losses.double().sum(0).cpu()  # (t,)
    finally:
        model.train(was_training)
    return Evaluation(float(sums.sum()) / (count * length), (sums / count).float(), count * length)


def evaluate_windows(stream: Tensor, length: int, most: int) -> list[int]:
    """The first token of each window that `evaluate` reads: evenly spread, not overlapping, at most `most` of them.

    Raises CourseError if the stream has no room for `length` tokens and the target after the last of them.
    """
    places = stream.numel() - length  # where a window of length + 1 can start
    if places < 1:
        raise CourseError(f"the held-out text has {stream.numel():,} tokens; windows of {length} need {length + 1:,}.")
    count = max(1, min(most, stream.numel() // (length + 1)))
    # Whole numbers throughout: the first window starts the text, the last one ends it, on every machine alike.
    return [i * (places - 1) // max(count - 1, 1) for i in range(count)]


@dataclass(frozen=True)
class AtLength:
    """The loss in contexts of `length` tokens, and in those of their tokens that stand further back from the start than
    training went (None where there are none); `tokens` were scored."""

    length: int
    loss: float
    beyond: float | None
    tokens: int


@dataclass(frozen=True)
class LengthTable:
    """Held-out losses at several context lengths, in `unit`. `trained` is the length of the rows in training."""

    rows: tuple[AtLength, ...]
    unit: str
    trained: int

    def to_dict(self) -> dict[str, Any]:
        """As lengths.json holds it."""
        return asdict(self)

    def __str__(self) -> str:
        beyond = f"after token {self.trained:,}"
        lines = [f"{'context':>10}  {self.unit:>14}  {beyond:>18}"]
        for row in self.rows:
            last = "-" if row.beyond is None else f"{row.beyond:.4f}"
            lines.append(f"{row.length:>10,}  {row.loss:>14.4f}  {last:>18}")
        return "\n".join(lines)


def evaluate_lengths(
    model: nn.Module, stream: Tensor, lengths: Sequence[int], config: TrainingConfig, bytes_per_token: float | None
) -> LengthTable:
    """The loss on held-out tokens, read in contexts of each of these lengths, as a run with this config trained it.

    Every length reads the whole stream, but for what is left over at its end, so that the rows of the table are about
    the same text. They are in bits per byte if it is known how many bytes a token stands for, else in bits per token.
    Raises CourseError if the stream has no room for one of the lengths.
    """
    unit = "bits per token" if bytes_per_token is None else "bits per byte"
    per_unit = log(2) * (bytes_per_token or 1.0)
    rows = []
    for length in lengths:
        batch_size = max(1, ROW_TOKENS // length)
        batches = -(-stream.numel() // (length * batch_size))
        found = evaluate(model, stream, length, batches, batch_size, config.precision, config.reset_at)
        beyond = None
        if length > config.length:
            beyond = float(found.by_position[config.length :].double().mean()) / per_unit
        rows.append(AtLength(length, found.loss / per_unit, beyond, found.tokens))
    return LengthTable(tuple(rows), unit, config.length)
