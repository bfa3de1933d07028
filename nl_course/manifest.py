"""What the course has written into a folder of somebody's, so that what is theirs is never replaced.

    manifest = Manifest(folder, ".nl_course_export.json")
    present = manifest.present("index.html")
    if present is None or manifest.knows("index.html", present):
        manifest.write("index.html", content)
    manifest.save()

A manifest remembers a fingerprint of every file that it wrote. A file with another fingerprint was changed, or was
never the course's. Symbolic links inside the folder are not followed, neither to read nor to write.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from nl_course.errors import CourseError
from nl_course.files import read_json, write_atomically

NOT_PLAIN = "not a plain file"  # in place of a fingerprint: a link, a folder, or a file that is reached through a link

Fingerprint = Callable[[bytes], str]


def digest(content: bytes) -> str:
    """Twelve hex digits of a file's SHA-256. Line ends of Windows count as plain ones: git may have put them there."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:12]


class Manifest:
    """The files that the course wrote into `folder`: path in it, such as "notebooks/a.ipynb" -> fingerprint."""

    def __init__(self, folder: Path, name: str):
        """`name` is that of the file in `folder` that remembers. A damaged one remembers nothing, which loses
        nothing."""
        self.folder = folder
        self.name = name
        self.is_there = False  # whether a manifest was read
        self._written: dict[str, list[str]] = {}  # path -> what it was last, or is or was while it was written
        if self._kind(name) != "file":
            return
        try:
            saved = read_json(folder / name, "manifest")
        except CourseError:
            return
        if isinstance(saved, dict):
            self.is_there = True
            for path, fingerprints in saved.items():
                known = fingerprints if isinstance(fingerprints, list) else [fingerprints]
                self._written[path] = [fingerprint for fingerprint in known if isinstance(fingerprint, str)]

    def __contains__(self, path: str) -> bool:
        return path in self._written

    def rename(self, path: str, today: str) -> None:
        """Takes what is remembered of `path` for that of `today`, where a path has changed its name."""
        self._written[today] = self._written.pop(path)

    def paths(self) -> list[str]:
        """All paths that are remembered."""
        return list(self._written)

    def present(self, path: str, fingerprint: Fingerprint = digest) -> str | None:
        """The fingerprint of the file at `path`; None if nothing is there; NOT_PLAIN if it is none to be read.

        Raises OSError if it cannot be read.
        """
        kind = self._kind(path)
        if kind != "file":
            return None if kind == "nothing" else NOT_PLAIN
        return fingerprint((self.folder / path).read_bytes())

    def knows(self, path: str, present: str | None) -> bool:
        """Whether the course wrote what is `present` at `path`."""
        return present in self._written.get(path, [])

    def note(self, path: str, present: str) -> None:
        """Remembers what is `present` at `path` as the course's, without writing it."""
        self._written[path] = [present]

    def write(self, path: str, content: bytes, fingerprint: Fingerprint = digest) -> Path:
        """Writes a file whole or not at all, and remembers it first: should the process be killed in between, the old
        file and the new one both pass for the course's. Returns where it stands.

        Whether it may be written is asked before, with `present` and `knows`. Raises OSError if it cannot be.
        """
        new = fingerprint(content)
        self._written[path] = [*self._written.get(path, []), new]
        self.save()
        written = write_atomically(self.folder / path, lambda temporary: temporary.write_bytes(content))
        self._written[path] = [new]
        return written

    def save(self) -> None:
        """Writes the manifest. Raises OSError if it cannot be written."""
        place = self.folder / self.name
        if self._kind(self.name) == "something else":
            raise FileExistsError(errno.EEXIST, "a link or folder is in the way of the list of files", str(place))
        saved = {path: known[0] if len(known) == 1 else known for path, known in sorted(self._written.items())}
        text = json.dumps(saved, indent=1) + "\n"
        write_atomically(place, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _kind(self, path: str) -> str:
        """What stands at `path` in the folder: "file", "nothing", or "something else"."""
        here = self.folder
        parts = Path(path).parts
        for i, part in enumerate(parts):
            here = here / part
            try:
                mode = os.lstat(here).st_mode
            except FileNotFoundError:
                return "nothing"
            is_last = i == len(parts) - 1
            if not (stat.S_ISREG(mode) if is_last else stat.S_ISDIR(mode)):
                return "something else"
        return "file"
