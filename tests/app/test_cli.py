"""Every command works, and whatever is wrong with what was asked is one line on stderr and exit code 2."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest

import nl_course.training as training
from nl_course import record
from nl_course.app import cli, doctor, lab, train_command
from nl_course.app.cli import main
from nl_course.app.doctor import Check, Diagnosis
from nl_course.training.run_folder import read_metrics
from tools.constraints import has_data

SMALL = [
    "train",
    "--preset",
    "micro",
    "--steps",
    "4",
    "--batch-size",
    "2",
    "--length",
    "16",
    "--device",
    "cpu",
    "--quiet",
]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder to stand in, with a text of the learner's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    return tmp_path


def train(*options):
    return main([*SMALL, "--text", "own.txt", *options])


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- what works -----------------------------------------------------------------------------------------------
def test_training_leaves_a_run_and_resuming_goes_on_with_what_was_asked(own, capsys, monkeypatch):
    assert train("--out", "whole", "--save-every", "2") == 0
    assert "own.txt" in capsys.readouterr().out
    run, real = own / "broken", training.train
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", lambda *a, **k: real(*a, stop=lambda m: m["step"] == 2, **k))
        assert train("--out", "broken") == 0 and len(read_metrics(run)) == 2
    again = ["train", "--resume", "--out", "broken", "--text", "own.txt", "--quiet", "--device", "cpu"]
    assert main(again) == 0
    losses = [[line["loss"] for line in read_metrics(own / name)] for name in ("whole", "broken")]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    settings = json.loads((run / "run.json").read_text())["asked"]
    assert settings["preset"] == "micro" and settings["text"] == "own.txt" and settings["length"] == 16


def test_where_no_bar_can_be_drawn_the_held_out_loss_is_printed(own, capsys):
    assert main([*SMALL[:-1], "--text", "own.txt", "--out", "r", "--evaluate-every", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == ["step 2", "step 4"]


def test_an_estimate_measures_a_few_steps_or_reads_a_data_sheet_and_trains_nothing(own, capsys):
    assert train("--estimate", "--price", "2", "--out", "r") == 0
    out = capsys.readouterr().out
    assert re.search(r"(?m)^time .*from the measured speed", out) and re.search(r"(?m)^cost", out)
    assert train("--estimate", "--accelerator", "h100", "--memory", "titans") == 0
    assert "assuming 1% to 30% of the peak of 1 x H100" in capsys.readouterr().out
    assert not (own / "r").exists() and not (own / "runs").exists()


@pytest.mark.skipif(not has_data(), reason="the extra `data` (datasets, tokenizers) is not installed")
def test_a_corpus_is_read_as_subwords_of_its_own_and_the_run_resumes(own, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = [json.dumps({"words": f"line {i} of the shelf says {i * i}"}) for i in range(200)]
    (own / "shelf.jsonl").write_text("\n".join(lines))
    options = [*SMALL, "--data", "shelf.jsonl", "--column", "words", "--tokenizer", "t.json", "--vocab", "300"]
    assert main([*options, "--out", "whole"]) == 0
    assert "subwords" in capsys.readouterr().out and (own / "t.json").exists()
    real = training.train
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", lambda *a, **k: real(*a, stop=lambda m: m["step"] == 2, **k))
        assert main([*options, "--out", "broken"]) == 0
    before = contents(own)
    resume = ["train", "--resume", "--out", "broken", "--quiet", "--device", "cpu"]
    capsys.readouterr()
    assert main(resume) == 2
    said = capsys.readouterr().err
    assert "nl-course train --resume --out broken --data shelf.jsonl --tokenizer t.json" in said
    sources = ["--data", "shelf.jsonl", "--tokenizer", "t.json"]
    (own / "t.json").rename(own / "moved.json")
    assert main([*resume, *sources]) == 2 and "no tokenizer" in capsys.readouterr().err
    (own / "moved.json").rename(own / "t.json")
    (own / "shelf.jsonl").write_text("\n".join([*lines[:-1], lines[-1].replace("199", "200")]))
    assert main([*resume, *sources]) == 2 and "the data of the run in broken has changed" in capsys.readouterr().err
    (own / "shelf.jsonl").write_text("\n".join(lines))
    assert contents(own) == before
    assert main([*resume, *sources]) == 0
    losses = [[line["loss"] for line in read_metrics(own / name)] for name in ("whole", "broken")]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert main([*SMALL, "--data", "shelf.jsonl", "--out", "other"]) == 2
    assert "has no column 'text'; it has: words" in capsys.readouterr().err


def test_another_memory_and_a_text_too_short_to_hold_out(own, capsys):
    (own / "short.txt").write_text("abcdefghij" * 4)
    assert main([*SMALL, "--text", "short.txt", "--memory", "latent-attention", "--out", "latent"]) == 0
    assert main([*SMALL, "--text", "short.txt", "--out", "r"]) == 0
    assert "too short for an evaluation" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_exits_as_shells_expect(own):
    command = [sys.executable, "-m", "nl_course", *SMALL, "--steps", "100000", "--text", "own.txt", "--out", "r"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = subprocess.Popen(
        command, cwd=own, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not ((own / "r" / "metrics.jsonl").exists() and read_metrics(own / "r")):
        assert program.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    out, error = program.communicate(timeout=60)
    assert program.returncode == cli.INTERRUPTED and error == ""
    assert "interrupted after" in out and "nl-course train --resume --out r --text own.txt" in out
    assert train_command.started_with(own / "r")["steps"] == 100000


def test_lab_copies_and_starts(tmp_path, monkeypatch, capsys):
    started = []
    copied = lab.CopyResult(tmp_path, kept=["01_attention.ipynb"])
    monkeypatch.setattr(lab, "copy_course", lambda *arguments: started.append(arguments) or copied)
    monkeypatch.setattr(lab, "launch", lambda *arguments: started.append(arguments) or 0)
    monkeypatch.setattr(lab, "own_copy", lambda: "own")
    assert main(["lab", "--in-place"]) == 0 and started == [(None, True, None)]
    assert main(["lab", "--copy", "d", "--reset", "01", "--no-browser", "--port", "9000"]) == 0
    assert started[1:] == [("d", "01"), (tmp_path, False, 9000)]
    said = capsys.readouterr().out
    assert f"Your copy of the course: {tmp_path}\n" in said and "Kept with your changes: 01_attention.ipynb." in said
    assert main(["lab", "--no-start"]) == 0 and started[3:] == [("own", None)]
    monkeypatch.setattr(lab, "is_checkout", lambda: False)
    assert main(["lab", "--in-place"]) == 2 and len(started) == 4
    assert "this one was installed, so open a copy" in capsys.readouterr().err


@pytest.mark.parametrize(("state", "code"), [("slow", 0), ("fix", 1)])
def test_doctor_prints_its_report(monkeypatch, capsys, state, code):
    monkeypatch.setattr(doctor, "doctor", lambda: Diagnosis([Check("thing", state, "found")]))
    assert main(["doctor"]) == code
    assert "thing: found" in capsys.readouterr().out


def test_record_runs_a_recipe(monkeypatch, capsys, tmp_path):
    calls = []
    monkeypatch.setattr(record, "record", lambda *arguments: calls.append(arguments) or [tmp_path / "made.json"])
    name = next(iter(record.RECIPES))
    assert main(["record", name, "--assets", str(tmp_path), "--quick", "--device", "cpu"]) == 0
    assert calls == [(name, str(tmp_path), "cpu", True)] and "made.json" in capsys.readouterr().out
    assert main(["record", "list"]) == 0 and all(name in capsys.readouterr().out for name in list(record.RECIPES)[:1])


def test_help_and_version(capsys):
    assert main([]) == 0
    for command in cli.COMMANDS:
        assert command in capsys.readouterr().out or main([]) == 0
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0


def test_the_help_of_train_says_what_every_setting_means(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = "".join(capsys.readouterr().out.split())  # without the line breaks that depend on the terminal
    for setting in fields(training.TrainingConfig):
        if setting.name not in ("optimizer_options", "reset_at"):
            option = f"--{setting.name.replace('_', '-')}"
            assert option in words and "".join(setting.metadata["meaning"].split()) in words, option


def test_opening_the_course_does_not_wait_for_torch():
    code = "import sys; from nl_course import cli; cli.build_parser('lab'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# -- what does not ----------------------------------------------------------------------------------------------
BAD = {
    "trian": "command 'trian' is not known; choose one of: lab, doctor, train, record, .*student. Did you mean 'train'",
    "--bogus": "'--bogus' is not understood here",
    "doctor now": "'now' is not understood here",
    "train --preset tinny": "preset 'tinny' is not known; .*Did you mean 'tiny'",
    "train --presett tiny": "'--presett' is not understood here; did you mean --preset",
    "train --memory atention": "Did you mean 'attention'",
    "train --context -5": "length must be a whole number of at least 1, not -5",
    "train --length 0": "length must be a whole number of at least 1, not 0",
    "train --steps ten": "--steps: must be a whole number, not 'ten'",
    "train --steps 1.5": "must be a whole number, not '1.5'",
    "train --steps": "expected one argument",
    "train --learning-rate nan": "learning_rate must be a number of at least 0, not nan",
    "train --learning-rate inf": "learning_rate must be a finite number",
    "train --batch-size 0": "batch_size must be a whole number of at least 1",
    "train --accumulate 5": "batch_size 16 does not split into 5",
    "train --betas 0.9 1.5": "betas must be at least 0 and below 1, not 1.5",
    "train --inner-warmup 2": "inner_warmup must be a share of the steps, from 0 to 1, not 2",
    "train --recompute --text own.txt": "recompute is for models with levels that learn",
    "train --precision fp16": "precision 'fp16' is not known; choose one of: auto, fp32, bf16",
    "train --device gpu": "device 'gpu' is not known; choose one of: auto, cpu, cuda, mps",
    "train --text pros": "--text must be prose, code, or a file or folder .* not 'pros'. Did you mean 'prose'",
    "train --text missing.txt": "not 'missing.txt'",
    "train --text empty.txt": "the text 'empty.txt' is empty",
    "train --text zeros.bin": "'zeros.bin' is not text",
    "train --text hollow": "the folder 'hollow' holds no text file",
    "train --text own.txt --length 100000": "too short for windows of 100000 tokens",
    "train --text own.txt --out file/inside": "cannot use file/inside as the run's folder: file is a file",
    "train --text own.txt --out file": "cannot use file as the run's folder: file is a file",
    "train --text own.txt --data shelf": "take --text or --data, not both",
    "train --text own.txt --tokenizer t.json": "--tokenizer is about --data; add --data FILES",
    "train --column words": "--column is about --data",
    "train --vocab 300": "--vocab is about --data; add --data FILES",
    "train --data own.jsonl --vocab 300": "the data holds text, and only the size of a vocabulary was given",
    "train --data own.txt --vocab 0": "vocab must be a whole number from 1 to 10,000,000, not 0",
    "train --data own.txt --separator 3": "--separator is about token ids; add --tokenizer FILE or --vocab N",
    "train --data own.txt --vocab 9 --separator x": "--separator must be a token id where no tokenizer is given, not",
    "train --data own.txt --split test": "--split is about a dataset on a hub, and own.txt is none",
    "train --data own.txt --held-out-split test": "--held-out-split is about a dataset on a hub, and none is none",
    "train --data own.txt --vocab 9 --separator 9": "separator must be a whole number from 0 to 8, not 9",
    "train --data none.jsonl": "no file matches 'none.jsonl'|`datasets`, which is not installed",
    "train --price 2": "--price is for --estimate",
    "train --text own.txt --estimate --accelerator h10": "Did you mean",
    "train --text own.txt --estimate --accelerator h100 --price -1": "price_per_hour must be",
    "train --text own.txt --parallel fsdp": "--parallel fsdp is for several processes; start them with `torchrun",
    "train --text own.txt --parallel dpp": "Did you mean 'ddp'",
    "train --resume --out nowhere": "no checkpoint at nowhere/checkpoint.safetensors",
    "lab --port 0": "--port must be a whole number from 1 to 65,535, not 0",
    "lab --port x": "--port: must be a whole number, not 'x'",
    "lab --in-place --reset 01": "--reset is about a copy; leave out --in-place",
    "lab --student": "lab --student is gone; `nl-course student DIR` writes the course without",
    "lab --in-place --copy d": "--copy is about a copy",
    "lab --copy file/inside": "cannot use file/inside as the copy's folder: file is a file, not a folder",
    "record": "arguments are required: NAME",
    "record atention": "recording 'atention' is not known",
    "record scaling --quick": "add --assets DIR",
    "wheelhouse": "arguments are required: DIR",
    "student": "arguments are required: folder",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line_and_no_file_is_touched(own, capsys, line):
    (own / "empty.txt").write_text("")
    (own / "file").write_text("in the way")
    (own / "zeros.bin").write_bytes(b"a\0b")
    (own / "hollow").mkdir()
    (own / "own.jsonl").write_text(json.dumps({"text": "words"}))
    before = contents(own)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("nl-course: ") and error.count("\n") == 1 and error.endswith("\n")
    assert re.search(BAD[line], error), error
    assert contents(own) == before


@pytest.fixture
def trained(own):
    assert train("--out", "r") == 0
    return own


@pytest.mark.parametrize("length", [0, 7, 200, -1])
def test_a_truncated_checkpoint_is_named_and_left_alone(trained, capsys, length):
    path = trained / "r" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    before = contents(trained)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "r"]) == 2
    error = capsys.readouterr().err
    assert "r/checkpoint.safetensors is damaged or incomplete" in error and error.count("\n") == 1
    assert contents(trained) == before


def test_a_run_is_not_overwritten_nor_resumed_as_another(trained, capsys):
    before = contents(trained)
    again = ["train", "--resume", "--out", "r", "--text", "own.txt"]
    for options, words in (
        ([*SMALL, "--text", "own.txt", "--out", "r"], "r already holds a run"),
        ([*again, "--preset", "tiny"], "was started with preset = micro, not tiny"),
        ([*again, "--seed", "5"], "was started with seed = 0, not 5"),
        ([*again[:-1], "prose"], "was started with text = own.txt, not prose"),
        (again[:-2], "reads --text own.txt; a checkpoint may come from anyone, so say this yourself: nl-course train"),
    ):
        capsys.readouterr()
        assert main(options) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    (trained / "own.txt").write_text("other words\n" * 100)
    assert main(again) == 2 and "the text of the run in r has changed" in capsys.readouterr().err
    (trained / "own.txt").write_bytes(before[trained / "own.txt"])
    assert contents(trained) == before


@pytest.mark.slow
def test_the_installed_command_itself_prints_no_traceback(own):
    command = [sys.executable, "-m", "nl_course", "train", "--preset", "tinny"]
    done = subprocess.run(command, cwd=own, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_a_want_of_memory_is_said_and_a_bug_is_not_hidden(monkeypatch, capsys):
    def fail(error):
        def run(options):
            raise error

        return lambda commands: commands.add_parser("doctor").set_defaults(run=run)

    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setitem(cli.COMMANDS, "doctor", (fail(error), ""))
        assert main(["doctor"]) == 2 and "more memory than there is" in capsys.readouterr().err
    monkeypatch.setitem(cli.COMMANDS, "doctor", (fail(RuntimeError("a bug")), ""))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])
    monkeypatch.setitem(cli.COMMANDS, "doctor", (fail(PermissionError(13, "Permission denied", "some/file")), ""))
    assert main(["doctor"]) == 2 and "some/file: Permission denied" in capsys.readouterr().err
    monkeypatch.setitem(cli.COMMANDS, "doctor", (fail(KeyboardInterrupt()), ""))
    assert main(["doctor"]) == cli.INTERRUPTED
