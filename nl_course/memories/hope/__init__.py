"""Self-modifying Titans, the memory in HOPE: it makes its own values and writes its own rule."""

from nl_course.memories.hope.config import VALUES, SelfModifyingConfig
from nl_course.memories.hope.layer import FastState, SelfModifying, SelfModifyingState

__all__ = [
    "VALUES",
    "FastState",
    "SelfModifying",
    "SelfModifyingConfig",
    "SelfModifyingState",
]
