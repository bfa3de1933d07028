"""Rows that may fail: each is measured in another process, one at a time, which is replaced when it hangs or dies.

A row names a function, as "module:function", and its arguments. What comes back is a dict with "status":

    measured        the function's figures stand beside it
    not there       a package that the row needs is not installed
    out of memory   the device's, or the machine's
    failed          the function raised: "reason" says what
    out of time     it was still running after the seconds that it had, and was ended
    died            the process ended by itself
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from nl_course.errors import is_out_of_memory

MEASURED, NOT_THERE, NO_MEMORY, FAILED = "measured", "not there", "out of memory", "failed"
OUT_OF_TIME, DIED, NOT_REACHED = "out of time", "died", "not reached"
LONGEST_REASON = 400  # characters
START = 180.0  # seconds that a process may take until it is ready


class Worker:
    """One process that measures rows, started when the first one comes. `prepare` names a function that the process
    calls before all, with `arguments`; its time is no row's."""

    def __init__(self, prepare: str | None = None, **arguments: Any):
        self._prepare, self._arguments = prepare, arguments
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def measure(
        self, call: str, arguments: dict[str, Any], seconds: float, meanwhile: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """What `call` gives for `arguments`, with its "status". `meanwhile` runs here while the process works."""
        ready = self._start()
        if ready["status"] != MEASURED:
            return ready
        begun = time.monotonic()
        try:
            self._connection.send((call, arguments))
        except OSError:
            return self._ended(DIED, "the process had ended before the row began")
        if meanwhile is not None:
            meanwhile()
        return self._answer(seconds - (time.monotonic() - begun), f"still running after {seconds:.0f} seconds")

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> dict[str, Any]:
        """Starts the process unless it runs; how that went."""
        if self._process is not None:
            return {"status": MEASURED}
        # A fresh interpreter: a forked one could not use the GPU, and would inherit what is loaded here.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._prepare, self._arguments))
        self._process.start()
        theirs.close()
        return self._answer(START, f"the process was not ready after {START:.0f} seconds")

    def _answer(self, seconds: float, too_late: str) -> dict[str, Any]:
        try:
            if not self._connection.poll(max(seconds, 0.0)):
                return self._ended(OUT_OF_TIME, too_late)
            answer = self._connection.recv()
        except (EOFError, OSError):
            return self._ended(DIED, "the process ended by itself")
        if answer.pop("unusable", False):
            self.end()  # the row failed by itself, the next one begins in a new process
        return answer

    def _ended(self, status: str, reason: str) -> dict[str, Any]:
        process = self._process
        if status == DIED:
            process.join(5)
            reason = f"{reason} (exit code {process.exitcode})"
        self.end()
        return {"status": status, "reason": reason}


def serve(connection: Connection, prepare: str | None, arguments: dict[str, Any]) -> None:
    """What the process does: answers rows until the other end is closed."""
    if prepare is None:
        connection.send({"status": MEASURED})
    else:
        connection.send(attempt(prepare, arguments))
    while True:
        try:
            call, given = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(attempt(call, given))


def attempt(call: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The figures of `call`, a "module:function", or why there are none."""
    module, _, name = call.partition(":")
    try:
        figures = getattr(import_module(module), name)(**arguments)
        return {"status": MEASURED, **(figures or {})}
    except BaseException as error:
        answer = {"status": _status(error), "reason": _reason(error)}
    # Only here, where nothing holds the error's frames any more, can what they held be given back.
    return {**answer, "unusable": not _usable()}


def _status(error: BaseException) -> str:
    if is_out_of_memory(error):
        return NO_MEMORY
    return NOT_THERE if isinstance(error, ImportError) else FAILED


def _reason(error: BaseException) -> str:
    return cut(f"{type(error).__name__}: {error}")


def cut(text: str) -> str:
    """The text on one line, its end left out where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 4] + " ..."


def _usable() -> bool:
    """Whether the device still answers. An illegal access on a GPU spoils the process for good."""
    torch = sys.modules.get("torch")
    if torch is None:
        return True
    torch._dynamo.reset()
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:
        return False
    return True
