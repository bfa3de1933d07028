"""Self-modifying Titans, the memory of HOPE: it makes its own keys, values, steps, retention and targets.

Where to find the equations of Behrouz et al. 2025, "Nested Learning" (arXiv 2512.24695, section 8), in reading order:

    76 to 82   the variants below: what moves, toward what      config.py (`VARIANTS`), with all choices that are ours
    89         one memory                                        bank.py (`Network`; `Bank` computes several as one)
    88         the write, token by token: the definition         reference.py
    83 to 87   what a token reads before anything is written     layer.py
    90 to 93   chunks, and why they give the same numbers        chunk.py

trace.py says what a layer did, in numbers. Equations 94 to 97 put levels with clocks behind this layer: nested/.
"""

from nl_course.memories.hope.config import VALUES, SelfModifyingConfig
from nl_course.memories.hope.layer import FastState, SelfModifying, SelfModifyingState

__all__ = [
    "VALUES",
    "FastState",
    "SelfModifying",
    "SelfModifyingConfig",
    "SelfModifyingState",
]
