"""The tests that need a GPU, run as rows. As a pytest plugin (`-p nl_course.benches.gpu.suite`) this file writes one
line per test to the file that NL_COURSE_GPU_REPORT names; `rows` starts pytest with it and reads what came."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nl_course.benches.gpu.guard import FAILED, LONGEST_REASON, MEASURED, NOT_REACHED, NOT_THERE, cut
from nl_course.files import course_root

REPORT = "NL_COURSE_GPU_REPORT"
PROCESSES = 4  # at most, on one GPU
MARK = "mark.gpu"


# -- in pytest ---------------------------------------------------------------------------------------------------------
def pytest_collection_finish(session: Any) -> None:
    """Writes how many tests there are."""
    _write({"selected": len(session.items)})


def pytest_runtest_logreport(report: Any) -> None:
    """Writes how a test came out. Of several processes the first one hears of all."""
    came_out = report.when == "call" or report.outcome != "passed"
    if came_out and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash is not None else str(report.longrepr or "")
        _write({"test": report.nodeid, "outcome": report.outcome, "reason": reason})


def _write(line: dict[str, Any]) -> None:
    if REPORT in os.environ:
        with open(os.environ[REPORT], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


# -- around it ---------------------------------------------------------------------------------------------------------
def rows(seconds: float, tests: Path | None = None, processes: int = PROCESSES) -> list[dict[str, Any]]:
    """One row per test function with how many of its cases passed, one per failed case with the reason, and one for
    what was not reached in `seconds`. `tests` is the folder of tests, the course's by default."""
    tests = tests or course_root() / "tests"
    if not tests.is_dir() or find_spec("pytest") is None:
        reason = "the tests need a checkout of the course, and pytest"
        return [{"section": "suite", "name": "tests", "status": NOT_THERE, "reason": reason}]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        report.touch()
        output, too_late = _pytest(tests, report, seconds, processes)
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    return _rows_of(lines, output, too_late, seconds)


def files(tests: Path) -> list[Path]:
    """The test files in which a test is marked as one that needs a GPU."""
    return [path for path in sorted(tests.rglob("test_*.py")) if MARK in path.read_text(encoding="utf-8")]


def _pytest(tests: Path, report: Path, seconds: float, processes: int) -> tuple[str, bool]:
    """Runs pytest, with several processes where that is possible; what it printed last, and whether it was ended."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "nl_course.benches.gpu.suite"]
    if find_spec("xdist") is not None:
        command += ["-n", str(min(processes, os.cpu_count() or 1))]
    command += [str(path) for path in files(tests)]
    # Started by a process of pytest's own, it must not take itself for one of them.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = outside | {REPORT: str(report), "NL_COURSE_STRICT": "1"}
    # A group of its own, so that pytest's processes end with it.
    process = subprocess.Popen(
        command,
        cwd=tests.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return output, False
    except subprocess.TimeoutExpired:
        _end(process)
        output, _ = process.communicate()
        return output, True


def _end(process: subprocess.Popen) -> None:
    """Ends the process and those that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _rows_of(lines: list[dict], output: str, too_late: bool, seconds: float) -> list[dict[str, Any]]:
    counts: dict[str, dict[str, int]] = {}
    failures = []
    selected = 0
    for line in lines:
        if "selected" in line:
            selected = max(selected, line["selected"])
            continue
        function = line["test"].partition("[")[0]
        of_function = counts.setdefault(function, {"passed": 0, "failed": 0, "skipped": 0})
        of_function[line["outcome"]] += 1
        if line["outcome"] == "failed":
            reason = cut(line["reason"])
            failures.append({"section": "suite", "name": line["test"], "status": FAILED, "reason": reason})
    table = [{"section": "suite", "name": name, "status": MEASURED, **count} for name, count in counts.items()]
    reached = sum(sum(count.values()) for count in counts.values())
    if reached < selected or not lines:
        said = f"ended after {seconds:.0f} seconds" if too_late else "pytest ended: " + _last(output)
        missing = {"section": "suite", "name": f"{selected - reached} of {selected} tests", "status": NOT_REACHED}
        failures.append({**missing, "reason": said})
    return table + failures


def _last(output: str) -> str:
    return cut(output[-LONGEST_REASON:])
