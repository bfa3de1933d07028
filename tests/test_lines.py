"""Plain lines that a linter does not hold: one statement per line, nothing compressed inside its own kind."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nl_course

PACKAGE = Path(nl_course.__file__).parent
# The exercises are rewritten with the pages that ask them; until then they are left out.
LATER = {"exercises"}
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
        package = path.relative_to(PACKAGE).parts[0]
        if package not in LATER:
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


def test_every_part_of_a_view_says_what_it_does():
    """Overridden methods and inner functions too: a reader meets them out of their context."""
    silent = []
    for path in sorted((PACKAGE / "views").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not ast.get_docstring(node):
                silent.append(f"{path.name}:{node.lineno}: {node.name}")
    assert not silent, "\n".join(silent)
