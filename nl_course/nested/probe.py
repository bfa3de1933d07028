"""What a model has learned from its texts so far, measured from outside: its loss on other texts with its weights now.

    curves, state = follow(model, tokens, every=512, texts={"old": a, "new": b})

A probe changes nothing: while it reads, no level moves, however long the probe is. Axes: B texts are read, each with
fast weights of its own; a probe is W windows of n + 1 tokens.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nl_course.nested.levels import FastWeights
from nl_course.nested.model import NestedLanguageModel
from nl_course.nested.state import NestedState
from nl_course.nested.steps import next_token_losses


@torch.no_grad()
def losses_with(model: NestedLanguageModel, fast: FastWeights, tokens: Tensor) -> Tensor:
    """The loss of each next token of windows, tokens (W, n + 1) -> (W, n), in nats, with `fast` held fixed.

    The moving levels' weights are (W, in, out) each, or (in, out) for all windows.
    """
    h = model.embedding(tokens[:, :-1])  # (W, n, width)
    for layer in model.layers:
        h, _ = layer(h, layer.init_state(len(tokens)), None, fast, {})
    return next_token_losses(model.logits(h), tokens[:, 1:])


@torch.no_grad()
def probe_losses(model: NestedLanguageModel, state: NestedState, windows: Tensor) -> Tensor:
    """The mean loss over all windows (W, n + 1) with the weights of each text that is being read: (B,), in nats."""
    losses = []
    for row in range(state.batch_size):
        fast = {name: (first[row], last[row]) for name, (first, last) in state.fast.items()}  # (in, out) each
        losses.append(losses_with(model, fast, windows).mean())
    return torch.stack(losses)  # (B,)


@torch.no_grad()
def follow(
    model: NestedLanguageModel,
    tokens: Tensor,
    every: int,
    texts: Mapping[str, Tensor],
    state: NestedState | None = None,
) -> tuple[dict[str, Tensor], NestedState]:
    """Reads tokens (B, T + 1), and probes with `texts`, windows (W, n + 1) each, at the start and every `every` tokens.

    Returns curves by the texts' names, (B, T // every + 1) each; under "read", (B, T // every), what the model paid per
    token in between, each token before it was learned; and the state after the last. Losses are in nats.
    """
    if state is None:
        state = model.init_state(len(tokens))
    curves = {name: [probe_losses(model, state, windows)] for name, windows in texts.items()}
    paid = []
    for first in range(0, tokens.shape[1] - every, every):
        piece = tokens[:, first : first + every + 1]  # (B, every + 1)
        logits, state = model(piece[:, :-1], state)
        paid.append(next_token_losses(logits, piece[:, 1:]).mean(dim=1))  # (B,)
        for name, windows in texts.items():
            curves[name].append(probe_losses(model, state, windows))
    results = {name: torch.stack(points, dim=1) for name, points in curves.items()}
    results["read"] = torch.stack(paid, dim=1)
    return results, state
