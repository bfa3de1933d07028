"""What one row measures. Each function takes plain numbers and names and returns figures; it runs in the process of
guard.py, and may raise what it likes.

Times are medians of calls to their end on the device, after one call that does not count; where that one alone takes
more than a third of the seconds that a row has, it is the figure, and "rounds" is 0.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

import nl_course
from nl_course.benches.gpu.contestants import SIZES, build, peer, text_for
from nl_course.benches.measure import forward, forward_backward, seconds
from nl_course.errors import check_choice
from nl_course.model import LanguageModel
from nl_course.nested import NestedConfig, NestedLanguageModel
from nl_course.nested.outer import outer_step
from nl_course.nested.presets import PRESETS as NESTED
from nl_course.presets import PRESETS
from nl_course.seeding import seeded
from nl_course.training import TrainingConfig, train
from nl_course.training.loss import token_losses

ROUNDS = 7
DECODED = 64  # tokens, after as many that do not count
GRAPHS = 64  # that torch.compile may make of one step before it counts as a failure


def prepare(device: str) -> None:
    """Wakes the device, so that the first row does not pay for it."""
    torch.set_float32_matmul_precision("highest")
    torch.zeros(8, device=device).sum().item()


# -- what the device can do --------------------------------------------------------------------------------------------
def rates(device: str, size: int) -> dict[str, Any]:
    """Operations a second of square products of so many rows, and bytes a second of a copy (read and written)."""
    figures = {}
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
    ):
        if tf32 and device == "cpu":
            continue
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            took, _ = timed(lambda a=a, b=b: a @ b, 2.0)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False
        figures[f"{name}, operations/s"] = 2 * size**3 / took
    source = torch.zeros(32 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took, _ = timed(lambda: target.copy_(source), 2.0)
    figures["copy, bytes/s"] = 2 * source.numel() / took
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        figures |= {"device": properties.name, "memory, bytes": properties.total_memory}
    return figures


def timed(call: Callable[[], object], allowed: float) -> tuple[float, int]:
    """Median seconds of a call and how many calls that is of (0: the first one, which loaded what it needs)."""
    first = seconds(call)
    if first > allowed / 3:
        return first, 0
    times = []
    begun = time.perf_counter()
    while len(times) < ROUNDS and time.perf_counter() - begun + first < allowed:
        times.append(seconds(call))
    return (median(times), len(times)) if times else (first, 0)


# -- a pass over a text ------------------------------------------------------------------------------------------------
def layer(
    name: str, which: str, context: int, rows: int, device: str, seconds: float, how: str = "eager", sizes: str = "full"
) -> dict[str, Any]:
    """A contestant of ours over `rows` texts of `context` tokens; `which` is "forward" or "forward+backward", `how`
    "eager" or "compiled"."""
    module = build(name, sizes).to(device)
    return _passes(module, which, context, rows, device, seconds, how)


def other(
    name: str, which: str, context: int, rows: int, device: str, seconds: float, width: int, heads: int
) -> dict[str, Any]:
    """The same of another's layer, in bfloat16 inside of autocast, as ours is measured."""
    with seeded(0):
        module = peer(name, width, heads).to(device)
    return _passes(module, which, context, rows, device, seconds, "eager")


def _passes(
    module: nn.Module, which: str, context: int, rows: int, device: str, allowed: float, how: str
) -> dict[str, Any]:
    x = text_for(module, rows, context, device)
    call = _pass(InAutocast(module), which, x)
    figures: dict[str, Any] = {}
    with _compiled(how):
        if how == "compiled":
            call = _pass(InAutocast(torch.compile(module, dynamic=False)), which, x)
            figures["compiling, s"] = seconds(call)
            figures["graphs"] = _graphs()
        _forget_peak(device)
        took, rounds = timed(call, allowed)
    tokens = rows * context
    return {
        **figures,
        "seconds": took,
        "tokens/s": tokens / took,
        "rounds": rounds,
        "peak, bytes": _peak(device),
    }


class InAutocast(nn.Module):
    """A module whose forward pass, and no backward pass, runs inside of bfloat16's autocast, as in training."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:
        """What the module gives."""
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return self.module(*inputs)


def _pass(module: nn.Module, which: str, x: Tensor) -> Callable[[], object]:
    """One call of the module, ready to be timed. A model's is its loss, with its inner loops."""
    check_choice("pass", which, ("forward", "forward+backward"))
    if x.is_floating_point():
        return forward(module, x) if which == "forward" else forward_backward(module, x)
    wanted = [p for p in module.parameters() if p.requires_grad]

    def run() -> None:
        """The mean token loss, and for "forward+backward" the gradient of every weight."""
        with outer_step(module, 1.0), torch.set_grad_enabled(which != "forward"):
            loss = token_losses(module, x, x.roll(-1, dims=1)).mean()
            if which != "forward":
                torch.autograd.grad(loss, wanted, allow_unused=True)

    return run


