"""Two processes that torchrun starts (gloo) see what one sees: curves, checkpoints, interrupts, mistakes.

The models are small, so nearly all the time is starting Python: many runs share one start (distributed_worker.py)."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nl_course.app.cli import main
from nl_course.app.train_command import started_with
from nl_course.errors import CourseError
from nl_course.nested import E2E_PRESETS, NestedLanguageModel
from nl_course.training import TrainingConfig, distributed, evaluate, train
from nl_course.training.checkpoint import load_model
from nl_course.training.distributed import AgreedInterrupts, Ranks, join
from nl_course.training.run_folder import checkpoints, read_metrics
from nl_course.training.run_lock import RunLock
from nl_course.training.sharded_checkpoint import read_pointer
from tests.training.distributed_worker import RUN, STREAM, build, do

ROOT = str(Path(__file__).parents[2])
CURVES = [
    dict(model="attention", parallel="ddp"),
    dict(model="attention", parallel="fsdp"),
    dict(model="ttt-linear", parallel="fsdp"),
    dict(model="titans", parallel="ddp"),
    dict(model="titans", parallel="fsdp"),
    dict(model="nested", parallel="ddp"),
    dict(model="nested", parallel="auto", config=dict(accumulate=2, recompute=True, inner_warmup=0.5)),
    dict(model="attention", parallel="fsdp", config=dict(accumulate=2, optimizer="momentum", learning_rate=0.1)),
    dict(model="attention", parallel="ddp", config=dict(optimizer="muon")),
    dict(model="attention", parallel="ddp", function=True),
    dict(model="titans", parallel="fsdp", function=True),
    dict(model="attention", parallel="fsdp", config=dict(precision="bf16")),
]
for number, one in enumerate(CURVES):
    one["name"] = f"{number} {one['model']} {one['parallel']} {' '.join(one.get('config', {}))}".strip()


def torchrun(*command: str) -> subprocess.CompletedProcess:
    """Two processes on a port of the system's choosing."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*start, *command], env=environment, capture_output=True, text=True, timeout=300)


def on_two(folder, tasks: list[dict]) -> dict:
    (folder / "tasks.json").write_text(json.dumps(tasks))
    worker = os.path.join(ROOT, "tests/training/distributed_worker.py")
    ran = torchrun(worker, str(folder / "tasks.json"), str(folder / "results.json"))
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


def close(curve: list[dict], expected: list[dict], within: float = 2e-6) -> None:
    """The same steps and the same numbers but for rounding."""
    assert [line["step"] for line in curve] == [line["step"] for line in expected]
    for one, other in zip(curve, expected, strict=True):
        assert one == pytest.approx(other, rel=within)


@pytest.fixture(scope="module")
def unbroken() -> dict[str, list[dict]]:
    """The whole run of each kind of model on one process."""
    return {name: do({"model": name})["curve"] for name in ("attention", "titans", "nested")}


