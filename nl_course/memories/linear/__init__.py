"""Memories of one matrix: linear attention, RetNet, the delta rule, Gated DeltaNet, Kimi Delta Attention."""

from nl_course.memories.linear.delta import (
    DeltaConfig,
    DeltaNet,
    GatedDeltaConfig,
    GatedDeltaNet,
    delta_chunked,
    delta_reference,
    gated_delta_reference,
)
from nl_course.memories.linear.kda import KDA, KDAConfig, kda_reference
from nl_course.memories.linear.kda_chunk import kda_chunked
from nl_course.memories.linear.layer import MatrixConfig, MatrixMemory, MatrixState, unit
from nl_course.memories.linear.linear import (
    LinearAttention,
    LinearAttentionConfig,
    Retention,
    RetentionConfig,
    half_life,
    linear_attention_reference,
    retention_reference,
    retnet_retention,
)

__all__ = [
    "KDA",
    "DeltaConfig",
    "DeltaNet",
    "GatedDeltaConfig",
    "GatedDeltaNet",
    "KDAConfig",
    "LinearAttention",
    "LinearAttentionConfig",
    "MatrixConfig",
    "MatrixMemory",
    "MatrixState",
    "Retention",
    "RetentionConfig",
    "delta_chunked",
    "delta_reference",
    "gated_delta_reference",
    "half_life",
    "kda_chunked",
    "kda_reference",
    "linear_attention_reference",
    "retention_reference",
    "retnet_retention",
    "unit",
]
