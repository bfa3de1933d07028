"""Limits for code that somebody else wrote: a loop without an end, or a size beyond all memory, becomes an error.

    try:
        with limits(seconds=60):
            answer(x)
    except TimeUp:
        print("it was still running after 60 seconds")

In Python's main thread, which is where a notebook runs its cells, a timer's signal ends even a call that sleeps. On
Windows and in other threads a second thread asks Python for the same; it is obeyed between two lines of Python, so that
one long call of a library is ended only when it returns.
"""

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

AGAIN = 1.0  # seconds after which a TimeUp that was caught, as by a bare `except:` in a loop, is raised again
LONGEST = 1e8  # seconds, three years: what timers take
FREE_SHARE = 0.9  # of the memory that is free, which the code may take
ENOUGH = 2 << 30  # bytes that it may take in any case: libraries reserve addresses that they never use
CGROUP = Path("/sys/fs/cgroup")  # where a container says how much memory it has
GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))  # their drivers reserve addresses by the terabyte


class TimeUp(BaseException):
    """The time is used up. It is no Exception, so that the code under test does not catch it in passing."""


@contextmanager
def limits(seconds: float | None) -> Iterator[None]:
    """The block may take so many seconds (None or 0: as long as it likes), and no more memory than there is.

    Raises TimeUp inside the block when its time is up. Too large a size is a MemoryError, or what torch raises; see
    `errors.is_out_of_memory`. Signal handlers and timers that were there before are there again afterwards.
    """
    with ExitStack() as stack:
        stack.enter_context(_memory_limit())
        if seconds:
            in_main_thread = threading.current_thread() is threading.main_thread()
            timer = _alarm if in_main_thread and hasattr(signal, "setitimer") else _watcher
            stack.enter_context(timer(min(seconds, LONGEST)))
        yield


# -- time ---------------------------------------------------------------------------------------------------
@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises TimeUp in the block by the signal of a timer. In the main thread only, and not on Windows."""
    active = True

    def ring(number: int, frame: FrameType | None) -> None:
        if active:
            raise TimeUp

    handler_before = signal.signal(signal.SIGALRM, ring)
    left_before, interval_before = 0.0, 0.0
    started = time.monotonic()
    try:
        left_before, interval_before = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        try:
            yield
        finally:
            active = False  # from here on a signal that is on its way does nothing
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler_before is None else handler_before)
        if left_before:
            # Somebody else's timer goes on; what should have rung meanwhile rings at once.
            left = max(left_before - (time.monotonic() - started), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval_before)


@contextmanager
def _watcher(seconds: float) -> Iterator[None]:
    """Raises TimeUp in the block, between two lines of Python, at the request of a second thread."""
    watched = ctypes.c_ulong(threading.get_ident())
    request = ctypes.pythonapi.PyThreadState_SetAsyncExc
    over = threading.Event()
    asking = threading.Lock()  # so that nothing is asked for once the block is over

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            with asking:
                if not over.is_set():
                    request(watched, ctypes.py_object(TimeUp))
            wait = AGAIN

    thread = threading.Thread(target=watch, name="time limit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with asking:
            over.set()
            request(watched, None)  # takes back what was asked for and has not been obeyed yet
        thread.join()


# -- memory -------------------------------------------------------------------------------------------------
@contextmanager
def _memory_limit() -> Iterator[None]:
    """On Linux without a GPU, asking for more memory than is free is an error in the block. Without this the system
    grants nearly any wish, and ends the process when it cannot keep its word."""
    if not sys.platform.startswith("linux") or any(gpu.exists() for gpu in GPUS):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + max(int(FREE_SHARE * free_memory()), ENOUGH)
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        with suppress(ValueError, OSError):  # the code itself has lowered the limit for good
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def free_memory() -> int:
    """Bytes that are free for this process: of the machine, or of the container that it runs in."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        most = int((CGROUP / "memory.max").read_text())
        held = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, most - int(held["anon"]))  # what files are cached in is given back when it is needed
    return max(free, 0)
