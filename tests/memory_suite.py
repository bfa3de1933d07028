"""The memories of the course that go through the one suite (`nl_course/suite/`). Adding a memory: one `Case` in CASES;
`test_memories.py` runs the rest."""

from collections.abc import Callable

from nl_course.memories import (
    KDA,
    MAC,
    MAG,
    MAL,
    TTT,
    Attention,
    AttentionConfig,
    Cached,
    CachedConfig,
    DeltaConfig,
    DeltaNet,
    GatedDeltaConfig,
    GatedDeltaNet,
    KDAConfig,
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
    Titans,
    TitansConfig,
    TTTConfig,
)
from nl_course.memories.ablations.gain import SharedGain
from nl_course.memories.ablations.inner_muon import InnerMuon, InnerMuonConfig
from nl_course.memories.ablations.pooled import PooledTitans
from nl_course.suite.case import (
    WIDTH,
    Case,
)

__all__ = [
    *("CASES", "CLOSE", "TOKENS", "WIDTH", "Case"),
    *("assert_same_state", "build", "describe", "inputs", "read_in_pieces"),
]


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


def _gain(**options) -> Callable[[], Memory]:
    sizes = dict(width=WIDTH, heads=2, chunk=4, max_step=0.3, kind="linear")
    return lambda: SharedGain(SelfModifyingConfig(**sizes | options))


def _cached(path: str = "auto", memory: str = "delta", **options) -> Callable[[], Memory]:
    sizes = dict(width=WIDTH, heads=2, memory=memory, segment=3, states=2)
    return lambda: Cached(CachedConfig(**sizes | options), path=path)


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
    Case("linear-reference", _matrix(LinearAttention, LinearAttentionConfig, "reference")),
    Case("linear-conv", _matrix(LinearAttention, LinearAttentionConfig, conv=3, gate=True)),
    Case("retnet", _matrix(Retention, RetentionConfig)),
    Case("retnet-reference", _matrix(Retention, RetentionConfig, "reference", rope_theta=None)),
    Case("delta", _matrix(DeltaNet, DeltaConfig, head_dim=3, value_dim=5)),
    Case("delta-reference", _matrix(DeltaNet, DeltaConfig, "reference")),
    Case("delta-negative", _matrix(DeltaNet, DeltaConfig, "chunked", negative=True, conv=0)),
    Case("gated-delta", _matrix(GatedDeltaNet, GatedDeltaConfig, value_dim=6)),
    Case("gated-delta-reference", _matrix(GatedDeltaNet, GatedDeltaConfig, "reference", conv=2)),
    # One read of 4 features nearly cancels here, and its norm divides bf16's errors by little.
    Case("gated-delta-plain", _matrix(GatedDeltaNet, GatedDeltaConfig, negative=True, gate=False), bf16_band=0.1),
    Case("cached", _cached(), grows=True),
    Case("cached-restart", _cached("reference", "retnet", gate="similarity", restart=True), grows=True, compiles=False),
    Case("cached-ttt", _cached(memory="ttt-linear", options=dict(mini_batch=4)), grows=True, compiles=False),
    Case("gated-delta-grouped", _matrix(GatedDeltaNet, GatedDeltaConfig, head_dim=3, key_heads=1)),
    Case("kda", _matrix(KDA, KDAConfig, value_dim=6)),
    Case("kda-reference", _matrix(KDA, KDAConfig, "reference", conv=2, lower_bound=-5.0)),
    Case("kda-bounded", _matrix(KDA, KDAConfig, "chunked", conv=0, lower_bound=-5.0, key_heads=1)),
    Case("ttt-linear", _ttt()),
    Case("ttt-linear-reference", _ttt("reference"), compiles=False),
    # Its inner LayerNorm is over 4 features only: where they are nearly equal, bf16's errors are divided by little.
    Case("ttt-linear-transformer", _ttt(backbone="transformer", position_factor="sum"), bf16_band=0.2, compiles=False),
    Case("ttt-linear-recompute", _ttt(recompute=1), compiles=False),
    Case("ttt-mlp", _ttt(kind="mlp")),
    Case("ttt-mlp-reference", _ttt("reference", kind="mlp", position_factor="sum"), compiles=False),
    Case("ttt-mlp-transformer", _ttt(kind="mlp", backbone="transformer"), compiles=False),
    Case("ttt-mlp-recompute", _ttt(kind="mlp", recompute=2), compiles=False),
    Case("titans", _titans()),
    Case("titans-reference", _titans("reference"), compiles=False),
    Case("titans-linear", _titans(layers=1, chunk=1, momentum=False), compiles=False),
    Case("titans-deep", _titans(layers=3, retention=False, conv=0, persistent=0), compiles=False),
    Case("titans-deep-reference", _titans("reference", layers=4, chunk=5, max_step=0.02), compiles=False),
    Case("titans-norm", _titans(norm=True, residual=True, bias=True, activation="gelu"), compiles=False),
    Case("titans-pooled", _titans(memory=PooledTitans, max_step=0.1), compiles=False),
    Case("titans-pooled-reference", _titans("reference", PooledTitans, momentum=False), compiles=False),
    Case("inner-muon", _titans(memory=InnerMuon, config=InnerMuonConfig), compiles=False),
    Case("inner-muon-reference", _titans("reference", InnerMuon, InnerMuonConfig, layers=1, chunk=5), compiles=False),
    Case("inner-sgd", _titans(memory=InnerMuon, config=InnerMuonConfig, inner_optimizer="sgd"), compiles=False),
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
    Case("self-modifying-plain", _hope(variant="plain", read="running"), compiles=False),
    Case("self-modifying-step", _hope(variant="adaptive", adaptive=("memory", "step"), chunk_others=2), compiles=False),
    Case("self-modifying-adaptive", _hope(variant="adaptive", chunk=2, chunk_others=4), compiles=False),
    Case("self-modifying-linear", _hope(kind="linear", chunk_others=3, adaptive_query=True), compiles=False),
    Case("self-modifying-linear-reference", _hope("reference", kind="linear", variant="adaptive"), compiles=False),
    Case("self-modifying-gain", _gain(chunk_others=2), compiles=False),
    Case("self-modifying-gain-running", _gain(read="running", momentum=0.5), compiles=False),
]
