"""pyproject.toml, constraints.txt, environment.yml, the Makefile and README agree; each fact has one home."""

import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import nl_course
from nl_course.app import cli
from tools import constraints

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LINES = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[:1] != "#"]
PINS = dict(line.split("==") for line in LINES)
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
LEAST, BEYOND = re.fullmatch(r">=(3\.\d+),<(3\.\d+)", PROJECT["requires-python"]).groups()
PYTHONS = [f"3.{minor}" for minor in range(int(LEAST[2:]), int(BEYOND[2:]))]
TARGETS = set(re.findall(r"(?m)^([a-z]+):", MAKEFILE))
README = (ROOT / "README.md").read_text("utf-8")
CI = (ROOT / ".ci/run").read_text("utf-8")


def test_constraints_are_plain_pins_that_any_platform_can_take():
    assert LINES[0].startswith("torch==")
    for line in LINES:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
        assert not line.startswith(constraints.OWN_PINS), line
    assert list(PINS)[1:] == sorted(PINS.keys() - {"torch"})


def test_pins_fit_the_least_python():
    least = f"{LEAST}.0"
    for name in constraints.installed(constraints.wanted()):
        wanted = metadata.metadata(name)["Requires-Python"]
        assert wanted is None or SpecifierSet(wanted).contains(least), f"{name} wants Python {wanted}"


@pytest.mark.parametrize("requirement", constraints.wanted(), ids=str)
def test_what_pyproject_asks_for_is_pinned_within_its_bounds(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_this_environment_is_the_one_that_constraints_describe():
    installed = constraints.installed(constraints.wanted())
    differ = {name: (version, PINS.get(name)) for name, version in installed.items() if PINS.get(name) != version}
    assert differ == {}, "installed, pinned; run `python -m tools.constraints` if you meant to change versions"


@pytest.mark.skipif(
    not (constraints.has_data() and constraints.has_tensorboard()), reason="the extras, pinned too, are not installed"
)
def test_pins_that_nothing_needs_do_not_linger():
    needed = set(constraints.installed(constraints.wanted())) | set(constraints.ELSEWHERE)
    assert set(PINS) - needed <= {"pexpect", "ptyprocess"}  # not on Windows


def test_conda_reads_the_same_files_and_states_no_version_of_its_own():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    assert dependencies == [
        f"python{PROJECT['requires-python']}",
        "pip",
        {"pip": ["-c constraints.txt", "-e .[test]"]},
    ]


def test_the_least_python_is_said_once():
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["target-version"]
    assert ruff == "py" + LEAST.replace(".", "")
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]} is all that must be there" in README
    assert "requires-python" in (ROOT / "tools/environment.sh").read_text("utf-8")
    tested = re.findall(r'python-version: "([\d.]+)"', (ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert tested and all(SpecifierSet(PROJECT["requires-python"]).contains(version) for version in tested)
    assert PROJECT["dynamic"] == ["version"] and re.fullmatch(r"\d+\.\d+\.\d+", nl_course.__version__)


def test_the_makefile_has_what_is_promised():
    assert {"lab", "test", "fast", "portable", "notebooks", "shots", "bench", "peers", "help"} <= TARGETS
    phony = re.search(r"(?m)^\.PHONY: (.*)$", MAKEFILE).group(1).split()
    assert set(phony) == TARGETS
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert set(re.findall(r"(?m)^make (\w+)", listed)) == TARGETS - {"lint"}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ROOMS.md", ".ci/run", ".github/workflows/ci.yml"])
def test_every_make_command_in_the_pages_exists(page):
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"(?s)```.*?```|`[^`\n]+`", text) if page.endswith(".md") else [text]
    commands = {name for block in blocks for name in re.findall(r"(?m)(?:^|[`\s])make ([a-z]+)\b", block)}
    assert commands <= TARGETS, commands - TARGETS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ROOMS.md"])
def test_every_command_line_in_the_pages_is_understood(page):
    text = (ROOT / page).read_text("utf-8")
    pieces = re.findall(r"(?s)```\w*\n(.*?)```|`([^`\n]+)`", text)
    lines = [line for piece in pieces for line in "".join(piece).splitlines()]
    calls = re.findall(r"(?:nl-course|-m nl_course) +([a-z].*)", "\n".join(lines))
    assert calls
    for call in calls:
        command, *options = re.sub(r"[\[\]]", " ", call).split()
        assert command in cli.COMMANDS, call
        parsers = cli.build_parser(command)._subparsers._group_actions[0].choices
        wrong = {word for word in options if word.startswith("--")} - set(parsers[command]._option_string_actions)
        assert not wrong, call


def test_ci_runs_the_readmes_commands_with_the_browser_required():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert CI.index("NL_COURSE_REQUIRE_BROWSER=1") < CI.index("\nmake test") < CI.index("\nmake peers")
    assert "\nmake portable ONLY=notebooks\n" in CI
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    portable = workflow["jobs"]["portable"]
    assert portable["runs-on"] == "ubuntu-latest"
    assert [step["run"] for step in portable["steps"] if "run" in step] == ["make portable"]


@pytest.mark.parametrize("script", [".ci/run", "tools/environment.sh", "tools/peers.sh"])
def test_scripts_are_plain_sh(script):
    checked = subprocess.run(["sh", "-n", script], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def program(folder, name, lines):
    """A program of that name, which stands in for a real one."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def environment_sh(folder, python):
    """tools/environment.sh in a folder that has pyproject.toml and no more, where it can harm nothing."""
    (folder / "tools").mkdir()
    for name in ("tools/environment.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    environment = {**os.environ, "PYTHON": str(python), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", "tools/environment.sh"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_an_old_python_gets_one_clear_line(tmp_path):
    old = program(tmp_path, "python2", '[ "$1" = --version ] && echo "Python 2.7.18"\nexit 1')
    ran = environment_sh(tmp_path, old)
    assert ran.returncode == 1
    assert "needs Python 3.11 or newer, older than 3.15; found: Python 2.7.18." in ran.stderr


@pytest.mark.parametrize(("version", "fits"), [("3, 10", False), ("3, 11", True), ("3, 14", True), ("3, 15", False)])
def test_the_pythons_that_pyproject_allows_are_taken(tmp_path, version, fits):
    lines = f"""case "$2" in
        *version_info*) exec "{sys.executable}" -c "$(echo "$2" | sed 's/sys.version_info/({version}, 1)/')" ;;
    esac
    exit 1"""
    ran = environment_sh(tmp_path, program(tmp_path, "python", lines))
    assert ran.returncode == 1 and ("cannot make environments" in ran.stderr) == fits, ran.stderr


def test_an_old_mac_gets_one_clear_line(tmp_path):
    program(tmp_path, "uname", '[ "$1" = -m ] && echo arm64 || echo Darwin')
    program(tmp_path, "sw_vers", "echo 13.6.1")
    ran = environment_sh(tmp_path, sys.executable)
    assert ran.returncode == 1 and "PyTorch needs macOS 14 or newer; this is macOS 13.6.1." in ran.stderr


def test_the_readmes_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"(?s)```python\n(.*?)```", README)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_requirements_stand_in_pyproject_only():
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert len(names) == len(PROJECT["dependencies"])
    elsewhere = [*ROOT.glob("*requirements*.txt"), *ROOT.glob("setup.*")]
    assert elsewhere == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The files of a wheel, as pyproject.toml lists them, in a folder of their own."""
    site = tmp_path_factory.mktemp("site")
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in wheel["force-include"].items():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, site / target)
            continue
        (site / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, site / target)
    return site


def test_an_installed_course_is_opened_as_a_copy_at_home_and_stays_as_it_is(installed, tmp_path):
    def state():
        return {path: path.stat().st_mtime_ns for path in installed.rglob("*") if "__pycache__" not in path.parts}

    before = state()
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "NL_COURSE_CACHE": str(tmp_path / "cache")}
    environment = {**os.environ, **home, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    lines = "import sys; from nl_course.app import cli, lab; cli.main(['lab', '--no-start']); "
    lines += "print(*lab.command_line(lab.own_copy())[0], sep='\\n')"
    start = [sys.executable, "-c", lines]
    ran = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert f"--ServerApp.root_dir={tmp_path / 'nested-learning'}\n" in ran.stdout
    assert (tmp_path / "nested-learning/notebooks/00_start_here.ipynb").is_file()
    assert before and state() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "train --preset micro --steps 1 --batch-size 2 --length 16 --device cpu --text own.txt --out r",
            "done after 1",
        ),
        ("doctor", "ready for the course"),
        ("lab --no-start --copy mine", "Added: 00_start_here.ipynb"),
        ("student class", "Student build written to"),
        ("record live-needle --quick --assets made", "wrote made/runs/05-live-training.json"),
        ("record scaling --quick --assets made", "wrote made/runs/scaling.json"),
        ("teacher book", "pages for the teacher, with all answers; open"),
    ],
)
def test_what_a_wheel_holds_runs_without_the_checkout(installed, tmp_path, command, words):
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "nl_course"]
    ran = subprocess.run([*start, *command.split()], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and words in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_wheel_makes_the_same_student_build_as_a_checkout(installed, tmp_path):
    for name, package in (("wheel", installed), ("checkout", ROOT)):
        environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "nl_course", "student", str(tmp_path / name)]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    for one, other in (("wheel", "checkout"), ("checkout", "wheel")):
        for path in (tmp_path / one).rglob("*"):
            twin = tmp_path / other / path.relative_to(tmp_path / one)
            assert path.is_dir() or twin.read_bytes() == path.read_bytes(), path
