"""Our self-modifying Titans beside the block of the package `nested-learning` 0.2.0, the same sizes and work.

Both read and write 1024 tokens of width 256, float32, batch 1, one head: five two-layer memories with GELU, targets of
their own, fixed queries of length 1, a convolution of width 4; ours has a gate and an output projection besides, and
erases the second layers too. Theirs has no gradient through its writes, so its forward pass is also set against our
forward and backward pass with the full meta-gradient. Retention begins at a half in theirs, so that its weights soon
are too small for float32's normal range, which slows a CPU tenfold; such numbers are flushed to zero for both.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import torch

from nl_course.benches.measure import forward, forward_backward, in_turn, ratio
from nl_course.errors import CourseError
from nl_course.memories import SelfModifying, SelfModifyingConfig
from nl_course.seeding import seeded

WIDTH, TOKENS = 256, 1024
CHUNKS = ((8, 64), (64, 64))


def rows() -> list[dict]:
    """Measured in a process of its own, since threads that exist already would not flush."""
    if find_spec("nested_learning") is None:
        raise CourseError("the bench 'peers' needs the environment that `make peers` makes.")
    code = f"""
import json, torch
torch.set_flush_denormal(True)
torch.set_num_threads({torch.get_num_threads()})
from nl_course.benches import hope_peer
print(json.dumps([hope_peer.row(others, memory) for others, memory in hope_peer.CHUNKS]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def row(others: int, memory: int, rounds: int = 3) -> dict:
    """Of chunks of `others` tokens for the memories beside M_memory and of `memory` for that."""
    x = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    ours = build(others, memory)
    calls = {"ours": forward(ours, x), "both": forward_backward(ours, x), "theirs": theirs(others, memory, x)}
    times = in_turn(calls, rounds)
    return {
        "name": f"Self-modifying {others} / {memory}, nested-learning's",
        "forward, tokens/s": TOKENS / median(times["ours"]),
        "theirs": TOKENS / median(times["theirs"]),
        "times faster": 1 / ratio(times, "ours", "theirs"),
        "forward+backward, tokens/s": TOKENS / median(times["both"]),
        "theirs, both": None,
        "times faster, both": 1 / ratio(times, "both", "theirs"),
        "peak, MB": None,
        "theirs, MB": None,
    }


@seeded(0)
def build(others: int, memory: int) -> SelfModifying:
    """Our layer with chunks of `memory` tokens for the main memory and of `others` for the rest."""
    sizes = dict(chunk=memory, chunk_others=others, activation="gelu")
    return SelfModifying(SelfModifyingConfig(WIDTH, heads=1, **sizes))


@seeded(0)
def theirs(others: int, memory: int, x: torch.Tensor) -> Callable[[], object]:
    """One call that reads and writes: theirs has no backward pass through the writes."""
    from nested_learning.titan.self_modifying import SelfModifyingTitans, SelfModifyingTitansConfig

    config = SelfModifyingTitansConfig(dim=WIDTH, chunk_size_other=others, chunk_size_memory=memory)
    block = SelfModifyingTitans(config)
    return lambda: block.forward_with_updates(x, block.init_fast_state())
