"""The third way, beside a growing cache and a memory of fixed size: look it up in a plain text index on disk.

    with Index("shelf.db") as index:
        index.add("first book", text)
        index.search("plumb")              # the passages that have the word, best first
        index.fact("plumb")                # "48213", if a passage holds <plumb:48213>
        index.nbytes                       # on disk: the text itself and an inverted list of its words

The index is SQLite's FTS5 (part of Python's own sqlite3 nearly everywhere): for each word the list of passages that
have it, ranked by BM25. Nothing is learned and nothing is overwritten, but only words that are asked for are found, and
somebody must know what to ask. Where FTS5 is missing, passages are searched one by one, and that is said in a warning.
"""

import os
import re
import sqlite3
import warnings

from nl_course.errors import CourseError, check_int

PASSAGE = 400  # bytes of a passage, about; passages end at line ends
MOST = 50  # passages looked at for a fact


class LookupWarning(UserWarning):
    """SQLite was built without FTS5: the index is a list of passages, and a search reads all of it."""


class Index:
    """A text index in the file `path`, or in memory. Close it, or use it in a `with`."""

    def __init__(self, path: str | os.PathLike = ":memory:", full_text: bool = True):
        try:
            self._db = sqlite3.connect(os.fspath(path))
            self.full_text = full_text and self._begin()
            if not self.full_text:
                if full_text:
                    warnings.warn(
                        "this Python's SQLite has no FTS5: the index reads every passage at each search.",
                        LookupWarning,
                        stacklevel=2,
                    )
                self._db.execute("create table if not exists passages (book, text)")
        except sqlite3.Error as error:
            raise CourseError(f"cannot use {os.fspath(path)!r} as an index: {error}.") from error

    def _begin(self) -> bool:
        """Makes the FTS5 table; False where SQLite lacks the module."""
        try:
            self._db.execute("create virtual table if not exists passages using fts5(book unindexed, text)")
        except sqlite3.OperationalError as error:
            if "no such module" in str(error):
                return False
            raise
        return True

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def add(self, book: str, text: str | bytes) -> int:
        """Cuts a book, or the next piece of one, into passages and adds them; returns how many. Bytes that are no
        UTF-8 are replaced."""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        with self._db:
            cut = passages(text)
            self._db.executemany("insert into passages (book, text) values (?, ?)", [(book, part) for part in cut])
        return len(cut)

    def search(self, words: str, most: int = 5) -> list[tuple[str, str]]:
        """(book, passage) of up to `most` passages that have all of `words`, the best match first."""
        check_int("most", most, 1)
        asked = re.findall(r"\w+", words)
        if not asked:
            raise CourseError(f"there is no word to look up in {words!r}.")
        if self.full_text:
            found = self._db.execute(
                "select book, text from passages where passages match ? order by rank limit ?",
                (" ".join(f'"{word}"' for word in asked), most),
            )
            return list(found)
        held = self._db.execute("select book, text from passages")
        has = (row for row in held if all(re.search(rf"(?i)\b{word}\b", row[1]) for word in asked))
        return [row for row, _ in zip(has, range(most))]

    def fact(self, key: str, book: str | None = None) -> str | None:
        """The answer of the mark <key:answer>, if a passage that is found under `key` holds it, in `book` where one is
        named; else None. Where several do, that of the best match."""
        for place, passage in self.search(key, MOST):
            if book in (None, place) and (found := re.search(rf"<{re.escape(key)}:([^>\n]+)>", passage)):
                return found[1]
        return None

    def __len__(self) -> int:
        """Passages held."""
        return self._db.execute("select count(*) from passages").fetchone()[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the database, as its file has them once its pages are merged and packed."""
        if self.full_text:
            with self._db:
                self._db.execute("insert into passages(passages) values ('optimize')")
        self._db.execute("vacuum")
        pages, size = (self._db.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return pages * size


def passages(text: str, size: int = PASSAGE) -> list[str]:
    """A text in pieces of `size` characters or a little more, each of whole lines; empty pieces are left out."""
    check_int("size", size, 1)
    found, held = [], ""
    for line in text.splitlines(keepends=True):
        held += line
        if len(held) >= size:
            found.append(held)
            held = ""
    return [part for part in [*found, held] if part.strip()]
