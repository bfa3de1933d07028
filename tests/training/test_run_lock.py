"""One run at a time in a folder: who holds it is named, and what a killed run left is replaced."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from nl_course.errors import CourseError
from nl_course.files import process_start
from nl_course.training import run_lock
from nl_course.training.run_lock import RunLock

HOLDER = """
import sys, time
from pathlib import Path
from nl_course.training.run_lock import RunLock
RunLock(Path(sys.argv[1])).take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock on tmp_path until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "taken\n"
    yield program
    program.kill()
    program.communicate()


def written(folder, **changes):
    """The text of a lock that this very process might have written, with some changes."""
    mine = {"process": os.getpid(), "started": process_start(os.getpid()), "host": platform.node(), "since": "then"}
    text = json.dumps({**mine, **changes}) + "\n"
    (folder / "run.lock").write_text(text)
    return text


def refused(folder, words):
    """Whether taking the lock is refused with these words, and the file left as it was."""
    before = (folder / "run.lock").read_bytes()
    for attempt in (RunLock(folder).take, RunLock(folder).check):
        with pytest.raises(CourseError, match=words) as error:
            attempt()
        assert "\n" not in str(error.value)
    return (folder / "run.lock").read_bytes() == before


def test_a_lock_is_held_until_it_is_released(tmp_path):
    lock = RunLock(tmp_path)
    lock.check()
    lock.take()
    assert refused(tmp_path, r"is in use: another run of this very process trains there since .*another folder\.$")
    lock.release()
    assert not (tmp_path / "run.lock").exists()
    again = RunLock(tmp_path)
    again.take()
    lock.release()  # a second time: the lock of somebody else stays
    assert refused(tmp_path, "another run of this very process")
    again.release()


def test_another_process_is_named_and_once_it_was_killed_the_lock_is_free(tmp_path, holder):
    assert refused(tmp_path, rf"in use: process {holder.pid} on {platform.node()} trains there since 2.*folder\.$")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run.lock").read_text()  # it is left behind
    RunLock(tmp_path).check()
    lock = RunLock(tmp_path)
    lock.take()
    assert json.loads((tmp_path / "run.lock").read_text())["process"] == os.getpid()
    lock.release()


@pytest.mark.parametrize("system_lock", [True, False], ids=["with flock", "without"])
def test_a_stale_lock_is_known_also_where_its_number_came_back(tmp_path, monkeypatch, system_lock):
    if not system_lock:  # as on a file system that has none
        monkeypatch.setattr(run_lock, "_system_lock", lambda file: False)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for stale in ({"process": ended.pid}, {"started": process_start(os.getpid()) - 100.0}):
        written(tmp_path, **stale)
        lock = RunLock(tmp_path)
        lock.check()
        lock.take()
        assert refused(tmp_path, "this very process")
        lock.release()
    for nothing in (b"", b"\0\0\0\0"):
        (tmp_path / "run.lock").write_bytes(nothing)
        lock.take()
        lock.release()
    written(tmp_path, process=os.getppid(), started=process_start(os.getppid()))
    if system_lock:  # a process that runs, and has not got the lock: its run is over
        lock.take()
        lock.release()
    else:
        assert refused(tmp_path, f"process {os.getppid()} on")


def test_a_process_on_another_machine_counts_until_somebody_deletes_the_file(tmp_path):
    written(tmp_path, host="elsewhere", process=1)
    assert refused(tmp_path, r"process 1 on elsewhere .* If that process has ended, delete .*run\.lock\.")


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    """They meet at a barrier before they try, and the one that gets in stays in until all have tried."""
    written(tmp_path, started=1.0)
    together = threading.Barrier(8)
    outcomes = []

    def attempt():
        lock = RunLock(tmp_path)
        together.wait()
        try:
            lock.take()
            outcomes.append("in")
        except CourseError as error:
            outcomes.append(str(error))
        together.wait()
        lock.release()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("in") == 1 and len(outcomes) == 8
    assert not (tmp_path / "run.lock").exists()


def test_one_that_waited_at_a_removed_file_takes_the_new_one(tmp_path, monkeypatch):
    """The holder removes its file after another has opened it and before that one has locked it."""
    lock, real, opened = RunLock(tmp_path), run_lock._system_lock, []
    lock.take()

    def late(file):
        opened.append(file)
        lock.release()
        return real(file)

    monkeypatch.setattr(run_lock, "_system_lock", late)
    other = RunLock(tmp_path)
    other.take()
    assert len(opened) == 2  # the first one was of a file without a name
    monkeypatch.undo()
    assert refused(tmp_path, "this very process")
    other.release()


def test_a_lock_that_somebody_deleted_takes_no_other_one_with_it(tmp_path):
    lock, other = RunLock(tmp_path), RunLock(tmp_path)
    lock.take()
    (tmp_path / "run.lock").unlink()
    other.take()
    lock.release()
    assert refused(tmp_path, "this very process")
    other.release()


def test_what_is_no_lock_of_the_course_is_left_alone(tmp_path):
    for text in ("a note", "{}", "[1]", written(tmp_path, process="7"), written(tmp_path, host=None)):
        (tmp_path / "run.lock").write_text(text)
        assert refused(tmp_path, "not written by a run of the course")
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "run.lock").unlink()
    (tmp_path / "run.lock").symlink_to("theirs")
    assert refused(tmp_path, "not an ordinary file")
    (tmp_path / "theirs").unlink()
    with pytest.raises(CourseError, match="not an ordinary file"):
        RunLock(tmp_path).take()
    assert not (tmp_path / "theirs").exists()


def test_a_full_disk_leaves_no_open_file_and_no_lock(tmp_path, monkeypatch):
    def full(file, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    lock = RunLock(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        lock.take()
    monkeypatch.undo()
    assert not (tmp_path / "run.lock").exists()
    lock.take()
    lock.release()
