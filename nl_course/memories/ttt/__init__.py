"""Test-time training: the hidden state is a model, and to read a token is to train it on that token. To read in order:

reference.py    the paper's six equations, and the inner loop token by token in their letters
dual.py         the same numbers with matmuls, one mini-batch at once, and why they are the same
layer.py        the layer around it: configuration, state, projections, rates, output
fused.py        the same over many mini-batches with a backward pass by hand (fused_kernels.py, fused_backward.py)
trace.py        what the layer did with each token
"""

from nl_course.memories.ttt.layer import TTT, TTTConfig, TTTLinearConfig, TTTMLPConfig, TTTState

__all__ = [
    "TTT",
    "TTTConfig",
    "TTTLinearConfig",
    "TTTMLPConfig",
    "TTTState",
]
