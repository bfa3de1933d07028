"""Bytes of a key-value cache, for every shape of attention that `models.json` can describe.

    MHA, GQA, MQA   2 kv_heads head_dim b              per token and layer    (2: a key and a value)
    MLA             (kv_rank + rope_dim) b             per token and layer    (one latent serves both: no
                    factor 2)
    window          as above, for min(T, window) tokens                       (a ring buffer; see `ring`)

b = bytes per number. DeepSeek-V2 (arXiv 2405.04434) for the latent, Mistral 7B (arXiv 2310.06825) for the
ring.
"""

import math
from dataclasses import replace

from nl_course.errors import check_int, check_min
from nl_course.scaling.formats import bytes_per_value
from nl_course.scaling.shapes import LayerGroup, ModelShape, model


def bytes_per_token(shape: str | ModelShape, dtype: str | float = "bf16", *, full: bool = False) -> float:
    """Bytes that one more token adds to one sequence's cache.

    With `full=False` that is the slope at long context, where sliding windows are full and add nothing; with
    `full=True` what every layer writes for a token, windows included (the slope before any window is full).
    """
    shape, size = model(shape), bytes_per_value(dtype)
    growing = (group for group in shape.layers if full or group.kind != "local")
    return size * sum(group.count * group.values_per_token for group in growing)


def cache_bytes(
    shape: str | ModelShape, context: float, batch: int = 1, dtype: str | float = "bf16", *, ring: bool = True
) -> float:
    """Bytes of the cache of `batch` sequences of `context` tokens each.

    `ring=False` is a server that gives every layer the full length, sliding or not. Raises CourseError for a
    negative context or batch.
    """
    shape, size = model(shape), bytes_per_value(dtype)
    check_min("context", context, 0)
    check_int("batch", batch)
    kept = sum(g.count * g.values_per_token * (g.tokens_kept(context) if ring else context) for g in shape.layers)
    return batch * size * kept


def window_bytes(shape: str | ModelShape, dtype: str | float = "bf16") -> float:
    """Bytes that one sequence's sliding windows hold once they are full (0 for a model without windows)."""
    local = [group for group in model(shape).layers if group.kind == "local"]
    return bytes_per_value(dtype) * sum(g.count * g.values_per_token * g.window for g in local)


def tokens_in(shape: str | ModelShape, budget: float, dtype: str | float = "bf16", *, ring: bool = True) -> float:
    """The longest context whose cache fits in `budget` bytes: the inverse of `cache_bytes` for one sequence.

    Not rounded; `math.inf` for a model whose layers all slide, once its windows fit.
    """
    shape, size = model(shape), bytes_per_value(dtype)
    check_min("budget", budget, 0)
    windows = sorted({g.window for g in shape.layers if g.kind == "local"}) if ring else []
    start, used = 0.0, 0.0
    for end in [*windows, math.inf]:
        slope = size * sum(
            g.count * g.values_per_token for g in shape.layers if not (ring and g.kind == "local" and g.window <= start)
        )
        if slope == 0:
            return math.inf
        if used + slope * (end - start) >= budget:
            return start + (budget - used) / slope
        start, used = end, used + slope * (end - start)
    return math.inf


def reshaped(shape: str | ModelShape, kv_heads: int | None = None, window: int | None = None) -> ModelShape:
    """The same model with other key-value heads, or with every global layer turned into a window: what would
    it cost?

    Latent layers become ordinary ones with `kv_heads` (default: all heads, plain MHA) of their head_dim.
    """
    shape = model(shape)

    def changed(group: LayerGroup) -> LayerGroup:
        heads = kv_heads or group.kv_heads or shape.heads
        if window is not None and group.kind != "local":
            return LayerGroup(group.count, "local", group.head_dim, heads, window)
        return LayerGroup(
            group.count, "local" if group.kind == "local" else "global", group.head_dim, heads, group.window
        )

    label = f"{shape.title}, {kv_heads or 'own'} kv heads" + (f", window {window}" if window else "")
    return replace(shape, title=label, layers=tuple(changed(group) for group in shape.layers))
