"""A wheelhouse installs what it holds without a network, and touches no folder of somebody else's."""

import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from nl_course.app import wheelhouse
from nl_course.app.cli import main
from nl_course.errors import CourseError

# A build backend in a dozen lines: it writes the wheel of the stand-in course.
BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "nl_course-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as file:
        file.write("course.py", "course.py")
        info = "nl_course-9.9.9.dist-info"
        lines = ["Metadata-Version: 2.1", "Name: nl-course", "Version: 9.9.9", "Requires-Dist: torch>=2",
                 "Provides-Extra: data", "Requires-Dist: corpora; extra == 'data'"]
        file.writestr(f"{info}/METADATA", "\\n".join(lines) + "\\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr(f"{info}/RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = ["standin-backend"]
build-backend = "standin_backend"
[project]
name = "nl-course"
version = "9.9.9"
dependencies = ["torch>=2"]
optional-dependencies = { data = ["corpora"] }
"""


def write_wheel(folder, name, version, source=""):
    """A pure wheel with one module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}.py", source)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one module, with pins and a build backend of its own."""
    root = tmp_path / "course"
    root.mkdir()
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "constraints.txt").write_text("torch==2.13.0\ncorpora==1.0\n")
    (root / "course.py").write_text("answer = 42\n")
    monkeypatch.setattr(wheelhouse, "course_root", lambda: root)
    return root


@pytest.fixture
def calls(monkeypatch):
    """pip's command lines, none of which is run."""
    made = []
    monkeypatch.setattr(subprocess, "run", lambda command, cwd: made.append(command) or SimpleNamespace(returncode=0))
    return made


@pytest.mark.slow
def test_what_pip_collects_is_installed_and_built_again_from_the_folder_alone(course, tmp_path, monkeypatch, capfd):
    shop = tmp_path / "shop"
    shop.mkdir()
    for name, version in (("torch", "2.13.0"), ("torch", "2.14.0"), ("corpora", "1.0"), ("editables", "1.0")):
        write_wheel(shop, name, version)
    write_wheel(shop, "standin-backend", "1.0", BACKEND)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    house = tmp_path / "a house"
    assert main(["wheelhouse", str(house)]) == 0
    names = ["corpora-1.0", "editables-1.0", "nl_course-9.9.9", "standin_backend-1.0", "torch-2.13.0"]
    assert sorted(path.stem.removesuffix("-py3-none-any") for path in house.glob("*.whl")) == names
    said = capfd.readouterr().out
    assert f"{house} holds 5 wheels" in said and f'--no-index --find-links "{house}"' in said
    assert wheelhouse.machine() in (house / "README.txt").read_text()

    monkeypatch.delenv("PIP_FIND_LINKS")
    line = wheelhouse.install_line(".").split()[1:]
    installed = [sys.executable, "-m", "pip", *line, "--target", str(tmp_path / "installed")]
    subprocess.run(installed, cwd=house, check=True, capture_output=True)
    assert (tmp_path / "installed" / "course.py").read_text() == "answer = 42\n"
    (course / "course.py").write_text("answer = 43\n")
    assert main(["wheelhouse", str(house)]) == 0, "the shop is closed, and the folder has the build backend"
    with zipfile.ZipFile(house / "nl_course-9.9.9-py3-none-any.whl") as wheel:
        assert wheel.read("course.py") == b"answer = 43\n"


def test_pip_is_asked_for_all_extras_the_build_backend_and_torch_from_where_it_is_told(course, tmp_path, calls):
    wheelhouse.collect(tmp_path / "house", torch_index="https://example.org/cpu")
    first, second = (call[call.index("--wheel-dir") :] for call in calls)
    pins = ["--wheel-dir", str(tmp_path / "house"), "-c", str(course / "constraints.txt")]
    assert first == [*pins, "--no-deps", "--index-url", "https://example.org/cpu", "torch"]
    found = ["--find-links", str(tmp_path / "house")]
    assert second == [*pins, *found, f"{course}[data]", "standin-backend", "editables"]
    calls.clear()
    wheelhouse.collect(tmp_path / "house")
    assert len(calls) == 1


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(course, tmp_path, calls):
    house = tmp_path / "house"
    house.mkdir()
    (house / "theirs-1.0-py3-none-any.whl").write_bytes(b"theirs")
    with pytest.raises(CourseError, match=r"holds 'theirs-1\.0-py3-none-any\.whl', which is no part of a wheelhouse"):
        wheelhouse.collect(house)
    (house / "README.txt").write_text("notes of mine")
    with pytest.raises(CourseError, match=r"holds 'README\.txt'"):
        wheelhouse.collect(house)
    assert (house / "README.txt").read_text() == "notes of mine" and calls == []
    made = tmp_path / "made"
    wheelhouse.collect(made)
    (made / "notes.txt").write_text("mine")
    with pytest.raises(CourseError, match=r"holds 'notes\.txt'"):
        wheelhouse.collect(made)
    assert len(calls) == 1


def test_a_folder_that_was_broken_off_says_so_and_is_gone_on_with(course, tmp_path, monkeypatch, calls):
    def fail(command, cwd):
        return SimpleNamespace(returncode=1)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", fail)
        with pytest.raises(CourseError, match="pip could not collect the wheels, and says why above"):
            wheelhouse.collect(tmp_path / "house")
    assert "not finished" in (tmp_path / "house" / "README.txt").read_text()
    wheelhouse.collect(tmp_path / "house")
    assert "not finished" not in (tmp_path / "house" / "README.txt").read_text()


def test_where_no_wheels_can_be_collected_it_is_said_why(course, tmp_path, monkeypatch, calls):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match=r"as the wheels' folder: .*file is a file, not a folder"):
        wheelhouse.collect(tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setattr(wheelhouse.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(CourseError, match=r"this Python has no pip: .* -m ensurepip brings it"):
            wheelhouse.collect(tmp_path / "house")
    (course / "constraints.txt").unlink()
    with pytest.raises(CourseError, match="collected from a checkout of the course"):
        wheelhouse.collect(tmp_path / "house")
    assert calls == [] and not (tmp_path / "house").exists()
