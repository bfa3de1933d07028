"""What a run will take, before it is started: parameters, operations, memory, time and money.

    speed = probe(model, stream, config)                             # tokens a second, here, in a few real steps
    print(estimate(model.config, config, tokens_per_second=speed, price_per_hour=2.0))

Nothing is guessed that can be counted. The network is built without memory (PyTorch's meta device) and taken through
some rows forwards and backwards, which counts the operations of its matrix products, inner loops and what is
differentiated twice included, and the bytes held at the fullest moment. Few blocks and few chunks are counted and
extended to the depth and the length: exact to a percent for blocks that are all alike, to a seventh or so for clocked
levels of several periods. Elementwise work is not counted.

Operations are held against the rule 6 N D of a plain transformer (Kaplan et al. 2020, section 2.1: 2 forwards and 4
backwards for every weight and token). Time from a data sheet rests on the share of its peak that is reached, which is
assumed; time from a probe was measured. Both are ranges. Bytes, seconds, and money in the unit of the price.
"""

import contextlib
import copy
import weakref
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from statistics import median
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nl_course.errors import CourseError, check_choice, check_int, check_min
from nl_course.memories import MEMORIES
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedConfig, NestedLanguageModel
from nl_course.nested.outer import outer_step
from nl_course.scaling.hardware import Accelerator
from nl_course.scaling.hardware import accelerator as named_accelerator
from nl_course.training.loop import Data, TrainingConfig, token_losses, train

# Numbers that an optimizer keeps for each weight of a matrix (nl_course/optimizers: the table; h = d).
KEPT = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2, "muon": 1, "delta-momentum": 1, "deep-momentum": 3, "dgd": 0}
KEPT["m3"] = 4
# The share of an accelerator's dense 16-bit peak that training reaches: our assumption. The lower end where a loop
# over chunks launches many small kernels.
SHARE, SHARE_LOOP = (0.2, 0.5), (0.01, 0.3)
AROUND_PROBE = (0.9, 1.3)  # a run's time by that of the probe: evaluation, checkpoints and heat make it longer
PARALLEL = ("none", "ddp", "fsdp")

# What a process holds by what its tensors hold, at most; measured on a processor with two models: 0.9 for a
# transformer, 1.6 for TTT-Linear, whose loop leaves an allocator many small holes.
ALLOCATOR, ALLOCATOR_LOOP = 1.1, 1.7
ROWS = 1 << 14  # that are counted at once

