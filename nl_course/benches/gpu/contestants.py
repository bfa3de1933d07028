"""What is measured: our memories as the 125M presets have them, models with clocks cut to a few blocks, and other
people's layers of the same sizes, where they are installed."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nl_course.errors import check_choice
from nl_course.memories import Memory, build_memory
from nl_course.model import ModelConfig
from nl_course.nested import NestedConfig, NestedLanguageModel
from nl_course.nested.presets import PRESETS as NESTED
from nl_course.presets import PRESETS
from nl_course.seeding import seeded

SIZES = ("full", "tiny")


class Contestant(NamedTuple):
    """One of ours: what it is called, the preset that it is taken from, how many blocks of a model with clocks are
    taken (0: the memory alone), and the tokens at which its operations are counted; 0 where they do not grow with the
    text alone, so that they are counted at the text's own length."""

    title: str
    preset: str
    blocks: int = 0
    counted: int = 128


OURS = {
    "attention": Contestant("attention (SDPA)", "125m", counted=0),
    "gated-delta": Contestant("Gated DeltaNet", "gated-delta-125m"),
    "kda": Contestant("Kimi Delta Attention", "kda-125m"),
    "ttt-linear": Contestant("TTT-Linear", "ttt-linear-125m"),
    "ttt-mlp": Contestant("TTT-MLP", "ttt-mlp-125m"),
    "titans": Contestant("Titans, memory alone (LMM)", "titans-125m"),
    "mac": Contestant("Titans as context (MAC)", "mac-125m", counted=512),
    "self-modifying": Contestant("self-modifying Titans", "self-modifying-125m"),
    "hope": Contestant("HOPE: one block, and the output", "hope-125m", blocks=1, counted=2048),
    "ttt-e2e": Contestant("TTT-E2E: four blocks of which one learns, and the output", "ttt-e2e-125m", 4, counted=0),
}
TINY_TOKENS = 32  # at which the tiny ones are counted


