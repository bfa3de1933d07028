"""A figure's JSON for pages without a kernel: plain lists, and numbers as short as a picture allows."""

import base64
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

DIGITS = 4  # significant ones, of what is drawn


def rounded(tree: Any, decimals: int | None = None) -> Any:
    """A figure's JSON with its numbers as short as a picture allows; packed numbers become lists.

    Each number keeps DIGITS significant digits, and in a list those that tell it from its neighbors: as many decimals
    as DIGITS digits of the list's whole span have. Whole numbers up to a million stay.
    """
    if isinstance(tree, dict):
        if "bdata" in tree:
            return rounded(unpacked(tree))
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        decimals = decimals if decimals is not None else decimals_of(tree)
        return [rounded(item, decimals) for item in tree]
    if not isinstance(tree, float):
        return tree
    if not math.isfinite(tree):
        return None
    if tree.is_integer() and abs(tree) < 1e6:
        return int(tree)
    own = DIGITS - 1 - math.floor(math.log10(abs(tree)))
    # A single number is often a place on an axis, whose span is not known here.
    short = round(tree, max(own, decimals) if decimals is not None else own + 2)
    return int(short) if short.is_integer() else short


def decimals_of(items: list) -> int:
    """The decimals that DIGITS significant digits of the numbers' span have; of lists in lists, of all together."""
    numbers = [number for number in leaves(items) if math.isfinite(number)]
    span = max(numbers, default=0) - min(numbers, default=0)
    return DIGITS - 1 - math.floor(math.log10(span)) if span > 0 else -300


def leaves(items: list) -> Iterable[float]:
    """The floats in nested lists."""
    for item in items:
        if isinstance(item, list):
            yield from leaves(item)
        elif isinstance(item, float):
            yield item


def unpacked(packed: dict) -> list:
    """The numbers that plotly packed as {"bdata": ..., "dtype": ..., "shape": ...}."""
    numbers = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])
    shape = [int(size) for size in str(packed.get("shape", len(numbers))).split(",")]
    return numbers.reshape(shape).tolist()
