"""A recording may be made in several sittings: its parts travel with the checkout, and nothing is made twice."""

import pytest

from nl_course import record
from nl_course.record import parts, unfinished


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A checkout and two machines' caches."""
    monkeypatch.setattr(unfinished, "course_root", lambda: tmp_path / "checkout")
    for machine in ("first", "second"):
        (tmp_path / machine).mkdir()
    monkeypatch.setattr(parts, "cache_folder", lambda: tmp_path / "first")
    return tmp_path


def test_finished_parts_travel_and_runs_stay(places, monkeypatch):
    folder = parts.parts_folder("sceptic")
    made = []

    def make(value):
        return lambda: made.append(value) or {"value": value}

    (folder / "search").mkdir(parents=True)
    parts.kept(folder / "a.json", ["asked"], make(1))
    parts.kept(folder / "search" / "b.json", ["asked"], make(2))
    (folder / "search" / "run").mkdir()
    (folder / "search" / "run" / "checkpoint.safetensors").write_bytes(b"large")
    (folder / "a.lock").write_text("1")
    assert len(unfinished.leave("sceptic")) == 2 and unfinished.leave("sceptic") == []

    monkeypatch.setattr(parts, "cache_folder", lambda: places / "second")
    (places / "second" / "record" / "sceptic").mkdir(parents=True)
    own = places / "second" / "record" / "sceptic" / "own.json"
    own.write_text("{}")
    taken = unfinished.take_up("sceptic")
    assert sorted(path.name for path in taken) == ["a.json", "b.json"]
    folder = parts.parts_folder("sceptic")
    assert parts.kept(folder / "a.json", ["asked"], make(3))["value"] == 1
    assert parts.kept(folder / "search" / "b.json", ["asked something else"], make(4))["value"] == 4
    assert made == [1, 2, 4] and own.read_text() == "{}"


def test_a_recording_takes_up_what_was_left(monkeypatch):
    taken = []
    monkeypatch.setattr(unfinished, "take_up", taken.append)
    monkeypatch.setattr("nl_course.record.library.run", lambda *arguments: [])
    record.record("library", quick=False)
    record.record("library", assets="elsewhere", quick=True)
    assert taken == ["library"]
