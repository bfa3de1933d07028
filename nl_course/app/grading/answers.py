"""The code of one answer, cut out of a learner's notebook: the function that is checked, and what it needs.

A notebook draws pictures and trains models; none of that is run to grade it. Of each cell up to the check, only those
statements are kept that bind a name which the answer needs: its function, helpers, imports, constants. What a learner
does to a name that is bound already (`table.append(1)`, `torch.relu = mine`) is not kept.
"""

import ast
import linecache
import re
import symtable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

_STAR = "*"  # in `from math import *`
# After these a name holds nothing of what it held before.
_BINDS_ANEW = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)
# Cell magics whose cell is Python all the same.
_PYTHON_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")


class Unreadable(Exception):
    """A notebook, or a cell that an answer stands in, cannot be read; the text says why."""


@dataclass
class Cell:
    """A code cell: the file name under which its lines are known to Python, its statements, and why it has none."""

    name: str
    source: str
    statements: list[ast.stmt] = field(default_factory=list)
    error: str = ""


@dataclass
class AnswerCode:
    """What has to be run for one answer: statements with the cell of each, then the expression that is the answer."""

    statements: list[tuple[str, ast.stmt]]
    answer: ast.expr
    where: str

    def run(self, namespace: dict[str, Any]) -> Any:
        """Runs the statements in the namespace, and returns the answer."""
        for name, statement in self.statements:
            exec(compile(ast.Module([statement], []), name, "exec"), namespace)
        return eval(compile(ast.Expression(self.answer), self.where, "eval"), namespace)


def read_cells(path: Path) -> list[Cell]:
    """The code cells of a notebook, parsed. Raises Unreadable if the file is no notebook."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises errors of its own, json's, and KeyErrors
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise Unreadable(f"{path.name} cannot be read as a notebook ({text}).") from error
    cells = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        source = cell.source
        first, _, rest = source.partition("\n")
        if first.startswith(_PYTHON_MAGICS):
            source = "\n" + rest
        found = Cell(f"<cell {number} of {path.name}>", source)
        try:
            plain = TransformerManager().transform_cell(source)
            found.statements = ast.parse(plain, found.name).body
            # So that a verdict can show the line that stopped.
            linecache.cache[found.name] = (len(plain), None, plain.splitlines(keepends=True), found.name)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
            found.error = f"cell {number} of {path.name} is no Python that can be read: {line}{error}"
        cells.append(found)
    return cells


def cut_out(cells: list[Cell], exercise_id: str, stub_name: str) -> AnswerCode | None:
    """The code of one answer: what the last `check` of that exercise is given, else the function called as in its stub;
    None if the notebook has neither. Raises Unreadable if the check stands in a cell that is no Python."""
    before: list[tuple[str, ast.stmt]] = []
    found = None
    for cell in cells:
        called = re.search(rf"""\bcheck\(\s*["']{re.escape(exercise_id)}["']""", cell.source)
        if cell.error and called:
            raise Unreadable(cell.error)
        for statement in cell.statements:
            before.append((cell.name, statement))
            answer = _checked(statement, exercise_id)
            if answer is not None:
                found = (len(before), answer, cell.name)
    if found is None:
        named = [place for place, (_, statement) in enumerate(before) if getattr(statement, "name", "") == stub_name]
        if not named:
            return None
        found = (named[-1] + 1, ast.Name(stub_name, ast.Load()), before[named[-1]][0])
    end, answer, where = found
    answer = ast.fix_missing_locations(answer)
    return AnswerCode(_needed(before[:end], answer), answer, where)


def _checked(statement: ast.stmt, exercise_id: str) -> ast.expr | None:
    """What a statement gives to `check` as the answer to that exercise, if it calls it."""
    for node in ast.walk(statement):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        first = node.args[0]
        if name != "check" or not isinstance(first, ast.Constant) or first.value != exercise_id:
            continue
        by_keyword = [keyword.value for keyword in node.keywords if keyword.arg == "answer"]
        given = [*node.args[1:2], *by_keyword]
        if given:
            return given[0]
    return None


def _needed(before: list[tuple[str, ast.stmt]], answer: ast.expr) -> list[tuple[str, ast.stmt]]:
    """Those of the statements that bind what the answer needs, and what these need, in their order.

    Of a name that is bound several times, only what it holds when it is used counts: in a function's body that is when
    the function is called, elsewhere at once.
    """
    names = [_names(statement) for _, statement in before]
    end = len(before)
    asked = _names(ast.Expr(answer))
    # (name, place before which it must be bound); a star may bring any name.
    requests = [(name, end) for name in {_STAR, *asked.used, *asked.used_later}]
    known = set(requests)
    kept: dict[int, set[str]] = {}  # place of a statement -> which of its names are needed
    while requests:
        name, limit = requests.pop()
        for place in reversed(range(limit)):
            if name not in names[place].bound:
                continue
            kept.setdefault(place, set()).add(name)
            wanted = {(other, place) for other in names[place].used}
            wanted |= {(other, limit) for other in names[place].used_later}
            requests += wanted - known
            known |= wanted
            if name != _STAR and isinstance(before[place][1], _BINDS_ANEW):
                break
    return [(before[place][0], _pruned(before[place][1], kept[place])) for place in sorted(kept)]


def _pruned(statement: ast.stmt, wanted: set[str]) -> ast.stmt:
    """An import of the wanted names alone; any other statement as it is."""
    if not isinstance(statement, (ast.Import, ast.ImportFrom)):
        return statement
    aliases = [alias for alias in statement.names if _bound_by(alias) in wanted]
    if isinstance(statement, ast.Import):
        return ast.copy_location(ast.Import(aliases), statement)
    return ast.copy_location(ast.ImportFrom(statement.module, aliases, statement.level), statement)


def _bound_by(alias: ast.alias) -> str:
    """The name that an import binds: `import torch.nn` binds torch."""
    return alias.asname or alias.name.partition(".")[0]


@dataclass
class _Names:
    """The global names that a statement binds, those that it uses at once, and those that its functions use."""

    bound: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    used_later: set[str] = field(default_factory=set)


def _names(statement: ast.stmt) -> _Names:
    if isinstance(statement, ast.ImportFrom) and statement.names[0].name == _STAR:
        # What it binds cannot be told. It is kept, unless it brings the course's own names, which no answer may use.
        is_ours = (statement.module or "").partition(".")[0] == "nl_course"
        return _Names() if is_ours else _Names(bound={_STAR})
    names = _Names()
    table = symtable.symtable(ast.unparse(statement), "<answer>", "exec")
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            names.bound.add(symbol.get_name())
        if symbol.is_referenced():
            names.used.add(symbol.get_name())
    inside = [(part, False) for part in table.get_children()]
    while inside:
        part, is_later = inside.pop()
        # The body of a class runs at once, and so may that of a comprehension or a lambda, which has no name.
        is_later = is_later or (part.get_type() == "function" and part.get_name() in _defined_in(statement))
        used = {symbol.get_name() for symbol in part.get_symbols() if symbol.is_global()}
        names.used_later |= used
        if not is_later:
            names.used |= used
        inside += [(child, is_later) for child in part.get_children()]
    return names


def _defined_in(statement: ast.stmt) -> set[str]:
    """The names of all functions that are defined inside of a statement by `def`."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(statement) if isinstance(node, kinds)}
