"""The outer loss: how badly the model predicts each next token, and in which precision that is computed."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nl_course.tasks.targets import IGNORED


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context for a forward pass in `precision`: bf16 autocast, or nothing for "fp32". "auto" is bf16 on a GPU
    that supports it, and fp32 elsewhere."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def token_losses(model: nn.Module, inputs: Tensor, targets: Tensor, reset_at: int | None = None) -> Tensor:
    """-log p(target) of every token in nats, (b, t) float32; 0 where the target is IGNORED.

    `inputs` and `targets` are (b, t) token numbers. Every row starts with an empty state. With `reset_at`, the token
    that ends a document, the state also begins anew where that token is read: what is predicted after it knows nothing
    of the documents before.
    """
    if reset_at is not None:
        return _losses_of_documents(model, inputs, targets, reset_at)
    logits, _ = model(inputs, None)  # (b, t, vocab)
    # Under autocast the logits are bf16, whose three digits are too few for a logarithm of a sum over the vocabulary.
    logits = logits.flatten(0, 1).float()  # (b t, vocab)
    losses = cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")  # (b t,)
    return losses.view(targets.shape)  # (b, t)


def _losses_of_documents(model: nn.Module, inputs: Tensor, targets: Tensor, reset_at: int) -> Tensor:
    """`token_losses` of rows that are cut where `reset_at` is read; each piece is read as a row of its own.

    A piece that begins with `reset_at` predicts the first token of its document from it. Shorter pieces are filled up
    at their ends, where nothing that counts can see it. No forward pass reads more tokens than there are in the rows.
    """
    pieces = _pieces(inputs, reset_at)
    losses_of: dict[tuple[int, int], Tensor] = {}
    # The longest first, so that pieces of nearly the same length stand together and little is filled up.
    waiting = sorted(pieces, key=lambda piece: piece[1] - piece[2])
    while waiting:
        longest = waiting[0][2] - waiting[0][1]
        count = max(1, inputs.numel() // longest)
        group, waiting = waiting[:count], waiting[count:]
        group_inputs = inputs.new_zeros(len(group), longest)  # (n, t of the longest)
        group_targets = targets.new_full((len(group), longest), IGNORED)
        for i, (row, start, stop) in enumerate(group):
            group_inputs[i, : stop - start] = inputs[row, start:stop]
            group_targets[i, : stop - start] = targets[row, start:stop]
        losses = token_losses(model, group_inputs, group_targets)  # (n, t of the longest)
        for i, (row, start, stop) in enumerate(group):
            losses_of[row, start] = losses[i, : stop - start]
    in_order = [losses_of[row, start] for row, start, _ in pieces]
    return torch.cat(in_order).view(targets.shape)  # (b, t)


def _pieces(inputs: Tensor, reset_at: int) -> list[tuple[int, int, int]]:
    """(row, first position, position after the last) of each piece of the rows (b, t), in order."""
    pieces = []
    for row, tokens in enumerate(inputs.tolist()):
        starts = [0] + [i for i, token in enumerate(tokens) if token == reset_at and i > 0]
        for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
            pieces.append((row, start, stop))
    return pieces
