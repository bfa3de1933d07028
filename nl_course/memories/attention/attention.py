"""Attention as a memory: write every token's key and value down, read all of them at every step.

Vaswani et al. 2017 (arXiv 1706.03762, eq. 1), with causal order, rotary positions, grouped or multi-query heads
(Ainslie et al. 2023, arXiv 2305.13245; Shazeer 2019, arXiv 1911.02150) and a sliding window (Beltagy et al. 2020,
arXiv 2004.05150):

    q_t, k_t, v_t = x_t W_q, x_t W_k, x_t W_v
    y_t = sum_{s in (t - window, t]} softmax_s(q_t . k_s / sqrt(d)) v_s,     then W_o

Axes: b batch, h query heads, g key-value heads (h / g queries share one), t queries, s keys, d head width.
The state is the KV cache. It grows by 2 g d numbers per token until the window, if there is one, is full.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nl_course.errors import CourseError, check_bool, check_choice, check_int, check_min
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.attention.rope import Rotary, check_theta
from nl_course.memories.base import Memory, State
from nl_course.memories.trace import Trace

ATTENTION_PATHS = ("auto", "reference", "sdpa")
_QUERY_BLOCK = 512  # queries that share one mask: (512, keys) bytes at a time instead of (queries, keys)


@dataclass(frozen=True)
class AttentionConfig:
    """Sizes of one attention layer. `kv_heads` = heads is multi-head, 1 is multi-query, between is grouped.
    `window` counts the token itself; None reads everything. `rope_theta` None leaves positions out. `qk_norm` brings
    every query and key to unit mean square before it is turned, with learned gains that the heads share; `norm_eps` is
    what those norms add to the mean square. Raises CourseError for sizes that do not fit."""

    width: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    window: int | None = None
    rope_theta: float | None = 10_000.0
    qk_norm: bool = False
    norm_eps: float = 1e-6

    def __post_init__(self):
        check_int("width", self.width, 1)
        check_int("heads", self.heads, 1)
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", self.heads)
        if self.head_dim is None:
            if self.width % self.heads:
                raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}; give head_dim too.")
            object.__setattr__(self, "head_dim", self.width // self.heads)
        if check_int("kv_heads", self.kv_heads, 1) > self.heads or self.heads % self.kv_heads:
            raise CourseError(f"kv_heads must divide heads ({self.heads}), not be {self.kv_heads}.")
        check_int("head_dim", self.head_dim, 1)
        if self.window is not None:
            check_int("window", self.window, 1)
        check_theta(self.rope_theta)
        check_bool("qk_norm", self.qk_norm)
        check_min("norm_eps", self.norm_eps, 0)


@dataclass(frozen=True)
class AttentionState(State):
    """The KV cache: keys (already turned) and values, (B, g, tokens in reach, d), and the next token's position."""

    key: TokenCache
    value: TokenCache
    position: int


def visible(queries: int, keys: int, window: int | None, device: torch.device | None = None) -> Tensor:
    """Which of `keys` columns each of the last `queries` tokens may read: itself and earlier ones, at most `window`.
    (queries, keys), True where allowed."""
    own = torch.arange(keys - queries, keys, device=device)[:, None]  # (t, 1), the column of each query's own token
    key = torch.arange(keys, device=device)[None, :]  # (1, s)
    allowed = key <= own  # (t, s)
    return allowed if window is None else allowed & (key > own - window)


def attention_scores(q: Tensor, k: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """q (b, h, t, d), k (b, h, s, d) -> scaled scores (b, h, t, s), minus infinity where not allowed (t, s)."""
    scores = q @ k.transpose(-2, -1) * scale  # (b, h, t, s)
    return scores.masked_fill(~allowed, -math.inf)


def attention_reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Softmax attention as written (arXiv 1706.03762, eq. 1): q (b, h, t, d), k (b, h, s, d), v (b, h, s, e)
    -> (b, h, t, e). Differentiable any number of times, which PyTorch's fused kernels are not."""
    weights = attention_scores(q, k, allowed, scale).softmax(dim=-1)  # (b, h, t, s)
    return weights @ v  # (b, h, t, e)


def attention_sdpa(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
    """The same through `scaled_dot_product_attention`, which never stores the (t, s) scores where it can avoid it.
    k (b, g, s, d) and v (b, g, s, e) may have fewer heads than q (b, h, t, d)."""
    queries, keys = q.shape[-2], k.shape[-2]
    reads_all = window is None or keys <= window
    shared = q.shape[1] != k.shape[1]
    # Without a mask the kernels are fastest: one query sees all keys, and a text read from its start is the causal
    # case that they know.
    if queries == 1 and reads_all:
        return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=shared)
    if queries == keys and reads_all:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=shared)
    # A mask costs (t, s) bytes: a block of queries at a time, and only the keys within its reach.
    block = max(window or 0, _QUERY_BLOCK)
    outputs = []
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        newest = keys - queries + stop
        oldest = 0 if window is None else max(0, keys - queries + start + 1 - window)
        mask = visible(stop - start, newest - oldest, window, q.device)  # (block, keys in reach)
        reached_k, reached_v = k[..., oldest:newest, :], v[..., oldest:newest, :]  # (b, g, keys in reach, d or e)
        y = scaled_dot_product_attention(
            q[..., start:stop, :], reached_k, reached_v, attn_mask=mask, scale=scale, enable_gqa=shared
        )
        outputs.append(y)  # (b, h, block, e)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)  # (b, h, t, e)


