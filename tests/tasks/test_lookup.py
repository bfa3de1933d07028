"""The index on disk: what is added is found, its bytes are the file's, and without FTS5 it says so and still works."""

import sqlite3
import warnings

import pytest

from nl_course.errors import CourseError
from nl_course.tasks import lookup
from nl_course.tasks.lookup import Index, LookupWarning, passages

BOOK = "The river was high.\n" * 40 + "<plumb:48213>\n" + "A plumb line hangs still.\n" * 30


def plain_index():
    return Index(full_text=False)


@pytest.mark.parametrize("make", [Index, plain_index])
def test_a_fact_is_found_among_others_and_an_absent_one_is_not(make):
    with make() as index:
        assert index.add("first", BOOK) == len(index) > 3
        index.add("second", b"<grape:00017>\n\xff and more\n")
        assert index.fact("plumb") == "48213" and index.fact("grape") == "00017"
        assert index.fact("river") is None and index.fact("absent") is None
        index.add("third", "<plumb:11111>\n")
        assert index.fact("plumb", "first") == "48213" and index.fact("plumb", "third") == "11111"
        assert index.fact("plumb", "second") is None
        book, passage = index.search("plumb line", most=1)[0]
        assert book == "first" and "plumb line" in passage


def test_both_ways_give_the_same_answers():
    with Index() as fast, plain_index() as slow:
        for index in (fast, slow):
            index.add("a", BOOK)
        assert {text for _, text in fast.search("river", 50)} == {text for _, text in slow.search("river", 50)}


def test_nothing_is_overwritten_and_bytes_are_the_files(tmp_path):
    path = tmp_path / "shelf.db"
    with Index(path) as index:
        index.add("first", BOOK)
        small = index.nbytes
        assert small == path.stat().st_size
        for i in range(50):
            index.add(f"book {i}", f"<key{i}:{i:05}>\n" + "Other words stand here, one after the other.\n" * 50)
        assert index.nbytes == path.stat().st_size > 4 * small
    with Index(path) as again:  # opened anew, it still knows
        assert again.fact("plumb") == "48213" and again.fact("key49") == "00049"


def test_passages_are_whole_lines_and_lose_nothing():
    cut = passages(BOOK, 100)
    assert "".join(cut) == BOOK and all(part.endswith("\n") for part in cut)
    assert all(100 <= len(part) < 130 for part in cut[:-1]) and passages("\n\n \n") == []


def test_without_fts5_it_warns_and_goes_on(monkeypatch):
    class Lacking(sqlite3.Connection):
        def execute(self, statement, *rest):
            if "fts5" in statement:
                raise sqlite3.OperationalError("no such module: fts5")
            return super().execute(statement, *rest)

    monkeypatch.setattr(lookup.sqlite3, "connect", lambda path: Lacking(path))
    with pytest.warns(LookupWarning, match="no FTS5"):
        index = Index()
    index.add("first", BOOK)
    assert not index.full_text and index.fact("plumb") == "48213" and index.nbytes > 0
    index.close()


def test_with_fts5_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Index() as index:
            assert index.full_text


def test_bad_input_is_named(tmp_path):
    with Index() as index, pytest.raises(CourseError, match="no word"):
        index.search("?!")
    with pytest.raises(CourseError, match="no/such"):
        Index(tmp_path / "no/such/shelf.db")
