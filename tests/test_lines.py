"""Plain lines that a linter does not hold: one statement per line, nothing compressed inside its own kind."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nl_course

PACKAGE = Path(nl_course.__file__).parent
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def compressed(source: str) -> Iterator[str]:
    """Line and fault of everything in `source` that is compressed."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple):
            yield f"{node.lineno}: two statements written as one"
        if isinstance(node, COMPREHENSIONS):
            inside = (child for child in ast.walk(node) if child is not node)
            if any(isinstance(child, COMPREHENSIONS) for child in inside):
                yield f"{node.lineno}: a comprehension inside a comprehension"
        if isinstance(node, ast.IfExp):
            inside = (child for child in ast.walk(node) if child is not node)
            if any(isinstance(child, ast.IfExp) for child in inside):
                yield f"{node.lineno}: a conditional expression inside a conditional expression"


def test_lines_are_plain():
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        faults += [f"{path.relative_to(PACKAGE)}:{fault}" for fault in compressed(path.read_text("utf-8"))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "f(1), g(2)",
        "x = [[j for j in i] for i in y]",
        "x = {i: (j for j in i) for i in y}",
        "x = 1 if a else 2 if b else 3",
    ],
)
def test_a_compressed_line_is_found(source):
    assert len(list(compressed(source))) == 1


def silent(source: str, private_too: bool) -> Iterator[str]:
    """Line and name of every function, method and class in `source` without a docstring, inner functions included.

    Unless `private_too`, a name with an underscore in front may be silent, and so may all that stands inside it:
    Python says what its own methods (`__len__`) do, and a private helper is read beside its only caller.
    """

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from walk(child)
            elif private_too or not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    yield f"{child.lineno}: {child.name}"
                yield from walk(child)

    return walk(ast.parse(source))


def test_every_part_says_what_it_does():
    """Inner functions and overridden methods too: a reader meets them out of their context."""
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        # Views and exercises are read as examples of how to write one, so to the last helper.
        is_an_example = place.match("views/*.py") or place.match("exercises/ex??/*.py")
        faults += [f"{place}:{fault}" for fault in silent(path.read_text("utf-8"), private_too=is_an_example)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "def f(): ...",
        "async def f(): ...",
        "class C: ...",
        "class C:\n    'A class.'\n    def f(self): ...",
        "def f():\n    'A function.'\n    if True:\n        def g(): ...",
    ],
)
def test_a_silent_part_is_found(source):
    assert len(list(silent(source, private_too=False))) == 1


@pytest.mark.parametrize(
    "source", ["def _f():\n    def g(): ...", "class C:\n    'A class.'\n    def __len__(self): ..."]
)
def test_only_a_private_part_may_be_silent(source):
    assert not list(silent(source, private_too=False))
    assert list(silent(source, private_too=True))
