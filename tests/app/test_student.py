"""A student build judges as the course does, and holds nothing that would spoil an exercise."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mistune
import nbformat
import pytest

from nl_course.app import student
from nl_course.app.student import (
    add_command,
    build,
    strip_notebook,
    strip_source,
    without_dead_links,
    without_make,
)
from nl_course.errors import CourseError
from nl_course.exercises.framework.engine import chapters, discussion, exercises_of
from nl_course.exercises.framework.sealed import CHECKS, seal, sources_in, unseal
from nl_course.notebooks import all_notebooks

ALL = [e for chapter in chapters() for e in exercises_of(chapter)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("class") / "course")


def bodies(code):
    """The bodies of all functions in a piece of code, without docstrings, in a form that layout does not change."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a notebook cell with a line for the shell
        return set()
    definitions = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            if body:
                definitions.add("\n".join(ast.unparse(n) for n in body))
    return definitions


def everything_in(made):
    """(file, code) of every module, packed ones too, and of every notebook cell."""
    for path in sorted(made.rglob("*.py")):
        yield path, path.read_text("utf-8")
    for path in sorted(made.rglob(CHECKS)):
        for source in sources_in(path.parent).values():
            yield path, source
    for path in sorted(made.rglob("*.ipynb")):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            yield path, "".join(cell["source"])


def test_no_solution_is_anywhere_in_it(made):
    secret = {body: e.id for e in ALL for body in bodies(e.solution_source())}
    for path, code in everything_in(made):
        for body in bodies(code):
            assert body not in secret, f"{path.name} holds the solution of {secret[body]}"


def test_no_line_of_a_solution_or_wrong_answer_is_in_the_exercise_files(made):
    import inspect

    folders = sorted((made / "nl_course" / "exercises").glob("ex[0-9][0-9]"))
    text = "\n".join(source for folder in folders for source in sources_in(folder).values())
    assert all(repr(exercise.id) in text for exercise in ALL)  # all files are read
    lines = {line.strip() for line in ast.unparse(ast.parse(text)).splitlines()}
    for exercise in ALL:
        assert not any(w.reveals in text for w in exercise.wrong) and exercise.aim not in text
        for function in (exercise.solution, *(w.answer for w in exercise.wrong)):
            assert f"{function.__name__}(" not in text
        for line in ast.unparse(ast.parse(inspect.getsource(exercise.solution))).splitlines()[1:]:
            assert len(line.strip()) < 25 or line.strip() not in lines, f"{exercise.id}: {line.strip()}"


def test_no_answer_to_a_discussion_question_is_in_it(made):
    text = "\n".join(code for _, code in everything_in(made))
    for chapter in chapters():
        for question, answer in discussion(chapter):
            assert answer[:60] not in text
            core = sources_in(made / f"nl_course/exercises/ex{chapter:02d}")["core"]
            assert question[:60] in ast.unparse(ast.parse(core))


JUDGE = """
import json, sys, types
import nl_course
from nl_course.exercises.framework.engine import chapters, discussion, exercise, exercises_of
from nl_course import exercises
sys.dont_write_bytecode = True
report = {"where": nl_course.__file__, "verdicts": []}
report["said"] = [repr(exercises.solution(e.id)) for c in chapters() for e in exercises_of(c)]
for id, source, name in json.load(sys.stdin):
    module = types.ModuleType("answers")
    exec("import math, torch", module.__dict__)
    exec(source, module.__dict__)
    verdict = exercise(id).check(module.__dict__[name])
    report["verdicts"].append([verdict.status, verdict.fails])
report["empty"] = [[e.aim, e.wrong, e.solution] for c in chapters() for e in exercises_of(c)]
report["answers"] = [answer for c in chapters() for _, answer in discussion(c)]
print(json.dumps(report))
"""


@pytest.mark.slow
def test_it_judges_as_the_course_does(made, tmp_path):
    """In a process of its own: right answers pass, wrong ones fail the same property, stubs are not attempted."""
    submissions, expected = [], []
    for e in ALL:
        submissions.append([e.id, e.solution_source(), e.definition.name])
        expected.append(["passed", ""])
        submissions.append([e.id, e.stub, e.definition.name])
        expected.append(["empty", ""])
    # One wrong answer that stands alone (needs no helper of its file) goes along for each exercise.
    import inspect

    for e in ALL:
        for wrong in e.wrong:
            if wrong.answer.__name__ == "<lambda>":
                continue
            source = inspect.getsource(wrong.answer)
            if not any(
                n.id in vars(inspect.getmodule(wrong.answer))
                for n in ast.walk(ast.parse(source))
                if isinstance(n, ast.Name) and n.id not in ("torch", "math")
            ):
                submissions.append([e.id, source, wrong.answer.__name__])
                expected.append(["failed", wrong.fails])
                break
    assert len(submissions) >= 2.5 * len(ALL)
    ran = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input=json.dumps(submissions),
        cwd=made,
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": str(made),
            "PATH": "",
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["where"].startswith(str(made))
    assert report["verdicts"] == expected
    assert len(report["said"]) == len(ALL) and all("carries no solutions" in said for said in report["said"])
    assert all(part == ["", [], None] for part in report["empty"])
    assert report["answers"] and not any(report["answers"])


