"""What a run will take, before it is started: parameters, operations, memory, time and money.

    speed = probe(model, stream, config)                             # tokens per second, measured in a few real steps
    print(estimate(model.config, config, tokens_per_second=speed, price_per_hour=2.0))

Nothing is guessed that can be counted. The network is built without memory (on PyTorch's meta device) and taken forward
and backward through some rows. That counts the operations of its matrix products, including inner loops and what is
differentiated twice, and the bytes held at the fullest moment. Only a few blocks and a few chunks are counted; the rest
is extended to the full depth and length. This is exact to a percent for blocks that are all alike, and to about a
seventh for clocked levels of several periods. Elementwise work is not counted.

Operations are compared with the rule 6 N D of a plain transformer (Kaplan et al. 2020, section 2.1: 2 forward and 4
backward for every weight and token). A time from a data sheet assumes which share of an accelerator's peak is reached;
a time from a probe was measured. Both are ranges. Units: bytes, seconds, and money in the unit of the price.
"""

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from statistics import median
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories import MEMORIES
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedConfig, NestedLanguageModel
from nl_course.nested.outer import outer_step
from nl_course.scaling.formats import readable_bytes
from nl_course.scaling.hardware import Accelerator
from nl_course.scaling.hardware import accelerator as named_accelerator
from nl_course.training.blocks import checkpointed_blocks
from nl_course.training.config import TrainingConfig
from nl_course.training.loop import Data, train
from nl_course.training.loss import token_losses

# Numbers that an optimizer keeps for each weight of a matrix (nl_course/optimizers: the table; h = d).
OPTIMIZER_NUMBERS = {
    "sgd": 0,
    "momentum": 1,
    "adam": 2,
    "adamw": 2,
    "muon": 1,
    "delta-momentum": 1,
    "deep-momentum": 3,
    "dgd": 0,
    "m3": 4,
}
PARALLEL = ("none", "ddp", "fsdp")

# The share of an accelerator's dense 16-bit peak that training reaches: an assumption of ours. A loop over chunks
# launches many small kernels, so the lower end is lower there.
PEAK_SHARE = (0.2, 0.5)
PEAK_SHARE_CHUNKED = (0.01, 0.3)
# A whole run's time relative to the probe's: evaluations, checkpoints and heat make it longer.
RUN_OVER_PROBE = (0.9, 1.3)
# What a process holds at most, relative to what its tensors hold. Measured on a processor with two models: 0.9 for a
# transformer, and 1.6 for TTT-Linear, whose loop leaves an allocator many small holes.
ALLOCATOR = 1.1
ALLOCATOR_CHUNKED = 1.7
ROWS_COUNTED = 1 << 14  # rows that are counted at once; on the meta device they cost nothing

Config = ModelConfig | NestedConfig
Range = tuple[float, float]  # (least, most)


