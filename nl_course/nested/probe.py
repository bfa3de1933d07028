"""What a reader has learnt, asked from outside: the loss of other texts under the weights that it has now.

    curves, state = follow(model, tokens, every=512, texts={"old": a, "new": b})

A probe changes nothing: no level moves while it is asked, whatever its length.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nl_course.nested.model import NestedLanguageModel
from nl_course.nested.state import NestedState
from nl_course.nested.steps import Weights, next_token_losses


@torch.no_grad()
def losses_with(model: NestedLanguageModel, fast: Weights, tokens: Tensor) -> Tensor:
    """The losses of a text's next tokens, tokens (W, n + 1) -> (W, n), with the moving levels' weights `fast` held
    fixed: (W, in, out) each, or (in, out) for all rows."""
    h = model.embedding(tokens[:, :-1])
    for layer in model.layers:
        h, _ = layer(h, layer.init_state(len(tokens)), None, fast, {})
    return next_token_losses(model.logits(h), tokens[:, 1:])


@torch.no_grad()
def asked(model: NestedLanguageModel, state: NestedState, windows: Tensor) -> Tensor:
    """Every reader is asked every window: windows (W, n + 1) -> the mean loss of each reader's answers, (B,)."""
    found = []
    for row in range(state.batch_size):
        fast = {name: tuple(w[row] for w in pair) for name, pair in state.fast.items()}
        found.append(losses_with(model, fast, windows).mean())
    return torch.stack(found)


@torch.no_grad()
def follow(
    model: NestedLanguageModel,
    tokens: Tensor,
    every: int,
    texts: Mapping[str, Tensor],
    state: NestedState | None = None,
) -> tuple[dict[str, Tensor], NestedState]:
    """Reads tokens (B, T + 1) and asks `texts`, windows (W, n + 1) each, at the start and after every `every` tokens.

    Returns curves by name, (B, T // every + 1) each, and under "read" what the model paid for the tokens in between,
    (B, T // every), each token asked before it was learnt; and the state."""
    state = model.init_state(len(tokens)) if state is None else state
    curves, paid = {name: [asked(model, state, windows)] for name, windows in texts.items()}, []
    for first in range(0, tokens.shape[1] - every, every):
        piece = tokens[:, first : first + every + 1]
        logits, state = model(piece[:, :-1], state)
        paid.append(next_token_losses(logits, piece[:, 1:]).mean(dim=1))
        for name, windows in texts.items():
            curves[name].append(asked(model, state, windows))
    rows = {name: torch.stack(found, dim=1) for name, found in curves.items()}
    return {**rows, "read": torch.stack(paid, dim=1)}, state