@contextmanager
def _compiled(how: str) -> Iterator[None]:
    """Within it torch.compile may make GRAPHS graphs of one function, and says so instead of giving up silently."""
    check_choice("how", how, ("eager", "compiled", "CUDA graphs"))
    if how == "eager":
        yield
        return
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=GRAPHS, fail_on_recompile_limit_hit=True):
        try:
            yield
        finally:
            torch._dynamo.reset()


def _graphs() -> int:
    """How many graphs torch.compile has made since `_compiled` began."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> int | None:
    """The most bytes that tensors took on the device, weights and texts included; None on a CPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


# -- one token after another -------------------------------------------------------------------------------------------
@torch.no_grad()
def decode(
    name: str, context: int, device: str, seconds: float, how: str = "eager", sizes: str = "full"
) -> dict[str, Any]:
    """One text, `context` tokens read at once, then DECODED tokens one by one: `how` is "eager", "compiled" or "CUDA
    graphs". Weights are in bfloat16 on a GPU. The mean has the updates of whole chunks in it, the median has not."""
    check_choice("sizes", sizes, SIZES)
    module = build(name, sizes).to(device)
    if device == "cuda":
        module = module.to(torch.bfloat16)
    decoded = DECODED if sizes == "full" else 4
    x = text_for(module, 1, context + 2 * decoded, device)
    _, state = module(x[:, :context])
    state_bytes = state.nbytes
    with _compiled(how):
        step = _step(module, how)
        begun = time.perf_counter()
        _, state, _ = _read_on(step, x[:, context : context + decoded], state, device)
        warming = time.perf_counter() - begun
        _forget_peak(device)
        _, _, times = _read_on(step, x[:, context + decoded :], state, device)
        graphs = _graphs() if how != "eager" else None
    return {
        "us/token": 1e6 * median(times),
        "us/token, mean": 1e6 * mean(times),
        "state, bytes": state_bytes,
        "peak, bytes": _peak(device),
        "warming up, s": warming,
        **({} if graphs is None else {"graphs": graphs}),
    }


def _step(module: nn.Module, how: str) -> Callable:
    """One call of the module for a token, in one of the ways of `decode`."""
    if how == "eager":
        return module
    if how == "compiled":
        return torch.compile(module)
    graphed = torch.compile(module, mode="reduce-overhead")

    def step(token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The next step writes where this one's outputs lie, so they are copied."""
        torch.compiler.cudagraph_mark_step_begin()
        y, after = graphed(token, state)
        return y.clone(), after.map(torch.clone)

    return step


def _read_on(step: Callable, x: Tensor, state: Any, device: str) -> tuple[Tensor, Any, list[float]]:
    """Reads x token by token: the last output, the state, and seconds per token."""
    y = x
    times = []
    for t in range(x.shape[1]):
        begun = time.perf_counter()
        y, state = step(x[:, t : t + 1], state)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return y, state, times


# -- training ----------------------------------------------------------------------------------------------------------
@cache
def source() -> Tensor:
    """What is trained on: the course's own code as bytes, which is there without a network."""
    files = sorted(Path(nl_course.__file__).parent.rglob("*.py"))
    text = b"\0".join(file.read_bytes() for file in files)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


@seeded(0)
def training(preset: str, steps: int, rows: int, length: int, device: str, seconds: float) -> dict[str, Any]:
    """So many training steps of a preset, AdamW in bfloat16 autocast, or as many as the seconds suffice for."""
    presets = PRESETS | NESTED
    config = presets[check_choice("preset", preset, presets)].config
    kind = NestedLanguageModel if isinstance(config, NestedConfig) else LanguageModel
    model = kind(config).to(device)
    settings = TrainingConfig(
        steps=steps,
        batch_size=rows,
        length=length,
        learning_rate=1e-3,
        warmup=min(20, steps),
        precision="bf16",
        save_every=0,
        evaluate_every=0,
    )
    _forget_peak(device)
    begun = time.perf_counter()
    last = begun

    def enough(metrics: dict[str, Any]) -> bool:
        """Whether a further step as long as this one would be too late."""
        nonlocal last
        now = time.perf_counter()
        took, last = now - last, now
        return now - begun + 2 * took > seconds

    run = train(model, source(), settings, stop=enough, progress=False)
    speeds = [line["tokens_per_second"] for line in run.metrics]
    return {
        "steps": run.step,
        "of": steps,
        "tokens/s": median(speeds[1:] or speeds),
        "loss, first": run.metrics[0]["loss"],
        "loss, last": run.metrics[-1]["loss"],
        "parameters": model.parameter_count(),
        "peak, bytes": _peak(device),
        "all, s": time.perf_counter() - begun,
    }
