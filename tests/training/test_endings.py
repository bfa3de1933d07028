"""However a run ends, its last whole step is kept if it can be: a second signal, a full disk, a closed pipe, no memory.

What the first signal does is in test_loop.py."""

import errno
import signal

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.training import TrainingConfig, run_folder, train
from nl_course.training.checkpoint import read_info
from nl_course.training.interrupts import EndAtOnce, Interrupts
from nl_course.training.run_folder import RunFolder, read_metrics
from tests.training.test_loop import STREAM, StandIn, curve

try:
    import resource
except ImportError:  # on Windows
    resource = None

CONFIG = TrainingConfig(steps=8, batch_size=2, length=8, save_every=3, warmup=1)
ALL_STEPS = list(range(1, 9))


def go(folder, net=None, config=CONFIG, **options):
    torch.manual_seed(0)
    return train(net or StandIn(), STREAM, config, folder=folder, progress=False, **options)


def at(step, do):
    def on_step(metrics):
        if metrics["step"] == step:
            do()

    return on_step


def interrupt():
    signal.raise_signal(signal.SIGTERM)


def saved_step(folder):
    return read_info(folder / "checkpoint.safetensors")["progress"]["step"]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def unbroken(tmp_path):
    """The curve of the whole run."""
    return curve(go(tmp_path / "whole"))


# -- signals -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def interrupted_saves(monkeypatch):
    """A signal arrives in every save, in the middle of it."""
    real = RunFolder.save

    def save(folder, model, optimizer, progress):
        interrupt()
        real(folder, model, optimizer, progress)

    monkeypatch.setattr(RunFolder, "save", save)


@pytest.mark.usefixtures("interrupted_saves")
def test_a_second_signal_ends_the_run_at_once_and_the_checkpoint_before_stands(tmp_path, monkeypatch):
    """The first one comes after step 2, before anything was saved; the second one while step 2 is saved."""
    with pytest.raises(EndAtOnce):
        go(tmp_path / "r", on_step=at(2, interrupt))
    assert names(tmp_path / "r") == {"run.json", "metrics.jsonl"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="unfinished-1"):
        assert go(tmp_path / "r", on_step=at(5, interrupt)).interrupted
    assert saved_step(tmp_path / "r") == 5


def test_a_second_signal_within_the_update_saves_nothing_that_is_half_done(tmp_path):
    class Half(torch.optim.AdamW):
        def step(self, closure=None):
            super().step(closure)
            if len(seen) == 4:
                interrupt()
                interrupt()

    seen = []
    with pytest.raises(EndAtOnce):
        go(tmp_path, optimizer=lambda net, config: Half(net.parameters()), on_step=seen.append)
    assert saved_step(tmp_path) == 3 and not (tmp_path / "run.lock").exists()


def test_a_first_signal_while_a_checkpoint_is_written_waits_for_it(tmp_path, unbroken, monkeypatch, interrupted_saves):
    for expected in (3, 6):
        result = go(tmp_path / "r", resume="auto")
        assert result.interrupted and result.step == expected == saved_step(tmp_path / "r")
    result = go(tmp_path / "r", resume=True)  # in its very last save
    assert result.interrupted and result.step == 8 == saved_step(tmp_path / "r")
    monkeypatch.undo()
    assert curve(go(tmp_path / "r", resume=True)) == unbroken


def test_a_signal_that_is_ignored_or_handled_by_somebody_else_stays_so():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, interrupt)
        with Interrupts():
            interrupt()
            assert signal.getsignal(signal.SIGINT) is interrupt
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


