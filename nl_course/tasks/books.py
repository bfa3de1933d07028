"""The shelf that every learner's machine already holds: installed packages, each module of them a book.

Two corpora are read from each package: `code`, the source as it stands, and `prose`, the docstrings in the
order in which they stand in the source. The packages are found and read as files, never imported. What a
build writes, and what differs between machines of the same version, is left out, so that one version gives
the same bytes everywhere; this was compared across Linux, macOS and Windows wheels and Python 3.11 to 3.13.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nl_course.errors import CourseError, check_choice
from nl_course.files import cache_folder, write_atomically

CORPORA = ("prose", "code")
SHELVES = ("sympy", "networkx", "numpy", "torch")  # the packages a corpus can be made of, all pinned
REVISION = 1  # of the rules below; a change of them needs a new number and a new record
SHORTEST = 256  # bytes; a module with less text is no book

# Tests and benchmarks are tables more than text; the rest is generated, or there on some machines only.
_LEFT_OUT_FOLDERS = {"tests", "test", "testing", "benchmarks", "generated", "_antlr", "_vendor", "include"}
_LEFT_OUT_FILES = {"version.py", "_version.py", "__version__.py", "__config__.py", "_distributor_init.py"}
# numpy.distutils exists up to Python 3.11 only, and the Windows wheel patches numpy's first file.
_LEFT_OUT_PATHS = ("numpy/distutils/", "numpy/__init__.py")


@dataclass(frozen=True)
class Book:
    """One text. `name` is the module's dotted name (or the file's path); `text` is UTF-8."""

    name: str
    text: bytes

    @property
    def hash(self) -> str:
        """The first 12 hex digits of the text's sha256."""
        return hashlib.sha256(self.text).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Book({self.name!r}, {len(self.text):,} bytes)"


def rank(name: str) -> int:
    """A fixed pseudo-random number for a book's name: books stand on the shelf in this order."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def digest(hashes: dict[str, str]) -> str:
    """One hash (12 hex digits) for many books, from their names and their hashes."""
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


# -- finding ---------------------------------------------------------------------------------------------
def version(package: str) -> str:
    """The installed version, without the build's suffix (`2.13.0+cpu` is the same text as `2.13.0`)."""
    check_choice("package", package, SHELVES)
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        raise CourseError(
            f"the library needs the package {package!r}, which is not installed; run `pip install {package}`."
        ) from None


def folder(package: str) -> Path:
    """Where the package's files are, without importing it."""
    spec = importlib.util.find_spec(check_choice("package", package, SHELVES))
    if spec is None or not spec.submodule_search_locations:
        raise CourseError(
            f"the library needs the package {package!r}, which is not installed; run `pip install {package}`."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def modules(package: str) -> dict[str, Path]:
    """The package's modules that count as books, by dotted name, in shelf order."""
    root = folder(package)
    found = {}
    for path in root.rglob("*.py"):
        inside = path.relative_to(root.parent)
        if _left_out(inside.as_posix()):
            continue
        parts = inside.with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: found[name] for name in sorted(found, key=rank)}


def _left_out(path: str) -> bool:
    """`path` as in "sympy/core/basic.py"."""
    *folders, file = path.split("/")
    return (
        bool(_LEFT_OUT_FOLDERS.intersection(folders))
        or file in _LEFT_OUT_FILES
        or file.startswith(("test_", "conftest"))
        or file.endswith(("_test.py", "_generated.py"))
        or path.startswith(_LEFT_OUT_PATHS)
    )


# -- reading ---------------------------------------------------------------------------------------------
def dedent(docstring: str) -> str:
    """A docstring without its indentation. Our own few lines, because `inspect.cleandoc` and the compiler's
    own cleaning differ between Python versions: tabs become 8 spaces, trailing blanks go, lines after the
    first lose their common indentation, and blank lines at both ends go."""
    first, *rest = [line.expandtabs(8).rstrip() for line in docstring.splitlines() or [""]]
    indent = min((len(line) - len(line.lstrip(" ")) for line in rest if line), default=0)
    return "\n".join([first.lstrip(" "), *(line[indent:] for line in rest)]).strip("\n")


