"""Where the course keeps its files, and how it writes them: whole or not at all."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError

_PACKAGE = Path(__file__).resolve().parent
JSON_DEPTH = 100  # lists and objects inside each other; the deepest file of the course has about 30


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


def check_file(path: str | os.PathLike, what: str) -> Path:
    """Returns `path` if a file that can be read stands there. Else raises a CourseError that says why not; it calls the
    file `what`, e.g. "checkpoint"."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CourseError(f"there is no {what} at {path}.") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise CourseError(f"cannot read the {what} {path}: {reason(error)}.") from error
    if stat.S_ISDIR(mode):
        raise CourseError(f"{path} is a folder, not a {what}.")
    if not stat.S_ISREG(mode):
        raise CourseError(f"{path} is not an ordinary file, so it is not a {what}.")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise CourseError(f"cannot read the {what} {path}: {reason(error)}.") from error
    return Path(path)


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds. Raises ValueError if it is not JSON or is nested more than JSON_DEPTH deep."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep") from error
    # Code that walks through the value calls itself once per level. A limit far below Python's keeps that safe.
    containers = [value]
    for _ in range(JSON_DEPTH):
        inside: list[Any] = []
        for container in containers:
            if isinstance(container, dict):
                inside.extend(container.values())
            elif isinstance(container, list):
                inside.extend(container)
        containers = [child for child in inside if isinstance(child, (dict, list))]
        if not containers:
            return value
    raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep")


def read_json(path: str | os.PathLike, what: str) -> Any:
    """What a JSON file holds. Raises CourseError, naming it as `what`, if it is missing, unreadable or damaged."""
    path = check_file(path, what)
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise CourseError(f"cannot read the {what} {path}: {reason(error)}.") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise CourseError(f"the {what} {path} is damaged and cannot be read ({error}).") from error


def check_folder(path: str | os.PathLike, what: str) -> Path:
    """Returns `path` if a folder stands there or can be made there. Else raises a CourseError that says why not; it
    calls the folder `what`, e.g. "run's folder". Nothing is made."""
    path = Path(path)
    for part in (path, *path.parents):
        try:
            mode = part.stat().st_mode
        except FileNotFoundError:
            if part.is_symlink():
                raise CourseError(f"cannot use {path} as {what}: {part} is a link that leads nowhere.") from None
            continue
        except NotADirectoryError:  # the file is one of the parents that come next
            continue
        except (OSError, ValueError) as error:
            raise CourseError(f"cannot use {path} as {what}: {reason(error)}.") from error
        if not stat.S_ISDIR(mode):
            raise CourseError(f"cannot use {path} as {what}: {part} is a file, not a folder.")
        break
    return path


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in words: never empty, and never without the cause."""
    if isinstance(error, shutil.Error):  # of copying a folder: a list of (from, to, why), whose own text is long
        failures = error.args[0] if error.args else []
        if isinstance(failures, list) and failures:
            source, _, why = failures[0]
            why = str(why)
            return why if str(source) in why else f"{source}: {why}"
    text = getattr(error, "strerror", None) or str(error).strip()
    return " ".join(text.split()) or type(error).__name__
