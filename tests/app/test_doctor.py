"""The doctor finds what is wrong, says what to do next, and is never itself the patient."""

import importlib.metadata
import json
import os
import shlex
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from nl_course import files
from nl_course.app import doctor, lab
from nl_course.app.doctor import Check, Diagnosis
from nl_course.errors import CourseError
from nl_course.tasks import text

REAL_VERSION = importlib.metadata.version


def states(check):
    return [finding.state for finding in check()]


def versions(monkeypatch, **changed):
    """Pretends that packages have other versions; None for a package that is not installed."""

    def version(name):
        have = changed.get(name.replace("-", "_"), "real")
        if have is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return REAL_VERSION(name) if have == "real" else have

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A course of its own, with pins."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "constraints.txt").write_text("# pins\ntorch==2.13.0\nIPyWidgets==8.1.9 ; python_version > '3'\n")
    monkeypatch.setattr(doctor, "course_root", lambda: tmp_path)
    return tmp_path


# -- the whole ---------------------------------------------------------------------------------------------
def test_this_machine_is_looked_at_from_end_to_end():
    report = doctor.doctor()
    names = [check.name for check in report.checks]
    for name in (
        "Python",
        "packages",
        "processor",
        "memory",
        "disk",
        "GPU",
        "learning step",
        "kernel",
        "library, code",
    ):
        assert name in names
    by_name = {check.name: check for check in report.checks}
    assert by_name["learning step"].state in ("ok", "slow") and by_name["Python"].state == "ok"
    assert by_name["widgets"].state == "ok", by_name["widgets"]
    assert str(report) == repr(report) and all(name in str(report) for name in names)


def test_a_report_says_what_to_do_and_whether_it_must_be_done():
    good = Diagnosis([Check("a", "ok", "fine"), Check("b", "slow", "old", "wait"), Check("c", "note", "odd")])
    assert (
        good.ok
        and str(good).endswith("This machine is ready for the course.")
        and "slow  b: old\n      -> wait" in str(good)
    )
    bad = Diagnosis([*good.checks, Check("d", "fix", "broken", "mend it")])
    assert not bad.ok and "FIX   d: broken\n      -> mend it" in str(bad) and "1 thing must be fixed" in str(bad)


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch):
    def broken():
        raise ImportError("libtorch.so is missing\nlong story")
        yield

    monkeypatch.setattr(doctor, "library", broken)
    monkeypatch.setattr(doctor, "learning_step", lambda: iter(()))
    report = doctor.doctor()
    (finding,) = [check for check in report.checks if "libtorch" in check.text]
    assert finding.state == "fix" and "\n" not in finding.text and "pip install" in finding.remedy
    assert report.checks[-1].name == "course" and not report.ok


def test_the_exit_code_is_one_only_if_something_must_be_fixed(capsys):
    assert doctor.main([], lambda: Diagnosis([Check("a", "slow", "fine")])) == 0
    assert doctor.main([], lambda: Diagnosis([Check("a", "fix", "broken")])) == 1
    assert "ready" in capsys.readouterr().out


# -- one by one -----------------------------------------------------------------------------------------------
def test_packages_are_held_against_the_pins(folder, monkeypatch):
    versions(monkeypatch)
    assert states(doctor.packages) == ["ok"]
    versions(monkeypatch, ipywidgets="8.1.8")
    (finding,) = doctor.packages()
    assert finding.state == "note" and "ipywidgets 8.1.8 (tested with 8.1.9)" in finding.text
    versions(monkeypatch, ipywidgets="7.7.0", plotly=None, torch="2.13.0+cu130")
    missing, old = doctor.packages()
    assert missing.state == "fix" and missing.text == "not installed: plotly" and missing.remedy.endswith("plotly")
    assert old.state == "fix" and "ipywidgets 7.7.0 (needs >=8.1)" in old.text and "--upgrade ipywidgets" in old.remedy


def test_an_old_python_and_a_single_core_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (sys.version_info[0], sys.version_info[1] + 1))
    assert states(doctor.python) == ["fix"]
    monkeypatch.setattr(doctor, "cores", lambda: 1)
    assert states(doctor.processor) == ["slow"]


@pytest.mark.parametrize(("total", "free", "state"), [(3.5e9, 3e9, "slow"), (8e9, 5e8, "note"), (16e9, 8e9, "ok")])
def test_memory_under_four_gigabytes_is_tight(monkeypatch, total, free, state):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=free))
    (finding,) = doctor.memory()
    assert finding.state == state and bool(finding.remedy) == (state != "ok")


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("NL_COURSE_CACHE", str(tmp_path))
    assert states(doctor.disk) == ["ok"] and not list(tmp_path.iterdir())
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e8))
    assert states(doctor.disk) == ["slow"]


