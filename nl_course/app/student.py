"""A copy of the course for a class: every check and hint works, and no solution is in it.

    nl-course student FOLDER

Left out of each file under `exercises/exNN/`: solutions, typical wrong answers, aims, the answers to discussion
questions, the functions that only these used, and all comments. Left out of the notebooks: cells tagged `solution`,
and what a cell that asks for a solution had printed. Tests stay behind too. Checks never call a solution, so they
judge as before."""

import ast
import json
import os
import shutil
import tempfile
from argparse import Namespace, _SubParsersAction
from pathlib import Path

import nl_course
from nl_course.errors import CourseError
from nl_course.files import course_root

TEACHERS_PART = ("aim", "solution", "wrong")
TOP_FILES = (
    *("README.md", "LICENSE", "CITATION.cff", "Makefile"),
    *("pyproject.toml", "constraints.txt", "environment.yml"),
)
HEADER = "# Part of a student build: solutions, usual wrong answers, aims and discussion answers were left out.\n"


def build(folder: str | os.PathLike) -> Path:
    """Writes the student build into `folder`, which must not exist yet or be empty, and returns its path.

    The copy is made beside it and moved into place at the end: a failure leaves nothing behind.
    """
    folder = Path(folder).expanduser().resolve()
    package, root = Path(nl_course.__file__).resolve().parent, course_root().resolve()
    for source in (package, root / "assets", root / "notebooks"):
        if folder.is_relative_to(source):
            raise CourseError(
                f"a student build cannot stand inside the course's own {source.name}/; choose another folder."
            )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CourseError(f"{folder} exists already; give a folder that does not exist yet, or an empty one.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as part:
            made = Path(part) / "course"
            _copy(package, root, made)
            _strip_exercises(made / "nl_course" / "exercises")
            for notebook in sorted((made / "notebooks").glob("*.ipynb")):
                notebook.write_text(strip_notebook(notebook.read_text("utf-8")), "utf-8")
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        raise CourseError(f"the student build could not be written to {folder}: {error.strerror}.") from error
    return folder


def add_command(commands: _SubParsersAction) -> None:
    """Adds `student FOLDER` to the command line; the chosen command is called as `arguments.run(arguments)`."""
    parser = commands.add_parser("student", help="copy the course for a class, without its solutions")
    parser.add_argument("folder", help="where the copy goes: a folder that does not exist yet")
    parser.set_defaults(run=run_student)


def run_student(arguments: Namespace) -> int:
    """The command itself; returns the exit code."""
    print(f"Student build written to {build(arguments.folder)}")
    return 0


def _copy(package: Path, root: Path, made: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_course")
    shutil.copytree(package, made / "nl_course", ignore=ignore)
    for name in ("assets", "notebooks"):
        if (root / name).is_dir():
            shutil.copytree(root / name, made / name, ignore=ignore)
    for name in TOP_FILES:
        if (root / name).is_file():
            shutil.copy2(root / name, made / name)


def _strip_exercises(folder: Path) -> None:
    files = sorted(folder.glob("ex[0-9][0-9]/*.py"))
    module_of = {path: f"nl_course.exercises.{path.parent.name}.{path.stem}" for path in files}
    wanted = {module: set() for module in module_of.values()}  # names that one exercise file takes from another
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in wanted:
                wanted[node.module] |= {alias.name for alias in node.names}
    for path in files:
        if path.name == "__init__.py":
            continue
        source = strip_source(path.read_text("utf-8"), path.name, wanted[module_of[path]])
        path.write_text(source, "utf-8")


def strip_source(source: str, name: str, keep: set[str] = frozenset()) -> str:
    """The source of an exercise file without the teacher's part. `keep` names what other files import from it.

    Raises CourseError if a solution is still used afterwards: a check must not need it.
    """
    tree = ast.parse(source)
    solutions, freed = set(), set()
    for call in [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _called(n) == "Exercise"]:
        if len(call.args) > 7 or any(k.arg is None for k in call.keywords):
            raise CourseError(f"{name}: write {', '.join(TEACHERS_PART)} of an Exercise as keywords.")
        gone = [k for k in call.keywords if k.arg in TEACHERS_PART]
        call.keywords = [k for k in call.keywords if k.arg not in TEACHERS_PART]
        freed |= {used for k in gone for used in _names(k.value)}
        solutions |= {k.value.id for k in gone if k.arg == "solution" and isinstance(k.value, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and _defined(node) == {"DISCUSSION"}:
            node.value = _without_answers(node.value, name)
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("solution", "wrong")):
            freed.add(node.name)
    _drop_unused(tree, freed, keep)
    left = sorted(solutions & {defined for node in tree.body for defined in _defined(node)})
    if left:
        raise CourseError(f"{name}: {', '.join(left)} is a solution, and other code still uses it; a check must not.")
    return HEADER + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def strip_notebook(text: str) -> str:
    """A notebook without the cells tagged `solution`, and without the output of cells that call `solution(...)`."""
    notebook = json.loads(text)
    notebook["cells"] = [c for c in notebook["cells"] if "solution" not in c.get("metadata", {}).get("tags", [])]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "solution(" in "".join(cell["source"]):
            cell["outputs"], cell["execution_count"] = [], None
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _drop_unused(tree: ast.Module, freed: set[str], keep: set[str]) -> None:
    """Removes the freed definitions that nothing uses any more, then those that only they used, and so on."""
    while freed:
        used = set(keep)
        for node in tree.body:
            used |= _names(node) - _defined(node)
        dead = [n for n in tree.body if _defined(n) and _defined(n) <= freed and not _defined(n) & used]
        tree.body = [node for node in tree.body if node not in dead]
        freed = {name for node in dead for name in _names(node)}
    used = {name for node in tree.body for name in _names(node)} | keep
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in used]
    tree.body = [n for n in tree.body if not isinstance(n, (ast.Import, ast.ImportFrom)) or n.names]


def _without_answers(value: ast.expr, name: str) -> ast.expr:
    pairs = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
    if not pairs or not all(isinstance(p, ast.Tuple) and len(p.elts) == 2 for p in pairs):
        raise CourseError(f"{name}: write DISCUSSION as a tuple of (question, answer) pairs.")
    for pair in pairs:
        pair.elts[1] = ast.Constant("")
    return value


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _names(node: ast.AST) -> set[str]:
    """Names that a piece of code reads."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _defined(node: ast.stmt) -> set[str]:
    """Names that a top-level statement defines (imports are looked after apart)."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
