"""The roofline of decoding from a state that does not grow, beside the cache's.

A cache is read once a token and written at its end only. A state that learns is read *and written* each token, whatever
was read before. Per head, with N numbers in one copy of its weights and f the head's width (2 operations for a multiply
and an add; what grows with f alone, such as norms and gates, is left out):

    answer a query              2 N
    what is known of the key    2 N      rules that correct an error (delta, TTT, Titans), not Hebb's
    bring the error back        2 (N - numbers of the first layer)
    write the outer products    2 N
    retention                     N
    momentum                    2 N      S <- eta S + gradient, W <- W + S

In bytes: every copy is read once and written once. With `every` = c > 1 tokens between writes, the state is read to
answer each token but written once in c, and the open chunk's inputs and errors are kept and read beside it: fewer
bytes, and as many operations and a few more. None of it is shared by sequences: a batch shares the weights alone.

A text that is there already, a prompt or a row of training, is another matter: a chunk of it is one matrix product
(`chunk_traffic`), for which the state is read once. So there the size of a chunk decides how busy a machine can be.
"""

from dataclasses import dataclass
from typing import NamedTuple

from nl_course.errors import CourseError, check_choice, check_int, check_min, shortened
from nl_course.scaling.breakeven import FIXED_MEMORIES, FixedMemory, break_even_tokens
from nl_course.scaling.cache import bytes_per_token, read_bytes
from nl_course.scaling.formats import TB, bytes_per_value
from nl_course.scaling.hardware import Accelerator, accelerator, decode_flops
from nl_course.scaling.shapes import ModelShape, model


class Writing(NamedTuple):
    """How a memory is written: toward the `error` or the bare value; whether it forgets; with momentum or without."""

    error: bool = True
    retention: bool = False
    momentum: bool = False


WRITINGS = {
    "linear": Writing(error=False),
    "gated-delta": Writing(retention=True),
    "ttt-linear": Writing(),
    "ttt-linear-x2": Writing(),
    "ttt-mlp": Writing(),
    "ttt-mlp-x2": Writing(),
    "titans-heads": Writing(retention=True, momentum=True),
    "titans-matrix": Writing(retention=True, momentum=True),
    "titans-wide-bf16": Writing(retention=True),
    "titans-wide": Writing(retention=True, momentum=True),
    "titans-760m": Writing(retention=True, momentum=True),
}


@dataclass(frozen=True)
class Traffic:
    """One token of one sequence: operations, bytes read, bytes written."""

    flops: float
    read: float
    written: float

    @property
    def bytes(self) -> float:
        """Bytes moved, read and written."""
        return self.read + self.written

    @property
    def intensity(self) -> float:
        """Operations per byte moved, to be held against an accelerator's `ridge`."""
        return self.flops / self.bytes

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.flops + other.flops, self.read + other.read, self.written + other.written)

    def times(self, count: float) -> "Traffic":
        """The traffic of so many tokens or sequences."""
        return Traffic(self.flops * count, self.read * count, self.written * count)

    def seconds(self, device: str | Accelerator, *, compute: float = 1.0, moving: float = 1.0) -> float:
        """The roofline: max(operations / peak, bytes / bandwidth). Reads and writes share the bandwidth; `compute` and
        `moving` are the shares of peak and bandwidth that are reached."""
        device = accelerator(device)
        return max(
            self.flops / (compute * device.dense_16bit_tflops * 1e12),
            self.bytes / (moving * device.bandwidth_tb_s * TB),
        )

    def bound(self, device: str | Accelerator) -> str:
        """Which of the two holds it up: "moving bytes" or "computing"."""
        return "moving bytes" if self.intensity <= accelerator(device).ridge else "computing"


# -- the state ---------------------------------------------------------------------------------------------------------
def state_traffic(memory: str | FixedMemory, writing: Writing | None = None, every: int = 1) -> Traffic:
    """Answering and writing one token, one sequence, all layers. `memory` by its name in FIXED_MEMORIES (whose rule is
    known), or one of your own with its `writing`; `every` tokens between writes."""
    if isinstance(memory, str):
        writing = WRITINGS[check_choice("memory", memory, WRITINGS)] if writing is None else writing
        memory = FIXED_MEMORIES[memory]
    if not isinstance(memory, FixedMemory):
        raise CourseError(f"memory must be a name or a FixedMemory, not {shortened(memory)}.")
    writing = Writing() if writing is None else writing
    c, size, N = check_int("every", every, 1), bytes_per_value(memory.dtype), memory.values
    flops = 4 * N + 2 * N * writing.error + 2 * _behind_the_first(memory) * writing.error
    flops += N * writing.retention + 2 * N * writing.momentum
    if c == 1:
        return Traffic(flops, memory.copies * N * size, memory.copies * N * size)
    row, waiting = _row(memory), (c - 1) / 2  # tokens that wait in an open chunk, on average
    read = (1 + memory.copies / c) * N + waiting * row
    written = memory.copies / c * N + row
    once_a_chunk = N * writing.retention + 2 * N * writing.momentum
    return Traffic(flops - once_a_chunk * (1 - 1 / c) + 2 * waiting * row, read * size, written * size)


