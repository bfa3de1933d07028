"""ctrl-C between whole steps: it interrupts at once, except while something is held together."""

import signal
import threading
from contextlib import contextmanager


class Interrupts:
    """Inside `with Interrupts() as interrupts`, a ctrl-C arriving within `with interrupts.hold()` waits for its end.

    Only Python's own handling of ctrl-C in the main thread is replaced; whoever has set another keeps it.
    """

    def __init__(self):
        self._holding = self._waiting = self._installed = False

    def __enter__(self) -> "Interrupts":
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._arrived)
            self._installed = True
        return self

    def __exit__(self, *error) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def _arrived(self, *_) -> None:
        if not self._holding:
            raise KeyboardInterrupt
        self._waiting = True

    def between_steps(self) -> None:
        """Where an interrupt that several processes must agree on is raised; here it comes of itself."""

    @contextmanager
    def hold(self):
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt
