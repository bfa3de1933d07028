"""Titans: a neural memory that is written by surprise (arXiv 2501.00663). Read in this order:

reference.py, the equations, one token at a time; neural.py, what a token gives them; lmm.py, mac.py, mag.py and mal.py,
the layers: the memory alone, as a context, as a gate, and below attention; chunk.py, why the fast path computes the
same; attention.py and hybrid.py, which the last three share; trace.py, what a memory did, to look at.
"""

from nl_course.memories.titans.lmm import Titans, TitansConfig, TitansState
from nl_course.memories.titans.mac import MAC, MACConfig, MACState
from nl_course.memories.titans.mag import MAG, MAGConfig, MAGState
from nl_course.memories.titans.mal import MAL, MALConfig, MALState
from nl_course.memories.titans.neural import NeuralConfig, NeuralMemory, NeuralState

__all__ = [
    "MAC",
    "MAG",
    "MAL",
    "MACConfig",
    "MACState",
    "MAGConfig",
    "MAGState",
    "MALConfig",
    "MALState",
    "NeuralConfig",
    "NeuralMemory",
    "NeuralState",
    "Titans",
    "TitansConfig",
    "TitansState",
]
