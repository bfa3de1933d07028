"""ctrl-C between whole steps: it interrupts at once, except while the weights are being changed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Inside `with Interrupts() as interrupts`, a ctrl-C within a block `with interrupts.hold()` waits for its end.

    Only Python's own handling of ctrl-C in the main thread is replaced; a handler that somebody else has set stays.
    """

    def __init__(self):
        self._holding = False
        self._waiting = False
        self._installed = False

    def __enter__(self) -> "Interrupts":
        # Python delivers signals to the main thread only, and refuses handlers that other threads set.
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._arrived)
            self._installed = True
        return self

    def __exit__(self, *error: Any) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._holding:
            raise KeyboardInterrupt
        self._waiting = True

    def between_steps(self) -> None:
        """Raises KeyboardInterrupt where several processes must stop at the same step (see AgreedInterrupts). In a
        single process the signal's handler raises it, so there is nothing to do here."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing interrupts the block; a ctrl-C that arrived meanwhile is raised at its end."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt
