"""Processes that wait for each other say so, give up in the end, and tell once of what went wrong."""

import errno
import os
import socket
import threading

import pytest
import torch
import torch.distributed as dist

from nl_course.errors import CourseError
from nl_course.training import distributed
from nl_course.training.distributed import MeetingPlace, Ranks, join, main_tells


@pytest.fixture
def port():
    """A port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def as_rank(monkeypatch, port):
    """Puts this process where torchrun would: one of two, on that port. Nobody waits longer than an instant."""

    def place(rank, local_rank=0, world_size=2):
        values = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": local_rank, "MASTER_PORT": port}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        monkeypatch.setattr(distributed, "SAY_AFTER", 0.0)
        monkeypatch.setattr(distributed, "TOLD_WITHIN", 0.3)
        monkeypatch.setenv("NL_COURSE_JOIN_SECONDS", "0.3")
        monkeypatch.setattr(distributed.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(MeetingPlace, "last", None)

    return place


@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_for_others_says_so_and_gives_up_in_the_end(as_rank, port, capsys, rank):
    """Rank 0 serves the meeting place and counts who has come; rank 1 finds nobody there."""
    as_rank(rank)
    with pytest.raises(CourseError, match=r"gave up waiting after 0\.3 seconds: ") as error:
        join("ddp", torch.device("cpu"))
    out, said = capsys.readouterr()
    expected = f"1 of 2 processes are at 127.0.0.1:{port}" if rank == 0 else f"nothing answers at 127.0.0.1:{port}"
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert said.startswith(f"nl-course: waiting: {expected}") and said.count("\n") == 1 and out == ""
    assert not main_tells() and not dist.is_initialized()


def test_one_process_per_machine_speaks(as_rank, capsys):
    as_rank(3, local_rank=1, world_size=4)
    with pytest.raises(CourseError, match="gave up waiting"):
        join("auto", torch.device("cpu"))
    assert capsys.readouterr() == ("", "")
    assert main_tells()  # its neighbor does


def test_all_who_come_meet_and_the_main_process_tells(as_rank, monkeypatch, port):
    """Two threads stand in for two processes: each has a store of its own."""
    as_rank(0)
    main = MeetingPlace()
    as_rank(1, local_rank=1)
    other = MeetingPlace()
    main.limit = other.limit = 60.0
    stores = []
    threads = [threading.Thread(target=lambda place=place: stores.append(place.meet())) for place in (main, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 2
    assert not other.has_main_ended()
    main.main_ends()
    assert other.has_main_ended()


@pytest.mark.parametrize(("name", "value"), [("MASTER_ADDR", None), ("MASTER_PORT", "x"), ("RANK", "first")])
def test_an_environment_that_is_not_torchruns_is_named(as_rank, monkeypatch, name, value):
    as_rank(0)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match=rf"does not say where .*{value or name}.*start them with torchrun"):
        join("ddp", torch.device("cpu"))


def test_a_port_in_use_is_named(as_rank, port):
    as_rank(0)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))
        taken.listen()
        with pytest.raises(CourseError, match=rf"cannot serve the run's meeting place 127\.0\.0\.1:{port}: .*in use"):
            join("ddp", torch.device("cpu"))


# -- what goes wrong in one --------------------------------------------------------------------------------------------
def test_alone_a_failure_is_raised_as_it_is():
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as error, Ranks().together():
        raise full
    assert error.value is full
    with Ranks().together():
        pass
    assert not main_tells() or os.environ.get("RANK")