def docstrings(source: bytes) -> list[str]:
    """The docstrings of a module, its classes and its functions, in the order of the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "invalid escape sequence", in other people's files
        warnings.simplefilter("ignore", DeprecationWarning)  # the same, as older Pythons call it
        tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text and (text := dedent(text)):
                found.append((node.body[0].lineno, text))
    return [text for _, text in sorted(found, key=lambda pair: pair[0])]


def read_module(path: Path, corpus: str) -> bytes:
    """One module's text: its source with plain line ends, or its docstrings with an empty line between
    them."""
    source = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\0", b"")
    if corpus == "code":
        return source
    return "\n\n".join(docstrings(source)).encode("utf-8", errors="replace").replace(b"\0", b"")


def extract(package: str, corpus: str) -> list[Book]:
    """Reads a package's books from its files, in shelf order. A text that stands there twice is taken
    once."""
    books, seen = [], set()
    for name, path in modules(package).items():
        try:
            book = Book(name, read_module(path, corpus))
        except (OSError, SyntaxError, ValueError):  # a file this Python cannot read; the hashes will tell
            continue
        if len(book.text) >= SHORTEST and book.hash not in seen:
            seen.add(book.hash)
            books.append(book)
    return books


# -- keeping ---------------------------------------------------------------------------------------------
def books(package: str, corpus: str = "prose", fresh: bool = False) -> list[Book]:
    """A package's books in shelf order, from the cache where they were read before (`fresh` reads them anew).

    Raises CourseError for an unknown name or a package that is not installed.
    """
    check_choice("corpus", corpus, CORPORA)
    cached = _cache_path(package, corpus)
    if cached is not None and not fresh and (found := _load(cached)) is not None:
        return found
    found = extract(package, corpus)
    if cached is not None:
        with suppress(OSError):  # a full disk or a folder that may not be written: slower, nothing worse
            write_atomically(cached, lambda temporary: _save(found, temporary))
    return found


def _cache_path(package: str, corpus: str) -> Path | None:
    name = f"{package}-{version(package)}-{corpus}-r{REVISION}.books"
    try:
        return cache_folder() / name
    except OSError:
        return None


def _save(found: list[Book], path: Path) -> None:
    """One line of JSON (each book's name, hash and length), then all the texts."""
    header = [[book.name, book.hash, len(book.text)] for book in found]
    with open(path, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.writelines(book.text for book in found)


def _load(path: Path) -> list[Book] | None:
    """The cached books, or None when the file is absent or not whole: every text is held against its hash."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
            found = [Book(name, file.read(length)) for name, _, length in header]
            whole = not file.read(1) and all(b.hash == h for b, (_, h, _) in zip(found, header, strict=True))
    except (OSError, ValueError, TypeError):
        return None
    return found if whole else None


# -- the learner's own -----------------------------------------------------------------------------------
def read_path(path: str | os.PathLike) -> list[Book]:
    """A text file, or every text file of a folder (and its folders) in order of their paths; hidden files
    and files that are not text are passed over. Raises CourseError if there is nothing to read, and says
    why."""
    root = Path(path).expanduser()
    if not root.exists():
        raise CourseError(f"there is no file or folder {str(path)!r} to read text from.")
    if root.is_file():
        return [Book(root.name, _read_text(root))]
    found = []
    for file in sorted(root.rglob("*")):
        inside = file.relative_to(root)
        if file.is_file() and not any(part.startswith(".") for part in inside.parts):
            try:
                found.append(Book(inside.as_posix(), _read_text(file)))
            except CourseError:
                continue
    if not found:
        raise CourseError(f"the folder {str(path)!r} holds no text file that can be read.")
    return found


def _read_text(path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CourseError(f"cannot read the text {str(path)!r}: {error.strerror}.") from error
    if not text.strip():
        raise CourseError(f"the text {str(path)!r} is empty.")
    if b"\0" in text:
        raise CourseError(f"{str(path)!r} is not text: it holds zero bytes.")
    return text