def config_of(name: str, sizes: str = "full") -> ModelConfig | NestedConfig:
    """The config that a contestant of OURS is made from, as its preset has it or "tiny", for a trial on a CPU."""
    contestant = OURS[check_choice("contestant", name, OURS)]
    check_choice("sizes", sizes, SIZES)
    if not contestant.blocks:
        config = PRESETS[contestant.preset].config
        if sizes == "tiny":
            return replace(config, vocab=64, width=16, heads=2, hidden=16, options=_tiny(config))
        return config
    config = NESTED[contestant.preset].config
    # The last blocks: in TTT-E2E the suffix learns, a quarter of all.
    blocks = contestant.blocks
    learning = max(1, blocks // 4)
    levels = config.levels[: blocks - learning] + config.levels[-learning:]
    if sizes == "full":
        return replace(config, layers=blocks, levels=levels)
    small = []
    for block in levels:
        small.append(tuple(replace(level, hidden=16, chunk=min(level.chunk, 8)) for level in block))
    return replace(config, vocab=64, width=16, heads=2, layers=blocks, levels=tuple(small), options=_tiny(config))


def _tiny(config: ModelConfig | NestedConfig) -> dict:
    """The options of the config's memory, with short segments and windows."""
    short = {"segment": 8, "window": 8}
    return {option: short.get(option, value) for option, value in config.options.items()}


@seeded(0)
def build(name: str, sizes: str = "full") -> Memory | NestedLanguageModel:
    """A contestant of OURS: a memory (B, T, width) -> (y, state), or a model of tokens (B, T) -> (logits, state)."""
    config = config_of(name, sizes)
    if isinstance(config, NestedConfig):
        return NestedLanguageModel(config)
    memory = build_memory(config.memory, config.width, config.heads, **config.options)
    memory.checks_numbers = False  # as in a model
    return memory


def text_for(module: nn.Module, rows: int, tokens: int, device: str) -> Tensor:
    """What a contestant reads: (rows, tokens) of tokens for a model, (rows, tokens, width) of numbers for a layer, in
    the module's own dtype."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(module, NestedLanguageModel):
        return torch.randint(0, module.config.vocab, (rows, tokens), generator=generator).to(device)
    dtype = next(module.parameters()).dtype
    width = getattr(module, "width", None) or module.hidden_size
    return torch.randn(rows, tokens, width, generator=generator).to(device, dtype)


# -- other people's ----------------------------------------------------------------------------------------------------
def peer(name: str, width: int, heads: int) -> nn.Module:
    """Another's layer of the same sizes. Raises ImportError where its package is not installed."""
    layer = PEERS[check_choice("peer", name, PEERS)](width, heads)
    layer.hidden_size = width
    return layer


def _fla_gated_delta(width: int, heads: int) -> nn.Module:
    from fla.layers import GatedDeltaNet

    return GatedDeltaNet(hidden_size=width, num_heads=heads, head_dim=width // heads, expand_v=1, conv_size=4)


def _fla_kda(width: int, heads: int) -> nn.Module:
    from fla.layers import KimiDeltaAttention

    return KimiDeltaAttention(hidden_size=width, num_heads=heads, head_dim=width // heads, expand_v=1, conv_size=4)


class _Projected(nn.Module):
    """Four projections around a kernel that takes q, k, v (B, T, heads, width / heads)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, width) -> the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (b, t, h, f)
        return self.output(self.kernel(q, k, v).flatten(2))

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (B, T, heads, F) -> the same shape."""
        raise NotImplementedError


class _FlaTTTLinear(_Projected):
    """The public kernel for TTT-Linear's inner loop, mini-batches of 16. Its inner rate is one number here."""

    def __init__(self, width: int, heads: int):
        from fla.ops.ttt import chunk_ttt_linear

        super().__init__(width, heads)
        self._chunk_ttt_linear = chunk_ttt_linear
        self.gain = nn.Parameter(torch.ones(heads, width // heads))
        self.shift = nn.Parameter(torch.zeros(heads, width // heads))

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Reads and writes with a rate of 1 / width of a head for every token."""
        gain, shift = self.gain.to(q.dtype), self.shift.to(q.dtype)
        rate = torch.full_like(q[..., :1], 1 / q.shape[-1])  # (b, t, h, 1)
        return self._chunk_ttt_linear(q, k, v, gain, shift, rate, chunk_size=16)[0]


class _BareSDPA(_Projected):
    """PyTorch's attention between four projections, without rotation."""

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention."""
        heads_first = (u.transpose(1, 2) for u in (q, k, v))
        return scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)


class _FlashAttention(_Projected):
    """The flash-attn package's kernel between four projections, without rotation."""

    def __init__(self, width: int, heads: int):
        from flash_attn import flash_attn_func

        super().__init__(width, heads)
        self._flash_attn_func = flash_attn_func

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention."""
        return self._flash_attn_func(q, k, v, causal=True)


def _titans_pytorch(width: int, heads: int) -> nn.Module:
    from titans_pytorch import NeuralMemory

    return NeuralMemory(
        width,
        dim_head=width // heads,
        heads=heads,
        chunk_size=1,
        batch_size=16,
        momentum=True,
        mem_model_norm_add_residual=False,
        default_model_kwargs=dict(depth=2, expansion_factor=4.0),
    )


PEERS = {
    "bare SDPA": _BareSDPA,
    "flash-attn": _FlashAttention,
    "fla, Gated DeltaNet": _fla_gated_delta,
    "fla, Kimi Delta Attention": _fla_kda,
    "fla, TTT-Linear": _FlaTTTLinear,
    "titans-pytorch": _titans_pytorch,
}
BESIDE = {  # ours that a peer stands beside
    "bare SDPA": "attention",
    "flash-attn": "attention",
    "fla, Gated DeltaNet": "gated-delta",
    "fla, Kimi Delta Attention": "kda",
    "fla, TTT-Linear": "ttt-linear",
    "titans-pytorch": "titans",
}