@dataclass(frozen=True)
class Estimate:
    """What one run takes. Memory is per device; a range is (least, most); None is what was not asked for."""

    parameters: int
    tokens: int  # read in the whole run
    flops_rule: float  # 6 N D
    flops: float  # counted
    weights: float  # bytes, and so the next three
    gradients: float
    optimizer: float
    activations: Range
    seconds: Range | None = None
    cost: Range | None = None
    tokens_per_second: float | None = None
    utilization: float | None = None  # of the accelerator's peak, where speed and accelerator are known
    fits: bool | None = None  # whether the most memory fits the accelerator; None if unknown or between the two
    basis: str = ""  # what the time rests on

    @property
    def memory(self) -> Range:
        """Bytes on one device: weights, gradients, optimizer and activations together."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations[0], states + self.activations[1]

    @property
    def beyond_rule(self) -> float:
        """Counted operations divided by the rule's: what attention's pairs and the inner loop add."""
        return self.flops / self.flops_rule

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        fits = {True: ", fits", False: ", does not fit", None: ""}[self.fits]
        lines = [
            ("parameters", f"{self.parameters:,}"),
            ("tokens", f"{self.tokens:,} ({self.tokens / self.parameters:.1f} per parameter)"),
            ("operations", f"{self.flops:.2e}, {self.beyond_rule:.2f} of the rule 6 N D"),
            ("weights", _bytes(self.weights)),
            ("gradients", _bytes(self.gradients)),
            ("optimizer", _bytes(self.optimizer)),
            ("activations", _span(self.activations, _bytes)),
            ("memory", _span(self.memory, _bytes) + fits),
        ]
        if self.seconds is not None:
            lines.append(("time", f"{_span(self.seconds, _time)} ({self.basis})"))
        if self.utilization is not None:
            lines.append(("utilization", f"{self.utilization:.1%} of the accelerator's peak"))
        if self.cost is not None:
            lines.append(("cost", _span(self.cost, _money)))
        return "\n".join(f"{name:12} {value}" for name, value in lines)


def estimate(
    model_config: Config,
    training_config: TrainingConfig,
    *,
    tokens_per_second: float | None = None,
    accelerator: str | Accelerator | None = None,
    price_per_hour: float | None = None,
    processes: int = 1,
    parallel: str = "none",
) -> Estimate:
    """What it takes to train the model of `model_config` with the settings of `training_config`.

    `tokens_per_second` (all processes together, as from `probe`) gives the time. Without it, an `accelerator` of
    `assets/accelerators.json` does, by its peak and an assumed share of it; without either, time and cost are None.
    `price_per_hour` is per device. With "ddp" each of `processes` devices holds everything and reads a share of the
    rows; with "fsdp" it also holds only a share of weights, gradients and optimizer. Raises CourseError for numbers and
    names that cannot be.
    """
    config = training_config
    devices = check_int("processes", processes, 1)
    check_choice("parallel", parallel, PARALLEL)
    if tokens_per_second is not None and check_min("tokens_per_second", tokens_per_second, 0) == 0:
        raise CourseError("tokens_per_second must be more than 0.")
    if price_per_hour is not None:
        check_min("price_per_hour", price_per_hour, 0)
    if devices > 1 and parallel == "none":
        raise CourseError(f'{devices} processes need parallel "ddp" or "fsdp".')
    chip = None if accelerator is None else named_accelerator(accelerator)
    chunked = runs_in_chunks(model_config)
    parameters = parameter_count(model_config)
    tokens = config.steps * config.batch_size * config.length

    # Memory. Activations belong to one micro-batch on one device. The least is what is kept for the backward pass, in
    # 16 bits where autocast is on; the most adds the full square of attention's pairs and the allocator's holes.
    row_flops, row_bytes, row_square_bytes = count_row(
        model_config, config.length, config.recompute, config.checkpoint_blocks
    )
    rows = config.batch_size / config.accumulate / devices
    half_precision = config.precision == "bf16" or (config.precision == "auto" and chip is not None)
    least_activations = rows * row_bytes * (0.5 if half_precision else 1.0)
    most_activations = rows * (row_bytes + row_square_bytes) * (ALLOCATOR_CHUNKED if chunked else ALLOCATOR)
    shards = devices if parallel == "fsdp" else 1
    weights = 4.0 * parameters / shards  # bytes: weights stay in 32 bits, also under autocast

    # Time, from the measured speed or else from the data sheet.
    flops = row_flops * tokens / config.length
    seconds = None
    basis = ""
    if tokens_per_second is not None:
        seconds = tuple(tokens / tokens_per_second * share for share in RUN_OVER_PROBE)
        basis = "from the measured speed"
    elif chip is not None:
        least_share, most_share = PEAK_SHARE_CHUNKED if chunked else PEAK_SHARE
        peak = devices * chip.dense_16bit_tflops * 1e12
        seconds = (flops / peak / most_share, flops / peak / least_share)
        basis = f"assuming {least_share:.0%} to {most_share:.0%} of the peak of {devices} x {chip.title}"
    cost = None
    if seconds is not None and price_per_hour is not None:
        cost = tuple(s / 3600 * price_per_hour * devices for s in seconds)
    utilization = None
    if chip is not None and tokens_per_second is not None:
        flops_per_second = row_flops / config.length * tokens_per_second
        utilization = flops_per_second / (devices * chip.dense_16bit_tflops * 1e12)

    result = Estimate(
        parameters=parameters,
        tokens=tokens,
        flops_rule=6.0 * parameters * tokens,
        flops=flops,
        weights=weights,
        gradients=weights,
        optimizer=weights * OPTIMIZER_NUMBERS[config.optimizer],
        activations=(least_activations, most_activations),
        seconds=seconds,
        cost=cost,
        tokens_per_second=tokens_per_second,
        utilization=utilization,
        basis=basis,
    )
    if chip is None:
        return result
    least_fits, most_fits = (memory <= chip.memory_bytes for memory in result.memory)
    if most_fits:
        return replace(result, fits=True)
    return result if least_fits else replace(result, fits=False)


def check_room(model_config: Config, training_config: TrainingConfig, device: torch.device, processes: int = 1) -> None:
    """Raises CourseError for a run that the device has no memory for, however well it is used.

    Only what every run needs is counted: the weights, their gradients and what the optimizer keeps (in equal parts if
    several processes share them), the batch, and the logits of one micro-batch in 16 bits.
    """
    config = training_config
    weights = 4 * parameter_count(model_config)
    kept = weights * (1 + OPTIMIZER_NUMBERS[config.optimizer])
    rows = config.batch_size // processes
    batch = 8 * rows * (config.length + 1)
    logits = 2 * (rows // config.accumulate) * config.length * model_config.vocab
    needed = weights + kept // processes + batch + logits
    there = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    if needed > there:
        raise CourseError(
            f"this run needs {readable_bytes(needed)} of memory at the least, and there are {readable_bytes(there)}; "
            "take a smaller batch size, length or preset, or more micro-batches (accumulate)."
        )


def probe(model: nn.Module, data: Data, training_config: TrainingConfig, steps: int = 3) -> float:
    """Tokens per second, the median over `steps` whole steps on a copy of `model` and on its device.

    The model, and the global random numbers, are left as they were. The copy, its gradients and the optimizer need
    their memory meanwhile.
    """
    check_int("steps", steps, 1)
    # One step more than is counted: the first one also loads kernels and makes the optimizer's state.
    few = replace(training_config, steps=steps + 1, log_every=1, save_every=0, evaluate_every=0)
    run = train(copy.deepcopy(model), data, few, progress=False)
    return float(median(line["tokens_per_second"] for line in run.metrics[1:]))


# -- counting ---------------------------------------------------------------------------------------------------
def parameter_count(config: Config) -> int:
    """Parameters of the model with that config, which is built without memory for it."""
    with torch.device("meta"):
        return _model_class(config)(config).parameter_count()


def runs_in_chunks(config: Config) -> bool:
    """Whether the model goes through a text chunk by chunk, which a GPU cannot do at its peak."""
    if isinstance(config, NestedConfig):
        levels = [level for block in config.levels for level in block]
        if any(level.chunk for level in levels):
            return True
    return config.memory not in ("attention", "latent-attention")


def count_row(
    config: Config, length: int, recompute: bool = False, checkpoint_blocks: bool = False
) -> tuple[float, float, float]:
    """What one row of `length` tokens takes, forward and backward: operations of all matrix products, bytes that grow
    with the length, and bytes that grow with its square.

    Bytes are those held at the fullest moment, in 32 bits, without weights and their gradients. `recompute` and
    `checkpoint_blocks` are the settings of these names.
    """
    chunk = _chunk(config)
    # Three lengths show what is constant, what grows with the length and what with its square. Short rows need none.
    lengths = [length] if check_int("length", length, 1) <= 2 * chunk else [2 * chunk, 3 * chunk, 4 * chunk]
    kinds = _block_kinds(config)
    ones = [1] * len(kinds)
    with_ones = [_count(_with_blocks(config, kinds, ones), t, recompute, checkpoint_blocks) for t in lengths]
    totals = [list(measured) for measured in with_ones]  # per length: [operations, bytes]
    for i, (_, blocks) in enumerate(kinds):
        if blocks == 1:
            continue
        # Each further block of a kind takes what the second one takes beyond the first.
        counts = list(ones)
        counts[i] = 2
        with_two = [_count(_with_blocks(config, kinds, counts), t, recompute, checkpoint_blocks) for t in lengths]
        for total, one, two in zip(totals, with_ones, with_two, strict=True):
            for j in range(len(total)):
                total[j] = total[j] + (blocks - 1) * (two[j] - one[j])
    window = _window(config)
    flops = _extend(lengths, [total[0] for total in totals], length, window)
    held = _extend(lengths, [total[1] for total in totals], length, window)
    return sum(flops), *held


def _extend(lengths: list[int], counts: list[float], length: int, window: int | None) -> tuple[float, float]:
    """The polynomial c + a T + b T^2 through three counts, at T = `length`: (c + a T, b T^2).

    With a window of w tokens the square grows only up to w; beyond it, it is 2 w T - w^2.
    """
    if len(lengths) == 1:
        return counts[0], 0.0
    t1, t2, t3 = lengths
    y1, y2, y3 = counts
    # Newton's divided differences. Bytes at the fullest moment are no exact polynomial, and b must not be negative.
    b = max(0.0, ((y3 - y2) / (t3 - t2) - (y2 - y1) / (t2 - t1)) / (t3 - t1))
    a = (y3 - y1) / (t3 - t1) - b * (t3 + t1)
    c = y3 - a * t3 - b * t3**2
    w = max(min(window or length, length), t3)
    square = length**2 if w >= length else 2 * w * length - w * w
    return c + a * length, b * square


def _count(config: Config, length: int, recompute: bool, checkpoint_blocks: bool = False) -> list[float]:
    """[operations, bytes at the fullest moment] of one row of `length` tokens: counted, not computed."""
    with on_meta():
        model = _model_class(config)(config)
        # Many rows, so that what does not depend on their number (gradients of weights) vanishes beside them.
        tokens = torch.zeros(ROWS_COUNTED, length, dtype=torch.int64)  # (b, t)
        blocks_twice = checkpointed_blocks(model, checkpoint_blocks)
        with Operations() as counter, outer_step(model, 1.0, recompute), blocks_twice:
            token_losses(model, tokens, tokens).mean().backward()
    return [counter.flops / ROWS_COUNTED, counter.peak / ROWS_COUNTED]


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Within it tensors are made without memory for their numbers, so that a model can be counted and not computed."""
    autocast = torch.autocast

    def without_autocast_on_meta(device: str, *arguments: Any, **options: Any) -> contextlib.AbstractContextManager:
        """Autocast, and nothing on the meta device."""
        return contextlib.nullcontext() if device == "meta" else autocast(device, *arguments, **options)

    # Memories switch autocast off around their inner loops, and autocast does not know the meta device.
    with torch.device("meta"), patch.object(torch, "autocast", without_autocast_on_meta):
        yield


