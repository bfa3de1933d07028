"""How long `import nl_course` and its parts take in a fresh process, beyond `import torch`."""

import subprocess
import sys
from statistics import median

PARTS = ("nl_course", "nl_course.memories", "nl_course.model", "nl_course.training", "nl_course.scaling")


def rows(rounds: int = 5) -> list[dict]:
    """Seconds per part, the median of some fresh processes."""
    table = []
    for part in PARTS:
        seconds = [_once(part) for _ in range(rounds)]
        table.append({"name": f"import {part}", "beyond torch, s": median(seconds)})
    return table


def _once(part: str) -> float:
    code = f"import time, torch; start = time.perf_counter(); import {part}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
