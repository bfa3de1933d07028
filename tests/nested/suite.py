"""What every language model with clocks must pass. Adding a model: one line in CASES; test_models.py runs the rest.

All in float64: "equal" means equal to 1e-10. The oracle at the end reads one row of text with every block segment by
segment, its own copies of the weights and plain autograd: the rule of the clocks, written a second time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.memories import MEMORIES
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel, NestedState
from nl_course.suite.case import assert_same_state, describe

__all__ = ["CASES", "TOKENS", "assert_close", "assert_same_state", "build", "describe", "oracle", "read", "text"]

TOKENS = 13  # crosses boundaries of every period below, and ends in mid-chunk for most
VOCAB, WIDTH = 11, 8


def levels(*chunks: int, **options) -> tuple[LevelConfig, ...]:
    """A level for each chunk, of different widths and rates, so that nothing can be mixed up unseen."""
    return tuple(LevelConfig(5 + i, chunk, 0.1 / (i + 1), **options) for i, chunk in enumerate(chunks))


def _config(chunks: Iterable[int] = (2, 6, 0), layers: int = 2, **options) -> NestedConfig:
    given = dict(vocab=VOCAB, width=WIDTH, layers=layers, heads=2, levels=levels(*chunks))
    return NestedConfig(**(given | options))


PERIODS = {"one": (4,), "mixed": (2, 6, 0), "odd": (3, 5), "frozen": (0, 0)}
CASES = {
    f"{variant}-{memory}-{name}": _config(chunks, memory=memory, variant=variant)
    for variant in ("sequential", "nested", "independent")
    for memory in ("attention", "delta")
    for name, chunks in PERIODS.items()
}
_SUFFIX = (levels(0), levels(0), levels(4, 0, activation="swiglu"), levels(0, 4, activation="relu"))
CASES |= {
    "one-layer": _config((2, 4), layers=1),
    "token-by-token": _config((1, 3), memory="delta"),
    "upper-blocks": _config(levels=_SUFFIX, layers=4),
    "window": _config(options=dict(window=3), layers=3),
    "window-shorter-than-segment": _config((6,), options=dict(window=2), layers=3),
    "window-delta-conv": _config((2, 4), memory="delta", conv=3, layers=3),
    "attention-conv": _config((2, 4), conv=3, layers=3),
    "latent": _config(memory="latent-attention", options=dict(kv_rank=6, rope_dim=2, head_dim=4)),
    "ttt": _config(memory="ttt-linear", options=dict(mini_batch=3)),
    "ttt-e2e": _config(
        levels=_SUFFIX, layers=4, options=dict(window=5), reduction="mean", clip=0.1, post_norm=True, tied=False
    ),
    "clip-every-clock": _config((2, 6), clip=0.05, variant="nested"),
    "fixed-rates": _config(levels=levels(2, 6, learn_rate=False)),
}
if "titans" in MEMORIES:
    CASES["titans"] = _config(memory="titans", options=dict(chunk=3))
if "self-modifying" in MEMORIES:
    CASES["hope"] = _config(memory="self-modifying")


def build(case: str | NestedConfig, seed: int = 0) -> NestedLanguageModel:
    """The model in float64, every parameter moved away from its start."""
    torch.manual_seed(seed)
    model = NestedLanguageModel(CASES[case] if isinstance(case, str) else case).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def text(rows: int = 2, tokens: int = TOKENS, seed: int = 3) -> Tensor:
    return torch.randint(0, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def read(model, tokens: Tensor, pieces: list[int], state: NestedState | None = None) -> tuple[Tensor, NestedState]:
    """The logits of all pieces joined, and the last state."""
    logits = []
    for piece in tokens.split(pieces, dim=1):
        part, state = model(piece, state)
        logits.append(part)
    return torch.cat(logits, dim=1), state


def assert_close(left: Tensor, right: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def oracle(model: NestedLanguageModel, tokens: Tensor) -> tuple[Tensor, dict[str, list[Tensor]], dict[str, int]]:
    """tokens (1, T) -> logits, the moving levels' weights after the last token, and how often each has moved."""
    config, position, logits = model.config, 0, []
    moving = {
        name: level for block in model.layers for name, level in zip(block.names, block.levels) if level.config.chunk
    }
    weights = {name: [level.first.detach(), level.last.detach()] for name, level in moving.items()}
    sums = {name: [torch.zeros_like(w) for w in pair] for name, pair in weights.items()}
    count = dict.fromkeys(moving, 0)
    states = [block.init_state(1) for block in model.layers]
    chunks = [level.config.chunk for level in moving.values()]
    while position < tokens.shape[1]:
        end = next((n for n in range(position + 1, tokens.shape[1]) if any(n % c == 0 for c in chunks)), None)
        leaves = {name: [w.clone().requires_grad_() for w in pair] for name, pair in weights.items()}
        h = model.embedding(tokens[:, position:end])
        for i, block in enumerate(model.layers):
            h, state = block.mix(h, states[i], None)
            states[i] = state.detach()
            shares = [1.0] * len(block.levels) if block.shares is None else block.shares
            x = h
            for name, level, share in zip(block.names, block.levels, shares):
                h = h + share * level(x if config.variant == "independent" else h, leaves.get(name))[0]
        logits.append(model.logits(h).detach())
        if end is None:
            break
        loss = cross_entropy(model.logits(h)[0], tokens[0, position + 1 : end + 1], reduction="sum")
        for name, pair in leaves.items():
            gradients = torch.autograd.grad(loss, pair, retain_graph=True)
            sums[name] = [a + g for a, g in zip(sums[name], gradients)]
        over = [name for name in moving if end % moving[name].config.chunk == 0]
        mean = {name: moving[name].config.chunk if config.reduction == "mean" else 1 for name in over}
        steps = {name: [g / mean[name] for g in sums[name]] for name in over}
        length = torch.cat([g.flatten() for pair in steps.values() for g in pair]).norm() if steps else None
        share = 1.0 if config.clip is None else min(1.0, config.clip / float(length))
        for name in over:
            level, count[name] = moving[name], count[name] + 1
            weights[name] = [
                w - float(torch.as_tensor(level.rate, dtype=torch.float64).detach()) * share * g
                for w, g in zip(weights[name], steps[name])
            ]
            sums[name] = [torch.zeros_like(w) for w in weights[name]]
            slower = [c for c in _periods(model, name) if c > level.config.chunk]
            if config.variant == "nested" and slower and count[name] % -(-min(slower) // level.config.chunk) == 0:
                weights[name] = [level.first.detach(), level.last.detach()]
        position = end
    return torch.cat(logits, dim=1), weights, count


def _periods(model: NestedLanguageModel, name: str) -> list[int]:
    """The periods of the moving levels in the block of that level."""
    block = next(block for block in model.layers if name in block.names)
    return [level.config.chunk for level in block.levels if level.config.chunk]
