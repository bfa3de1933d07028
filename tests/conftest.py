"""Shared by all tests: one thread unless more are asked for, so that sums come out in the same order, and GPU tests
only where there is a GPU."""

import os

import pytest
import torch

os.environ.setdefault("NL_COURSE_STRICT", "1")  # a bug inside a view is raised, not only shown
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
