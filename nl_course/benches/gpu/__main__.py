"""Everything that is worth asking a GPU, in one run of at most eight minutes: `make gpu`, or
`python -m nl_course.benches.gpu`.

Runs the tests that need a GPU, then measures every memory at the width of the 125M presets: forward, and forward and
backward, at 2k, 8k and 32k tokens; decoding at 16k; 100 training steps of each 125M preset; other people's kernels
where they are installed; and what torch.compile makes of ours. A row that fails costs that row and says why. Needs no
network. The file is written anew after every row, so what is measured is kept whatever comes.

On a machine without a GPU: `python -m nl_course.benches.gpu --device cpu --sizes tiny --out gpu-trial.json`.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

from nl_course.app.options import device_named
from nl_course.benches.gpu import counts, plan, suite
from nl_course.benches.gpu.guard import FAILED, MEASURED, Worker
from nl_course.errors import CourseError, check_choice, check_min
from nl_course.files import check_folder, course_root
from nl_course.record.provenance import Recording
from nl_course.scaling.hardware import Accelerator, accelerators

COMMAND = "make gpu"


def main(arguments: list[str] | None = None, extra: list[plan.Section] | None = None) -> int:
    """Runs what was asked for and writes the file; returns 1 if a test of the suite failed, 2 for a mistake in the
    options, else 0. `extra` are further sections, measured first."""
    parser = argparse.ArgumentParser(
        prog="python -m nl_course.benches.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu for a trial")
    parser.add_argument("--sizes", default="full", help=f"{' or '.join(plan.SIZES)} (default full)")
    parser.add_argument("--minutes", type=float, default=8.0, help="that the whole may take (default 8)")
    parser.add_argument("--out", help="the file to write (on a GPU assets/runs/gpu.json by default)")
    parser.add_argument(
        "--sections", nargs="+", metavar="NAME", help=f"only these, of: {', '.join(plan.SHARES)} (default: all)"
    )
    options = parser.parse_args(arguments)
    try:
        device = device_named(options.device).type
        if device == "mps":
            raise CourseError("device 'mps' is not measured here; choose one of: cuda, cpu.")
        sizes = plan.SIZES[check_choice("sizes", options.sizes, plan.SIZES)]
        wanted = [check_choice("section", name, plan.SHARES) for name in options.sections or plan.SHARES]
        seconds = 60 * check_min("minutes", options.minutes, 0.1)
        out = _file(options.out, device)
    except CourseError as error:
        parser.error(str(error))
    table = Table(out, device, sizes, options.minutes)
    planned = [section for section in plan.sections(sizes, device) if section.name in wanted]
    table.measure([*(extra or []), *planned], seconds, "suite" in wanted)
    print(table.summary())
    return int(table.tests_failed)


def _file(named: str | None, device: str) -> Path:
    """Where to write. A trial has no place of its own: it must not pass for a measurement."""
    if named is None and device != "cuda":
        raise CourseError("say with --out FILE where to write: assets/runs/gpu.json is for figures of a GPU.")
    path = Path(named) if named else course_root() / "assets" / "runs" / "gpu.json"
    check_folder(path.parent, "the folder of the figures")
    return path


class Table:
    """The rows as they come, on the screen and in the file."""

    def __init__(self, out: Path, device: str, sizes: plan.Sizes, minutes: float):
        self.out, self.device, self.sizes = out, device, sizes
        config = {"sizes": sizes.name, "minutes": minutes, **vars(sizes)}
        self.recording = Recording("gpu", config, device, command=COMMAND)
        self.rows: list[dict[str, Any]] = []
        self.rates: dict[str, Any] = {}

    def measure(self, sections: list[plan.Section], seconds: float, with_suite: bool) -> None:
        """Runs the suite, then the rows of the sections, within so many seconds."""
        begun = time.monotonic()
        worker = Worker("nl_course.benches.gpu.measures:prepare", device=self.device)
        try:
            if with_suite:
                for row in suite.rows(plan.SHARES["suite"] * seconds):
                    self.add(row)
            spent = (time.monotonic() - begun) / seconds
            plan.run(sections, worker, seconds, spent, self.add, self.count)
        finally:
            worker.end()

    def count(self, row: plan.Row) -> None:
        """Counts a row's operations, which are kept for `add`, while the row is measured."""
        if "contestant" in row.about:
            self._operations(row.about)

    def add(self, row: dict[str, Any]) -> None:
        """Takes a row in: with its share of the roofline, printed, and written."""
        if row["status"] == MEASURED:
            row = row | self._beside(row)
        if row["section"] == "rates" and row["status"] == MEASURED:
            self.rates = row
        self.rows.append(row)
        print(_line(row), flush=True)
        self.recording.write(self.out, {"rows": self.rows})

    @property
    def tests_failed(self) -> bool:
        """Whether a test of the suite failed."""
        return any(row["section"] == "suite" and row["status"] == FAILED for row in self.rows)

    def summary(self) -> str:
        """How many rows came out how, and where they are."""
        outcomes = Counter(row["status"] for row in self.rows)
        said = ", ".join(f"{number} {status}" for status, number in outcomes.most_common())
        return f"{len(self.rows)} rows: {said}. Written to {self.out}."

    def _operations(self, about: dict[str, Any]) -> float:
        if "which" not in about:
            return 0.0
        where = about["context"], about["rows"], about["which"]
        return counts.operations(about["contestant"], *where, self.sizes.name)

    def _beside(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the figures of a row mean beside what the device can do; nothing where that was not measured."""
        rate, copy = self.rates.get("bf16, operations/s"), self.rates.get("copy, bytes/s")
        if row["section"] == "rates":
            sheet = sheet_of(row.get("device", ""), row.get("memory, bytes", 0))
            return {} if sheet is None else {"sheet, operations/s": 1e12 * sheet.dense_16bit_tflops}
        if "seconds" in row and "contestant" in row:
            operations = self._operations(row)
            share = {} if rate is None else {"share of bf16 products": operations / row["seconds"] / rate}
            return {"operations": operations, **share}
        if "parameters" in row and rate is not None:
            return {"share of bf16 products, by 6 N": 6 * row["parameters"] * row["tokens/s"] / rate}
        if "state, bytes" in row and copy is not None:
            width = 2 if self.device == "cuda" else 4
            moved = width * counts.parameters(row["contestant"], self.sizes.name) + 2 * row["state, bytes"]
            return {"floor, us/token": 1e6 * moved / copy}
        return {}


def sheet_of(device: str, memory: float) -> Accelerator | None:
    """The accelerator of our table whose name stands in the device's, the nearest by memory; None if none does."""
    words = device.lower().replace("-", " ").split()
    known = [a for a in accelerators().values() if a.title.split()[0].lower() in words]
    return min(known, key=lambda a: abs(a.memory_bytes - memory), default=None)


def _line(row: dict[str, Any]) -> str:
    """A row on the screen."""
    what = [str(row[key]) for key in ("name", "how", "which", "context") if key in row]
    if row["status"] != MEASURED:
        return f"{row['section']:16} {', '.join(what)}: {row['status']}. {row['reason']}"
    shown = ("tokens/s", "us/token", "floor, us/token", "share of bf16 products", "peak, bytes", "steps", "loss, last")
    figures = [f"{key} {row[key]:,.4g}" for key in (*shown, "passed", "failed", "skipped") if row.get(key) is not None]
    if row["section"] == "rates":
        figures = [f"{key} {value:.3g}" for key, value in row.items() if key.endswith("/s")]
    return f"{row['section']:16} {', '.join(what)}: {', '.join(figures)}"


if __name__ == "__main__":
    raise SystemExit(main())
