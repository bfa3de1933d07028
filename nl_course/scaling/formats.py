"""Number formats and how sizes are written: decimal GB for memory chips, binary KiB and MiB for caches."""

from nl_course.errors import CourseError, check_choice, check_min, shortened

# Bytes per value. mxfp4: one 8-bit scale shared by every 32 values of 4 bits (OCP Microscaling, recalled).
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "mxfp4": 4.25 / 8, "int4": 0.5}
KIB, MIB, GIB = 2**10, 2**20, 2**30
GB, TB = 10**9, 10**12


def bytes_per_value(dtype: str | float) -> float:
    """Bytes of one number: by name (`"bf16"`), or as a number of bytes of your own (`0.75` for six bits).

    The names count the values alone; scales that a quantised cache keeps beside them are extra, except for
    mxfp4. Raises CourseError for an unknown name or a size that is not positive.
    """
    if isinstance(dtype, str):
        return BYTES[check_choice("number format", dtype, BYTES)]
    if check_min("bytes per value", dtype, 0) == 0:
        raise CourseError("bytes per value must be more than 0.")
    return float(dtype)


def readable_bytes(count: float) -> str:
    """A size in decimal units as memory is sold: `readable_bytes(1.6e10)` is "16.0 GB"."""
    count = _number(count)
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= 0.9995 * size:
            return f"{count / size:.3g} {unit}" if count >= 99.95 * size else f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def readable_tokens(count: float) -> str:
    """A number of tokens for a label: 2048 -> "2k", 131072 -> "128k", 10_000_000 -> "10M".

    Whole thousands are divided by 1,000 and other multiples of 1,024 by 1,024, as the names of models do.
    """
    count = _number(count)
    for unit, binary, decimal in (("M", 2**20, 1e6), ("k", 2**10, 1e3)):
        if count >= binary and count % binary == 0 and count % 1000:
            return f"{count / binary:.0f}{unit}"
        if count >= decimal:
            return f"{count / decimal:.3g}{unit}"
    return f"{count:.0f}"


def _number(count: float) -> float:
    try:
        return float(count)
    except (TypeError, ValueError, OverflowError):
        raise CourseError(f"a size must be a number, not {shortened(count)}.") from None