# -- the disk ----------------------------------------------------------------------------------------------------------
class Full:
    """A file for so many lines, and half of one more; also closing it is too much."""

    def __init__(self, file, lines):
        self.file, self.lines = file, lines

    def write(self, text):
        self.lines -= 1
        self.file.write(text if self.lines >= 0 else text[: len(text) // 2])

    def flush(self):
        self.file.flush()
        if self.lines < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_after(monkeypatch):
    """Sets after how many lines metrics.jsonl is full."""

    def fill(lines):
        monkeypatch.setattr(run_folder, "open", lambda *a, **k: Full(open(*a, **k), lines), raising=False)  # noqa: SIM115

    yield fill
    monkeypatch.undo()


@pytest.mark.parametrize("lines", [0, 4, 5, 7])
def test_metrics_that_cannot_be_written_end_the_run_and_keep_its_step(
    tmp_path, unbroken, monkeypatch, full_after, lines
):
    """At the first step, one that is not saved, one that is, the last."""
    full_after(lines)
    step = lines + 1
    with pytest.raises(CourseError) as error:
        go(tmp_path / "r")
    assert str(error.value) == (
        f"cannot write {tmp_path}/r/metrics.jsonl: No space left on device. The run ended at step {step}, which is "
        "saved; resume it once there is room."
    )
    assert saved_step(tmp_path / "r") == step
    assert names(tmp_path / "r") == {"run.json", "metrics.jsonl", "checkpoint.safetensors"}
    assert [line["step"] for line in read_metrics(tmp_path / "r")] == ALL_STEPS[:lines]  # half a line is none
    monkeypatch.undo()
    assert curve(go(tmp_path / "r", resume=True)) == unbroken
    assert [line["step"] for line in read_metrics(tmp_path / "r")] == ALL_STEPS


@pytest.mark.parametrize(("lines", "kept"), [(1, "no step was saved"), (4, "step 3 is the last one saved")])
def test_where_the_checkpoint_finds_no_room_either_the_last_one_stands(tmp_path, monkeypatch, full_after, lines, kept):
    full_after(lines)
    real = run_folder.save_training

    def save(path, model, optimizer, progress):
        if progress["step"] > 3 or lines < 3:
            raise CourseError(f"cannot write the checkpoint {path}: No space left on device.")
        real(path, model, optimizer, progress)

    monkeypatch.setattr(run_folder, "save_training", save)
    words = rf"metrics\.jsonl: No space .* step {lines + 1}, and cannot write the checkpoint .*No space .*; {kept}\.$"
    with pytest.raises(CourseError, match=words) as error:
        go(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "run.lock").exists()


@pytest.mark.skipif(resource is None, reason="limits on files are those of POSIX")
def test_a_limit_of_the_system_is_such_a_disk(tmp_path):
    """No file may be longer than 20,000 bytes: the checkpoint is not, metrics.jsonl is one day."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CourseError, match=r"cannot write .*metrics\.jsonl: File too large\. .* which is saved"):
            go(tmp_path, config=TrainingConfig(steps=1000, batch_size=2, length=8, save_every=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    lines = read_metrics(tmp_path)
    assert saved_step(tmp_path) == len(lines) + 1 > 50


# -- what else the machine may lack ------------------------------------------------------------------------------------
def fail_with(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError("network"), MemoryError(), torch.OutOfMemoryError("x")],
)
def test_a_pipe_a_network_or_memory_that_fails_between_steps_costs_none(tmp_path, unbroken, error):
    with pytest.raises(type(error)) as raised:
        go(tmp_path / "r", on_step=at(5, fail_with(error)))
    assert raised.value is error and saved_step(tmp_path / "r") == 5
    assert curve(go(tmp_path / "r", resume=True)) == unbroken


@pytest.mark.parametrize("error", [RuntimeError("a fault"), CourseError("no more text")])
def test_after_any_other_error_the_last_checkpoint_stands(tmp_path, unbroken, error):
    with pytest.raises(type(error)):
        go(tmp_path / "r", on_step=at(5, fail_with(error)))
    assert saved_step(tmp_path / "r") == 3
    assert curve(go(tmp_path / "r", resume=True)) == unbroken


def test_memory_that_fails_within_the_update_leaves_the_last_checkpoint(tmp_path, unbroken):
    class Half(torch.optim.AdamW):
        def step(self, closure=None):
            with torch.no_grad():
                self.param_groups[0]["params"][0].zero_()  # some weights are of the next step, some are not
            if len(seen) == 4:
                raise MemoryError
            super().step(closure)

    seen = []
    with pytest.raises(MemoryError):
        go(tmp_path, optimizer=lambda net, config: Half(net.parameters()), on_step=seen.append)
    assert saved_step(tmp_path) == 3


def test_without_a_folder_errors_are_what_they_are():
    with pytest.raises(BrokenPipeError):
        go(None, on_step=at(2, fail_with(BrokenPipeError())))
