"""Multi-head latent attention: keep one short latent per token, make all keys and values from it when reading.

DeepSeek-V2 (arXiv 2405.04434, section 2.1). Keys and values of all heads come from one latent of width r, and one
rotary key of width p is shared by all heads, so a token costs r + p numbers instead of 2 h d:

    c_t = RMSNorm(x_t W_dkv)      p_t = RoPE(x_t W_kr)           the state: c_t, p_t
    k_t = [c_t W_uk, p_t]         v_t = c_t W_uv                  per head
    q_t = [x_t W_q, RoPE(x_t W_qr)],      y_t = softmax(q k / sqrt(d + p)) v

Reading many tokens at once, it is cheapest to make the keys and values ("expanded"). Reading with one query it is
cheaper to move W_uk to the query's side and W_uv behind the sum, and to attend over the latents themselves
("absorbed"): the same numbers, since (q W_uk^T) . c = q . (c W_uk).
Axes: b batch, h heads, t queries, s keys, d head width, p rotary width, r latent width, e value width.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories.attention.attention import (
    ATTENTION_PATHS,
    attention_reference,
    attention_scores,
    attention_sdpa,
    visible,
)
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.attention.rope import Rotary
from nl_course.memories.base import Memory, State
from nl_course.memories.trace import Trace


@dataclass(frozen=True)
class LatentAttentionConfig:
    """Sizes of one latent-attention layer: `kv_rank` r of the latent, `rope_dim` p of the shared rotary key (even),
    `head_dim` d (without p) and `value_dim` e of each head, `q_rank` of the query's own latent (None: full).

    Sizes that are not given keep DeepSeek-V2's proportions: d is width / heads, p about half of d, e is d and r is 4 d,
    but at most half of the width, so that a latent is smaller than the keys and values that it replaces. Raises
    CourseError for sizes that do not fit."""

    width: int
    heads: int
    kv_rank: int | None = None
    rope_dim: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    q_rank: int | None = None
    rope_theta: float = 10_000.0

    def __post_init__(self):
        check_int("width", self.width, 1)
        check_int("heads", self.heads, 1)
        if self.head_dim is None:
            if self.width % self.heads:
                raise CourseError(f"width {self.width} is not a multiple of heads {self.heads}; give head_dim too.")
            object.__setattr__(self, "head_dim", self.width // self.heads)
        head_dim = check_int("head_dim", self.head_dim, 1)
        defaults = {
            "rope_dim": 2 * max(1, head_dim // 4),  # pairs of features are turned, so it is even
            "kv_rank": min(4 * head_dim, max(1, self.width // 2)),
            "value_dim": head_dim,
        }
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
            check_int(name, getattr(self, name), 1)
        if self.rope_dim % 2:
            raise CourseError(f"rope_dim must be even, since pairs of features are turned, not {self.rope_dim}.")
        if self.q_rank is not None:
            check_int("q_rank", self.q_rank, 1)
        check_min("rope_theta", self.rope_theta, 1)


@dataclass(frozen=True)
class LatentState(State):
    """The cache of latents (B, tokens, r) and shared rotary keys (B, tokens, p), and the next token's position."""

    latent: TokenCache
    rope_key: TokenCache
    position: int


