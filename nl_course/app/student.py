"""A copy of the course for a class: every check and hint works, and no solution is in it.

    nl-course student FOLDER

Left out of each file under `exercises/exNN/`: solutions, typical wrong answers, aims, the answers to discussion
questions, the functions that only these used, and all comments. What remains of these files is packed, so that the
reference that a check compares with cannot be imported (see `exercises/framework/sealed.py`). Left out of the
notebooks: cells tagged `solution`, and what a cell that asks for a solution had printed. Tests and tools are not copied
either; links to them become plain text, and the Makefile keeps what starts the course. Checks never call a solution, so
they judge as before.

The build is a course of its own: `make lab` in it makes its environment and opens it. That holds for a build made by an
installed wheel, too, which carries the files for it.
"""

import argparse
import ast
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import nl_course
from nl_course.errors import DONE, CourseError
from nl_course.files import check_folder, course_root, reason

TEACHERS_PART = ("aim", "solution", "wrong")  # keywords of an Exercise that a student build leaves out
EXERCISE_POSITIONS = 6  # arguments of an Exercise before the first of these
TOP_FILES = (
    ".gitignore",
    "README.md",
    "ROOMS.md",
    "LICENSE",
    "CITATION.cff",
    "pyproject.toml",
    "constraints.txt",
    "environment.yml",
    "tools/environment.sh",
)
IN_A_WHEEL = "class"  # the folder of an installed course that holds TOP_FILES; in a checkout they stand at its top
MAKEFILE = """\
# `make lab` opens the course. `make help` lists the rest.
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help lab export

help: ## list what there is to make
\t@sed -n 's/^\\([a-z]*\\):.*## \\(.*\\)/make \\1\\t\\2/p' Makefile

lab: $(READY) ## make the environment if need be, and open the course
\t$(BIN)/nl-course lab

export: $(READY) ## the whole course as static pages and slides, in site/
\t$(BIN)/nl-course export site

$(READY): pyproject.toml constraints.txt tools/environment.sh
\t@PYTHON="$(PYTHON)" TORCH_FLAGS="$(TORCH_FLAGS)" sh tools/environment.sh
"""
FOR_A_CLASS = "This copy was made for a class. Checks and hints work; the solutions are with the teacher.\n"
HEADER = "# Part of a student build: solutions, usual wrong answers, aims and discussion answers were left out.\n"


