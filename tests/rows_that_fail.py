"""Rows for the guard of `nl_course/benches/gpu`, most of which fail. Nothing here imports torch: each row may need a
process of its own, which is to start fast."""

import os
import time


def fine(number=1):
    return {"twice": 2 * number}


def wrong(seconds=None):
    raise ValueError("a row that\nfails on purpose")


def missing():
    import no_such_package  # noqa: F401


def full():
    raise MemoryError("no room")


def hanging():
    time.sleep(600)


def dying():
    os._exit(7)


def ending():
    raise SystemExit(3)
