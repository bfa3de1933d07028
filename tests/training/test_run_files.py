"""A run touches only what a run wrote: other files stop it before anything is computed, and stay as they are."""

import json
import os
import re
import shutil
import warnings

import pytest
import torch
from safetensors.torch import save_file

from nl_course.errors import CourseError
from nl_course.training import TrainingConfig, train
from nl_course.training.run_files import keep_aside
from nl_course.training.run_folder import check_run_folder, read_metrics
from nl_course.training.run_table import find_runs
from nl_course.training.runner import Plan, Runner
from tests.training.test_loop import STREAM, StandIn

CONFIG = TrainingConfig(steps=4, batch_size=2, length=8, save_every=2, warmup=1)


def go(folder, **options):
    torch.manual_seed(0)
    return train(StandIn(), STREAM, CONFIG, folder=folder, progress=False, **options)


def tree(folder):
    """Everything in a folder: what a link names, what a file holds, when it was written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        found[path.relative_to(folder)] = (about, path.lstat().st_mtime_ns)
    return found


class PowerCut(BaseException):
    """Ends a run as a crash does: nothing is saved."""


def die_at(step):
    def on_step(metrics):
        if metrics["step"] == step:
            raise PowerCut

    return on_step


def crash(folder, step, **options):
    with pytest.raises(PowerCut):
        go(folder, on_step=die_at(step), **options)


# -- what is not the run's own -----------------------------------------------------------------------------------------
NAMES = ("metrics.jsonl", "run.json", "model.safetensors", "checkpoint.safetensors", "sharded.json", "positions.jsonl")
CONTENTS = ("words\n", '{"loss": 1}\n', "[1]", '{"step": 1, "loss": 2.5, "lr": 0.1}\n', '{"asked": 1, "model": 2}')
FOREIGN = [(name, content) for name in NAMES[:5] for content in CONTENTS]


def refused(folder, words, resumes=(False, "auto")):
    """Whether no way to start a run there works, none computes a step, and all is left as it was."""
    before = tree(folder)
    for resume in resumes:
        with pytest.raises(CourseError, match=words) as error:
            go(folder, resume=resume, on_step=die_at(1))
        assert "\n" not in str(error.value)
        with pytest.raises(CourseError, match=words):
            check_run_folder(folder, resume)
    # The board, too. It takes a folder with a checkpoint and a model for one of its own runs that is done.
    runner = Runner(Plan("linear", steps=1), folder)
    assert runner.status in ("ready", "paused", "done")
    if runner.status != "done":
        assert runner.step() == "failed" and ("auto" not in resumes or re.search(words, runner.error))
    return tree(folder) == before


@pytest.mark.parametrize(("name", "content"), FOREIGN)
def test_a_file_of_other_origin_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert refused(tmp_path, rf"{name} is not a file of the course's runs")


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
def test_tensors_of_other_origin_are_refused(tmp_path, name):
    save_file({"x": torch.ones(1)}, tmp_path / name)
    (tmp_path / "run.json").write_text(json.dumps({"asked": {}, "model": {}}))  # not even in a run's folder
    assert refused(tmp_path, rf"{name} is not a file of the course's runs")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["file", "run", "nothing", "folder"])
def test_links_are_refused_whatever_they_name(tmp_path, name, target):
    """Even a link to the same file of another run."""
    folder = tmp_path / "r"
    folder.mkdir()
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "folder").mkdir()
    if target == "run":
        go(tmp_path / "run")
        (tmp_path / "run" / "positions.jsonl").touch()
        (folder / name).symlink_to(tmp_path / "run" / name)
    else:
        (folder / name).symlink_to(tmp_path / target)
    outside = tree(tmp_path)
    assert refused(folder, rf"{name} is a link") and tree(tmp_path) == outside


def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    assert refused(tmp_path, r"metrics\.jsonl is not a file of the course's runs")


def test_a_file_that_came_later_is_refused_when_the_run_goes_on(tmp_path):
    go(tmp_path, stop=lambda metrics: metrics["step"] == 2)
    (tmp_path / "model.safetensors").symlink_to("theirs")
    assert refused(tmp_path, r"model\.safetensors is a link", resumes=(True, "auto"))
    (tmp_path / "model.safetensors").unlink()
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    assert refused(tmp_path, r"model\.safetensors is not a file", resumes=(True, "auto"))


def test_a_run_stands_beside_files_with_other_names(tmp_path):
    theirs = tmp_path / "theirs"
    go(theirs)
    theirs = theirs.rename(tmp_path / "sharded_results")
    (theirs / "checkpoint.safetensors").rename(theirs / "shard-00000.safetensors")
    for name in ("sharded-1", "sharded-0000000x", "sharded-00000001", ".tmpabcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    for name in ("sharded-1", "sharded-0000000x"):
        shutil.copy(theirs / "shard-00000.safetensors", tmp_path / name)
    (tmp_path / "sharded-00000002").symlink_to(theirs)
    (tmp_path / "sharded-00000001" / "shard-00000.safetensors").write_text("x")
    (tmp_path / "sharded-00000001" / "shard-00001.safetensors").symlink_to(theirs / "shard-00000.safetensors")
    (tmp_path / "sharded-00000001" / "__0_0.distcp").mkdir()
    for name in ("sharded", "sharded.json.bak", "sharded-00000003", ".tmpAbc123", ".tmpAbc1234", "notes.txt"):
        (tmp_path / name).write_text("x")
    before = tree(tmp_path)
    go(tmp_path)
    after = tree(tmp_path)
    assert {path: after.get(path) for path in before} == before
    own = {path.name for path in after.keys() - before.keys()}
    assert own == {"run.json", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors"}


# -- what a run that ended early left ----------------------------------------------------------------------------------
def test_the_curve_of_a_run_without_a_checkpoint_is_kept_aside(tmp_path):
    folder = tmp_path / "r"
    for number, resume in ((1, False), (2, "auto")):
        crash(folder, 1, resume=resume) if number == 1 else None
        with pytest.warns(
            UserWarning, match=rf"before its first checkpoint; its curve is now in .*unfinished-{number}"
        ):
            crash(folder, 1, resume=resume)
        assert [line["step"] for line in read_metrics(folder / f"unfinished-{number}")] == [1]
    with pytest.raises(CourseError, match="no checkpoint to resume from"):
        go(folder, resume=True)
    with pytest.warns(UserWarning, match="unfinished-3"):
        go(folder)
    assert [(run.name, run.steps) for run in find_runs(folder)] == [
        ("unfinished-1", 1),
        ("unfinished-2", 1),
        ("unfinished-3", 1),
        ("r", 4),
    ]


def test_a_run_that_took_no_step_leaves_nothing_to_keep(tmp_path):
    def data(step):
        raise PowerCut

    with pytest.raises(PowerCut):
        train(StandIn(), data, CONFIG, folder=tmp_path, progress=False)
    (tmp_path / "metrics.jsonl").write_text('{"st')  # a first line that was cut off is kept, too
    check_run_folder(tmp_path, False)
    with pytest.warns(UserWarning, match="unfinished-1"):
        keep_aside(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_aside(tmp_path)
        go(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["unfinished-1"]


def test_a_finished_model_whose_checkpoint_was_deleted_is_not_replaced(tmp_path):
    go(tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    assert refused(tmp_path, r"holds a finished model and no checkpoint .* move model\.safetensors away")


def test_what_a_crash_damaged_is_named_by_who_reads_it_or_written_anew(tmp_path):
    go(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    go(tmp_path, resume=True)
    assert (tmp_path / "model.safetensors").stat().st_size > 20
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\0" * 20)
    before = tree(tmp_path)
    with pytest.raises(CourseError, match=r"checkpoint\.safetensors is damaged"):
        go(tmp_path, resume=True)
    assert tree(tmp_path) == before


def test_a_run_whose_settings_were_deleted_goes_on(tmp_path):
    go(tmp_path, stop=lambda metrics: metrics["step"] == 2)
    (tmp_path / "run.json").unlink()
    go(tmp_path, resume=True)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_half_written_file_of_an_earlier_version_is_removed(tmp_path):
    """safetensors wrote `.tmpXXXXXX` right into the run's folder. Files that begin otherwise are not ours."""
    go(tmp_path, stop=lambda metrics: metrics["step"] == 2)
    half = (tmp_path / "checkpoint.safetensors").read_bytes()[:-50]
    (tmp_path / ".tmpAbc123").write_bytes(half)
    (tmp_path / ".tmpAbc124").write_bytes(b"\0" * 50)
    save_file({"x": torch.ones(1)}, tmp_path / ".tmpAbc125")
    (tmp_path / ".tmpAbc126").symlink_to("checkpoint.safetensors")
    go(tmp_path, resume=True)
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".tmpAbc124", ".tmpAbc125", ".tmpAbc126"]


# -- two runs ----------------------------------------------------------------------------------------------------------
def test_a_second_run_in_the_folder_is_refused_and_names_the_first(tmp_path):
    tried = []

    def second(metrics):
        for resume in (False, True, "auto"):
            with pytest.raises(CourseError, match=r"in use: another run of this very process trains there"):
                go(tmp_path, resume=resume)
        runner = Runner(Plan("linear", steps=1), tmp_path)
        tried.append((runner.step(), "in use: another run of this very process" in runner.error))

    go(tmp_path, on_step=second)
    assert tried == [("failed", True)] * 4
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert not (tmp_path / "run.lock").exists()


def test_the_lock_is_released_however_a_run_ends(tmp_path):
    crash(tmp_path, 3)
    assert not (tmp_path / "run.lock").exists()
    with pytest.raises(CourseError, match="already holds"):
        go(tmp_path)
    with pytest.raises(CourseError, match="started with about"):
        go(tmp_path, resume=True, about={"about": 1})
    assert not (tmp_path / "run.lock").exists()
    go(tmp_path, resume=True)
    assert not (tmp_path / "run.lock").exists()
