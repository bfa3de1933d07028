"""Prints how long each view takes from slider to redraw in the browser. Measured, not asserted: times differ.

    python -m tests.browser.latency [--steps 20] [NOTEBOOK ...]

A step is a key press on the view's first control, along its range and back.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from nl_course.notebooks import all_notebooks
from tools.browser import Lab, NoBrowser, chromium
from tools.shots import copy_course


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; milliseconds from key press to changed picture")
    with tempfile.TemporaryDirectory(prefix="nl-latency-") as private:
        folder = copy_course(Path(private) / "course")
        with chromium() as browser, Lab(folder, browser) as lab:
            for path in options.notebooks or all_notebooks():
                with lab.notebook(f"notebooks/{path.name}") as page:
                    page.run_all()
                    for view in page.views():
                        taken = page.latency(view, options.steps)
                        if not taken:
                            print(f"{path.stem:32} {view:24} no step changed the picture")
                            continue
                        middle, most = statistics.median(taken), max(taken)
                        print(f"{path.stem:32} {view:24} median {middle:6.0f}   slowest {most:6.0f}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NoBrowser as missing:
        sys.exit(str(missing))
