"""What every memory must pass. Adding a memory: one `Case` in CASES; `test_memories.py` runs the rest.

All in float64 unless a test says otherwise, so that "equal" means equal to 1e-10.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nl_course.memories import (
    MAC,
    MAG,
    MAL,
    TTT,
    Attention,
    AttentionConfig,
    DeltaConfig,
    DeltaNet,
    GatedDeltaConfig,
    GatedDeltaNet,
    LatentAttention,
    LatentAttentionConfig,
    LinearAttention,
    LinearAttentionConfig,
    MACConfig,
    MAGConfig,
    MALConfig,
    Memory,
    Retention,
    RetentionConfig,
    SelfModifying,
    SelfModifyingConfig,
    State,
    Titans,
    TitansConfig,
    TTTConfig,
)

TOKENS = 11  # long enough to overflow the small windows below, and no multiple of any chunk
WIDTH = 8


@dataclass(frozen=True)
class Case:
    """One memory to be tested: `make()` builds it small, of width 8. `grows` says that its state may grow with T;
    `bf16_band` is the largest error of a bf16 run that the memory promises,
    relative to the largest output; a size that returns every few tokens does so with that `period`;
    `compiles` False leaves torch.compile out: one case a memory is enough, and autograd inside
    autograd, as in the reference paths, it cannot follow."""

    name: str
    make: Callable[[], Memory]
    grows: bool = False
    bf16_band: float = 0.05
    period: int = 1
    compiles: bool = True


def _attention(path: str = "auto", **options) -> Callable[[], Memory]:
    return lambda: Attention(AttentionConfig(width=WIDTH, heads=4, **options), path=path)


def _latent(path: str = "auto", **options) -> Callable[[], Memory]:
    sizes = dict(width=WIDTH, heads=2, kv_rank=6, rope_dim=2, head_dim=4)
    return lambda: LatentAttention(LatentAttentionConfig(**sizes, **options), path=path)


def _ttt(path: str = "auto", **options) -> Callable[[], Memory]:
    return lambda: TTT(TTTConfig(width=WIDTH, heads=2, mini_batch=4, **options), path=path)


def _titans(path: str = "auto", memory=Titans, config=TitansConfig, **options) -> Callable[[], Memory]:
    # Steps so small that weights moved far from their start do not blow up in a long text.
    sizes = dict(width=WIDTH, heads=2, expansion=2, chunk=4, conv=3, persistent=3, max_step=0.1) | options
    return lambda: memory(config(**sizes), path=path)


def _hope(path: str = "auto", **options) -> Callable[[], Memory]:
    sizes = dict(width=WIDTH, heads=2, chunk=4, max_step=0.3)
    return lambda: SelfModifying(SelfModifyingConfig(**sizes | options), path=path)


def _matrix(memory, config, path: str = "auto", **options) -> Callable[[], Memory]:
    return lambda: memory(config(width=WIDTH, heads=2, chunk=4, **options), path=path)


CASES = [
    Case("attention", _attention(), grows=True),
    Case("attention-reference", _attention("reference"), grows=True),
    Case("attention-grouped", _attention(kv_heads=2), grows=True),
    Case("attention-multi-query", _attention(kv_heads=1, head_dim=6), grows=True),
    Case("attention-no-positions", _attention(rope_theta=None), grows=True),
    Case("attention-window", _attention(window=4)),
    Case("attention-window-1", _attention(window=1)),
    Case("attention-qk-norm", _attention(qk_norm=True, kv_heads=2), grows=True),
    Case("attention-window-reference", _attention("reference", window=4, kv_heads=2)),
    Case("latent", _latent(), grows=True),
    Case("latent-reference", _latent("reference", value_dim=3), grows=True),
    Case("latent-query-rank", _latent(q_rank=5), grows=True),
    Case("linear", _matrix(LinearAttention, LinearAttentionConfig)),
    Case("linear-reference", _matrix(LinearAttention, LinearAttentionConfig, "reference", feature="elu")),
    Case("linear-elu-conv", _matrix(LinearAttention, LinearAttentionConfig, feature="elu", conv=3, gate=True)),
    Case("retnet", _matrix(Retention, RetentionConfig)),
    Case("retnet-reference", _matrix(Retention, RetentionConfig, "reference", rope_theta=None)),
    Case("delta", _matrix(DeltaNet, DeltaConfig, head_dim=3, value_dim=5)),
    Case("delta-reference", _matrix(DeltaNet, DeltaConfig, "reference")),
    Case("delta-negative", _matrix(DeltaNet, DeltaConfig, "chunked", negative=True, conv=0)),
    Case("gated-delta", _matrix(GatedDeltaNet, GatedDeltaConfig, value_dim=6)),
    Case("gated-delta-reference", _matrix(GatedDeltaNet, GatedDeltaConfig, "reference", conv=2)),
    # One read of 4 features nearly cancels here, and its norm divides bf16's errors by little.
    Case("gated-delta-plain", _matrix(GatedDeltaNet, GatedDeltaConfig, negative=True, gate=False), bf16_band=0.1),
    Case("ttt-linear", _ttt()),
    Case("ttt-linear-reference", _ttt("reference"), compiles=False),
    # Its inner LayerNorm is over 4 features only: where they are nearly equal, bf16's errors are divided by little.
    Case("ttt-linear-transformer", _ttt(backbone="transformer", position_factor="sum"), bf16_band=0.2, compiles=False),
    Case("ttt-linear-checkpoint", _ttt(checkpoint=1), compiles=False),
    Case("ttt-mlp", _ttt(kind="mlp")),
    Case("ttt-mlp-reference", _ttt("reference", kind="mlp", position_factor="sum"), compiles=False),
    Case("ttt-mlp-transformer", _ttt(kind="mlp", backbone="transformer"), compiles=False),
    Case("ttt-mlp-checkpoint", _ttt(kind="mlp", checkpoint=2), compiles=False),
    Case("titans", _titans()),
    Case("titans-reference", _titans("reference"), compiles=False),
    Case("titans-linear", _titans(layers=1, chunk=1, momentum=False), compiles=False),
    Case("titans-deep", _titans(layers=3, retention=False, conv=0, persistent=0), compiles=False),
    Case("titans-deep-reference", _titans("reference", layers=4, chunk=5, max_step=0.02), compiles=False),
    Case("titans-norm", _titans(norm=True, residual=True, bias=True, activation="gelu"), compiles=False),
    Case("titans-pooled", _titans(gates="pooled", max_step=0.1), compiles=False),
    Case("titans-pooled-reference", _titans("reference", gates="pooled", momentum=False), compiles=False),
    Case("mac", _titans(memory=MAC, config=MACConfig, segment=4), period=4),
    Case(
        "mac-reference",
        _titans("reference", MAC, MACConfig, segment=5, layers=1, persistent=0),
        period=5,
        compiles=False,
    ),
    Case("mac-odd", _titans(memory=MAC, config=MACConfig, segment=3, conv=0, momentum=False), period=3, compiles=False),
    Case("mag", _titans(memory=MAG, config=MAGConfig, window=4)),
    Case("mag-reference", _titans("reference", MAG, MAGConfig, window=3, conv=0), compiles=False),
    Case(
        "mag-window-1", _titans(memory=MAG, config=MAGConfig, window=1, persistent=0, rope_theta=None), compiles=False
    ),
    Case("mal", _titans(memory=MAL, config=MALConfig, window=4)),
    Case("mal-reference", _titans("reference", MAL, MALConfig, window=3, persistent=0), compiles=False),
    Case("self-modifying", _hope()),
    Case("self-modifying-reference", _hope("reference", chunk=3, chunk_others=2), compiles=False),
    Case("self-modifying-running", _hope(read="running", chunk=6, chunk_others=2, erase="input"), compiles=False),
    Case(
        "self-modifying-running-reference",
        _hope("reference", read="running", adaptive_query=True, momentum=0.5),
        compiles=False,
    ),
    Case("self-modifying-single", _hope(chunk=1, values="unit", retention=False), compiles=False),
    Case(
        "self-modifying-momentum",
        _hope(momentum=0.6, chunk=5, chunk_others=3, hidden=6, activation="gelu"),
        compiles=False,
    ),
    Case("self-modifying-no-erase", _hope(erase="off", conv=0, heads=1, start="random"), compiles=False),
    Case("self-modifying-plain", _hope(rung="plain", read="running"), compiles=False),
    Case("self-modifying-step", _hope(rung="adaptive", adaptive=("memory", "step"), chunk_others=2), compiles=False),
    Case("self-modifying-adaptive", _hope(rung="adaptive", chunk=2, chunk_others=4), compiles=False),
    Case("self-modifying-linear", _hope(kind="linear", chunk_others=3, adaptive_query=True), compiles=False),
    Case("self-modifying-linear-reference", _hope("reference", kind="linear", rung="adaptive"), compiles=False),
    Case("self-modifying-gain", _hope("gain", kind="linear", chunk_others=2), compiles=False),
    Case("self-modifying-gain-running", _hope("gain", kind="linear", read="running", momentum=0.5), compiles=False),
]


def build(case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu", scale: float = 1.5) -> Memory:
    """The case's memory with every parameter moved away from its start, the same each time: a start at which
    something is zero would hide half of what is tested."""
    torch.manual_seed(0)
    memory = case.make().to(torch.float64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in memory.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.2 * scale * noise)
    return memory.to(device, dtype)


def inputs(tokens: int = TOKENS, rows: int = 2, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, tokens, WIDTH, generator=generator, dtype=torch.float64).to(device, dtype)


def read_in_pieces(memory: Memory, x: Tensor, pieces: list[int], state: State | None = None) -> tuple[Tensor, State]:
    """y of all pieces joined, and the last state."""
    outputs = []
    for piece in x.split(pieces, dim=1):
        y, state = memory(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def assert_same_state(left: State, right: State, tolerance: float = 1e-10) -> None:
    a, b = left.tensors(), right.tensors()
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def describe(state: State) -> object:
    """A state's numbers and names without its tensors (positions, counters), for exact comparison."""

    def walk(value):
        if isinstance(value, Tensor):
            return tuple(value.shape)
        if isinstance(value, State):
            return {name: walk(part) for name, part in value.parts().items()}
        if isinstance(value, tuple):
            return tuple(walk(part) for part in value)
        return {k: walk(v) for k, v in value.items()} if isinstance(value, dict) else value

    return walk(state)