def build(folder: str | os.PathLike) -> Path:
    """Writes the student build into `folder`, which must not exist yet or be empty, and returns its path.

    The copy is made beside it and moved into place at the end: a failure leaves nothing behind. Raises CourseError for
    a folder that holds something, lies inside the course, or cannot be written.
    """
    folder = check_folder(Path(folder).expanduser(), "the student build's folder").resolve()
    package = Path(nl_course.__file__).resolve().parent
    root = course_root().resolve()
    for source in (package, root / "assets", root / "notebooks"):
        if folder.is_relative_to(source):
            raise CourseError(
                f"a student build cannot stand inside the course's own {source.name}/; choose another folder."
            )
    try:
        if folder.exists() and any(folder.iterdir()):
            raise CourseError(f"{folder} exists already; give a folder that does not exist yet, or an empty one.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            copy = Path(temporary) / "course"
            _copy(package, root, copy)
            _strip_exercises(copy / "nl_course" / "exercises")
            for notebook in sorted((copy / "notebooks").glob("*.ipynb")):
                notebook.write_text(strip_notebook(notebook.read_text("utf-8")), "utf-8")
            _write_top(copy)
            _unlink_what_is_missing(copy)
            _move(copy, folder)
    except OSError as error:
        raise CourseError(f"the student build could not be written to {folder}: {reason(error)}.") from error
    return folder


def _move(copy: Path, folder: Path) -> None:
    """Moves the finished copy into place: a folder that is there, and empty, stays the very folder that it is, since
    somebody may stand in it."""
    if not folder.exists():
        copy.rename(folder)
        return
    for path in sorted(copy.iterdir()):
        path.rename(folder / path.name)


def add_command(commands: argparse._SubParsersAction) -> None:
    """Adds `student FOLDER` to the command line."""
    parser = commands.add_parser("student", help="copy the course for a class, without its solutions")
    parser.add_argument("folder", help="where the copy goes: a folder that does not exist yet")
    parser.set_defaults(run=run_student)


def run_student(arguments: argparse.Namespace) -> int:
    """The command itself; returns the exit code."""
    print(f"Student build written to {build(arguments.folder)}")
    return DONE


def _copy(package: Path, root: Path, copy: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_course")
    shutil.copytree(package, copy / "nl_course", ignore=ignore)
    for name in ("assets", "notebooks"):
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=ignore)
    top = root / IN_A_WHEEL if (root / IN_A_WHEEL).is_dir() else root
    for name in TOP_FILES:
        if not (top / name).is_file():
            raise CourseError(f"the course's file {name} is missing at {top / name}; restore it from the repository.")
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy2(top / name, copy / name)


def _write_top(copy: Path) -> None:
    """Writes the build's own Makefile and README."""
    (copy / "Makefile").write_text(MAKEFILE, "utf-8")
    readme = copy / "README.md"
    text = readme.read_text("utf-8")
    if FOR_A_CLASS not in text:
        title, rest = text.split("\n", 1)
        text = f"{title}\n\n{FOR_A_CLASS}{rest}"
    kept = set(re.findall(r"(?m)^([a-z]+):", MAKEFILE))
    readme.write_text(without_make(text, kept), "utf-8")


def without_make(text: str, kept: set[str]) -> str:
    """A page without the commands `make NAME` of names that are not `kept`: lines and rows of a table that
    begin with one, remarks in brackets that begin with one, and any other paragraph that speaks of one."""

    def keep(match: re.Match) -> str:
        """The whole command where its name is kept, else nothing."""
        return match[0] if match["name"] in kept else ""

    for line in (r"make (?P<name>[a-z]+)\b.*", r"\| `make (?P<name>[a-z]+)\b.*"):
        text = re.sub(rf"(?m)^{line}\n", keep, text)
    text = re.sub(r" \(`make (?P<name>[a-z]+)`[^()\n]*\)", keep, text)
    paragraphs = text.split("\n\n")
    return "\n\n".join(part for part in paragraphs if set(re.findall(r"`make ([a-z]+)\b", part)) <= kept)


def _unlink_what_is_missing(copy: Path) -> None:
    """Turns links to files that the build does not have into plain text, in its pages and in its notebooks' text."""
    for page in (copy / "README.md", copy / "ROOMS.md", *sorted((copy / "notebooks").glob("*.md"))):
        page.write_text(without_dead_links(page.read_text("utf-8"), page.parent), "utf-8")
    for path in sorted((copy / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text("utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = without_dead_links("".join(cell["source"]), path.parent)
                cell["source"] = text.splitlines(keepends=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


def without_dead_links(text: str, folder: Path) -> str:
    """A Markdown page that stands in `folder`, with plain text in place of each link to a file that is not there.
    Pictures, addresses and links within the page stay."""

    def plain_if_dead(match: re.Match) -> str:
        """The link itself, or its text alone."""
        target = match["target"].partition("#")[0]
        is_elsewhere = re.match(r"[a-z]+:", target) is not None
        if not target or is_elsewhere or (folder / target).exists():
            return match[0]
        return match["text"]

    return re.sub(r"(?<![!\w\]])\[(?P<text>[^\[\]\n]+)\]\((?P<target>[^()\s]+)\)", plain_if_dead, text)


def _strip_exercises(folder: Path) -> None:
    """Strips every exercise file under `folder` in place, and packs what is left."""
    # Here, since it brings torch along, for which the command line does not wait.
    from nl_course.exercises.framework.sealed import seal

    files = sorted(folder.glob("ex[0-9][0-9]/*.py"))
    modules = {path: f"nl_course.exercises.{path.parent.name}.{path.stem}" for path in files}
    # Names that one exercise file takes from another must stay, even where its own file no longer uses them.
    imported: dict[str, set[str]] = {module: set() for module in modules.values()}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in imported:
                imported[node.module] |= {alias.name for alias in node.names}
    for path in files:
        if path.name == "__init__.py":
            continue
        source = strip_source(path.read_text("utf-8"), path.name, imported[modules[path]])
        path.write_text(source, "utf-8")
    for chapter in sorted(folder.glob("ex[0-9][0-9]")):
        seal(chapter)


def strip_source(source: str, name: str, keep: set[str] = frozenset()) -> str:
    """The source of an exercise file without the teacher's part. `keep` names what other files import from it.

    Raises CourseError if a solution is still used afterwards: a check must not need it.
    """
    tree = ast.parse(source)
    solutions: set[str] = set()
    freed: set[str] = set()  # names that the teacher's part used; what else uses none of them is left out too
    exercises = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) == "Exercise"]
    for call in exercises:
        # What is not a keyword cannot be recognized as the teacher's.
        unpacks_keywords = any(keyword.arg is None for keyword in call.keywords)
        if len(call.args) > EXERCISE_POSITIONS or unpacks_keywords:
            raise CourseError(f"{name}: write {', '.join(TEACHERS_PART)} of an Exercise as keywords.")
        remaining = []
        for keyword in call.keywords:
            if keyword.arg not in TEACHERS_PART:
                remaining.append(keyword)
                continue
            freed |= _names(keyword.value)
            if keyword.arg == "solution" and isinstance(keyword.value, ast.Name):
                solutions.add(keyword.value.id)
        call.keywords = remaining
    for node in tree.body:
        if isinstance(node, ast.Assign) and _defined(node) == {"DISCUSSION"}:
            node.value = _without_answers(node.value, name)
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("solution", "wrong")):
            freed.add(node.name)
    _drop_unused(tree, freed, keep)
    still_defined = set().union(*(_defined(node) for node in tree.body))
    left = sorted(solutions & still_defined)
    if left:
        raise CourseError(f"{name}: {', '.join(left)} is a solution, and other code still uses it; a check must not.")
    return HEADER + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def strip_notebook(text: str) -> str:
    """A notebook without the cells tagged `solution`, and without the output of cells that call `solution(...)`."""
    notebook = json.loads(text)
    cells = []
    for cell in notebook["cells"]:
        if "solution" in cell.get("metadata", {}).get("tags", []):
            continue
        if cell["cell_type"] == "code" and "solution(" in "".join(cell["source"]):
            cell["outputs"] = []
            cell["execution_count"] = None
        cells.append(cell)
    notebook["cells"] = cells
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _drop_unused(tree: ast.Module, freed: set[str], keep: set[str]) -> None:
    """Removes the freed definitions that nothing uses any more, then those that only they used, and so on; at last the
    imports that nothing uses."""
    while freed:
        used = set(keep)
        for node in tree.body:
            used |= _names(node) - _defined(node)  # a function that only calls itself is not in use
        remaining = []
        freed_next: set[str] = set()
        for node in tree.body:
            defined = _defined(node)
            if defined and defined <= freed and not defined & used:
                freed_next |= _names(node)
            else:
                remaining.append(node)
        tree.body = remaining
        freed = freed_next
    used = set(keep)
    for node in tree.body:
        used |= _names(node)
    remaining = []
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) in used]
            if not node.names:
                continue
        remaining.append(node)
    tree.body = remaining


def _without_answers(value: ast.expr, name: str) -> ast.expr:
    """The (question, answer) pairs of a DISCUSSION, with empty answers.

    Raises CourseError if it is written in another way.
    """
    pairs = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
    if not pairs or not all(isinstance(pair, ast.Tuple) and len(pair.elts) == 2 for pair in pairs):
        raise CourseError(f"{name}: write DISCUSSION as a tuple of (question, answer) pairs.")
    for pair in pairs:
        pair.elts[1] = ast.Constant("")
    return value


def _called(call: ast.Call) -> str:
    """The name of the function that is called, without the module before it."""
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _names(node: ast.AST) -> set[str]:
    """Names that a piece of code reads."""
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _defined(node: ast.stmt) -> set[str]:
    """Names that a top-level statement defines (imports are treated apart)."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return set().union(*(_names(target) for target in targets))
