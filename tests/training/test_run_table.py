"""Runs side by side: what the folders say is what the table says, also of runs that broke off."""

import json

import pytest
import torch

from nl_course.app.cli import main
from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.training import TrainingConfig, train
from nl_course.training.run_table import find_runs, read_run

CONFIG = dict(steps=4, batch_size=2, length=8, warmup=1, evaluate_every=2)
STREAM = torch.randint(256, (400,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, memory, last in (("whole", "attention", 4), ("broken", "delta", 3)):
        torch.manual_seed(0)
        model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16, memory=memory))
        train(
            model, STREAM, TrainingConfig(**CONFIG), held_out=STREAM, folder=folder / name, progress=False,
            about={"text": "noise"}, stop=lambda metrics, last=last: metrics["step"] == last,
        )  # fmt: skip
    return folder


def test_a_run_is_what_its_folder_says(folder):
    run = read_run(folder / "whole")
    lines = [json.loads(line) for line in (folder / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert (run.memory, run.task, run.steps, run.wanted, run.done) == ("attention", "noise", 4, 4, True)
    assert run.loss == pytest.approx(sum(line["loss"] for line in lines) / 4)
    assert run.held_out == lines[3]["held_out_loss"] != lines[1]["held_out_loss"]
    assert (run.tokens, run.seconds) == (lines[-1]["tokens"], lines[-1]["seconds"])
    assert run.memory_bytes == max(line["memory_bytes"] for line in lines) > 10**7
    assert run.parameters == sum(p.numel() for p in LanguageModel(ModelConfig(**run_config(folder))).parameters())


def run_config(folder):
    return json.loads((folder / "whole" / "run.json").read_text())["model"]["config"]


def test_the_command_prints_a_line_a_run(folder, capsys):
    assert main(["runs", str(folder)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "memory", "task"] and len(rows) == 2
    whole, broken = sorted(rows, key=lambda row: row.startswith("broken"))
    assert whole.split()[:3] == ["whole", "attention", "noise"] and "3 of 4" in broken
    assert len({len(row) for row in rows}) == 1


def test_a_folder_that_is_a_run_and_one_that_holds_none(folder, tmp_path, capsys):
    assert [run.name for run in find_runs(folder / "whole")] == ["whole"]
    assert str(find_runs(tmp_path)) == "no run here"
    with pytest.raises(CourseError, match="there is no folder"):
        find_runs(tmp_path / "none")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CourseError, match=r"no run\.json"):
        find_runs(tmp_path)