class Attention(Memory):
    """Causal attention with a KV cache. `path` picks the explicit softmax ("reference") or SDPA ("sdpa", "auto");
    a level that is differentiated twice needs "reference". Traces `scores` and `weights`, (B, T, h, positions), and the
    turned `query` (B, T, h, d) and `key` (B, T, g, d) that they come from."""

    deep_path = "reference"

    def __init__(self, config: AttentionConfig, path: str = "auto"):
        super().__init__(config.width)
        self.config = config
        self.path = check_choice("path", path, ATTENTION_PATHS)
        inner, shared = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.query = nn.Linear(config.width, inner, bias=False)
        self.key = nn.Linear(config.width, shared, bias=False)
        self.value = nn.Linear(config.width, shared, bias=False)
        self.output = nn.Linear(inner, config.width, bias=False)
        self.query_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.key_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.rotary = None if config.rope_theta is None else Rotary(config.head_dim, config.rope_theta)

    def init_state(self, batch_size: int) -> AttentionState:
        """An empty cache."""
        c = self.config
        empty = self.key.weight.new_empty(batch_size, c.kv_heads, 0, c.head_dim)  # (b, g, 0, d)
        return AttentionState(TokenCache.of(empty), TokenCache.of(empty), 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """2 (key and value) x g x d numbers for each token in reach."""
        in_reach = tokens if self.config.window is None else min(tokens, self.config.window)
        return batch_size * in_reach * 2 * self.config.kv_heads * self.config.head_dim * self.dtype.itemsize

    def advance(self, x: Tensor, state: AttentionState, trace: Trace | None) -> tuple[Tensor, AttentionState]:
        """x (b, t, width) -> y (b, t, width), and the cache with the new tokens in it."""
        c, tokens = self.config, x.shape[1]
        if tokens == 0:
            return x, state
        q = rearrange(self.query(x), "b t (h d) -> b h t d", d=c.head_dim)  # (b, h, t, d)
        k = rearrange(self.key(x), "b t (g d) -> b g t d", d=c.head_dim)  # (b, g, t, d)
        v = rearrange(self.value(x), "b t (g d) -> b g t d", d=c.head_dim)  # (b, g, t, d)
        if c.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        # Keys are kept turned: a dot product of turned vectors depends on their distance alone, so that no key has
        # to be turned again for a later query.
        if self.rotary is not None:
            q, k = self.rotary(q, state.position), self.rotary(k, state.position)
        # The oldest query reads window - 1 tokens back: what lies before them is in nobody's reach.
        reach = len(state.key) if c.window is None else c.window - 1
        key, value = state.key.last(reach).append(k), state.value.last(reach).append(v)  # (b, g, s, d) each
        scale = c.head_dim**-0.5
        if self.path == "reference":
            allowed = visible(tokens, len(key), c.window, x.device)  # (t, s)
            y = attention_reference(q, self._spread(key.columns), self._spread(value.columns), allowed, scale)
        else:
            y = attention_sdpa(q, key.columns, value.columns, c.window, scale)
        if trace is not None:
            self._explain(trace, q, key.columns, state.position, scale)
        # The state keeps one token more than the next call needs, so that its size is the window's.
        if c.window is not None:
            key, value = key.last(c.window), value.last(c.window)
        y = rearrange(y, "b h t d -> b t (h d)")  # (b, t, h d)
        return self.output(y), AttentionState(key, value, state.position + tokens)

    def _spread(self, shared: Tensor) -> Tensor:
        """Each key-value head repeated for the queries that share it: (b, g, s, d) -> (b, h, s, d)."""
        return shared.repeat_interleave(self.config.heads // self.config.kv_heads, dim=1)

    def _explain(self, trace: Trace, q: Tensor, k: Tensor, position: int, scale: float) -> None:
        """Scores and softmax weights with keys at their absolute positions (forgotten keys have -inf and 0), and the
        turned queries and keys of the new tokens. q (b, h, t, d), k (b, g, s, d), old and new."""
        tokens, in_reach = q.shape[-2], k.shape[-2]
        trace.add("query", rearrange(q, "b h t d -> b t h d"))
        trace.add("key", rearrange(k[..., in_reach - tokens :, :], "b g t d -> b t g d"))
        # Scores cost (t, s) numbers per head, which only a trace that asks for them should pay.
        if not (trace.wants("scores") or trace.wants("weights")):
            return
        with torch.no_grad():
            allowed = visible(tokens, in_reach, self.config.window, q.device)  # (t, s)
            scores = attention_scores(q, self._spread(k), allowed, scale)  # (b, h, t, s)
            forgotten = position + tokens - in_reach
            scores = torch.nn.functional.pad(scores, (forgotten, 0), value=-math.inf)  # (b, h, t, positions)
            trace.add("scores", rearrange(scores, "b h t s -> b t h s"))
            trace.add("weights", rearrange(scores.softmax(dim=-1), "b h t s -> b t h s"))
