"""What fits beside the weights in an accelerator's memory, and how fast one token can follow another.

A decode step reads every weight it needs once and every cached key and value once, and it reads and writes every state.
The time it takes is bounded by the slower of moving and computing (the roofline: Williams, Waterman and Patterson
2009). Bytes and operations are counted here, times are bounds from data sheets: real servers reach a share of them,
which is what the efficiencies are for.
"""

import math
from dataclasses import dataclass
from functools import cache

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.scaling.cache import cache_bytes, index_bytes, read_bytes, state_bytes, tail_bytes
from nl_course.scaling.formats import GB, GIB, TB, bytes_per_value
from nl_course.scaling.shapes import LayerGroup, ModelShape, model, read_table


@dataclass(frozen=True)
class Accelerator:
    """One entry of `assets/accelerators.json`: bytes that a program can ask for, TB/s, and dense 16-bit TFLOP/s.

    `sheet_gb` is the number that the data sheet prints before GB. It may mean 10^9 bytes, 2^30 bytes, or a rounded
    figure of either, so nothing is computed from it.
    """

    name: str
    title: str
    year: int
    memory: str
    sheet_gb: float
    memory_bytes: int
    bandwidth_tb_s: float
    dense_16bit_tflops: float
    announced_only: bool = False
    source: str = ""
    confidence: str = "recalled"
    note: str = ""
    memory_source: str = ""

    @property
    def memory_gb(self) -> float:
        """The memory in 10^9 bytes."""
        return self.memory_bytes / GB

    @property
    def sheet_unit(self) -> str:
        """What the data sheet's GB turns out to be: "10^9 bytes" or "2^30 bytes" where it is within 0.6 % of one,
        else "neither": a part is held back, or the number is a rounded one."""
        unit = self.memory_bytes / self.sheet_gb
        for name, size in (("10^9 bytes", GB), ("2^30 bytes", GIB)):
            if abs(unit / size - 1) < 0.006:
                return name
        return "neither"

    @property
    def ridge(self) -> float:
        """Operations per byte at which reading and computing take equally long (16-bit)."""
        return self.dense_16bit_tflops / self.bandwidth_tb_s

    @property
    def read_all_seconds(self) -> float:
        """Time to read the whole memory once: no decode step that touches all of it is faster."""
        return self.memory_bytes / (self.bandwidth_tb_s * TB)


@cache
def accelerators() -> dict[str, Accelerator]:
    """Every accelerator of the table by name, in the table's order."""
    return {row["name"]: Accelerator(**row) for row in read_table("accelerators.json")["accelerators"]}


def accelerator(name: str | Accelerator) -> Accelerator:
    """An accelerator by name, e.g. `accelerator("h100")`. Raises CourseError with a guess for a misspelled
    name."""
    return name if isinstance(name, Accelerator) else accelerators()[check_choice("accelerator", name, accelerators())]


# -- operations ----------------------------------------------------------------------------------------------
def _pair_flops(group: LayerGroup, heads: int, absorbed: bool) -> int:
    """Operations of one layer for one query token and one token it reads: scores, and the weighted sum of
    values."""
    if group.kind == "state":
        return 0
    if group.kind != "latent":
        return 4 * heads * group.head_dim
    if absorbed:  # the up-projection is folded into the query: all heads read the latent itself
        return 2 * heads * (group.kv_rank + group.rope_dim + group.kv_rank)
    return 2 * heads * (group.head_dim + group.rope_dim + group.head_dim)


# Operations per number of a state and token, as in `fixed_state`: answer 2, what is known of the key 2, write 2,
# retention 1; a decaying sum does not ask what is known.
STATE_FLOPS = {"delta": 7, "sum": 5}


def _state_flops(group: LayerGroup) -> int:
    """Operations of one layer's state for one token: read, written, kept. 0 for a layer without one."""
    return STATE_FLOPS[group.rule] * group.state_values


def _index_flops(group: LayerGroup) -> float:
    """Operations by which one layer's indexer scores one earlier token for one query."""
    return 2 * group.index_heads * group.index_values


