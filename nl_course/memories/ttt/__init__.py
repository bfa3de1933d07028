"""Test-time training: the hidden state is a model, and to read a token is to train it on that token."""

from nl_course.memories.ttt.layer import TTT, TTTConfig, TTTLinearConfig, TTTMLPConfig, TTTState

__all__ = [
    "TTT",
    "TTTConfig",
    "TTTLinearConfig",
    "TTTMLPConfig",
    "TTTState",
]
