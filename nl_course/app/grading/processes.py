"""One submission in a process of its own, with a limit for its time and its memory.

The process (`work.py`) tells what it does as it goes. Where it hangs in a place that no signal reaches, takes too much
memory, or ends, the answer that it was at has failed, and a new process goes on with the next one.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import psutil

from nl_course.app.grading.outcome import Allowance, Outcome
from nl_course.app.grading.submissions import Submission
from nl_course.app.grading.work import BEGUN, DONE, FAULT, TRYING, work

GRACE = 10.0  # seconds after which a process that does not heed its own limit is ended
_LOOK = 0.1  # seconds between two looks at a process


def grade(submission: Submission, ids: Sequence[str], allowance: Allowance) -> list[Outcome]:
    """The outcome of each exercise, in the order of `ids`. Whatever the submission does, this process goes on. Raises
    RuntimeError for a fault of the course itself."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(ids):
        outcomes += _one_process(submission, ids[len(outcomes) :], allowance)
    return outcomes


def _one_process(submission: Submission, ids: Sequence[str], allowance: Allowance) -> list[Outcome]:
    """The outcomes that one process comes to: one at least, since an answer that ends its process has failed."""
    context = _context()
    here, there = context.Pipe(duplex=False)
    paths = [str(path.resolve()) for path in submission.notebooks]
    with tempfile.TemporaryDirectory(prefix="nl_course_grade_", ignore_cleanup_errors=True) as folder:
        process = context.Process(target=work, args=(there, folder, paths, list(ids), allowance), daemon=True)
        process.start()
        there.close()
        try:
            return _follow(here, process, ids, allowance)
        finally:
            process.kill()
            process.join()
            here.close()


def _context() -> multiprocessing.context.BaseContext:
    """How processes are started: with nothing of this one in them. Where the system can, torch is loaded once for
    all of them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    return context


def _follow(connection: Connection, process: BaseProcess, ids: Sequence[str], allowance: Allowance) -> list[Outcome]:
    """What the process tells, until it is done or has to be ended."""
    outcomes: list[Outcome] = []
    tried: list[str] = []
    heard = None  # when it told something last
    usual = 0  # bytes that the process holds before its first answer
    words = ""
    while not words and len(outcomes) < len(ids):
        if connection.poll(_LOOK):
            try:
                kind, value = connection.recv()
            except (EOFError, OSError):
                process.join(GRACE)
                words = f"Its process ended (exit code {process.exitcode})"
                continue
            if kind == DONE:
                outcomes.append(value)
            elif kind == TRYING:
                tried.append(value)
            elif kind == FAULT:
                raise RuntimeError(value)
            elif kind == BEGUN:
                usual = usual or _held_by(process)
                tried = []
            heard = time.monotonic()
            continue
        if heard is None:  # it is still loading torch
            continue
        if allowance.seconds and time.monotonic() - heard > allowance.seconds + GRACE:
            words = f"It was still running after {allowance.seconds:g} seconds, and its process had to be ended"
        elif _held_by(process) > usual + allowance.memory:
            words = f"It took more than {allowance.memory / 2**30:.3g} GiB of memory"
    if words:
        outcomes.append(_failed(ids[len(outcomes)], words, tried))
    return outcomes


def _failed(exercise_id: str, words: str, tried: list[str]) -> Outcome:
    """The outcome of an answer whose process was ended."""
    name = tried[-1] if tried else ""
    when = f" when this was tried: {name}" if name else ""
    return Outcome(exercise_id, "failed", f"{exercise_id} not yet. {words}{when}.", name, max(len(tried) - 1, 0))


def _held_by(process: BaseProcess) -> int:
    """Bytes of memory that a process holds; 0 if it has ended."""
    try:
        return psutil.Process(process.pid).memory_info().rss
    except psutil.Error:
        return 0