def failing(folder: Path) -> list[dict]:
    """Runs that fail in one process, of which the other one has to learn; and the folders in which they fail."""
    for name in ("locked", "foreign"):
        (folder / name).mkdir()
    (folder / "file").touch()
    (folder / "foreign" / "metrics.jsonl").write_text("theirs")
    RunLock(folder / "locked").take()  # until this process ends
    long = dict(steps=60, log_every=1, save_every=20, evaluate_every=0)
    places = {"blocked": "file/inside", "foreign": "foreign", "locked": "locked"}
    return [
        *(dict(name=name, model="attention", folder=str(folder / place)) for name, place in places.items()),
        dict(name="shard", model="titans", parallel="fsdp", folder=str(folder / "shard"), disk=[1, 3000]),
        dict(name="plain", model="attention", folder=str(folder / "plain"), disk=[0, 3000]),
        dict(name="metrics", model="attention", folder=str(folder / "metrics"), disk=[0, 3000], config=long),
        dict(name="whole", model="titans", parallel="fsdp", folder=str(folder / "whole"), block=[0, 3]),
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """All that two processes are asked in one start, and the folder with their runs."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("one-fsdp", "one-ddp"):
        do({"model": "titans", "folder": folder / name, "stop": 4})
    do({"model": "titans", "folder": folder / "former", "stop": 4, "by_shape": True})
    other = {"seed": 5, "resume": True}  # weights that only the checkpoint can put right
    no_pickle = {"no_pickle": True}
    results = on_two(
        folder,
        [
            *CURVES,
            dict(name="saved", model="titans", parallel="fsdp", folder=str(folder / "saved"), stop=4, **no_pickle),
            dict(name="again", model="titans", parallel="fsdp", folder=str(folder / "again"), stop=3, **no_pickle),
            dict(
                name="again rest",
                model="titans",
                parallel="fsdp",
                folder=str(folder / "again"),
                no_pickle=True,
                **other,
            ),
            dict(name="one-fsdp", model="titans", parallel="fsdp", folder=str(folder / "one-fsdp"), **other),
            dict(name="one-ddp", model="titans", parallel="ddp", folder=str(folder / "one-ddp"), **other),
            dict(name="former", model="titans", parallel="fsdp", folder=str(folder / "former"), **other),
            dict(name="nested", model="nested", parallel="ddp", folder=str(folder / "nested"), stop=3),
            dict(name="term", model="attention", parallel="fsdp", folder=str(folder / "term"), term=[1, 3]),
            dict(name="clocks", model="nested", parallel="fsdp"),
            dict(name="whole matrices", model="attention", parallel="fsdp", config=dict(optimizer="muon")),
            dict(name="rows", model="attention", config=dict(batch_size=3)),
            dict(name="other", model="titans", parallel="fsdp", folder=str(folder / "saved"), config=dict(steps=9)),
            dict(name="other rate", model="titans", folder=str(folder / "saved"), resume=True, config=dict(clip=9.0)),
            *failing(folder),
        ],
    )
    return folder, results


@pytest.mark.slow
@pytest.mark.parametrize("task", CURVES, ids=[task["name"] for task in CURVES])
def test_two_processes_give_the_curve_of_one(two, task):
    """Loss, gradient norm before clipping (which bites here), rate, tokens and held-out loss of every step."""
    alone = do({**task, "parallel": "none"})["curve"]
    assert min(line["grad_norm"] for line in alone) > 0.1 and max(line["grad_norm"] for line in alone) > RUN["clip"]
    within = {"bf16": 1e-2, "muon": 1e-4}  # where the rows' order of summation is felt: 16 bits, and an iteration
    setting = task.get("config", {})
    close(two[1][task["name"]]["curve"], alone, within.get(setting.get("precision", setting.get("optimizer")), 2e-5))


@pytest.mark.slow
def test_a_sharded_process_holds_a_part_only(two):
    folder, results = two
    assert results["saved"]["held_here"] < 0.6 * results["saved"]["parameters"]
    ddp = results[CURVES[0]["name"]]
    assert ddp["held_here"] == ddp["parameters"]
    assert read_pointer(folder / "saved")["progress"]["step"] == 4
    assert not (folder / "saved" / "checkpoint.safetensors").exists()
    assert len(list((folder / "saved").glob("sharded-*"))) == 1  # the one before is gone


@pytest.mark.slow
def test_no_file_of_a_sharded_checkpoint_is_a_pickle(two):
    """Both processes wrote and read while every function that writes or reads one failed."""
    run = two[0] / "saved"
    (folder,) = run.glob("sharded-*")
    assert sorted(path.name for path in folder.iterdir()) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    for path in (*folder.iterdir(), run / "sharded.json"):
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError)), open(path, "rb") as file:
            pickle.load(file)
    pointer = read_pointer(run)
    assert pointer["optimizer"]["groups"][0]["weight_decay"] == 0.1 and pointer["progress"]["tokens"] == 4 * 48


@pytest.mark.slow
def test_a_checkpoint_of_two_goes_on_on_one(two, unbroken, tmp_path):
    for name, kind in (("saved", "titans"), ("nested", "nested")):
        shutil.copytree(two[0] / name, tmp_path / name)
        rest = do({"model": kind, "folder": tmp_path / name, "resume": True, "seed": 7, "no_pickle": True})["curve"]
        close(rest, unbroken[kind])
        assert checkpoints(tmp_path / name) == (True, False) and not list((tmp_path / name).glob("sharded*"))
        assert json.loads((tmp_path / name / "run.json").read_text())["machine"]["processes"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one-fsdp", "one-ddp", "again rest"])
def test_a_checkpoint_of_one_or_two_goes_on_on_two_and_ends_in_a_plain_model(two, unbroken, name):
    folder, results = two
    close(results[name]["curve"], unbroken["titans"])
    run = folder / name.split()[0]
    assert read_metrics(run)[-1]["step"] == RUN["steps"]  # written once, not by each process
    assert [line["step"] for line in read_metrics(run)] == list(range(1, RUN["steps"] + 1))
    plain = load_model(run / "model.safetensors")
    last = unbroken["titans"][-1]["held_out_loss"]
    assert evaluate(plain, STREAM[:300], RUN["length"]).loss == pytest.approx(last, rel=1e-5)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_sharded_with_the_groups_it_had(two, unbroken):
    _, results = two
    former = do({"model": "titans", "by_shape": True})["curve"]
    assert former[-1]["loss"] != pytest.approx(unbroken["titans"][-1]["loss"], rel=2e-5)  # the groups make a difference
    close(results["former"]["curve"], former)


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_after_the_same_step_and_the_run_goes_on(two, unbroken, tmp_path):
    folder, results = two
    assert results["term"]["interrupted"] and [line["step"] for line in results["term"]["curve"]] == [1, 2, 3]
    shutil.copytree(folder / "term", tmp_path / "term")
    close(do({"model": "attention", "folder": tmp_path / "term", "resume": True})["curve"], unbroken["attention"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clocks", "with clocks cannot be sharded"),
        ("whole matrices", "muon needs whole matrices, which fsdp splits"),
        ("rows", "batch_size 3 does not split into 1 equal micro-batches on each of 2 processes"),
        ("other", "already holds a run; resume it"),
        ("blocked", "as the run's folder: "),
        ("foreign", "metrics.jsonl is not a file of the course's runs"),
        ("locked", "in use: process {pid} on"),
        ("shard", "shard-00001.safetensors: Error while serializing: I/O error: File too large"),
        ("plain", "File too large (os error 27); no step was saved."),
        ("metrics", "metrics.jsonl: File too large. The run ended at step "),
        ("whole", "model.safetensors: Is a directory"),
        ("other rate", "was started with clip = 0.5, not 9.0"),
    ],
)
def test_what_cannot_be_shared_out_is_said_by_all(two, name, message):
    # The name of a test must not differ between the processes that share the tests out.
    assert message.replace("{pid}", str(os.getpid())) in two[1][name]["error"]


@pytest.mark.slow
def test_what_one_process_could_not_write_leaves_nothing_half_written(two):
    folder, _ = two
    assert {path.name for path in (folder / "shard").iterdir()} == {"run.json", "metrics.jsonl"}
    assert {path.name for path in (folder / "metrics").iterdir()} == {"run.json", "metrics.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "parallel"), [("titans", "fsdp"), ("nested", "ddp")])
def test_a_killed_worker_leaves_a_checkpoint_that_goes_on(tmp_path, unbroken, model, parallel):
    task = dict(name="killed", model=model, parallel=parallel, folder=str(tmp_path / "run"), kill=[1, 5])
    with pytest.raises(AssertionError, match=r"Signal 9|SIGKILL"):
        on_two(tmp_path, [task])
    assert not (tmp_path / "run" / "model.safetensors").exists()
    rest = do({"model": model, "folder": tmp_path / "run", "resume": True, "seed": 8})["curve"]
    close(rest, unbroken[model])


@pytest.mark.slow
def test_the_command_under_torchrun_speaks_once_and_one_process_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    monkeypatch.chdir(tmp_path)
    size = "train --preset micro --steps 3 --batch-size 2 --length 16 --device cpu --evaluate-every 1"
    options = [*size.split(), "--text", "own.txt", "--parallel", "fsdp", "--out", "r"]
    ran = torchrun("-m", "nl_course", *options)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("on cpu, 2 processes (fsdp)") == ran.stdout.count("Run(done after 3 of 3 steps") == 1
    assert ran.stdout.count("\nstep ") == 3
    assert started_with(tmp_path / "r")["steps"] == 3 and checkpoints(tmp_path / "r") == (True, True)
    again = ["train", "--resume", "--out", "r", "--text", "own.txt", "--steps", "3", "--quiet", "--device", "cpu"]
    assert main(again) == 0
    assert "done after 3 of 3" in capsys.readouterr().out
    # The second time, the folder holds a run. One process says so, and both end.
    ran = torchrun("-m", "nl_course", *options)
    said = [line for line in ran.stderr.splitlines() if line.startswith("nl-course:")]
    assert ran.returncode != 0 and said == ["nl-course: r already holds a run; resume it, or take another folder."]


THREADS_AFTER = """
import os, torch
from nl_course.training.distributed import join, leave
from nl_course.training import TrainingConfig, train
from tests.training.distributed_worker import RUN, STREAM, build
train(build("attention"), STREAM, TrainingConfig(**RUN), parallel="ddp", progress=False)
names = lambda: {open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")}
before = names()
leave()
met, left = any("gloo" in name for name in before), not any("gloo" in name for name in names())
assert met and left, (before, names())
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_who_has_left_has_no_thread_of_gloo_that_could_meet_the_end_of_python(tmp_path):
    (tmp_path / "leaves.py").write_text(THREADS_AFTER)
    ran = torchrun(str(tmp_path / "leaves.py"))
    assert ran.returncode == 0, ran.stderr[-3000:]


# -- one process ------------------------------------------------------------------------------------------------
def test_alone_nothing_is_shared():
    alone = join("auto", torch.device("cpu"))
    assert (alone.world_size, alone.is_main, alone.rows(6), alone.loss_scale) == (1, True, (0, 6), 1.0)
    value = torch.ones(2)
    assert alone.all_reduce_sum(value) is value and alone.any(True) and not alone.any(False)


def test_several_processes_without_torchrun_are_refused_with_the_command():
    for name in ("ddp", "fsdp"):
        with pytest.raises(CourseError, match=r"torchrun --nproc-per-node N -m nl_course train"):
            train(build("attention"), STREAM, TrainingConfig(**RUN), parallel=name)
    with pytest.raises(CourseError, match="Did you mean 'fsdp'"):
        train(build("attention"), STREAM, TrainingConfig(**RUN), parallel="fsdp2")


def test_presets_with_clocks_are_refused_before_anything_is_shared():
    ranks = Ranks()
    ranks.mode, ranks.world_size = "fsdp", 2
    with torch.device("meta"):
        net = NestedLanguageModel(E2E_PRESETS["ttt-e2e-125m"].config)
    with pytest.raises(CourseError, match="use --parallel ddp"):
        ranks.check(net, TrainingConfig())


def test_agreed_interrupts_wait_for_the_end_of_the_step():
    with AgreedInterrupts(distributed.SINGLE_PROCESS) as interrupts:
        interrupts.between_steps()
        signal_now()
        with pytest.raises(KeyboardInterrupt):
            interrupts.between_steps()


def signal_now():
    import signal

    signal.raise_signal(signal.SIGTERM)
