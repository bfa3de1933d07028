"""A run goes on from its own checkpoint only, whatever the checkpoint says of itself; nothing is touched before.

The checkpoints here are edited and written anew, so their checksums are right.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nl_course.app.cli import main
from nl_course.errors import CourseError
from nl_course.tasks import streaming
from nl_course.tensor_files import open_tensors, write_tensors
from nl_course.training import Diverged, TrainingConfig, train
from nl_course.training.checkpoint import _KEY
from tests.training.distributed_worker import RUN, STREAM, build, curve

CONFIG = TrainingConfig(**RUN)
STEP = 4  # after which the run was stopped


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    train(build("titans"), STREAM, CONFIG, folder=folder, progress=False, stop=lambda line: line["step"] == STEP)
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def edit(run, change=lambda description: None, tensors=lambda tensors: None):
    """Changes the checkpoint's description and tensors, with checksums that are right again."""
    path = run / "checkpoint.safetensors"
    with open_tensors(path, _KEY, "checkpoint") as file:
        description = file.description
    held = load_file(path)
    change(description)
    tensors(held)
    write_tensors(path, held, _KEY, description, "checkpoint")


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def go_on(run, model="titans", **options):
    net = build(model, 9)
    return net, train(net, STREAM, CONFIG, **({"folder": run, "resume": True, "progress": False} | options))


def refusal(run, **options) -> str:
    """What is said, in one line; neither a file nor the model is changed."""
    before, weights = snapshot(run), build(options.get("model", "titans"), 9).state_dict()
    net = build(options.pop("model", "titans"), 9)
    with pytest.raises(CourseError) as refused:
        train(net, STREAM, CONFIG, **({"folder": run, "resume": True, "progress": False} | options))
    assert snapshot(run) == before and "\n" not in str(refused.value)
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
    return str(refused.value)


# -- the step ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 10**9}, "cannot be of step 1000000000: its run has 6 steps"),
        ({"step": -5}, "cannot be of step -5"),
        ({"step": "4"}, "cannot be of step '4'"),
        ({"step": True}, "cannot be of step True"),
        ({"step": 4.0}, "cannot be of step 4.0"),
        ({"step": None}, "cannot be of step None"),
        ({"step": 5, "tokens": 5 * 48}, "of step 5, and metrics.jsonl has no line of that step"),
        ({"step": 3}, "cannot have read 192 tokens in 3 steps"),
        ({"tokens": -1}, "cannot have read -1 tokens"),
        ({"tokens": [192]}, r"cannot have read [192] tokens"),
        ({"seconds": float("nan")}, "cannot have taken nan seconds"),
        ({"seconds": "long"}, "cannot have taken 'long' seconds"),
        ({"unwritten": [3]}, "its lines of metrics are none"),
        ({"asked": 3}, "its description cannot be understood"),
        ({"asked": None}, "its description cannot be understood"),
        ({"asked": {}}, "was started with steps = None, not 6"),
    ],
)
def test_a_step_that_the_run_cannot_have_reached_is_refused(run, change, words):
    edit(run, lambda description: description["progress"].update(change))
    assert words in refusal(run)


def test_lines_of_metrics_that_were_lost_are_said_and_trust_goes_on_without_them(run, stopped):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert "has no line of that step" in refusal(run) and "--trust" in refusal(run)
    _, rest = go_on(run, trust=True)
    assert rest.step == 6 and [line["step"] for line in rest.metrics] == [1, 2, 3, 5, 6]


def test_what_is_logged_less_often_than_saved_is_no_loss(tmp_path):
    config = TrainingConfig(**{**RUN, "log_every": 3, "save_every": 2, "evaluate_every": 0})
    for stop in (2, 4, 5):
        train(
            build("titans"),
            STREAM,
            config,
            folder=tmp_path,
            resume="auto",
            progress=False,
            stop=lambda line, stop=stop: line["step"] == stop,
        )
    whole = train(build("titans"), STREAM, config, progress=False)
    rest = train(build("titans", 9), STREAM, config, folder=tmp_path, resume=True, progress=False)
    assert curve(rest) == curve(whole)