Range = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """Of one run. Memory is of one device; a range is (least, most), and None what was not asked for."""

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
    utilisation: float | None = None  # of the accelerator's peak, where speed and accelerator are known
    fits: bool | None = None  # whether the most memory fits the accelerator; None if unknown or between the two
    basis: str = ""  # what the time rests on

    @property
    def memory(self) -> Range:
        """Bytes of one device, all of it together."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations[0], states + self.activations[1]

    @property
    def beyond_rule(self) -> float:
        """Counted operations by the rule's: what attention's pairs and the inner loop add."""
        return self.flops / self.flops_rule

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            ("parameters", f"{self.parameters:,}"),
            ("tokens", f"{self.tokens:,} ({self.tokens / self.parameters:.1f} a parameter)"),
            ("operations", f"{self.flops:.2e}, {self.beyond_rule:.2f} of the rule 6 N D"),
            ("weights", _bytes(self.weights)),
            ("gradients", _bytes(self.gradients)),
            ("optimizer", _bytes(self.optimizer)),
            ("activations", _span(self.activations, _bytes)),
            ("memory", _span(self.memory, _bytes) + {True: ", fits", False: ", does not fit"}.get(self.fits, "")),
        ]
        if self.seconds is not None:
            lines.append(("time", f"{_span(self.seconds, _time)} ({self.basis})"))
        if self.utilisation is not None:
            lines.append(("utilisation", f"{self.utilisation:.1%} of the accelerator's peak"))
        if self.cost is not None:
            lines.append(("cost", _span(self.cost, lambda value: f"{value:,.2f}")))
        return "\n".join(f"{name:12} {value}" for name, value in lines)


def estimate(
    model_config: ModelConfig | NestedConfig,
    training_config: TrainingConfig,
    *,
    tokens_per_second: float | None = None,
    accelerator: str | Accelerator | None = None,
    price_per_hour: float | None = None,
    processes: int = 1,
    parallel: str = "none",
) -> Estimate:
    """What training `model_config` as `training_config` says takes.

    `tokens_per_second` (all processes together, as from `probe`) gives the time; else an `accelerator` of
    `assets/accelerators.json` does, by its peak and an assumed share of it; else time and cost are None.
    `price_per_hour` is of one device. With "ddp" each of `processes` devices holds everything and a share of the rows,
    with "fsdp" also a share of weights, gradients and optimizer. Raises CourseError for what makes no sense.
    """
    config, devices = training_config, check_int("processes", processes, 1)
    check_choice("parallel", parallel, PARALLEL)
    for what, value in (("tokens_per_second", tokens_per_second), ("price_per_hour", price_per_hour)):
        if value is not None and check_min(what, value, 0) == 0 and what == "tokens_per_second":
            raise CourseError("tokens_per_second must be more than 0.")
    if devices > 1 and parallel == "none":
        raise CourseError(f'{devices} processes need parallel "ddp" or "fsdp".')
    chip = None if accelerator is None else named_accelerator(accelerator)
    parameters, tokens = parameter_count(model_config), config.steps * config.batch_size * config.length
    flops, kept, square = count(model_config, config.length, config.recompute)
    rows = config.batch_size / config.accumulate / devices  # of one micro-batch on one device
    sixteen = config.precision == "bf16" or (config.precision == "auto" and chip is not None)
    held = ALLOCATOR_LOOP if loops(model_config) else ALLOCATOR
    activations = (rows * kept * (0.5 if sixteen else 1.0), rows * (kept + square) * held)
    shards = devices if parallel == "fsdp" else 1
    states = [4.0 * parameters / shards * copies for copies in (1, 1, KEPT[config.optimizer])]
    total = flops * tokens / config.length
    if tokens_per_second is not None:
        seconds, basis = tuple(tokens / tokens_per_second * share for share in AROUND_PROBE), "from the measured speed"
    elif chip is not None:
        peak, shares = devices * chip.dense_16bit_tflops * 1e12, SHARE_LOOP if loops(model_config) else SHARE
        seconds = (total / peak / shares[1], total / peak / shares[0])
        basis = f"assuming {shares[0]:.0%} to {shares[1]:.0%} of the peak of {devices} x {chip.title}"
    else:
        seconds, basis = None, ""
    cost = None
    if seconds is not None and price_per_hour is not None:
        cost = tuple(s / 3600 * price_per_hour * devices for s in seconds)
    used = None
    if chip is not None and tokens_per_second is not None:
        used = flops / config.length * tokens_per_second / (devices * chip.dense_16bit_tflops * 1e12)
    found = Estimate(
        parameters,
        tokens,
        6.0 * parameters * tokens,
        total,
        *states,
        activations,
        seconds,
        cost,
        tokens_per_second,
        used,
        basis=basis,
    )
    if chip is not None:
        least, most = (memory <= chip.memory_gb * 1e9 for memory in found.memory)
        found = replace(found, fits=True if most else None if least else False)
    return found


def probe(model: nn.Module, data: Data, training_config: TrainingConfig, steps: int = 3) -> float:
    """Tokens a second of `steps` whole steps on a copy of `model`, on its device, after one that is not counted.

    The model, and the global random numbers, are left as they were. The copy, its gradients and the optimizer need
    their memory meanwhile. The median of the steps is taken.
    """
    check_int("steps", steps, 1)
    with torch.random.fork_rng(devices=[d for d in {p.device for p in model.parameters()} if d.type == "cuda"]):
        few = replace(training_config, steps=steps + 1, log_every=1, save_every=0, evaluate_every=0)
        run = train(copy.deepcopy(model), data, few, progress=False)
    return float(median(line["tokens_per_second"] for line in run.metrics[1:]))


# -- counting ---------------------------------------------------------------------------------------------------
def parameter_count(config: ModelConfig | NestedConfig) -> int:
    """Parameters of the model, which is built without memory."""
    with torch.device("meta"):
        return _kind(config)(config).parameter_count()


def loops(config: ModelConfig | NestedConfig) -> bool:
    """Whether the model goes through a text chunk by chunk, which a GPU cannot do at its peak."""
    clocked = isinstance(config, NestedConfig) and any(level.chunk for block in config.levels for level in block)
    return clocked or config.memory not in ("attention", "latent-attention")


def count(config: ModelConfig | NestedConfig, length: int, recompute: bool = False) -> tuple[float, float, float]:
    """Of one row of `length` tokens, forwards and backwards: operations of all matrix products, and the bytes held
    at the fullest moment in 32 bits, weights and their gradients aside: those that grow with the length, and those that
    grow with its square."""
    step = _chunk(config)
    lengths = [length] if check_int("length", length, 1) <= 2 * step else [2 * step, 3 * step, 4 * step]
    runs = _runs(config)
    once = [1] * len(runs)
    at = [_count(_blocks(config, runs, once), T, recompute) for T in lengths]
    ones = at
    for i, (_, blocks) in enumerate(runs):  # a further block of a kind takes what one more takes
        if blocks > 1:
            more = _blocks(config, runs, [n + (i == j) for j, n in enumerate(once)])
            two = [_count(more, T, recompute) for T in lengths]
            at = [[x + (blocks - 1) * (b - a) for x, a, b in zip(*here, strict=True)] for here in zip(at, ones, two)]
    flops, kept = (_extend(lengths, [here[i] for here in at], length, _window(config)) for i in (0, 1))
    return sum(flops), *kept


def _extend(lengths: list[int], counts: list[float], length: int, window: int | None) -> tuple[float, float]:
    """c + a T + b T^2 through three counts, at `length`: what grows with it, and what with its square, which beyond a
    window w is 2 w T - w^2."""
    if len(lengths) == 1:
        return counts[0], 0.0
    (p, q, r), (x, y, z) = lengths, counts
    b = max(0.0, ((z - y) / (r - q) - (y - x) / (q - p)) / (r - p))
    a = (z - x) / (r - p) - b * (r + p)
    w = max(min(window or length, length), r)
    square = length**2 if w >= length else 2 * w * length - w * w
    return z - a * r - b * r**2 + a * length, b * square


def _count(config: ModelConfig | NestedConfig, length: int, recompute: bool) -> list[float]:
    """Operations, and bytes at the fullest moment, of one row of `length` tokens: counted, not computed. Many rows are
    taken, which costs nothing here, so that what does not depend on them, gradients of weights, vanishes beside."""
    autocast = torch.autocast

    def none_on_meta(device, *arguments, **options):  # autocast knows no meta device
        return contextlib.nullcontext() if device == "meta" else autocast(device, *arguments, **options)

    with torch.device("meta"), patch.object(torch, "autocast", none_on_meta):
        model = _kind(config)(config)
        tokens = torch.zeros(ROWS, length, dtype=torch.int64)
        with Operations() as counter, outer_step(model, 1.0, recompute):
            token_losses(model, tokens, tokens).mean().backward()
    return [counter.flops / ROWS, counter.peak / ROWS]


class Operations(TorchDispatchMode):
    """Adds up the operations of matrix products, and follows the bytes of what was made and is still held. (PyTorch's
    own FlopCounterMode follows modules besides, which fails where a backward pass asks for gradients itself.)"""

    def __init__(self):
        super().__init__()
        self.flops = self.held = self.peak = 0.0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return out

    def _hold(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:  # a view
            return

        def gone(_) -> None:
            self.held -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, gone)
        self.held += size
        self.peak = max(self.peak, self.held)


def _kind(config) -> type[LanguageModel]:
    return NestedLanguageModel if isinstance(config, NestedConfig) else LanguageModel


def _runs(config) -> list[tuple[tuple, int]]:
    """The kinds of blocks from the bottom up, and how many of each stand together."""
    levels = config.levels if isinstance(config, NestedConfig) else ((),) * config.layers
    return [(kind, len(list(blocks))) for kind, blocks in groupby(levels)]


def _blocks(config, runs: list, counts: list[int]):
    """The config with so many blocks of each kind."""
    if not isinstance(config, NestedConfig):
        return replace(config, layers=counts[0])
    levels = tuple(kind for (kind, _), n in zip(runs, counts, strict=True) for _ in range(n))
    return replace(config, levels=levels, layers=len(levels))


def _window(config) -> int | None:
    field = MEMORIES[config.memory][1].__dataclass_fields__.get("window")
    return dict(config.options).get("window", field.default if field and isinstance(field.default, int) else None)


def _chunk(config) -> int:
    """Tokens after which the program does the same again; counts are at two, three and four times as many."""
    if isinstance(config, NestedConfig):
        chunks = [level.chunk for block in config.levels for level in block if level.chunk]
        if chunks:
            return min(chunks)
    known = {name: f.default for name, f in MEMORIES[config.memory][1].__dataclass_fields__.items()} | dict(
        config.options
    )
    sizes = [n for n in (known.get("chunk"), known.get("segment")) if isinstance(n, int)]
    return max(sizes, default=64) if loops(config) else 512


# -- words ------------------------------------------------------------------------------------------------------
def _span(values: Range, say) -> str:
    least, most = say(values[0]), say(values[1])
    return least if least == most else f"{least} to {most}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e7 else f"{value / 1e6:.2f} MB"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