def test_what_it_holds(made):
    assert (made / "nl_course" / "memories" / "attention" / "attention.py").is_file()
    assert (made / "assets").is_dir() and (made / "pyproject.toml").is_file()
    assert not (made / "tests").exists() and not list(made.rglob("__pycache__"))
    assert [p.name for p in made.parent.iterdir()] == ["course"], "nothing is left beside it"


# ------------------------------------------------------------------------------------- what checks compare with
ORIGINALS = Path(student.nl_course.__file__).parent / "exercises"
MODULES = sorted(
    f"nl_course.exercises.{path.parent.name}.{path.stem}"
    for path in ORIGINALS.glob("ex[0-9][0-9]/*.py")
    if path.name != "__init__.py"
)

LOOK = """
import importlib, json, sys
from nl_course.exercises.framework.engine import chapters, exercises_of
count = sum(len(exercises_of(chapter)) for chapter in chapters())
found = []
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
        found.append(name)
    except ModuleNotFoundError:
        pass
inside = [name.split(".") for name in sys.modules if "nl_course.exercises" in name and name.count(".") > 2]
found += [".".join(words) for words in inside if words[2][:2] == "ex"]
for chapter in chapters():
    package = sys.modules[f"nl_course.exercises.ex{chapter:02d}"]
    found += [name for name in vars(package) if name[0] != "_" and name not in package.__all__ and name != "unseal"]
print(json.dumps([count, found]))
"""