def test_what_lab_must_write_is_written_to_see_whether_it_can_be(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NL_COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    (finding,) = doctor.folders()
    assert finding.state == "ok" and str(tmp_path / "runtime") in finding.text
    assert not list((tmp_path / "runtime").iterdir()), "nothing is left there"
    (tmp_path / "file").write_text("")
    for variable in ("NL_COURSE_CACHE", "JUPYTER_RUNTIME_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(tmp_path / "file" / "inside"))
            (broken,) = [finding for finding in doctor.folders() if finding.state == "fix"]
            assert "(Not a directory); `nl-course lab` would not start" in broken.text and variable in broken.remedy
            with pytest.raises(CourseError, match=rf"cannot be written \(Not a directory\); set {variable}"):
                lab.launch()
            assert list(doctor.disk()) == [] or variable != "NL_COURSE_CACHE"


def test_where_no_copy_can_be_kept_another_folder_is_asked_for(folder, tmp_path, monkeypatch):
    def check(path):
        if path == tmp_path:
            raise OSError(30, "Read-only file system")
        return path

    monkeypatch.setattr(lab, "own_copy", lambda: tmp_path / "nested-learning")
    monkeypatch.setattr(doctor, "check_writable", check)
    finding = list(doctor.folders())[-1]
    assert finding.state == "note" and "Read-only file system" in finding.text and "--copy" in finding.remedy


def test_a_user_without_a_home_is_told_which_variable_to_set(folder, monkeypatch):
    monkeypatch.delenv("NL_COURSE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    finding = next(iter(doctor.folders()))
    assert finding.state == "fix" and "this user has no home folder; set NL_COURSE_CACHE" in finding.text


def test_packages_are_installed_by_a_command_that_works_for_a_checkout_and_for_a_wheel(folder, monkeypatch):
    pins = shlex.quote(str(folder / "constraints.txt"))
    monkeypatch.setattr(files, "course_root", lambda: folder)
    assert files.pip_install("a") == f"{shlex.quote(sys.executable)} -m pip install -c {pins} a"
    (folder / "pyproject.toml").write_text("")
    assert "make lab" in doctor.reinstall() and f"-e {shlex.quote(str(folder))}" in doctor.reinstall()
    for name in ("constraints.txt", "pyproject.toml"):
        (folder / name).unlink()
    assert files.pip_install("a") == f"{shlex.quote(sys.executable)} -m pip install a"
    assert "make" not in doctor.reinstall() and doctor.reinstall().endswith("WHEEL")


def test_a_gpu_is_reported_and_none_is_needed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "none is needed" in next(iter(doctor.gpu())).text
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "mps" in next(iter(doctor.gpu())).text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="Some GPU", total_memory=8e10)
    )
    assert next(iter(doctor.gpu())).text == "2 x Some GPU, 80 GB, bf16 yes"


@pytest.mark.parametrize(
    ("seconds", "loss", "state", "words"),
    [
        (2048 / doctor.PLANNED_SPEED, 5.55, "ok", "bytes per second"),
        (2048 / doctor.PLANNED_SPEED * 4, 5.55, "slow", "about 4 times as long"),
        (0.1, 9.0, "fix", "loss is 9.00, not about 5.5"),
        (0.1, float("nan"), "fix", "loss is nan"),
    ],
)
def test_a_slow_or_a_wrong_learning_step_is_told(monkeypatch, seconds, loss, state, words):
    monkeypatch.setattr(doctor, "step_seconds", lambda: (seconds, loss))
    (finding,) = doctor.learning_step()
    assert finding.state == state and words in finding.text and bool(finding.remedy) == (state != "ok")


def test_measuring_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    seconds, loss = doctor.step_seconds(rows=2, length=8, repeats=1)
    assert torch.equal(torch.rand(2), expected) and seconds > 0 and 5 < loss < 6.5


def test_widgets_need_both_halves_of_the_right_version_and_turned_on(tmp_path, monkeypatch):
    versions(monkeypatch, jupyterlab_widgets="1.1.0", anywidget=None)
    (finding,) = doctor.widgets()
    assert finding.state == "fix" and "restart JupyterLab" in finding.remedy
    assert "jupyterlab-widgets is 1.1.0, 3.x goes with ipywidgets 8" in finding.text
    assert "anywidget is not installed" in finding.text and finding.remedy.split(", ")[0].endswith(
        "jupyterlab-widgets anywidget"
    )
    versions(monkeypatch)
    monkeypatch.setattr(doctor, "_extension_folders", lambda: [tmp_path])
    (finding,) = doctor.widgets()
    assert finding.state == "fix" and "does not find the extension @jupyter-widgets/jupyterlab-manager" in finding.text


def test_an_extension_that_was_turned_off_is_found(tmp_path, monkeypatch):
    page = tmp_path / "labconfig" / "page_config.json"
    page.parent.mkdir()
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path))
    for listed in ({"anywidget": True, "jupyterlab-plotly": False}, ["anywidget"]):
        page.write_text(json.dumps({"disabledExtensions": listed}))
        (finding,) = doctor.widgets()
        assert finding.state == "fix" and finding.remedy == "jupyter labextension enable anywidget"
    page.write_text("{damaged")
    assert states(doctor.widgets) == ["ok"]


def test_the_kernel_must_be_this_python(tmp_path, monkeypatch):
    data = tmp_path / "kernels" / "python3"
    data.mkdir(parents=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    for program, state in (("/somewhere/else/python", "fix"), (sys.executable, "ok"), ("python", "ok")):
        spec = {"argv": [program, "-m", "ipykernel_launcher"], "display_name": "P", "language": "python"}
        (data / "kernel.json").write_text(json.dumps(spec))
        (finding,) = doctor.kernel()
        assert finding.state == state, program
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    (finding,) = doctor.kernel()
    assert finding.state == "fix" and "ipykernel install" in finding.remedy


def test_another_text_is_a_note_with_both_versions(monkeypatch, recwarn):
    real = text.library

    def differing(corpus):
        library = real(corpus)
        return text.Library(library.name, library.train, library.held_out, ["they used networkx 3.1, installed is 3.6"])

    monkeypatch.setattr(text, "library", differing)
    assert [(c.state, "3.1" in c.text) for c in doctor.library()] == [("note", True), ("note", True)]
    assert not recwarn.list


def test_a_course_without_notebooks_must_be_fetched_anew(folder):
    assert states(doctor.course) == ["fix"]
    (folder / "notebooks" / "00_start_here.ipynb").write_text("{}")
    assert states(doctor.course) == ["ok"]
