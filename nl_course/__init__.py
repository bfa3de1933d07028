"""Nested Learning, from attention to HOPE: the package behind the notebooks.

Importing it is light: each part is loaded when it is first used.
"""

from nl_course.moved import install as _install_moved_names

__version__ = "0.1.0"

# Learners keep notebooks that import modules by earlier paths. Before anything else, so that no import comes too early.
_install_moved_names()
