"""Bytes that one model keeps per user: a key-value cache that grows, and states that do not.

    MHA, GQA, MQA   2 kv_heads head_dim b              per token and layer    (2: a key and a value)
    MLA             (kv_rank + rope_dim) b             per token and layer    (one latent serves both: no
                    factor 2)
    window, chunk   as above, for min(T, window) tokens                       (a ring buffer; see `ring`)
    indexer         index_dim / index_pool b           per token and layer    (sparse attention keeps its cache as well)
    state           heads key_width value_width 4      per layer, at any T    (4: states are kept in 32 bits)
    convolution     (conv_width - 1) conv_channels b   per layer, at any T    (its last inputs)

b = bytes per number. DeepSeek-V2 (arXiv 2405.04434) for the latent, Mistral 7B (arXiv 2310.06825) for the
ring, DeepSeek-V3.2-Exp for the indexer, Gated DeltaNet (arXiv 2412.06464) for state and convolution.
"""

import math
from dataclasses import replace

from nl_course.errors import CourseError, check_int, check_min
from nl_course.scaling.formats import bytes_per_value
from nl_course.scaling.shapes import LayerGroup, ModelShape, model


def bytes_per_token(shape: str | ModelShape, dtype: str | float = "bf16", *, full: bool = False) -> float:
    """Bytes that one more token adds to one sequence's cache.

    With `full=False` that is the slope at long context, where sliding windows are full and add nothing; with
    `full=True` what every layer writes for a token, windows included (the slope before any window is full).
    """
    shape, size = model(shape), bytes_per_value(dtype)
    growing = (group for group in shape.layers if full or group.grows)
    return size * sum(group.count * group.values_per_token for group in growing)


def cache_bytes(
    shape: str | ModelShape, context: float, batch: int = 1, dtype: str | float = "bf16", *, ring: bool = True
) -> float:
    """Bytes of the cache of `batch` sequences of `context` tokens each: keys, values and latents, and nothing of what
    `kept_bytes` adds.

    `ring=False` is a server that gives every layer the full length, sliding or not. Raises CourseError for a
    negative context or batch.
    """
    shape, size = model(shape), bytes_per_value(dtype)
    check_min("context", context, 0)
    check_int("batch", batch)
    kept = sum(g.count * g.values_per_token * (g.tokens_kept(context) if ring else context) for g in shape.layers)
    return batch * size * kept


def window_bytes(shape: str | ModelShape, dtype: str | float = "bf16") -> float:
    """Bytes that one sequence's windows and chunks hold once they are full (0 for a model without them)."""
    local = [group for group in model(shape).layers if group.window is not None]
    return bytes_per_value(dtype) * sum(g.count * g.values_per_token * g.window for g in local)


# -- beside the cache ------------------------------------------------------------------------------------------
def state_bytes(shape: str | ModelShape, batch: int = 1) -> float:
    """Bytes of the states of `batch` sequences, at any length: heads x key width x value width, each number in the
    layer's own `state_dtype`. 0 for a model whose layers all keep a cache."""
    check_int("batch", batch)
    groups = model(shape).layers
    return batch * sum(g.count * g.state_values * bytes_per_value(g.state_dtype) for g in groups)


def tail_bytes(shape: str | ModelShape, batch: int = 1, dtype: str | float = "bf16") -> float:
    """Bytes of what the short convolutions of `batch` sequences keep: their last conv_width - 1 inputs."""
    check_int("batch", batch)
    return batch * bytes_per_value(dtype) * sum(group.count * group.tail_values for group in model(shape).layers)


def index_bytes(shape: str | ModelShape, context: float, batch: int = 1, dtype: str | float = "bf16") -> float:
    """Bytes of the keys by which sparse layers choose what to read, `batch` sequences of `context` tokens each."""
    check_min("context", context, 0)
    check_int("batch", batch)
    per_token = sum(group.count * group.index_values for group in model(shape).layers)
    return batch * bytes_per_value(dtype) * per_token * context


def kept_bytes(shape: str | ModelShape, context: float, batch: int = 1, dtype: str | float = "bf16") -> float:
    """All that `batch` sequences of `context` tokens keep: cache, indexer keys, states, tails of convolutions. `dtype`
    is that of all but the states."""
    grown = cache_bytes(shape, context, batch, dtype) + index_bytes(shape, context, batch, dtype)
    return grown + state_bytes(shape, batch) + tail_bytes(shape, batch, dtype)


def read_bytes(shape: str | ModelShape, context: float, batch: int = 1, dtype: str | float = "bf16") -> float:
    """Bytes of cache that one more token of each of `batch` sequences reads. In a sparse layer those are the tokens
    that its indexer picks, and all the indexer's keys; in a chunked one the tokens of the current chunk."""
    shape, size = model(shape), bytes_per_value(dtype)
    check_min("context", context, 0)
    check_int("batch", batch)
    entries = sum(g.count * g.values_per_token * g.tokens_read(context) for g in shape.layers)
    return batch * size * entries + index_bytes(shape, context, batch, dtype)


