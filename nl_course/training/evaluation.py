"""The loss on held-out text: the same windows every time, so that two evaluations can be compared."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nl_course.errors import CourseError, check_int
from nl_course.training.loss import autocast, token_losses


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over windows of held-out tokens, in nats per token; the mean at each position of a window, (t,);
    and how many tokens were scored."""

    loss: float
    by_position: Tensor
    tokens: int


@torch.no_grad()
def evaluate(
    model: nn.Module, stream: Tensor, length: int, batches: int = 8, batch_size: int = 8, precision: str = "auto"
) -> Evaluation:
    """The loss on windows of `length` tokens that are spread evenly over `stream`.

    At most `batches` times `batch_size` windows are read, fewer where they would overlap. The model's training mode is
    left as it was. Raises CourseError if the stream is shorter than one window and its targets.
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
                losses = token_losses(model, windows[:, :-1].to(device), windows[:, 1:].to(device))  # (b, t)
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