class Operations(TorchDispatchMode):
    """Adds up the operations of matrix products in `flops`, and follows the bytes of all tensors that were made and are
    still held: `held` now, `peak` at the fullest moment.

    PyTorch's own FlopCounterMode also follows modules, which fails where a backward pass asks for gradients itself.
    """

    def __init__(self):
        super().__init__()
        self.flops = 0.0
        self.held = 0.0
        self.peak = 0.0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Called by PyTorch for every operation: runs it, and counts it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        size = storage.nbytes()
        if key in self._alive:  # a view: its storage is counted already
            return

        def freed(_: weakref.ref) -> None:
            """Called when nothing refers to the storage any more."""
            self.held -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self.held += size
        self.peak = max(self.peak, self.held)


def _model_class(config: Config) -> type[LanguageModel]:
    return NestedLanguageModel if isinstance(config, NestedConfig) else LanguageModel


def _block_kinds(config: Config) -> list[tuple[tuple, int]]:
    """The kinds of blocks from the bottom up, each by its levels, and how many of a kind stand together."""
    levels = config.levels if isinstance(config, NestedConfig) else ((),) * config.layers
    return [(kind, len(list(blocks))) for kind, blocks in groupby(levels)]


def _with_blocks(config: Config, kinds: list[tuple[tuple, int]], counts: list[int]) -> Config:
    """The config with so many blocks of each kind."""
    if not isinstance(config, NestedConfig):
        return replace(config, layers=counts[0])
    levels = []
    for (kind, _), count in zip(kinds, counts, strict=True):
        levels += [kind] * count
    return replace(config, levels=tuple(levels), layers=len(levels))


