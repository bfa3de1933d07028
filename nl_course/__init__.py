"""Nested Learning, from attention to HOPE: the package behind the notebooks.

Importing it is light: each part is loaded when it is first used.
"""

__version__ = "0.1.0"