def prefill_flops(shape: str | ModelShape, context: float, *, square: bool = False) -> float:
    """Operations to read a prompt of `context` tokens, one sequence: 2 P T + 2 L d_attn T^2.

    P are the parameters that a token is multiplied with: not the experts that it did not choose, and not an input
    embedding beside the output matrix, of which it reads one row. The second term counts the causal half of all pairs;
    `square=True` is a kernel that computes the full square and masks afterwards. In a sliding layer each token reads at
    most its window, in a chunked one what stands before it in its chunk, in a sparse one what its indexer picks after
    scoring all pairs. A state is written once per token.
    """
    shape, T = model(shape), check_min("context", context, 0)

    def pairs(group: LayerGroup) -> float:
        """Pairs of query and key in one sequence: the causal half, or in a window at most that many keys per query."""
        if square:
            return T * T
        w = group.tokens_kept(T) if group.top_k is None else min(T, group.top_k)
        return T * w / 2 if group.kind == "chunked" else T * w - w * w / 2

    attention = sum(g.count * _pair_flops(g, shape.heads, absorbed=False) * pairs(g) for g in shape.layers)
    scored = T * T if square else T * T / 2
    beside = sum(g.count * (_state_flops(g) * T + _index_flops(g) * scored) for g in shape.layers)
    return 2 * shape.matmul_parameters * T + attention + beside


def decode_flops(shape: str | ModelShape, context: float) -> float:
    """Operations for one token after `context` others: 2 P + 4 L d_attn T (latents in absorbed form), P as in
    `prefill_flops`; for states and indexers what their layers add."""
    shape = model(shape)
    check_min("context", context, 0)
    attention = sum(g.count * _pair_flops(g, shape.heads, absorbed=True) * g.tokens_read(context) for g in shape.layers)
    beside = sum(g.count * (_state_flops(g) + _index_flops(g) * context) for g in shape.layers)
    return 2 * shape.matmul_parameters + attention + beside


# -- bytes ---------------------------------------------------------------------------------------------------
def weight_bytes(shape: str | ModelShape, dtype: str | float = "bf16") -> float:
    """Bytes of all weights, every expert included: any of them may be asked for."""
    return model(shape).parameters * bytes_per_value(dtype)


def weights_touched(shape: str | ModelShape, batch: int) -> float:
    """Parameters that one decode step of `batch` tokens reads.

    All that are multiplied with in a dense model: of an input embedding beside the output matrix only `batch` rows are
    read, which do not count here. With experts, those that at least one token chose: an expert is missed by
    all with probability (1 - used/experts)^batch if choices are even and independent (our assumption; real
    routers are neither).
    """
    shape = model(shape)
    check_int("batch", batch, 1)
    if not shape.experts or shape.experts_used == shape.experts:
        return shape.parameters - shape.lookup_parameters
    one_expert = (shape.parameters - shape.active) / (shape.experts - shape.experts_used)
    shared = shape.parameters - shape.lookup_parameters - shape.experts * one_expert
    touched = shape.experts * (1 - (1 - shape.experts_used / shape.experts) ** batch)
    return shared + touched * one_expert


def decode_bytes(
    shape: str | ModelShape,
    context: float,
    batch: int = 1,
    weights: str | float = "bf16",
    kv: str | float = "bf16",
) -> float:
    """Bytes moved for one decode step of `batch` sequences, `context` tokens each: weights and cache read, states and
    tails of convolutions read and written. The one entry that a cache writes is left out."""
    of_weights = weights_touched(shape, batch) * bytes_per_value(weights)
    fixed = state_bytes(shape, batch) + tail_bytes(shape, batch, kv)
    return of_weights + read_bytes(shape, context, batch, kv) + 2 * fixed


def intensity(
    shape: str | ModelShape,
    context: float,
    batch: int = 1,
    weights: str | float = "bf16",
    kv: str | float = "bf16",
) -> float:
    """Operations per byte of a decode step: to be held against an accelerator's `ridge`."""
    moved = decode_bytes(shape, context, batch, weights, kv)
    return batch * decode_flops(shape, context) / moved


def attention_intensity(shape: str | ModelShape, kv: str | float = "bf16") -> float:
    """Operations per byte of reading the cache alone, the limit that batch and context cannot move.

    heads / kv_heads at 16 bits; for latents 2 heads (2 kv_rank + rope_dim) / (b (kv_rank + rope_dim)). Keys of
    indexers, and states, are no part of it. Raises CourseError for a model that keeps no cache at all.
    """
    shape, size = model(shape), bytes_per_value(kv)
    cached = [g for g in shape.layers if g.kind != "state"]
    if not cached:
        raise CourseError(f"{shape.title} keeps no cache, so there is no intensity of reading one.")
    growing = [g for g in cached if g.grows] or cached
    flops = sum(g.count * _pair_flops(g, shape.heads, absorbed=True) for g in growing)
    return flops / (size * sum(g.count * g.values_per_token for g in growing))


