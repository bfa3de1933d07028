"""A test of the tests: each careless edit in mutants.toml must turn red the tests that are named for it.

Three of them are tried each time, others after every commit. `make mutants` tries all; to try some, name them in
NL_COURSE_MUTANTS, separated by commas.
"""

import ast
import os
import subprocess
from collections import Counter

import pytest

from nl_course.memories import MEMORIES
from tests.mutants.mutate import ROOT, Mutant, all_mutants, copy_package, run_tests

MUTANTS = all_mutants()
AT_ONCE = 3
KINDS = ("value", "gradient", "state", "cut")

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


def chosen() -> list[Mutant]:
    """Which mutants are tried now: those that NL_COURSE_MUTANTS asks for, or three that the commit picks."""
    asked = os.environ.get("NL_COURSE_MUTANTS", "")
    if asked == "all":
        return MUTANTS
    if asked:
        names = [name.strip() for name in asked.split(",")]
        unknown = set(names) - {mutant.name for mutant in MUTANTS}
        assert not unknown, f"NL_COURSE_MUTANTS names mutants that there are not: {', '.join(sorted(unknown))}"
        return [mutant for mutant in MUTANTS if mutant.name in names]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    first = int(commit[:8] or "0", 16)
    return [MUTANTS[(first + i * len(MUTANTS) // AT_ONCE) % len(MUTANTS)] for i in range(AT_ONCE)]


CHOSEN = chosen()


# -- the list ----------------------------------------------------------------------------------------------------------
def test_every_memory_and_every_kind_of_fault_has_mutants():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert {mutant.kind for mutant in MUTANTS} == set(KINDS)
    assert set(MEMORIES) <= {mutant.of for mutant in MUTANTS}, "a memory without a mutant: write one"
    kinds = Counter(mutant.kind for mutant in MUTANTS)
    assert kinds["gradient"] + kinds["state"] + kinds["cut"] >= 8


@every_mutant
def test_no_mutant_is_stale(mutant):
    assert mutant.places() == 1, (
        f"the mutant {mutant.name} is stale: nl_course/{mutant.file} has its old line {mutant.places()} times, not "
        "once. The code has moved on: write the same mistake for the new line into tests/mutants/mutants.toml and run "
        f"NL_COURSE_MUTANTS={mutant.name} pytest tests/mutants; or delete it if the mistake can no longer be made."
    )
    ast.parse(mutant.mutated())
    assert mutant.red, f"{mutant.name} names no test that must be red"


# -- the mutants -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_unmutated_the_named_tests_pass(tmp_path):
    copy_package(tmp_path)
    named = dict.fromkeys(test for mutant in CHOSEN for test in mutant.red)
    outcome = run_tests(tmp_path, list(named), seconds=900)
    assert outcome.code == 0, outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("mutant", CHOSEN, ids=lambda mutant: mutant.name)
def test_the_named_tests_are_red_under(mutant, tmp_path):
    copy_package(tmp_path, mutant)
    outcome = run_tests(tmp_path, mutant.red, "--maxfail=1")
    assert outcome.code != 0, (
        f"{mutant.name} survives: {', '.join(mutant.red)} pass with `{mutant.new}` in nl_course/{mutant.file}. "
        f"What nobody would notice: {mutant.why} Write a test that sees it."
    )
    # Only a test that ran and failed counts: no error while tests are collected or set up, no test that there is not.
    assert outcome.code == 1 and outcome.failed, outcome.output
    assert outcome.failed[0].startswith(mutant.red), outcome.failed


# -- the test of the tests, tested -------------------------------------------------------------------------------------
def example(old: str, new: str) -> Mutant:
    return Mutant("example", "model", "value", "errors.py", old, new, "", ("tests/test_errors.py",))


def test_a_line_is_found_with_its_indentation_and_a_comment_behind_it(tmp_path, monkeypatch):
    (tmp_path / "nl_course").mkdir()
    monkeypatch.setattr("tests.mutants.mutate.ROOT", tmp_path)
    (tmp_path / "nl_course" / "errors.py").write_text("def f(x):\n    y = x + 1  # one more\n    return y\n")
    mutant = example("y = x + 1", r"y = x + 1 - ord('\n')")
    assert mutant.places() == 1
    assert mutant.mutated() == "def f(x):\n    y = x + 1 - ord('\\n')\n    return y\n"
    assert example("x + 1", "x").places() == 0, "part of a line is no line"
    assert example("y = x + 1\n    return y", "return x").places() == 0, "a comment stands in between"
    assert Mutant("gone", "model", "value", "gone.py", "a", "b", "").places() == 0
