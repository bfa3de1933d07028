"""What every recording says about itself: from which config, seed, commit, machine and versions it came."""

import json
import subprocess
import time
from importlib import resources
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError
from nl_course.files import course_root, write_atomically
from nl_course.record.texts import split_said
from nl_course.training.run_folder import machine


def read_config(name: str) -> dict[str, Any]:
    """The config of a recording, `nl_course/record/configs/NAME.json`. Raises CourseError if there is none."""
    file = resources.files("nl_course.record") / "configs" / f"{name}.json"
    if not file.is_file():
        raise CourseError(f"there is no config {name!r} among the course's recordings.")
    return json.loads(file.read_text(encoding="utf-8"))


def commit() -> str:
    """The commit that the running code is of, with a + where files differ from it; "unknown" outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=course_root(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return run.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Recording:
    """Times a recording from when it is made, and writes it down with all that it takes to make it again."""

    def __init__(self, name: str, config: dict[str, Any], device: str = "cpu", command: str | None = None):
        """`command`: what makes it again, where that is not `nl-course record NAME`."""
        self.name, self.config, self.device = name, config, device
        self.command = command or f"nl-course record {name}"
        self.commit, self._started = commit(), time.perf_counter()

    def about(self) -> dict[str, Any]:
        """The provenance so far; `command` makes the recording again. `path` is that of the models' memories: no recipe
        asks for another than what is fastest. `split` is that of its config (texts.py), absent where it has none."""
        split = split_said(self.config)
        return {
            "command": self.command,
            "path": "auto",
            "config": self.config,
            **({} if split is None else {"split": split}),
            "commit": self.commit,
            "recorded": time.strftime("%Y-%m-%d"),
            "wall_seconds": round(time.perf_counter() - self._started, 1),
            **machine(self.device),
        }

    def write(self, path: str | Path, results: dict[str, Any]) -> Path:
        """Writes `{"about": ..., **results}` as JSON, whole or not at all."""
        text = json.dumps({"about": self.about(), **results}, indent=1) + "\n"
        return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