class LatentAttention(Memory):
    """Latent attention with its latent cache. Paths: "reference" (expanded, explicit softmax), "sdpa" (expanded for
    many tokens, absorbed for one), "auto" (= "sdpa"). Traces `scores` and `weights`, (B, T, h, positions)."""

    deep_path = "reference"

    def __init__(self, config: LatentAttentionConfig, path: str = "auto"):
        super().__init__(config.width)
        c = self.config = config
        self.path = check_choice("path", path, ATTENTION_PATHS)
        queries = c.heads * (c.head_dim + c.rope_dim)
        if c.q_rank is None:
            self.query = nn.Linear(c.width, queries, bias=False)
        else:
            # The query's latent saves parameters and activations alone: queries are not kept.
            down = nn.Linear(c.width, c.q_rank, bias=False)
            up = nn.Linear(c.q_rank, queries, bias=False)
            self.query = nn.Sequential(down, nn.RMSNorm(c.q_rank, eps=1e-6), up)
        self.down = nn.Linear(c.width, c.kv_rank + c.rope_dim, bias=False)
        self.latent_norm = nn.RMSNorm(c.kv_rank, eps=1e-6)
        self.up_key = nn.Linear(c.kv_rank, c.heads * c.head_dim, bias=False)
        self.up_value = nn.Linear(c.kv_rank, c.heads * c.value_dim, bias=False)
        self.output = nn.Linear(c.heads * c.value_dim, c.width, bias=False)
        self.rotary = Rotary(c.rope_dim, c.rope_theta)

    def init_state(self, batch_size: int) -> LatentState:
        """An empty cache."""
        new = self.down.weight.new_empty
        latent = new(batch_size, 0, self.config.kv_rank)  # (b, 0, r)
        rope_key = new(batch_size, 0, self.config.rope_dim)  # (b, 0, p)
        return LatentState(TokenCache.of(latent), TokenCache.of(rope_key), 0)

    def state_bytes(self, tokens: int, batch_size: int = 1) -> int:
        """r + p numbers per token; no factor 2, since keys and values share the latent."""
        return batch_size * tokens * (self.config.kv_rank + self.config.rope_dim) * self.dtype.itemsize

    def advance(self, x: Tensor, state: LatentState, trace: Trace | None) -> tuple[Tensor, LatentState]:
        """x (b, t, width) -> y (b, t, width), and the cache with the new tokens in it."""
        c, tokens = self.config, x.shape[1]
        if tokens == 0:
            return x, state
        query = rearrange(self.query(x), "b t (h d) -> b h t d", h=c.heads)  # (b, h, t, d + p)
        q, q_rope = query.split([c.head_dim, c.rope_dim], dim=-1)  # (b, h, t, d), (b, h, t, p)
        q_rope = self.rotary(q_rope, state.position)
        latent, k_rope = self.down(x).split([c.kv_rank, c.rope_dim], dim=-1)  # (b, t, r), (b, t, p)
        latents = state.latent.append(self.latent_norm(latent))  # (b, s, r)
        # A turn by position does not commute with W_uk, so positions need a key of their own beside the latent.
        rope_keys = state.rope_key.append(self.rotary(k_rope, state.position))  # (b, s, p)
        scale = (c.head_dim + c.rope_dim) ** -0.5
        if self.path != "reference" and tokens == 1:
            y = self._absorbed(q, q_rope, latents.columns, rope_keys.columns, scale)
        else:
            q = torch.cat([q, q_rope], dim=-1)  # (b, h, t, d + p)
            k, v = self._expand(latents.columns, rope_keys.columns)
            if self.path == "reference":
                y = attention_reference(q, k, v, visible(tokens, len(latents), None, x.device), scale)
            else:
                y = attention_sdpa(q, k, v, None, scale)
        if trace is not None and (trace.wants("scores") or trace.wants("weights")):
            self._explain(trace, query, q_rope, latents.columns, rope_keys.columns, scale)
        y = self.output(rearrange(y, "b h t e -> b t (h e)"))
        return y, LatentState(latents, rope_keys, state.position + tokens)

    def _expand(self, latents: Tensor, rope_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (b, s, r), rotary keys (b, s, p) -> keys (b, h, s, d + p), values (b, h, s, e)."""
        k = rearrange(self.up_key(latents), "b s (h d) -> b h s d", h=self.config.heads)  # (b, h, s, d)
        v = rearrange(self.up_value(latents), "b s (h e) -> b h s e", h=self.config.heads)  # (b, h, s, e)
        shared = rope_keys[:, None].expand(-1, self.config.heads, -1, -1)  # (b, h, s, p)
        return torch.cat([k, shared], dim=-1), v

    def _absorbed(self, q: Tensor, q_rope: Tensor, latents: Tensor, rope_keys: Tensor, scale: float) -> Tensor:
        """One query per head over the latents: q (b, h, 1, d), q_rope (b, h, 1, p) -> (b, h, 1, e). All heads read the
        same (s, r + p) keys and (s, r) values, so that heads take the place of queries in one attention."""
        up_key = rearrange(self.up_key.weight, "(h d) r -> h d r", h=self.config.heads)
        up_value = rearrange(self.up_value.weight, "(h e) r -> h e r", h=self.config.heads)
        heads_as_queries = torch.cat([q @ up_key, q_rope], dim=-1).transpose(1, 2)  # (b, 1, h, r + p)
        keys = torch.cat([latents, rope_keys], dim=-1)[:, None]  # (b, 1, s, r + p)
        mixed = scaled_dot_product_attention(heads_as_queries, keys, latents[:, None], scale=scale)  # (b, 1, h, r)
        return mixed.transpose(1, 2) @ up_value.transpose(-2, -1)  # (b, h, 1, e)

    def _explain(
        self, trace: Trace, query: Tensor, q_rope: Tensor, latents: Tensor, rope_keys: Tensor, scale: float
    ) -> None:
        """Scores and weights of the new tokens over all positions, from the expanded keys: `query` (b, h, t, d + p)
        with its rotary part not turned yet, `q_rope` (b, h, t, p) the same turned."""
        with torch.no_grad():
            q = torch.cat([query[..., : self.config.head_dim], q_rope], dim=-1)  # (b, h, t, d + p)
            k, _ = self._expand(latents, rope_keys)  # (b, h, s, d + p)
            scores = attention_scores(q, k, visible(q.shape[-2], k.shape[-2], None, q.device), scale)  # (b, h, t, s)
            trace.add("scores", rearrange(scores, "b h t s -> b t h s"))
            trace.add("weights", rearrange(scores.softmax(dim=-1), "b h t s -> b t h s"))
