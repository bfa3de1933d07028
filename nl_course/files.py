"""Where the course keeps its files, and how it writes them: whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from nl_course.errors import CourseError

_PACKAGE = Path(__file__).resolve().parent


def course_root() -> Path:
    """The folder that holds `assets/` and `notebooks/`: the checkout, or the copy that an installed wheel carries."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "assets").is_dir() else _PACKAGE / "_course"


def asset(name: str) -> Path:
    """The path of a file under `assets/`, e.g. `asset("models.json")`. Raises CourseError if it is not there."""
    path = course_root() / "assets" / name
    if not path.exists():
        raise CourseError(f"the course's asset {name!r} is missing at {path}; restore it from the repository.")
    return path


def cache_folder() -> Path:
    """A folder for what can be made again (extracted books). `NL_COURSE_CACHE` moves it; created when asked for."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nl_course"
    folder = Path(os.environ.get("NL_COURSE_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(path: str | os.PathLike, writer: Callable[[Path], None]) -> Path:
    """Calls `writer(temporary)` beside `path`, then moves the result into place in one step.

    A crash, a full disk or ctrl-C leaves the old file as it was. Missing folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: only within one file system is moving a single step.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        writer(temporary)
        # Without this the name could survive a crash whose file does not.
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp's files are readable by their owner alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
