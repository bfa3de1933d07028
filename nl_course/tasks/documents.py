"""Text that every learner's machine already holds: installed packages, each module of them a document.

Two corpora are read from each package: `code`, the source as it stands, and `prose`, the docstrings in the order of
the source. The packages are found and read as files, never imported. What a build writes, and what differs between
machines of the same version, is left out, so that one version gives the same bytes everywhere. This was compared
across Linux, macOS and Windows wheels and Python 3.11 to 3.13.
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

from torch import Tensor

from nl_course.errors import CourseError, check_choice
from nl_course.files import cache_folder, check_file, pip_install, reason, write_atomically

CORPORA = ("prose", "code")
PACKAGES = ("sympy", "networkx", "numpy", "torch")  # the packages a corpus can be made of, all pinned
REVISION = 1  # of the rules below: a change of the rules needs a new number and a new record
SHORTEST = 256  # bytes; a module with less text is no document

# Tests and benchmarks are tables more than text. The rest is generated, or exists on some machines only.
_LEFT_OUT_FOLDERS = {"tests", "test", "testing", "benchmarks", "generated", "_antlr", "_vendor", "include"}
_LEFT_OUT_FILES = {"version.py", "_version.py", "__version__.py", "__config__.py", "_distributor_init.py"}
# numpy.distutils exists up to Python 3.11 only. The Windows wheel patches numpy's first file.
_LEFT_OUT_PATHS = ("numpy/distutils/", "numpy/__init__.py")


@dataclass(frozen=True)
class Document:
    """One text. `name` is the module's dotted name (or the file's path); `text` is UTF-8."""

    name: str
    text: bytes

    @property
    def hash(self) -> str:
        """The first 12 hex digits of the text's sha256."""
        return hashlib.sha256(self.text).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Document({self.name!r}, {len(self.text):,} bytes)"


@dataclass(frozen=True)
class TokenDocument:
    """A document that somebody has tokenized already. `tokens` are the ids as its file holds them, (T,) int64."""

    name: str
    tokens: Tensor

    def __repr__(self) -> str:
        return f"TokenDocument({self.name!r}, {len(self.tokens):,} token ids)"


def rank(name: str) -> int:
    """A fixed pseudo-random number for a document's name. It orders a corpus and decides which documents are held out,
    so both stay the same when documents are added."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def digest(hashes: dict[str, str]) -> str:
    """One hash (12 hex digits) for many documents, from their names and their hashes."""
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


# -- finding ---------------------------------------------------------------------------------------------
def version(package: str) -> str:
    """The installed version, without the build's suffix (`2.13.0+cpu` is the same text as `2.13.0`)."""
    check_choice("package", package, PACKAGES)
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        raise CourseError(
            f"the library needs the package {package!r}, which is not installed; run `{pip_install(package)}`."
        ) from None


