"""Weights of other people's code, read and written: TTT layers and models (PyTorch), TTT-E2E (JAX)."""
