"""Where the course keeps its files, and how it writes them: whole or not at all."""

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from nl_course.errors import CourseError

PICTURES = ("previews", "diagrams")  # the folders under assets/ with pictures that notebooks show
_PACKAGE = Path(__file__).resolve().parent
JSON_DEPTH = 100  # lists and objects inside each other; the deepest file of the course has about 30
_A_DAY = 24 * 3600  # seconds
_CLOCK = 60.0  # seconds by which the clocks of a file server and of this machine may disagree


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


def pip_install(*packages: str) -> str:
    """A command that installs packages for the Python that is running, whether the course is a checkout, whose pinned
    versions it then keeps to, or was installed as a wheel."""
    command = [sys.executable, "-m", "pip", "install"]
    pins = course_root() / "constraints.txt"
    if pins.is_file():
        command += ["-c", str(pins)]
    return shlex.join([*command, *packages])


def cache_folder() -> Path:
    """A folder for what can be made again (extracted books). `NL_COURSE_CACHE` moves it; created when asked for.

    Raises OSError if it cannot be made.
    """
    named = os.environ.get("NL_COURSE_CACHE")
    if not named:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if caches.startswith("~"):  # a user without a home, as in some containers
            raise FileNotFoundError(errno.ENOENT, "this user has no home folder; set NL_COURSE_CACHE", caches)
        named = os.path.join(caches, "nl_course")
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_writable(path: str | os.PathLike) -> Path:
    """Returns the folder `path`, made if need be, after a trial file was written there and removed.

    Raises OSError if that fails. Permissions alone do not tell: a disk may be full, or its file system read-only.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as trial:
        trial.write(bytes(4096))
        trial.flush()
        os.fsync(trial.fileno())
    return folder


def write_atomically(path: str | os.PathLike, writer: Callable[[Path], None]) -> Path:
    """Calls `writer(temporary)`, then moves the file that it wrote to `path` in one step.

    A crash, a full disk or ctrl-C leaves the old file as it was. Missing folders are created. A new file gets the
    permissions that the umask allows, a replaced one keeps those it had, as with `open(path, "w")`. A symbolic link at
    `path` is itself replaced; the file that it names is left alone. What a process that was killed left behind while it
    wrote is removed first (see `remove_leftovers`).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    # Beside `path`, since only within one file system is moving a single step. In a folder of its own, since writers
    # may make temporary files, too. Its name says who writes, so that others can tell whether that is still going on.
    folder = path.with_name(f".{path.name}.{_host_mark()}-{os.getpid()}-{secrets.token_hex(4)}.part")
    temporary = folder / path.name
    folder.mkdir(mode=0o700)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o666))  # of which the umask takes its share
        old = path if path.is_file() and not path.is_symlink() else temporary
        mode = stat.S_IMODE(old.stat().st_mode)
        writer(temporary)
        # Without this the name could survive a crash whose file does not.
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)  # the writer may have replaced the file by one of its own
        os.replace(temporary, path)
    except OSError as error:
        error.filename = os.fspath(path)  # a full disk names no file, and nobody knows the temporary one
        error.filename2 = None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def remove_leftovers(path: str | os.PathLike) -> None:
    """Removes what `write_atomically` left beside `path` in processes that were killed while they wrote.

    Only what has the names that it gives is removed: where its process ran on this machine and has ended, and, where
    that cannot be told (another machine, or a file of an earlier version of the course at this very path), what was not
    written to for a day.
    """
    path = Path(path)
    own = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.part")  # folders
    earlier = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")  # files
    try:
        beside = list(os.scandir(path.parent))
    except OSError:  # no such folder, or one that may not be looked into: then nothing was left there by us
        return
    for entry in beside:
        with suppress(OSError):  # another process was faster, or may remove it and this one may not
            found = own.fullmatch(entry.name)
            is_earlier = earlier.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if found and entry.is_dir(follow_symlinks=False) and _is_left_behind(entry, *found.groups()):
                shutil.rmtree(entry.path)
            elif is_earlier and _is_left_behind(entry):
                os.unlink(entry.path)


def _is_left_behind(entry: os.DirEntry, host: str = "", process: str = "") -> bool:
    """Whether nobody is still writing what stands there; the name says on which machine and in which process it was."""
    last_written = entry.stat(follow_symlinks=False).st_mtime
    if host != _host_mark():
        return time.time() - last_written > _A_DAY
    # A process that started after the last write cannot be the one that wrote.
    started = process_start(int(process))
    return started is None or started > last_written + _CLOCK


def process_start(process: int) -> float | None:
    """When the process with that number (pid) was started, in seconds since 1970; None if none runs on this machine.

    Numbers are given anew to later processes; the time tells these apart.
    """
    try:
        found = psutil.Process(process)
        started = found.create_time()
    except (psutil.Error, ValueError, OverflowError):
        return None
    with suppress(psutil.Error):  # not every system tells of other people's processes
        # A zombie has ended; it only waits for its parent to notice.
        if found.status() == psutil.STATUS_ZOMBIE:
            return None
    return started


def _host_mark() -> str:
    """Eight letters that stand for this machine's name in the names of files."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


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