# -- another run, another model ----------------------------------------------------------------------------------
def test_the_checkpoint_of_another_run_is_refused(run, tmp_path):
    other = tmp_path / "other"
    config = TrainingConfig(**{**RUN, "learning_rate": 0.5})
    train(build("titans"), STREAM, config, folder=other, progress=False, stop=lambda line: line["step"] == 4)
    shutil.copy(other / "checkpoint.safetensors", run)
    before = snapshot(run)
    with pytest.raises(CourseError, match=r"is of another run: learning_rate is 0\.5 there and 0\.02 in run\.json"):
        train(build("titans"), STREAM, config, folder=run, resume=True, progress=False)
    assert snapshot(run) == before


def test_a_preset_copied_into_the_run_of_another_does_not_win(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    sizes = "--steps 2 --batch-size 2 --length 16"
    options = [*sizes.split(), "--text", "own.txt", "--device", "cpu", "--quiet"]
    for preset in ("micro", "tiny"):
        assert main(["train", "--preset", preset, *options, "--out", preset]) == 0
    shutil.copy(tmp_path / "tiny" / "checkpoint.safetensors", tmp_path / "micro")
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "micro", "--text", "own.txt", "--device", "cpu", "--quiet"]) == 2
    assert "preset is 'tiny' there and 'micro' in run.json" in capsys.readouterr().err and snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 8}, "is of another model: width is 8 there and 16 here"),
        ({"hidden": "24"}, "holds a config that this version cannot build: hidden must be"),
        ({"layers": 10**9}, "is of another model: layers is 1000000000 there"),
        ({"memory": "delta"}, "is of another model: memory is 'delta' there and 'titans' here"),
        ({"options": {"chunk": 3}}, "is of another model: options is"),
        ({"unknown": 3}, "unknown"),
    ],
)
def test_a_config_that_is_not_the_models_is_refused(run, change, words):
    edit(run, lambda description: description["config"].update(change))
    assert words in refusal(run)


def test_how_a_memory_is_computed_may_change(run):
    edit(run, lambda description: description["config"]["options"].update({"recompute": 2}))
    assert go_on(run)[1].step == 6


# -- the optimizer -------------------------------------------------------------------------------------------------
def state_of(description, number) -> dict:
    return description["optimizer"]["state"]["parts"][number]["parts"]


def renumber(old, new):
    def change(description):
        parts = description["optimizer"]["state"]["parts"]
        parts[new] = parts.pop(old)

    return change


def regroup(**change):
    return lambda description: description["optimizer"]["groups"][0].update(change)


def keep(**change):
    return lambda description: state_of(description, "0").update(change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (renumber("0", "9999"), "its optimizer has a parameter '9999'"),
        (renumber("0", "-1"), "its optimizer has a parameter '-1'"),
        (renumber("0", "00"), "its optimizer has a parameter '00'"),
        (lambda d: d["optimizer"].update({"class": "SGD"}), "was trained with SGD, not with AdamW"),
        (lambda d: d["optimizer"]["groups"].pop(), "groups the parameters in another way"),
        (lambda d: d["optimizer"]["groups"][0]["params"].reverse(), "do not number the parameters"),
        (lambda d: d["optimizer"].update({"groups": [3]}), "a group of its optimizer cannot be 3"),
        (lambda d: d["optimizer"].update({"state": 3}), "a part of its optimizer's state cannot be 3"),
        (regroup(lr="fast"), "'lr' of its optimizer cannot be 'fast'"),
        (regroup(lr=float("inf")), "'lr' of its optimizer cannot be inf"),
        (regroup(betas=[0.9]), "'betas' of its optimizer cannot be [0.9]"),
        (regroup(initial_lr=1e308), "'initial_lr' of its optimizer cannot be 1e+308"),
        (regroup(amsgrad=None), "'amsgrad' of its optimizer cannot be None"),
        (lambda d: d["optimizer"]["groups"][0].pop("initial_lr"), "has no 'initial_lr'"),
        (regroup(fused="yes"), "'fused' of its optimizer cannot be 'yes'"),
        (keep(step={"value": -5}), "the optimizer's step of parameter 0 cannot be -5"),
        (keep(step={"value": "x"}), "the optimizer's step of parameter 0 cannot be 'x'"),
        (keep(step={"tensor": "optimizer.0.exp_avg"}), "the optimizer's step of parameter 0 cannot be"),
        (keep(exp_avg={"value": 3}), "'exp_avg' of parameter 0 is 3"),
        (keep(exp_avg={"tensor": "model.nothing"}), "lacks the tensor"),
        (keep(exp_avg={"tensor": ["x"]}), "a part of its optimizer's state cannot be"),
        (lambda d: state_of(d, "0").pop("exp_avg"), "the optimizer's state of parameter 0 is not complete"),
    ],
)
def test_an_optimizer_that_is_not_this_one_is_refused(run, change, words):
    edit(run, change)
    assert words in refusal(run)


