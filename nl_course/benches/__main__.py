"""Speed and memory, ours beside others', in one run: `python -m nl_course.benches [NAME ...]`.

Prints a table a bench; `--json FILE` keeps the numbers. Needs a quiet machine to mean much: ratios hold better than
times. Tests never depend on it.
"""

import argparse
import json
import os
import platform
from importlib import import_module

import torch

from nl_course.benches import BENCHES
from nl_course.errors import CourseError, check_choice
from nl_course.files import write_atomically


def main(arguments: list[str] | None = None) -> int:
    """Runs the benches that were named (default: all but the peers); returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nl_course.benches", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHES)} (default: all but peers)")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads of torch (default 2)")
    options = parser.parse_args(arguments)
    try:
        names = [check_choice("bench", name, BENCHES) for name in options.names] or [n for n in BENCHES if n != "peers"]
    except CourseError as error:
        parser.error(str(error))
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}, {platform.system()}")
    results = {}
    for name in names:
        try:
            results[name] = import_module(f"nl_course.benches.{name}").rows()
        except CourseError as error:
            parser.error(str(error))
        print(f"\n{name}: {BENCHES[name]}\n{table(results[name])}", flush=True)
    if options.json:
        text = json.dumps(results, indent=1) + "\n"
        write_atomically(options.json, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return 0


def table(rows: list[dict]) -> str:
    """Rows with the same keys as aligned columns, the name first."""
    name, *figures = list(rows[0])
    columns = []
    for key in (name, *figures):
        cells = [key, *(_shown(row.get(key)) for row in rows)]
        width = max(map(len, cells))
        aligned = [cell.ljust(width) if key == name else cell.rjust(width) for cell in cells]
        columns.append(aligned)
    first, *rest = ["  ".join(line) for line in zip(*columns)]
    return "\n".join([first, "-" * len(first), *rest])


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
