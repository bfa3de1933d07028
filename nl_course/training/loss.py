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


def token_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) of every token in nats, (b, t) float32; 0 where the target is IGNORED.

    `inputs` and `targets` are (b, t) token numbers. Every row starts with an empty state.
    """
    logits, _ = model(inputs, None)  # (b, t, vocab)
    # Under autocast the logits are bf16, whose three digits are too few for a logarithm of a sum over the vocabulary.
    logits = logits.flatten(0, 1).float()  # (b t, vocab)
    losses = cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")  # (b t,)
    return losses.view(targets.shape)  # (b, t)
