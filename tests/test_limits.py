"""A loop without an end and a size beyond all memory become errors, and everything is afterwards as it was before."""

import signal
import subprocess
import sys
import threading

import pytest
import torch

from nl_course import limits as module
from nl_course.errors import is_out_of_memory
from nl_course.limits import TimeUp, free_memory, limits

needs_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals here")
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux alone")


def loop():
    while True:
        pass


def loop_and_catch_everything():
    caught = 0
    while caught < 3:
        try:
            loop()
        except BaseException:
            caught += 1
    loop()


def in_a_thread(function):
    """Runs a function in another thread; returns what it returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def is_ended(function, seconds=0.05):
    try:
        with limits(seconds):
            function()
    except TimeUp:
        return True
    return False


@pytest.mark.parametrize("where", ["main thread", "other thread", "no timers"])
@pytest.mark.parametrize("function", [loop, loop_and_catch_everything])
def test_a_loop_is_ended_wherever_it_runs(monkeypatch, where, function):
    monkeypatch.setattr(module, "AGAIN", 0.02)
    if where == "no timers":  # as on Windows
        monkeypatch.setattr(module, "_alarm", module._watcher)
    assert in_a_thread(lambda: is_ended(function)) if where == "other thread" else is_ended(function)
    assert not [thread for thread in threading.enumerate() if thread.name == "time limit"]


@pytest.mark.parametrize("seconds", [None, 0, 60, 1e300])
def test_what_ends_in_time_is_left_alone(seconds):
    with limits(seconds):
        total = sum(range(1000))
    assert total == 499500
    assert in_a_thread(lambda: is_ended(lambda: None, seconds)) is False


def test_an_error_passes_through():
    with pytest.raises(KeyError, match="x"), limits(60):
        raise KeyError("x")


@needs_alarm
def test_handlers_and_timers_of_others_are_there_again():
    rung = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000, 7)
        assert is_ended(loop)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left < 1000 and interval == 7 and not rung
        assert signal.getsignal(signal.SIGALRM)(14, None) is None and rung == [14]
        # One that should have rung meanwhile rings now, once.
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert is_ended(loop)
        while len(rung) < 2:
            pass
        assert rung == [14, signal.SIGALRM] and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@needs_alarm
def test_a_limit_inside_a_limit():
    with limits(60):
        assert is_ended(loop)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@needs_linux
def test_memory_beyond_what_is_free_is_an_error_and_only_inside(monkeypatch):
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    monkeypatch.setattr(module, "GPUS", ())
    monkeypatch.setattr(module, "free_memory", lambda: 0)
    monkeypatch.setattr(module, "ENOUGH", 1 << 28)
    with limits(None), pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 30, dtype=torch.uint8)  # a machine of today has it, and would grant it
    assert is_out_of_memory(refused.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert torch.empty(1 << 30, dtype=torch.uint8).numel() == 1 << 30


def test_a_container_has_the_memory_that_it_was_given(tmp_path, monkeypatch):
    of_machine = free_memory()
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    assert free_memory() > 0
    (tmp_path / "memory.stat").write_text("file 5000000\nanon 300\n")
    for most, free in (("1000", 700), ("200", 0), ("max", None)):
        (tmp_path / "memory.max").write_text(most + "\n")
        assert free_memory() == free if free is not None else free_memory() > 700 or of_machine == 0


NOTEBOOK = """
import asyncio
from nl_course.limits import TimeUp, limits

async def cell():
    try:
        with limits(0.05):
            while True:
                pass
    except TimeUp:
        print("ended")

asyncio.run(cell())
"""


def test_a_cell_of_a_notebook_is_ended_inside_its_event_loop():
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("ended\n", "")