def folder(package: str) -> Path:
    """Where the package's files are, without importing it."""
    spec = importlib.util.find_spec(check_choice("package", package, PACKAGES))
    if spec is None or not spec.submodule_search_locations:
        raise CourseError(
            f"the library needs the package {package!r}, which is not installed; run `{pip_install(package)}`."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def modules(package: str) -> dict[str, Path]:
    """The package's modules that count as documents, by dotted name, ordered by `rank`."""
    root = folder(package)
    path_of = {}
    for path in root.rglob("*.py"):
        inside = path.relative_to(root.parent)
        if _left_out(inside.as_posix()):
            continue
        name = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        path_of[name] = path
    return {name: path_of[name] for name in sorted(path_of, key=rank)}


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
    """A docstring without its indentation.

    Our own few lines, because `inspect.cleandoc` and the compiler's own cleaning differ between Python versions: tabs
    become 8 spaces, trailing blanks go, lines after the first lose their common indentation, and blank lines at both
    ends go.
    """
    first, *rest = [line.expandtabs(8).rstrip() for line in docstring.splitlines() or [""]]
    indents = [len(line) - len(line.lstrip(" ")) for line in rest if line]
    indent = min(indents, default=0)
    lines = [first.lstrip(" ")]
    lines += [line[indent:] for line in rest]
    return "\n".join(lines).strip("\n")


def docstrings(source: bytes) -> list[str]:
    """The docstrings of a module, its classes and its functions, in the order of the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "invalid escape sequence", in other people's files
        warnings.simplefilter("ignore", DeprecationWarning)  # the same, as older Pythons call it
        tree = ast.parse(source)
    by_line = []
    # ast.walk goes level by level, not line by line, so the order of the source is restored at the end.
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text and (text := dedent(text)):
                by_line.append((node.body[0].lineno, text))
    return [text for _, text in sorted(by_line, key=lambda pair: pair[0])]


def read_module(path: Path, corpus: str) -> bytes:
    """One module's text: its source with plain line ends, or its docstrings with an empty line between them.
    Zero bytes go, since a zero byte separates two documents."""
    source = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\0", b"")
    if corpus == "code":
        return source
    return "\n\n".join(docstrings(source)).encode("utf-8", errors="replace").replace(b"\0", b"")


def extract(package: str, corpus: str) -> list[Document]:
    """Reads a package's documents from its files, ordered by `rank`. A text that occurs twice is taken once."""
    texts: list[Document] = []
    seen = set()
    for name, path in modules(package).items():
        try:
            document = Document(name, read_module(path, corpus))
        except (OSError, SyntaxError, ValueError):  # a file this Python cannot read; the recorded hashes will tell
            continue
        if len(document.text) >= SHORTEST and document.hash not in seen:
            seen.add(document.hash)
            texts.append(document)
    return texts


# -- keeping ---------------------------------------------------------------------------------------------
def documents(package: str, corpus: str = "prose", fresh: bool = False) -> list[Document]:
    """A package's documents ordered by `rank`, from the cache if they were read before (`fresh` reads them anew).

    Raises CourseError for an unknown name or a package that is not installed.
    """
    check_choice("corpus", corpus, CORPORA)
    cache = _cache_path(package, corpus)
    if cache is not None and not fresh:
        cached = _load(cache)
        if cached is not None:
            return cached
    texts = extract(package, corpus)
    if cache is not None:
        with suppress(OSError):  # a full disk or a read-only folder: the next call is slower, nothing worse
            write_atomically(cache, lambda temporary: _save(texts, temporary))
    return texts


def _cache_path(package: str, corpus: str) -> Path | None:
    name = f"{package}-{version(package)}-{corpus}-r{REVISION}.books"
    try:
        return cache_folder() / name
    except OSError:
        return None


def _save(texts: list[Document], path: Path) -> None:
    """One line of JSON (each document's name, hash and length), then all the texts."""
    header = [[document.name, document.hash, len(document.text)] for document in texts]
    with open(path, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.writelines(document.text for document in texts)


def _load(path: Path) -> list[Document] | None:
    """The cached documents, or None if the file is absent or not whole: every text is compared with its hash."""
    texts = []
    try:
        with open(path, "rb") as file:
            for name, recorded_hash, length in json.loads(file.readline()):
                document = Document(name, file.read(length))
                if document.hash != recorded_hash:
                    return None
                texts.append(document)
            nothing_left = file.read(1) == b""
    except (OSError, ValueError, TypeError):
        return None
    return texts if nothing_left else None


# -- the learner's own -----------------------------------------------------------------------------------
def read_path(path: str | os.PathLike) -> list[Document]:
    """A text file, or every text file of a folder and its subfolders in order of their paths. Hidden files and files
    that are not text are skipped. Raises CourseError, which says why, if there is nothing to read."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return [Document(root.name, _read_text(root))]
    texts = []
    why = ""  # the last file was not read
    for file in sorted(root.rglob("*")):
        inside = file.relative_to(root)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not file.is_file():
            continue
        try:
            texts.append(Document(inside.as_posix(), _read_text(file)))
        except CourseError as error:  # not text: one such file must not hide the others
            why = f": {error}"
    if not texts:
        raise CourseError(f"the folder {str(path)!r} holds no text file that can be read{why or '.'}")
    return texts


def _read_text(path: Path) -> bytes:
    try:
        text = check_file(path, "text").read_bytes()
    except OSError as error:
        raise CourseError(f"cannot read the text {path}: {reason(error)}.") from error
    if not text.strip():
        raise CourseError(f"the text {str(path)!r} is empty.")
    if b"\0" in text:
        raise CourseError(f"{str(path)!r} is not text: it holds zero bytes.")
    return text