def _memory_settings(config: Config) -> dict[str, Any]:
    """The settings of the model's memory, those of `options` and the others at their defaults."""
    _, memory_config = MEMORIES[config.memory]
    defaults = {name: setting.default for name, setting in memory_config.__dataclass_fields__.items()}
    return defaults | dict(config.options)


def _window(config: Config) -> int | None:
    """Tokens that the model's memory looks back at most; None if there is no such limit."""
    window = _memory_settings(config).get("window")
    return window if isinstance(window, int) else None


def _chunk(config: Config) -> int:
    """Tokens after which the model does the same again; counts are taken at two, three and four times as many."""
    if isinstance(config, NestedConfig):
        levels = [level for block in config.levels for level in block]
        periods = [level.chunk for level in levels if level.chunk]
        if periods:
            return min(periods)
    if not runs_in_chunks(config):
        return 512
    settings = _memory_settings(config)
    sizes = [settings.get(name) for name in ("chunk", "segment")]
    return max([size for size in sizes if isinstance(size, int)], default=64)


# -- words ------------------------------------------------------------------------------------------------------
def _span(values: Range, words: Callable[[float], str]) -> str:
    least = words(values[0])
    most = words(values[1])
    return least if least == most else f"{least} to {most}"


def _money(value: float) -> str:
    return f"{value:,.2f}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e7 else f"{value / 1e6:.2f} MB"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
