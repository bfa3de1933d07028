"""Titans: a neural long-term memory alone (LMM), as a context (MAC), as a gate (MAG), as a layer (MAL)."""

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