def all_cached(shape: str | ModelShape) -> ModelShape:
    """The same model with a cache in every layer: its states become the growing layers that it has already. What would
    it keep? Raises CourseError for a model that has no growing layer to take the shape from."""
    shape = model(shape)
    growing = [group for group in shape.layers if group.grows]
    if not growing:
        raise CourseError(f"{shape.title} has no layer with a growing cache, so its states have no counterpart.")

    def cached(group: LayerGroup) -> LayerGroup:
        """A group of layers with the model's own growing cache in place of a fixed state."""
        return replace(growing[0], count=group.count, parallel=group.parallel) if group.kind == "state" else group

    # A state beside attention, in the same layer, is left out: that layer keeps its cache already.
    groups = [cached(group) for group in shape.layers if not (group.parallel and group.kind == "state")]
    return replace(shape, title=f"{shape.title}, a cache in every layer", layers=tuple(groups))


def tokens_in(
    shape: str | ModelShape,
    budget: float,
    dtype: str | float = "bf16",
    *,
    ring: bool = True,
    everything: bool = False,
) -> float:
    """The longest context whose cache fits in `budget` bytes: the inverse of `cache_bytes` for one sequence.

    Not rounded; `math.inf` for a model whose layers all slide, once its windows fit. `everything=True` is the inverse
    of `kept_bytes` instead: states and tails are taken off the budget first (0 if they do not fit), and indexer keys
    count with the cache.
    """
    shape, size = model(shape), bytes_per_value(dtype)
    check_min("budget", budget, 0)
    if everything:
        budget = max(0.0, budget - state_bytes(shape) - tail_bytes(shape, dtype=dtype))

    def per_token(group: LayerGroup, after: float) -> float:
        """Numbers that one layer adds for a token that follows `after` others."""
        full = ring and group.window is not None and group.window <= after
        cache = 0 if full else group.values_per_token
        return cache + group.index_values if everything else cache

    windows = sorted({g.window for g in shape.layers if g.window is not None}) if ring else []
    start, used = 0.0, 0.0
    for end in [*windows, math.inf]:
        slope = size * sum(group.count * per_token(group, start) for group in shape.layers)
        if slope == 0:
            return math.inf
        if used + slope * (end - start) >= budget:
            return start + (budget - used) / slope
        start, used = end, used + slope * (end - start)
    return math.inf


def reshaped(shape: str | ModelShape, kv_heads: int | None = None, window: int | None = None) -> ModelShape:
    """The same model with other key-value heads, or with every global layer turned into a window: what would
    it cost?

    Latent layers become ordinary ones with `kv_heads` (default: all heads, plain MHA) of their head_dim, and sparse
    layers read every token. States stay as they are.
    """
    shape = model(shape)

    def changed(group: LayerGroup) -> LayerGroup:
        """A group of layers with other key-value heads or a window. A fixed state stays as it is."""
        if group.kind == "state":
            return group
        heads = kv_heads or group.kv_heads or shape.heads
        if window is not None and group.grows:
            return LayerGroup(group.count, "local", group.head_dim, heads, window)
        kind = "global" if group.grows else group.kind
        return LayerGroup(group.count, kind, group.head_dim, heads, group.window)

    label = f"{shape.title}, {kv_heads or 'own'} kv heads" + (f", window {window}" if window else "")
    return replace(shape, title=label, layers=tuple(changed(group) for group in shape.layers))


def on_one_device(shape: str | ModelShape, devices: int) -> ModelShape:
    """What one of `devices` keeps of a model whose heads are dealt out among them (tensor parallelism).

    Each device has heads of its own, of caches and states alike, and at least one: where there are fewer heads than
    devices they are repeated. A latent serves all heads, and so every device keeps all of it; likewise an indexer's
    keys. A convolution's channels go with their heads. Raises CourseError for a number of devices that does not divide
    the query heads.
    """
    shape = model(shape)
    if shape.heads % check_int("devices", devices, 1):
        raise CourseError(f"{shape.heads} query heads cannot be dealt out evenly among {devices} devices.")

    def share(count: int | None) -> int | None:
        """How many of so many heads one device holds, rounded up."""
        return None if count is None else math.ceil(count / devices)

    def dealt(group: LayerGroup) -> LayerGroup:
        """A group of layers with the heads that one device holds."""
        heads = dict(kv_heads=share(group.kv_heads), state_heads=share(group.state_heads))
        return replace(group, **heads, conv_channels=share(group.conv_channels))

    return replace(shape, heads=shape.heads // devices, layers=tuple(dealt(group) for group in shape.layers))
