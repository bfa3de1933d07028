"""Memories that keep every token: attention with its cache, and latent attention."""

from nl_course.memories.attention.attention import (
    Attention,
    AttentionConfig,
    AttentionState,
    attention_reference,
    attention_scores,
    attention_sdpa,
    visible,
)
from nl_course.memories.attention.cache import TokenCache
from nl_course.memories.attention.latent import LatentAttention, LatentAttentionConfig
from nl_course.memories.attention.rope import Rotary

__all__ = [
    "Attention",
    "AttentionConfig",
    "AttentionState",
    "LatentAttention",
    "LatentAttentionConfig",
    "Rotary",
    "TokenCache",
    "attention_reference",
    "attention_scores",
    "attention_sdpa",
    "visible",
]
