"""The third way, beside a growing cache and a memory of fixed size: look it up in a plain text index on disk.

    with Index("index.db") as index:
        index.add("first book", text)
        index.search("plumb")              # the passages that have the word, best first
        index.fact("plumb")                # "48213", if a passage holds <plumb:48213>
        index.nbytes                       # on disk: the text itself and an inverted list of its words

The index is SQLite's FTS5 (part of Python's own sqlite3 nearly everywhere): for each word the list of passages that
have it, ranked by BM25. Nothing is learned and nothing is overwritten. But only words that are asked for are found, and
somebody must know what to ask. Where FTS5 is missing, passages are searched one by one, and a warning says so.
"""

import os
import re
import sqlite3
import warnings

from nl_course.errors import CourseError, check_int

PASSAGE = 400  # characters of a passage, about: a passage ends where a line ends
MOST = 50  # passages that a search for a fact reads


class LookupWarning(UserWarning):
    """SQLite was built without FTS5, so the index is a list of passages and a search reads all of it."""


class Index:
    """A text index in the file `path`, or in memory. Close it, or use it in a `with`.

    `full_text` False does without FTS5. Raises CourseError if the file cannot be opened or is no database."""

    def __init__(self, path: str | os.PathLike = ":memory:", full_text: bool = True):
        try:
            self._db = sqlite3.connect(os.fspath(path))
            self.full_text = full_text and self._create_full_text_table()
            if full_text and not self.full_text:
                warnings.warn(
                    "this Python's SQLite has no FTS5: the index reads every passage at each search.",
                    LookupWarning,
                    stacklevel=2,
                )
            if not self.full_text:
                self._db.execute("create table if not exists passages (book, text)")
        except sqlite3.Error as error:
            raise CourseError(f"cannot use {os.fspath(path)!r} as an index: {error}.") from error

    def _create_full_text_table(self) -> bool:
        """Creates the FTS5 table; False if SQLite lacks the module."""
        try:
            self._db.execute("create virtual table if not exists passages using fts5(book unindexed, text)")
        except sqlite3.OperationalError as error:
            if "no such module" in str(error):
                return False
            raise
        return True

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database; what was added is already in the file."""
        self._db.close()

    def add(self, book: str, text: str | bytes) -> int:
        """Cuts a book, or the next piece of one, into passages and adds them; returns how many. Bytes that are not
        UTF-8 are replaced."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        rows = [(book, passage) for passage in passages(text)]
        with self._db:  # one transaction: all passages of the piece or none
            self._db.executemany("insert into passages (book, text) values (?, ?)", rows)
        return len(rows)

    def search(self, words: str, most: int = 5) -> list[tuple[str, str]]:
        """(book, passage) of up to `most` passages that have all of `words`, the best match first."""
        check_int("most", most, 1)
        terms = re.findall(r"\w+", words)
        if not terms:
            raise CourseError(f"there is no word to look up in {words!r}.")
        if self.full_text:
            query = " ".join(f'"{term}"' for term in terms)  # quoted: a term may be a word of FTS5's own language
            rows = self._db.execute(
                "select book, text from passages where passages match ? order by rank limit ?", (query, most)
            )
            return list(rows)
        matches = []
        for book, passage in self._db.execute("select book, text from passages"):
            if all(re.search(rf"(?i)\b{term}\b", passage) for term in terms):
                matches.append((book, passage))
            if len(matches) == most:
                break
        return matches

    def fact(self, key: str, book: str | None = None) -> str | None:
        """The answer of the mark <key:answer> if a passage found under `key` contains it (in `book`, if one is named),
        else None. If several do, that of the best match."""
        for title, passage in self.search(key, MOST):
            mark = re.search(rf"<{re.escape(key)}:([^>\n]+)>", passage)
            if mark and book in (None, title):
                return mark[1]
        return None

    def __len__(self) -> int:
        """Number of passages."""
        return self._db.execute("select count(*) from passages").fetchone()[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the database file once its pages are merged and packed."""
        if self.full_text:
            with self._db:
                self._db.execute("insert into passages(passages) values ('optimize')")
        self._db.execute("vacuum")
        pages = self._db.execute("pragma page_count").fetchone()[0]
        page_size = self._db.execute("pragma page_size").fetchone()[0]
        return pages * page_size


def passages(text: str, size: int = PASSAGE) -> list[str]:
    """A text in pieces of `size` characters or a little more, each of whole lines; empty pieces are left out."""
    check_int("size", size, 1)
    pieces, current = [], ""
    for line in text.splitlines(keepends=True):
        current += line
        if len(current) >= size:
            pieces.append(current)
            current = ""
    pieces.append(current)
    return [piece for piece in pieces if piece.strip()]
