"""Weights of other people's code, read and written: TTT layers and models (PyTorch), TTT-E2E models (JAX).

These functions know our models; no model knows them.
"""

from nl_course.official.e2e import load_e2e, save_e2e
from nl_course.official.model import load_model
from nl_course.official.ttt import load_ttt

__all__ = [
    "load_e2e",
    "load_model",
    "load_ttt",
    "save_e2e",
]
