"""Whether something leaves the caller's random numbers as they were: torch's, NumPy's and Python's own."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

CACHED = type(cache(lambda: None))  # what functools.cache makes


def states() -> dict[str, object]:
    """Where the global generators stand, by name, in values that can be compared."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, keys.tolist(), *rest),
        "random": random.getstate(),
    }


@contextmanager
def unchanged() -> Iterator[list[str]]:
    """Gives a list that afterwards holds the names of the generators that were seeded, or drawn from, inside."""
    # Somewhere of their own: a block that seeds with 0 would go unnoticed where a test had just done so.
    torch.manual_seed(918_273)
    np.random.seed(918_273)
    random.seed(918_273)
    before, changed = states(), []
    yield changed
    after = states()
    changed += [name for name in before if after[name] != before[name]]


def forget_what_views_computed() -> None:
    """Empties the caches of all views: a model that is already there is not drawn again."""
    for name, module in list(sys.modules.items()):
        if name.startswith("nl_course.views"):
            for value in list(vars(module).values()):
                # By type: a stand-in for a moved module answers a question about any attribute with an error.
                if isinstance(value, CACHED):
                    value.cache_clear()