def chunk_traffic(
    memory: str | FixedMemory,
    writing: Writing | None = None,
    chunk: int = 1,
    *,
    reads_chunk: bool = True,
    newton_schulz_steps: int = 0,
) -> Traffic:
    """One token's share of a chunk that is read and written at once, as in training or with a prompt; else as
    `state_traffic`. The best case: each copy of the state is read once and written once per chunk.

    Beside the state every token moves its query, key, value and answer, in bf16. With `reads_chunk` tokens also answer
    from the pairs of their own chunk, which is attention's work, c / 2 pairs per token. Without, they read what the
    chunk began with alone, as LaCT's do. `newton_schulz_steps` orthogonalize each matrix of the chunk's write: per step
    4 s^2 l + 2 s^3 operations, s and l being its shorter and its longer side.
    """
    if isinstance(memory, str):
        writing = WRITINGS[check_choice("memory", memory, WRITINGS)] if writing is None else writing
        memory = FIXED_MEMORIES[memory]
    flops = state_traffic(memory, writing, every=chunk).flops
    if not reads_chunk:
        flops -= (chunk - 1) * _row(memory)
    heads = memory.layers * memory.width // memory.head_dim
    flops += check_int("newton_schulz_steps", newton_schulz_steps) * heads * _newton_schulz_flops(memory) / chunk
    state = memory.copies * memory.values * bytes_per_value(memory.dtype) / chunk
    row = memory.layers * memory.width * bytes_per_value("bf16")
    return Traffic(flops, state + 3 * row, state + row)


def _newton_schulz_flops(memory: FixedMemory) -> int:
    """Of one step on the matrices of one head: X X^T, its square, and the product with X."""
    short = memory.head_dim
    long, matrices = (short * memory.expansion, 2) if memory.rule == "mlp" else (short, 1)
    return matrices * (4 * short * short * long + 2 * short**3)


def _behind_the_first(memory: FixedMemory) -> int:
    """Numbers of the layers behind the first, through which an error must come back."""
    if memory.rule != "mlp":
        return 0
    return memory.layers * memory.width * memory.expansion * memory.head_dim


def _row(memory: FixedMemory) -> int:
    """Numbers that a token waiting to be written keeps: each layer's input, and the error that came back to it."""
    layer = 2 * memory.layers * memory.width
    return layer * (1 + memory.expansion) if memory.rule == "mlp" else layer


# -- beside the cache --------------------------------------------------------------------------------------------------
def cache_traffic(shape: str | ModelShape, context: float, dtype: str | float = "bf16") -> Traffic:
    """Attention to `context` tokens for one more, one sequence: every key and value read, one written."""
    shape = model(shape)
    flops = decode_flops(shape, context) - decode_flops(shape, 0)
    return Traffic(flops, read_bytes(shape, context, 1, dtype), bytes_per_token(shape, dtype, full=True))


def weights_traffic(parameters: float, batch: int = 1, dtype: str | float = "bf16") -> Traffic:
    """The dense weights' part of one token, one sequence: they are read once for the whole batch."""
    read = check_min("parameters", parameters, 0) * bytes_per_value(dtype) / check_int("batch", batch, 1)
    return Traffic(2 * parameters, read, 0.0)


def even_traffic_tokens(state: Traffic, against: str | ModelShape, dtype: str | float = "bf16") -> float:
    """Context at which attention moves as many bytes a token as that state: below it the cache is the cheaper of the
    two. As each written byte counts like one that is read, it lies further out than where their sizes are even."""
    if not isinstance(state, Traffic):
        raise CourseError(f"state must be the Traffic that `state_traffic` gives, not {shortened(state)}.")
    own = bytes_per_token(against, dtype, full=True)  # the cache writes a token too
    return break_even_tokens(max(0.0, state.bytes - own), against, dtype)
