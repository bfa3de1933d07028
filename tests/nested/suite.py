"""What every language model with clocks must pass. Adding a model: one line in CASES; test_models.py runs the rest.

All in float64: "equal" means equal to 1e-10. The oracle at the end reads one row of text with every block segment by
segment, its own copies of the weights and plain autograd: the rule of the clocks, written a second time.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nl_course.memories import MEMORIES, State
from nl_course.nested import Level, LevelConfig, NestedConfig, NestedLanguageModel, NestedState
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
    moving: dict[str, Level] = {}
    for block in model.layers:
        for name, level in zip(block.names, block.levels, strict=True):
            if level.config.chunk:
                moving[name] = level
    weights = {name: [level.first.detach(), level.last.detach()] for name, level in moving.items()}
    sums = {name: zeros_like(pair) for name, pair in weights.items()}
    updates = dict.fromkeys(moving, 0)
    states = [block.init_state(1) for block in model.layers]

    logits = []
    position = 0
    while position < tokens.shape[1]:
        # A segment: up to the next boundary of any level, if its last target is there.
        end = next_boundary(position, [level.config.chunk for level in moving.values()])
        if end >= tokens.shape[1]:
            end = None
        leaves = {name: [w.clone().requires_grad_() for w in pair] for name, pair in weights.items()}
        segment_logits, states = run_segment(model, tokens[:, position:end], leaves, states)
        logits.append(segment_logits.detach())
        if end is None:
            break

        # Every level adds up its gradients; those whose chunk is over take a step.
        loss = cross_entropy(segment_logits[0], tokens[0, position + 1 : end + 1], reduction="sum")
        for name, pair in leaves.items():
            gradients = torch.autograd.grad(loss, pair, retain_graph=True)
            sums[name] = [a + g for a, g in zip(sums[name], gradients)]
        ending = [name for name, level in moving.items() if end % level.config.chunk == 0]
        factor = step_factor(model, moving, ending, sums)
        for name in ending:
            level = moving[name]
            divisor = level.config.chunk if model.config.reduction == "mean" else 1
            rate = float(torch.as_tensor(level.rate, dtype=torch.float64).detach())
            weights[name] = [w - rate * factor * g / divisor for w, g in zip(weights[name], sums[name])]
            sums[name] = zeros_like(weights[name])
            updates[name] += 1
            if model.config.variant == "nested" and context_is_over(model, name, updates[name]):
                weights[name] = [level.first.detach(), level.last.detach()]
        position = end
    return torch.cat(logits, dim=1), weights, updates


def zeros_like(pair: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(w) for w in pair]


def next_boundary(position: int, chunks: list[int]) -> int:
    """The first number of tokens after `position` that some chunk divides; far away if nothing moves."""
    return min((position // chunk * chunk + chunk for chunk in chunks), default=10**9)


def run_segment(
    model: NestedLanguageModel, tokens: Tensor, weights: dict[str, list[Tensor]], states: list[State]
) -> tuple[Tensor, list[State]]:
    """Every block in turn, each memory cut off from what came before: (1, n) -> logits (1, n, V), states."""
    h = model.embedding(tokens)
    after = []
    for block, state in zip(model.layers, states, strict=True):
        h, state = block.mix(h, state, None)
        after.append(state.detach())
        mixed = h
        shares = [1.0] * len(block.levels) if block.shares is None else block.shares
        for name, level, share in zip(block.names, block.levels, shares):
            x = mixed if model.config.variant == "independent" else h
            h = h + share * level(x, weights.get(name))[0]
    return model.logits(h), after


def step_factor(
    model: NestedLanguageModel, moving: dict[str, Level], ending: list[str], sums: dict[str, list[Tensor]]
) -> float:
    """By what the clip multiplies all steps of a boundary."""
    if model.config.clip is None or not ending:
        return 1.0
    flat = []
    for name in ending:
        divisor = moving[name].config.chunk if model.config.reduction == "mean" else 1
        flat += [g.flatten() / divisor for g in sums[name]]
    return min(1.0, model.config.clip / float(torch.cat(flat).norm()))


def context_is_over(model: NestedLanguageModel, name: str, updates: int) -> bool:
    """Whether the next slower level of the block has come to its boundary, in updates of this level."""
    block = next(block for block in model.layers if name in block.names)
    own = block.levels[block.names.index(name)].config.chunk
    slower = [level.config.chunk for level in block.levels if level.config.chunk > own]
    return bool(slower) and updates % -(-min(slower) // own) == 0
