"""Prints what figures cost a browser: bytes that the kernel sent, time of Run All and of a reload, memory. Measured,
not asserted: all of it differs between machines.

    python -m tests.browser.weight [NOTEBOOK ...]      (05 when none is named)
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tools.browser import Lab, NoBrowser, chromium
from tools.run_notebooks import ROOT
from tools.shots import copy_course


def memory() -> int:
    """Bytes of all processes of the browser together; what they share is counted once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        if "chrom" in process.name():
            total += process.memory_full_info().pss
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=[ROOT / "notebooks/05_titans.ipynb"])
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for path in options.notebooks:
        with tempfile.TemporaryDirectory(prefix="nl-weight-") as private, chromium() as browser:
            folder = copy_course(Path(private) / "course")
            with Lab(folder, browser) as lab, lab.notebook(f"notebooks/{path.name}") as page:
                empty = memory()
                begun, before = time.monotonic(), sum(lab.received)
                page.run_all()
                page.page.wait_for_timeout(5_000)
                received = sum(lab.received) - before
                figures = page.page.evaluate("() => document.querySelectorAll('.js-plotly-plot').length")
                print(
                    f"{path.stem}: {figures} figures, {received / 1e6:.2f} MB received, Run All "
                    f"{time.monotonic() - begun:.0f} s, browser {memory() / 1e6:.0f} MB ({empty / 1e6:.0f} MB before)"
                )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NoBrowser as missing:
        sys.exit(str(missing))
