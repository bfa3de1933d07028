"""How the bench measures: what is compared runs in turn, in one process, and medians of pairs are quoted.

Machines drift, share their cores and warm up, so a time alone says little. Ours and another's are therefore timed
A B A B ..., and the ratio is taken pair by pair.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from nl_course.memories import Memory


def seconds(function: Callable[[], object]) -> float:
    """Seconds of one call, to the end of what it started on a GPU."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(functions: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of every function, called in turn `rounds` times after one call of each that does not count."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return times


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of `ours` / `theirs`."""
    return median(a / b for a, b in zip(times[ours], times[theirs], strict=True))


def forward(memory: torch.nn.Module, x: Tensor) -> Callable[[], object]:
    """One call without autograd. `memory(x)` may return y or (y, state)."""

    def run():
        """Calls the memory once and drops the result."""
        with torch.no_grad():
            memory(x)

    return run


def forward_backward(memory: torch.nn.Module, x: Tensor) -> Callable[[], object]:
    """One call and the gradients of everything that learns."""
    x = x.detach().requires_grad_()
    wanted = [x, *(p for p in memory.parameters() if p.requires_grad)]

    def run():
        """Calls the memory once and takes the gradients of its squared outputs."""
        y = memory(x)
        y = y[0] if isinstance(y, tuple) else y
        torch.autograd.grad(y.square().sum(), wanted, allow_unused=True)

    return run


@torch.no_grad()
def decode_seconds(memory: Memory, context: int, tokens: int = 32, rounds: int = 3) -> float:
    """Median seconds to read one further token after `context` tokens, one token a call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, context + tokens, memory.width, generator=generator).to(memory.device, memory.dtype)
    _, start = memory(x[:, :context])
    times = []
    for _ in range(rounds):
        state = start
        for t in range(context, context + tokens):
            begun = time.perf_counter()
            _, state = memory(x[:, t : t + 1], state)
            times.append(time.perf_counter() - begun)
    return median(times)


def peak_bytes(code: str) -> int:
    """Peak memory of a fresh Python process that runs `code`, less what the same process needs without it.

    `code` must define `main()`; its imports and set-up are not counted, since the peak is read before and after.
    """
    wrapped = f"{_PEAK}\n{code}\nbefore = peak()\nmain()\nprint(peak() - before)"
    run = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


# Linux hands a process's ru_maxrss on to its children, so there the peak is read from /proc. ru_maxrss is in bytes on
# macOS, the only other system that has it here.
_PEAK = """
def peak():
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except FileNotFoundError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""


def matmul_rate(size: int = 1024, rounds: int = 9) -> float:
    """This machine's float32 matrix multiplication, in operations a second: 2 size^3 over the median time."""
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    times = in_turn({"matmul": lambda: a @ b}, rounds)["matmul"]
    return 2 * size**3 / median(times)
