"""What differs between two pictures: small messages, and a learner's zoom stays."""

import numpy as np


def flat(tree: dict, prefix: str = "") -> dict:
    """Nested dicts as one dict with dotted keys: {"marker": {"size": 3}} -> {"marker.size": 3}.

    Numbers that plotly has packed, {"bdata": ..., "dtype": ...}, are one value.
    """
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict) and "bdata" not in value:
            leaves.update(flat(value, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = value
    return leaves


def same(one, other) -> bool:
    """Equality that also takes arrays (NaN equals NaN) and lists of them."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        floats = one.dtype.kind in "fc" and other.dtype.kind in "fc"
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=floats)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    return bool(one == other)


def changes(before: dict, after: dict) -> dict:
    """The dotted keys whose values differ, with the new value (None where the key is gone)."""
    before, after = flat(before), flat(after)
    differ = {key: value for key, value in after.items() if key not in before or not same(before[key], value)}
    return {**{key: None for key in before if key not in after}, **differ}
