"""ctrl-C and its relatives between whole steps: they end a run at once, except while the weights are being changed.

SIGINT is ctrl-C. SIGTERM is how `kill`, batch systems and a machine that shuts down ask a program to end, and SIGHUP
tells it that its terminal has closed. All three end a run in the same way: it keeps its last whole step, and saves it.
A second signal ends it at once, without saving.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGHUP is unknown to Windows.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class EndAtOnce(KeyboardInterrupt):
    """A second signal while the run was ending. What it was doing may be half done: nothing may be saved after it."""


class Interrupts:
    """Inside `with Interrupts() as interrupts`, a signal within a block `with interrupts.hold()` waits for its end.

    The first signal raises KeyboardInterrupt, the second one EndAtOnce. Only handlers that Python or the system has set
    are replaced, and only in the main thread; one that somebody else has set stays.
    """

    def __init__(self):
        self._holding = False
        self._waiting = False
        self._ending = False
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # Python delivers signals to the main thread only, and refuses handlers that other threads set.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if self._may_replace(signal.getsignal(number)):
                    self._handlers_before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()

    def _may_replace(self, handler: Any) -> bool:
        """Whether a handler is Python's or the system's own."""
        return handler in (signal.default_int_handler, signal.SIG_DFL)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._ending:
            raise EndAtOnce
        self._ending = True
        if not self._holding:
            raise KeyboardInterrupt
        self._waiting = True

    def request(self) -> None:
        """Ends the run after this step, as a signal would. Called inside `hold`."""
        self._waiting = True

    def between_steps(self) -> None:
        """Raises KeyboardInterrupt where several processes must stop at the same step (see AgreedInterrupts). In a
        single process the signal's handler raises it, so there is nothing to do here."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing but a second signal interrupts the block; one that arrived meanwhile is raised at its end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt
