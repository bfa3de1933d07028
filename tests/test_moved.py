"""Import paths and commands of earlier versions still lead to the module that took their place."""

import pickle
import runpy
import subprocess
import sys

import pytest

from nl_course.errors import CourseError
from nl_course.memories import build_memory
from nl_course.moved import MOVED
from nl_course.training.runner import Plan

SPAWN = """
import multiprocessing
from nl_course.training_run import Plan  # the old path

def name_of(plan):
    from nl_course.run_table import Runs  # another one, first asked for in the new process
    return plan.name, Runs.__module__

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(name_of, (Plan(seed=3),)))
"""


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("nl_course.cli --version", 0, "nl-course 0."),
        ("nl_course.cli --help", 0, "usage: nl-course"),
        ("nl_course.cli trian", 2, "Did you mean 'train'"),
        ("nl_course --help", 0, "usage: nl-course"),
        ("nl_course.bench --help", 0, "usage: python -m nl_course.benches"),
        ("nl_course.benches --help", 0, "usage: python -m nl_course.benches"),
    ],
)
def test_commands_of_earlier_versions_run(command, code, words):
    ran = python("-m", *command.split())
    assert ran.returncode == code and words in ran.stdout + ran.stderr, ran.stderr


@pytest.mark.slow
def test_a_spawned_process_finds_old_paths(tmp_path):
    (tmp_path / "program.py").write_text(SPAWN)
    ran = python(str(tmp_path / "program.py"))
    assert ran.stdout == "('attention-small-text-seed-3', 'nl_course.training.run_table')\n", ran.stderr


def test_a_spawned_process_does_not_run_an_old_program_again():
    """What multiprocessing does in the new process of a program that was started as `python -m nl_course.cli`."""
    found = runpy.run_module("nl_course.cli", run_name="__mp_main__", alter_sys=True)
    assert callable(found["main"]) and found["__name__"] == "__mp_main__"


def test_a_pickle_that_names_an_old_module_is_read():
    plan = Plan("delta", steps=7)
    old = pickle.dumps(plan, protocol=0).replace(b"nl_course.training.runner", b"nl_course.training_run")
    assert b"nl_course.training_run" in old and pickle.loads(old) == plan


def test_what_is_gone_is_answered_in_one_line():
    with pytest.raises(ImportError, match=r"is now nl_course.app.cli, which has no 'nothing'"):
        from nl_course.cli import nothing  # noqa: F401


def test_no_old_name_hides_a_module():
    """And every successor is there to be imported; one that was renamed again would be a dead end."""
    from importlib.util import find_spec

    for old, successor in MOVED.items():
        spec = find_spec(f"nl_course.{successor}")
        assert spec is not None and spec.origin is not None, f"{old} -> {successor}"


@pytest.mark.parametrize("name", ["ttt-linear", "titans", "mac", "mag", "mal", "self-modifying"])
def test_settings_that_mean_nothing_any_more_are_refused(name):
    layer = build_memory(name, 8, 2)
    with pytest.raises(CourseError, match=r"cut = \{'memory'\} has no effect any more: use .*without="):
        layer.cut = {"memory"}
    with pytest.raises(CourseError, match=r"freeze = .* has no effect any more: use .*frozen="):
        layer.freeze = ("key",)
    assert not hasattr(layer, "cut")
    layer.note = "any other attribute may be set"