def test_no_reference_of_a_check_can_be_imported(made):
    assert len(MODULES) > 20
    environment = {**os.environ, "PYTHONPATH": str(made), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", LOOK],
        input=json.dumps(MODULES),
        cwd=made,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [len(ALL), []]


def test_no_file_of_it_shows_how_a_check_is_done(made):
    folders = sorted((made / "nl_course" / "exercises").glob("ex[0-9][0-9]"))
    assert len(folders) == len(chapters())
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == ["__init__.py", CHECKS]
        assert "def " not in (folder / "__init__.py").read_text() + (folder / CHECKS).read_text()


def test_packing_twice_changes_nothing_and_damage_is_told(tmp_path):
    folder = tmp_path / "ex77"
    folder.mkdir()
    (folder / "__init__.py").write_text("from ex77.core import EXERCISES\n\n__all__ = ['EXERCISES']\n")
    (folder / "core.py").write_text("from ex77.more import TWO\nEXERCISES = (1, TWO)\n")
    (folder / "more.py").write_text("TWO = 2\n")
    seal(folder)
    packed = (folder / CHECKS).read_text()
    seal(folder)
    assert (folder / CHECKS).read_text() == packed and sorted(sources_in(folder)) == ["__init__", "core", "more"]
    (folder / CHECKS).write_text("no pack")
    with pytest.raises(CourseError, match=r"the checks in .*checks\.txt cannot be read"):
        unseal(str(folder / "__init__.py"), "ex77")


# -------------------------------------------------------------------------------------------- it can be started
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
fi
"""


def test_it_starts_as_its_readme_says(made, tmp_path):
    """Runs what `make lab` runs, with a Python that only writes down what it was asked for; checks every file."""
    copy = tmp_path / "course"
    ignore = shutil.ignore_patterns("assets", "notebooks", "nl_course")
    shutil.copytree(made, copy, ignore=ignore)
    assert "\nmake lab " in (copy / "README.md").read_text("utf-8")
    log = tmp_path / "asked.txt"
    python = tmp_path / "python3"
    python.write_text(FAKE_PYTHON.format(log=log))
    python.chmod(0o755)
    # Only the system's own tools: no npm, which would ask a server.
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "EXTRAS": "data"}
    # The flags of a `make test` around this one are not handed on: they would add lines of their own.
    alone = {"PATH": os.environ["PATH"]}
    asked = subprocess.run(["make", "-n", "lab"], cwd=copy, env=alone, capture_output=True, text=True)
    assert asked.returncode == 0 and "tools/environment.sh" in asked.stdout, asked.stderr
    assert asked.stdout.splitlines()[-1] == ".venv/bin/nl-course lab"
    ran = subprocess.run(["sh", "tools/environment.sh"], cwd=copy, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    installed = [line.split() for line in log.read_text().splitlines() if "pip install" in line]
    assert [words[-1] for words in installed] == ["constraints.txt"] * 2
    assert ["-e", ".[data]"] == installed[1][3:5]
    assert (copy / "constraints.txt").is_file() and (copy / ".venv/.ready").is_file()


def test_its_pyproject_and_environment_name_only_files_that_are_there(made):
    import tomllib

    project = tomllib.loads((made / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for name in (*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "constraints.txt"):
        assert (made / name).exists(), name


def links_in(text):
    """The targets of all links and pictures of a Markdown page."""
    found = []

    def walk(tokens):
        for token in tokens:
            if token["type"] in ("link", "image"):
                found.append(token["attrs"]["url"])
            walk(token.get("children", []))

    walk(mistune.create_markdown(renderer="ast", plugins=["table"])(text))
    return found


def test_every_link_and_every_make_command_of_its_pages_leads_somewhere(made):
    texts = [(path, path.read_text("utf-8")) for path in (*made.glob("*.md"), *made.glob("notebooks/*.md"))]
    for path in made.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts += [(path, "".join(cell["source"])) for cell in cells if cell["cell_type"] == "markdown"]
    links = [(path, link) for path, text in texts for link in links_in(text)]
    assert len(links) > 200
    for path, link in links:
        target = link.partition("#")[0]
        if target and not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {link}"
    readme = (made / "README.md").read_text("utf-8")
    targets = set(re.findall(r"(?m)^([a-z]+):", (made / "Makefile").read_text("utf-8")))
    assert "lab" in targets and set(re.findall(r"(?:^|`)make ([a-z]+)\b", readme, re.M)) <= targets
    assert student.FOR_A_CLASS in readme


def test_a_build_can_be_made_of_a_build(made, tmp_path):
    """Its copy of the program makes the same files again."""
    environment = {**os.environ, "PYTHONPATH": str(made), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "nl_course", "student", str(tmp_path / "again")]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for path in made.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(made)).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("see [here](here.md#part) and [there](no.md#part)", "see [here](here.md#part) and there"),
        ("[`test`](../tests/test_x.py), ![a picture](no.png)", "`test`, ![a picture](no.png)"),
        (
            "[site](https://example.org/x) [above](#above) net[1](z)",
            "[site](https://example.org/x) [above](#above) net[1](z)",
        ),
    ],
)
def test_dead_links_become_text(tmp_path, text, left):
    (tmp_path / "here.md").write_text("here")
    assert without_dead_links(text, tmp_path) == left


def test_commands_that_a_build_has_not_go_from_its_page():
    text = "```\nmake lab   # opens\nmake test  # tests\n```\nIt is quick (`make bench` says how). Call `make lab`.\n"
    text += "| `make gpu` | measures |\n| a | b |\n\nAs `make gpu`\nsays.\n\nMore.\n"
    left = "```\nmake lab   # opens\n```\nIt is quick. Call `make lab`.\n| a | b |\n\nMore.\n"
    assert without_make(text, {"lab"}) == left


# ------------------------------------------------------------------------------------------ taking things out

SOURCE = '''
"""Exercises."""
import math
import torch
from nl_course.exercises.framework.engine import Exercise, Wrong

# a comment that says the answer is 42
def reference(x): return torch.exp(x)
def helper(x): return math.exp(x)
def solution_1(x): return helper(x)
def wrong_1(x): return later(x) + 1
def later(x): return 7
FIRST = Exercise(id="1.1", title="t", task="t", stub="s", properties=(reference,), hints=("a", "b", "c"),
                 aim="teacher's aim", solution=solution_1, wrong=(Wrong(wrong_1, "reveals", "fails"),))
SHARED = 3
def solution_forgotten(x): return 1
DISCUSSION = (("Why?", "Because of the answer."),)
EXERCISES = (FIRST,)
'''


def test_what_only_a_solution_used_goes_and_what_checks_use_stays():
    left = strip_source(SOURCE, "ex01.py")
    for gone in ("42", "solution", "wrong", "helper", "later", "math", "Wrong", "aim", "Because", "reveals"):
        assert gone not in left.split("\n", 1)[1], gone
    for piece in ("reference", "import torch", "SHARED = 3", "Why?", "EXERCISES", "'c'"):
        assert piece in left, piece


def test_taking_out_twice_changes_nothing_more():
    once = strip_source(SOURCE, "ex01.py")
    assert strip_source(once, "ex01.py") == once


def test_names_that_other_files_import_stay():
    assert "def helper" in strip_source(SOURCE, "ex01.py", keep={"helper"})


def test_a_check_that_needs_its_solution_is_refused():
    leaning = SOURCE.replace("(reference,)", "(solution_1,)")
    with pytest.raises(CourseError, match=r"ex01\.py: solution_1 is a solution, and other code still uses it"):
        strip_source(leaning, "ex01.py")


@pytest.mark.parametrize("written", ["DISCUSSION = load()", 'DISCUSSION = ("Why?", "So.")'])
def test_a_discussion_that_cannot_be_read_is_refused(written):
    with pytest.raises(CourseError, match="question, answer"):
        strip_source(written, "ex01.py")


def test_positional_solutions_are_refused():
    with pytest.raises(CourseError, match="as keywords"):
        strip_source("E = Exercise(1, 2, 3, 4, 5, 6, 7, 8)", "ex01.py")


def test_notebooks_lose_solution_cells_and_printed_solutions():
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("Words", id="words"),
        new.new_code_cell("x = 1", id="first"),
        new.new_code_cell('solution("1.1")', id="printed"),
        new.new_code_cell("answer = 42", id="answer", metadata={"tags": ["solution"]}),
    ]
    for cell in cells[1:]:
        cell.update(execution_count=3, outputs=[new.new_output("stream", text="1")])
    left = nbformat.reads(strip_notebook(nbformat.writes(new.new_notebook(cells=cells))), as_version=4)
    nbformat.validate(left)
    assert [cell.source for cell in left.cells] == ["Words", "x = 1", 'solution("1.1")']
    assert [len(cell.outputs) for cell in left.cells[1:]] == [1, 0] and left.cells[2].execution_count is None


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_a_stripped_notebook_is_one_by_jupyters_own_rules(path):
    nbformat.validate(nbformat.reads(strip_notebook(path.read_text("utf-8")), as_version=4))


@pytest.mark.parametrize("inside", ["exercises/out", "out"])
def test_it_never_writes_into_the_package(inside):
    import nl_course

    with pytest.raises(CourseError, match="inside the course's own nl_course"):
        build(Path(nl_course.__file__).parent / inside)


def test_it_never_writes_over_something(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CourseError, match="exists already"):
        build(tmp_path)
    for inside in ("mine.txt", "mine.txt/course"):
        with pytest.raises(CourseError, match=r"mine\.txt is a file, not a folder"):
            build(tmp_path / inside)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(CourseError, match="is a link that leads nowhere"):
        build(tmp_path / "link")
    assert not (tmp_path / "gone").exists()


def test_an_empty_folder_that_somebody_stands_in_is_filled_and_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "_copy", lambda package, root, copy: (copy / "notebooks").mkdir(parents=True))
    monkeypatch.setattr(student, "_strip_exercises", lambda folder: None)
    monkeypatch.setattr(student, "_write_top", lambda copy: None)
    monkeypatch.setattr(student, "_unlink_what_is_missing", lambda copy: None)
    (tmp_path / "course").mkdir()
    before = (tmp_path / "course").stat().st_ino
    assert build(tmp_path / "course") == tmp_path / "course"
    assert (tmp_path / "course").stat().st_ino == before and (tmp_path / "course" / "notebooks").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["course"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(source, target, **options):
        raise shutil.Error([(str(source), str(target), "[Errno 28] No space left on device: 'b'")])

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(CourseError, match=r"could not be written to .*new: .*: \[Errno 28\] No space left on device"):
        build(tmp_path / "new")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_the_command(tmp_path, capsys):
    import argparse

    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    (tmp_path / "empty").mkdir()
    arguments = parser.parse_args(["student", str(tmp_path / "empty")])
    assert arguments.run(arguments) == 0
    assert "Student build written to" in capsys.readouterr().out
    assert (tmp_path / "empty" / "nl_course" / "exercises" / "ex01" / CHECKS).is_file()


def test_the_teachers_book_is_not_in_it_and_cannot_be_made_from_it(made, tmp_path):
    assert not list(made.rglob(".nl_course_teacher.json")) and not list(made.rglob("index.html"))
    environment = {**os.environ, "PYTHONPATH": str(made), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "nl_course", "teacher", str(tmp_path / "book")]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 2 and "made for a class and holds no answers" in ran.stderr, ran.stderr
    assert not (tmp_path / "book").exists()
