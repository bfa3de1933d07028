"""Stage 2's arithmetic: what a cache weighs, what fits, what bounds a token's time, and what published laws
say.

Nothing here needs a model or torch; `fit` alone needs scipy, and loads it when it is called.
"""

from nl_course.moved import renamed_name
from nl_course.scaling.breakeven import (
    FIXED_MEMORIES,
    FixedMemory,
    break_even_tokens,
    cheaper_than_all_cached,
    mha_bytes_per_token,
    state_is_own_cache,
)
from nl_course.scaling.cache import (
    all_cached,
    bytes_per_token,
    cache_bytes,
    index_bytes,
    kept_bytes,
    on_one_device,
    read_bytes,
    reshaped,
    state_bytes,
    tail_bytes,
    tokens_in,
    window_bytes,
)
from nl_course.scaling.fit import Fit, fit_law, fit_parameters
from nl_course.scaling.formats import BYTES, bytes_per_value, readable_bytes, readable_tokens
from nl_course.scaling.hardware import (
    Accelerator,
    accelerator,
    accelerators,
    attention_intensity,
    decode_bytes,
    decode_flops,
    decode_step,
    intensity,
    max_batch,
    memory_budget,
    prefill_flops,
    weight_bytes,
)
from nl_course.scaling.power_laws import (
    ParametricLaw,
    data_constrained_loss,
    effective_epochs,
    kaplan_loss,
    law,
    laws,
)
from nl_course.scaling.recorded import OwnRuns, own_runs
from nl_course.scaling.shapes import LayerGroup, ModelShape, model, models, read_table, uniform
from nl_course.scaling.training import TrainingBudget, activation_bytes, training_budget

__all__ = [
    "BYTES",
    "FIXED_MEMORIES",
    "Accelerator",
    "Fit",
    "FixedMemory",
    "LayerGroup",
    "ModelShape",
    "OwnRuns",
    "ParametricLaw",
    "TrainingBudget",
    "accelerator",
    "accelerators",
    "activation_bytes",
    "all_cached",
    "attention_intensity",
    "break_even_tokens",
    "bytes_per_token",
    "bytes_per_value",
    "cache_bytes",
    "cheaper_than_all_cached",
    "data_constrained_loss",
    "decode_bytes",
    "decode_flops",
    "decode_step",
    "effective_epochs",
    "fit_law",
    "fit_parameters",
    "index_bytes",
    "intensity",
    "kaplan_loss",
    "kept_bytes",
    "law",
    "laws",
    "max_batch",
    "memory_budget",
    "mha_bytes_per_token",
    "model",
    "models",
    "on_one_device",
    "own_runs",
    "prefill_flops",
    "read_bytes",
    "read_table",
    "readable_bytes",
    "readable_tokens",
    "reshaped",
    "state_bytes",
    "state_is_own_cache",
    "tail_bytes",
    "tokens_in",
    "training_budget",
    "uniform",
    "weight_bytes",
    "window_bytes",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Names of earlier versions."""
    return renamed_name(__name__, name)