# -- fits and times ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MemoryBudget:
    """How the memory of a serving machine is filled. All sizes in bytes."""

    memory: float
    usable: float
    weights: float
    cache: float
    per_user: float
    max_batch: float
    index: float = 0.0
    state: float = 0.0
    tails: float = 0.0

    @property
    def kept(self) -> float:
        """What all users keep together: cache, indexer keys, states, tails of convolutions."""
        return self.cache + self.index + self.state + self.tails

    @property
    def left(self) -> float:
        """Usable bytes that nothing fills; negative if it overflows."""
        return self.usable - self.weights - self.kept

    @property
    def fits(self) -> bool:
        """Whether weights, what users keep, and what is set aside fit."""
        return self.left >= 0


def memory_budget(
    shape: str | ModelShape,
    device: str | Accelerator,
    context: float,
    batch: int = 1,
    count: int = 1,
    weights: str | float = "bf16",
    kv: str | float = "bf16",
    *,
    share: float = 0.9,
    other: float = 0.0,
) -> MemoryBudget:
    """Weights, cache, states and what is left in `count` accelerators that hold one copy of the model between them.

    `share` of the memory is taken as usable (servers keep about a tenth for buffers and fragments); `other`
    bytes are set aside for activations. `max_batch` = floor((share memory - weights - other) / all that one
    sequence keeps), `math.inf` when a sequence keeps nothing. Splitting is taken as even and free, which real
    tensor parallelism is not quite.
    """
    shape, device = model(shape), accelerator(device)
    check_int("count", count, 1)
    if not 0 < check_min("share", share, 0) <= 1:
        raise CourseError(f"share must be more than 0 and at most 1, not {share!r}.")
    memory = count * device.memory_bytes
    usable = share * memory - check_min("other", other, 0)
    check_int("batch", batch)
    of_weights = weight_bytes(shape, weights)
    cache, index = cache_bytes(shape, context, 1, kv), index_bytes(shape, context, 1, kv)
    state, tails = state_bytes(shape), tail_bytes(shape, 1, kv)
    of_one = cache + index + state + tails  # all that one sequence keeps
    room = usable - of_weights
    if of_one:
        most = max(0, math.floor(room / of_one))
    else:
        most = math.inf if room >= 0 else 0
    return MemoryBudget(
        memory,
        usable,
        weights=of_weights,
        cache=batch * cache,
        per_user=of_one,
        max_batch=most,
        index=batch * index,
        state=batch * state,
        tails=batch * tails,
    )


def max_batch(shape: str | ModelShape, device: str | Accelerator, context: float, count: int = 1, **settings) -> float:
    """Sequences of `context` tokens that fit at once; settings as for `memory_budget`."""
    return memory_budget(shape, device, context, 1, count, **settings).max_batch


@dataclass(frozen=True)
class Step:
    """One decode step: operations, bytes, and the seconds that each alone would take."""

    flops: float
    bytes: float
    compute_seconds: float
    read_seconds: float
    batch: int

    @property
    def seconds(self) -> float:
        """The longer of computing and reading: the two overlap."""
        return max(self.compute_seconds, self.read_seconds)

    @property
    def bound(self) -> str:
        """Which of the two holds the step up: "reading" or "computing"."""
        return "reading" if self.read_seconds >= self.compute_seconds else "computing"

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second that each sequence sees; all sequences together get `batch` times as many."""
        return 1 / self.seconds


def decode_step(
    shape: str | ModelShape,
    device: str | Accelerator,
    context: float,
    batch: int = 1,
    count: int = 1,
    weights: str | float = "bf16",
    kv: str | float = "bf16",
    *,
    compute: float = 1.0,
    reading: float = 1.0,
) -> Step:
    """The roofline of one decode step: max(operations / peak, bytes / bandwidth).

    `compute` and `reading` are the shares of peak and bandwidth that are reached (1.0 = the data sheet).
    Arithmetic is taken at the 16-bit rate whatever the storage format. Links between accelerators are not
    counted.
    """
    device = accelerator(device)
    check_int("batch", batch, 1)
    for what, share in (("compute", compute), ("reading", reading)):
        if not 0 < check_min(f"efficiency {what}", share, 0) <= 1:
            raise CourseError(f"efficiency {what} must be more than 0 and at most 1, not {share!r}.")
    flops = batch * decode_flops(shape, context)
    moved = decode_bytes(shape, context, batch, weights, kv)
    n = check_int("count", count, 1)
    peak, width = n * compute * device.dense_16bit_tflops * 1e12, n * reading * device.bandwidth_tb_s * TB
    return Step(flops, moved, flops / peak, moved / width, batch)
