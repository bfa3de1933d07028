"""Arrays that other people's code made, for tests of what must agree with that code.

They are no part of the repository. `NL_COURSE_GOLDEN` names their folder; `.ci/run` sets it where the folder lies
beside the checkout. Where it is unset, each test that needs them is skipped in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

FOLDER = os.environ.get("NL_COURSE_GOLDEN")
needs_golden = pytest.mark.skipif(not FOLDER, reason="NL_COURSE_GOLDEN names no folder with other code's arrays")


def load(name: str) -> dict[str, Tensor]:
    """The arrays of the file `name`, without pickles. A folder that lacks the file fails the test."""
    with np.load(Path(FOLDER) / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(array) for key, array in file.items()}


def part(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