def test_moments_of_another_shape_are_refused(run):
    edit(run, tensors=lambda held: held.update({"optimizer.0.exp_avg": torch.zeros(3, 2)}))
    assert "'exp_avg' of parameter 0 is (3, 2), and should be" in refusal(run)


# -- what the description asks for ---------------------------------------------------------------------------------
@pytest.fixture
def asking(tmp_path, monkeypatch):
    """A run whose checkpoint asks for a dataset on a hub and for a tokenizer that is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    sizes = "--preset micro --steps 2 --batch-size 2 --length 16"
    assert main(["train", *sizes.split(), "--text", "own.txt", "--out", "r", "--device", "cpu", "--quiet"]) == 0

    def asks(**sources):
        edit(tmp_path / "r", lambda description: description["progress"]["asked"].update(sources))
        about = json.loads((tmp_path / "r" / "run.json").read_text())
        about["asked"].update(sources)
        (tmp_path / "r" / "run.json").write_text(json.dumps(about))

    def forbidden(*arguments, **options):
        raise AssertionError("the data was looked for")

    monkeypatch.setattr(streaming, "stream_datasets", forbidden)
    monkeypatch.setattr(streaming, "local_files", forbidden)
    return asks


def test_what_a_checkpoint_asks_for_is_shown_and_neither_made_nor_looked_up(asking, tmp_path, capsys):
    asking(text=None, data="someone/dataset", tokenizer=str(tmp_path / "made" / "t.json"))
    before = snapshot(tmp_path)
    capsys.readouterr()
    resume = ["train", "--resume", "--out", "r", "--device", "cpu", "--quiet"]
    for options, words in (
        ([], f"nl-course train --resume --out r --data someone/dataset --tokenizer {tmp_path}/made/t.json"),
        (["--data", "someone/dataset"], "r reads --tokenizer"),
        (["--data", "other"], "was started with data = someone/dataset, not other"),
    ):
        assert main([*resume, *options]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert snapshot(tmp_path) == before and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "a b; rm -rf x", "x\x1b[2J\ny", "long" * 100, ["own.txt"], 3, {"a": 1}]
)
def test_a_text_that_a_checkpoint_asks_for_is_not_read(asking, text, capsys):
    asking(text=text)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "r", "--device", "cpu", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert ("say this yourself" in error or "is damaged" in error) and error.count("\n") == 1 and "\x1b" not in error


def test_a_run_from_before_data_was_hashed_goes_on_with_one_warning(run):
    edit(run, lambda description: description["progress"]["asked"].pop("text_hash"))
    about = json.loads((run / "run.json").read_text())
    del about["asked"]["text_hash"]
    (run / "run.json").write_text(json.dumps(about))
    with pytest.warns(UserWarning, match="kept no text_hash") as warned:
        assert go_on(run)[1].step == 6
    assert len(warned) == 1


def test_numbers_that_nobody_checked_are_not_blamed_on_the_learning_rate(run):
    """Of a checkpoint without checksums, in which one flipped bit made a weight huge."""
    path = run / "checkpoint.safetensors"
    with open_tensors(path, _KEY, "checkpoint") as file:
        description = file.description
    tensors = load_file(path)
    tensors["model.embedding.weight"][7] = 1e38
    save_file(tensors, path, {_KEY: json.dumps(description)})
    with pytest.warns(UserWarning, match="kept no checksums"), pytest.raises(Diverged) as raised:
        go_on(run)
    assert "first step after resuming" in str(raised.value) and "learning rate" not in str(raised.value)
