"""Memory Caching: a memory of fixed size, and copies of what it was before. `layer.py` has all of it."""
