"""What a fork lives by: workflows, the development container, hooks before commits, templates of issues, and groups."""

import json
import re
import shlex
import tomllib

import pytest
import yaml

from tests.test_packaging import MAKEFILE, PINS, PROJECT, PYTHONS, README, ROOT, TARGETS

# YAML 1.1 reads the key `on` as true; GitHub does not.
WORKFLOWS = {path.name: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github/workflows").glob("*.yml")}
CI = WORKFLOWS["ci.yml"]
NEWEST = WORKFLOWS["newest.yml"]


def commands(job):
    """The lines that a job runs."""
    return [step["run"] for step in job["steps"] if "run" in step]


def python_versions(job):
    """The versions of Python that a job sets up."""
    (asked,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    return job["strategy"]["matrix"]["python"] if "matrix" in asked else [asked]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_reads_only_ends_in_time_and_gives_way_to_a_later_run_of_its_own(name):
    workflow = WORKFLOWS[name]
    assert "concurrency" in workflow
    for job in workflow["jobs"].values():
        assert {"contents": "read"} == {**workflow["permissions"], **job.get("permissions", {})} or name == "pages.yml"
        assert job["timeout-minutes"] <= 90


def test_a_push_to_a_pull_request_is_tested_once():
    events = CI[True]
    assert events["push"] == {"branches": ["main"]} and "pull_request" in events
    assert CI["concurrency"]["group"] == "tests-${{ github.ref }}"


def test_every_python_that_the_course_allows_is_tested():
    tested = {version for job in CI["jobs"].values() for version in python_versions(job)}
    assert sorted(tested) == PYTHONS
    assert python_versions(NEWEST["jobs"]["newest"]) == PYTHONS[-1:]
    classifiers = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
    assert classifiers == PYTHONS


def test_every_system_that_the_readme_names_is_tested():
    jobs = CI["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    assert commands(jobs["test"]) == [".ci/run"]
    assert jobs["windows"]["runs-on"] == "windows-latest" and jobs["windows"]["defaults"] == {"run": {"shell": "cmd"}}
    assert jobs["portable"]["runs-on"] == jobs["versions"]["runs-on"] == "ubuntu-latest"
    assert commands(jobs["portable"]) == ["make portable"] and commands(jobs["versions"]) == ["make fast"]


def test_windows_is_installed_by_the_readmes_own_lines():
    block = re.search(r"(?s)\*\*Windows without make\*\*.*?```\n(.*?)```", README)[1]
    lines = [part.strip() for line in block.splitlines() for part in line.split(" & ")]
    assert lines[-1] == r".venv\Scripts\nl-course lab"
    lines = [line.replace("py -3 ", "python ") for line in lines]
    assert commands(CI["jobs"]["windows"])[: len(lines)] == [*lines[:-1], f"{lines[-1]} --no-start"]
    assert f"torch=={PINS['torch']}" in block


def test_downloads_are_kept_until_the_pins_change():
    for job in CI["jobs"].values():
        (setup,) = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
        assert (setup["cache"], setup["cache-dependency-path"]) == ("pip", "constraints.txt")


def test_the_newest_versions_are_tried_weekly_without_the_pins():
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", NEWEST[True]["schedule"][0]["cron"])
    lines = commands(NEWEST["jobs"]["newest"])
    assert "--upgrade-strategy eager" in lines[0] and not any("constraints" in line for line in lines)
    assert NEWEST["jobs"]["newest"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]


@pytest.mark.parametrize("workflow", [CI, NEWEST], ids=["ci", "newest"])
def test_what_the_workflows_test_is_there(workflow):
    for job in workflow["jobs"].values():
        for line in commands(job):
            words = line.split() if "\\" in line else shlex.split(line)
            named = [word.removeprefix("--ignore=") for word in words]
            missing = [word for word in named if word.startswith("tests/") and not (ROOT / word).exists()]
            assert not missing, missing


def test_dependency_groups_say_nothing_that_extras_do_not():
    """`uv sync` and `pip install --group` read the groups; versions stand in constraints.txt alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    assert groups["dev"] == [f"nl-course[{','.join(sorted(extras))}]"]
    assert set(groups["lint"]) <= set(extras["test"]) and all(line.startswith("ruff") for line in groups["lint"])
    assert set(groups) == {"dev", "lint"}


def test_hooks_before_commits_run_the_pinned_linter_as_make_lint_does():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert local["repo"] == "local"
    lint = re.search(r"(?m)^lint:.*\n((?:\t.*\n)+)", MAKEFILE)[1]
    for hook in local["hooks"]:
        assert hook["additional_dependencies"] == [f"ruff=={PINS['ruff']}"]
        words = hook["entry"].split()
        assert f"/{' '.join(words[:2])} " in lint and words[2:] == ["--force-exclude"]
    assert len(local["hooks"]) == lint.count("ruff")


def test_the_development_container_installs_as_make_does():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    assert re.fullmatch(r"python:(3\.\d+)-\w+", container["image"])[1] in PYTHONS
    assert container["postCreateCommand"].startswith("sh tools/environment.sh && .venv/bin/nl-course lab ")
    assert "sh tools/environment.sh" in MAKEFILE and "lab" in TARGETS


def test_issue_templates_ask_for_what_they_need():
    folder = ROOT / ".github/ISSUE_TEMPLATE"
    forms = [yaml.safe_load(path.read_text("utf-8")) for path in folder.glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for form in forms:
        assert form["name"] and form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)
        assert {field["type"] for field in form["body"]} <= {"input", "textarea"}
        assert all(field["attributes"]["label"] for field in form["body"])
    assert yaml.safe_load((folder / "config.yml").read_text("utf-8")) == {"blank_issues_enabled": True}
