"""One run at a time in a folder: a file that says who trains there.

run.lock stands in the folder while a run goes on: {"process", "started", "host", "since"}. Two things make it a lock.

The system's own lock on the open file (`flock`, on Windows `msvcrt.locking`) is given to one process, and ends
with it however it ends. It decides between two runs that start at the same moment, also where both find the file of a
run that was killed. Each open file has its own, so it also keeps two runs in one process apart.

What is written in the file tells people who holds it, and decides where the system's lock does not reach: some network
file systems have none, others keep one per machine. There a file is stale if its process ran on this machine and has
ended; a later process with the same number was started at another time. (Where there are no locks at all, two runs that
find the same stale file in the same moment could both get in.) What a process on another machine does cannot be seen
from here, so its file counts until somebody deletes it.
"""

import errno
import json
import os
import platform
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nl_course.errors import CourseError
from nl_course.files import parse_json, process_start

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None
    import msvcrt

LOCK = "run.lock"
_BEHIND = 1 << 20  # Windows lets nobody read locked bytes, so the byte that is locked there stands behind the text


class RunLock:
    """The lock on one folder, or on what `name` stands for in it. Taken by `take`, which refuses if somebody has it,
    and given back by `release`."""

    def __init__(self, folder: Path, name: str = LOCK):
        self.folder = folder
        self.path = folder / name
        self._file: int | None = None

    def take(self) -> None:
        """Takes the lock, in place of a stale one if there is any. The folder must exist.

        Raises CourseError if another run has it, naming that run, or if the file is not a lock of the course. Raises
        OSError if the file cannot be written.
        """
        file, has_system_lock = self._open()
        try:
            text = _read(file)
            if not has_system_lock and not text:
                time.sleep(1.0)  # without the system's lock: somebody may have made the file and not yet written
                text = _read(file)
            self._refuse_if_held(text, has_system_lock)
            started = process_start(os.getpid()) or 0.0
            since = time.strftime("%Y-%m-%d %H:%M")
            holder = {"process": os.getpid(), "started": started, "host": platform.node(), "since": since}
            text = json.dumps(holder).encode() + b"\n"
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, text)
            os.ftruncate(file, len(text))
        except BaseException:
            if not os.fstat(file).st_size:  # made just now
                self._remove(file)
            os.close(file)
            raise
        self._file = file

    def check(self) -> None:
        """Raises CourseError if another run has the lock, as far as the file tells; takes nothing."""
        self._refuse_links()
        try:
            text = self.path.read_bytes()
        except OSError:
            return
        self._refuse_if_held(text, has_system_lock=False)

    def release(self) -> None:
        """Gives the lock back; does nothing if it was not taken."""
        if self._file is None:
            return
        # It is removed while it is still held: whoever opens it after this line opens a file of his own. Windows
        # removes no open file; there an empty one stays, which means the same as none.
        with suppress(OSError):
            os.ftruncate(self._file, 0)
        self._remove(self._file)
        os.close(self._file)
        self._file = None

    def _remove(self, file: int) -> None:
        """Removes the lock's file, unless another one has its name by now."""
        with suppress(OSError):
            if self._is_still_there(file):
                os.unlink(self.path)

    def _open(self) -> tuple[int, bool]:
        """The open file, and whether the system's lock on it is held; False where there are no such locks."""
        while True:
            self._refuse_links()
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                has_system_lock = _system_lock(file)
            except BlockingIOError:
                holder = self._holder(_read_patiently(file))
                os.close(file)
                raise CourseError(self._in_use(holder)) from None
            if self._is_still_there(file):
                return file, has_system_lock
            # Its holder removed it between the two calls: what was locked is a file that nobody else can open.
            os.close(file)

    def _is_still_there(self, file: int) -> bool:
        """Whether the open file is the one that has the name."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except OSError:
            return False

    def _refuse_links(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except OSError:
            return
        if not stat.S_ISREG(mode):
            raise CourseError(f"{self.path} is not an ordinary file, so it cannot lock the run; take another folder.")

    def _refuse_if_held(self, text: bytes, has_system_lock: bool) -> None:
        """Raises CourseError if the run that wrote `text` still goes on."""
        holder = self._holder(text)
        if not holder:
            return
        if holder["host"] != platform.node() or _is_this_process(holder):
            raise CourseError(self._in_use(holder))
        # The system's lock ends with its process: who has got it knows that the one before has ended.
        if not has_system_lock and _is_running(holder):
            raise CourseError(self._in_use(holder))

    def _holder(self, text: bytes) -> dict[str, Any]:
        """Who wrote `text`; {} if nobody did. Raises CourseError if it is not the text of a lock of the course."""
        # Empty, or zeros: the machine went down before the text was on the disk.
        if not text.strip(b"\0 \n"):
            return {}
        try:
            holder = parse_json(text)
            types = (("process", int), ("started", float), ("host", str), ("since", str))
            if all(isinstance(holder[name], wanted) for name, wanted in types):
                return holder
        except (ValueError, TypeError, KeyError):
            pass
        raise CourseError(f"{self.path} was not written by a run of the course; take another folder.")

    def _in_use(self, holder: dict[str, Any]) -> str:
        if not holder:
            return f"{self.folder} is in use: another process trains there. Wait for it, or take another folder."
        if _is_this_process(holder):
            who = "another run of this very process"
        else:
            who = f"process {holder['process']} on {holder['host']}"
        words = f"{self.folder} is in use: {who} trains there since {holder['since']}. Wait for it, "
        if holder["host"] == platform.node():
            return words + "or take another folder."
        return words + f"or take another folder. If that process has ended, delete {self.path}."


def _is_this_process(holder: dict[str, Any]) -> bool:
    return (holder["process"], holder["host"]) == (os.getpid(), platform.node()) and _is_running(holder)


def _is_running(holder: dict[str, Any]) -> bool:
    """Whether the holder, a process of this machine, still runs."""
    started = process_start(holder["process"])
    # Numbers come back: in a container, the first process after a restart has the number of the first one before it.
    return started is not None and abs(started - holder["started"]) < 1.0


def _system_lock(file: int) -> bool:
    """Takes the system's lock on an open file. False if the file system has none; raises BlockingIOError if somebody
    else holds it."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(file, _BEHIND, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise BlockingIOError(error.errno, error.strerror) from error
        return False
    return True


def _read(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, 4096)


def _read_patiently(file: int) -> bytes:
    """The text of a file that somebody holds, who may have made it just now and not yet written into it."""
    for _ in range(10):
        text = _read(file)
        if text.endswith(b"\n"):
            return text
        time.sleep(0.1)
    return b""
