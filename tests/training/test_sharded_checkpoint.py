"""Shards of any division give back what was saved; a shard that is not the right one, or a pickle, is refused."""

import json
import os
import pickle
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nl_course.app.cli import main
from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tensor_files import open_tensors, write_tensors
from nl_course.training import TrainingConfig, train
from nl_course.training.distributed import SINGLE_PROCESS
from nl_course.training.run_files import remove_sharded, shard_name
from nl_course.training.runner import Plan, Runner
from nl_course.training.sharded_checkpoint import (
    Shards,
    load_sharded,
    read_pointer,
    save_sharded,
)
from nl_course.training.tensor_parts import Box
from tests.training.distributed_worker import RUN, STREAM, build, curve

CONFIG = TrainingConfig(**RUN)
OLD = Path(__file__).parents[1] / "fixtures" / "before_renames" / "runs" / "sharded"


# -- boxes ---------------------------------------------------------------------------------------------------
def test_boxes_overlap_as_slices_do():
    whole = torch.arange(60).view(5, 4, 3)
    a, b = Box((1, 0, 1), (3, 4, 2)), Box((3, 2, 0), (2, 2, 2))
    common = a.overlap(b)
    assert common == Box((3, 2, 1), (1, 2, 1)) and b.overlap(a) == common and common.count == 2
    assert torch.equal(whole[a.slices()][common.slices(a.starts)], whole[common.slices()])
    assert a.overlap(Box((4, 0, 0), (1, 4, 3))) is None  # they touch
    assert Box.whole(()).overlap(Box.whole(())) == Box((), ()) and Box.whole(()).count == 1
    assert Box.whole((3, 0)).count == 0


def shards(folder, name, parts, shape):
    """A sharded checkpoint of one tensor, whose parts begin at the given rows."""
    fingerprints = []
    for rank, (first, tensor) in enumerate(parts):
        starts = [first, *[0] * (len(shape) - 1)]
        described = {"tensors": {name: {"shape": list(shape), "starts": starts}}}
        write_tensors(folder / shard_name(rank), {name: tensor}, "nl_course.shard", described, "shard")
        with open_tensors(folder / shard_name(rank), "nl_course.shard", "shard") as file:
            fingerprints.append(file.fingerprint)
    return fingerprints


def test_any_part_is_put_together_from_the_shards_that_have_it(tmp_path):
    whole = torch.randn(7, 3)
    marks = shards(tmp_path, "w", [(0, whole[:3]), (3, whole[3:6]), (6, whole[6:])], (7, 3))
    with ExitStack() as stack:
        source = Shards(tmp_path, marks, stack)
        assert source.shape("w") == (7, 3) and source.names == {"w"}
        for first in range(7):
            for count in range(8 - first):
                assert torch.equal(source.part("w", Box((first, 0), (count, 3))), whole[first : first + count])
        assert torch.equal(source.part("w", Box((2, 1), (3, 2))), whole[2:5, 1:])
        with pytest.raises(CourseError, match="lacks the tensor 'v'"):
            source.part("v", Box((0,), (1,)))


def test_parts_that_are_missing_overlap_or_reach_too_far_are_refused(tmp_path):
    whole = torch.randn(6, 2)
    for parts, words in (
        ([(0, whole[:3]), (4, whole[4:])], "its shards do not make up 'w'"),
        ([(0, whole[:4]), (3, whole[3:])], "its shards do not make up 'w'"),
        ([(0, whole[:3]), (4, whole[3:])], "reaches beyond the whole tensor"),
    ):
        marks = shards(tmp_path, "w", parts, (6, 2))
        with ExitStack() as stack, pytest.raises(CourseError, match=words):
            Shards(tmp_path, marks, stack).part("w", Box.whole((6, 2)))


# -- checkpoints -----------------------------------------------------------------------------------------------
def trained(folder=None, **options):
    net = build("titans", options.pop("seed", 0))
    run = train(net, STREAM, CONFIG, folder=folder, progress=False, held_out=STREAM[:300], **options)
    return net, run


def sharded_run(folder, step=4):
    """A run that was stopped, with a sharded checkpoint: one process writes one shard."""
    net = build("titans")
    kept = []

    def stop(line):
        return line["step"] == step

    run = train(
        net,
        STREAM,
        CONFIG,
        folder=folder,
        progress=False,
        held_out=STREAM[:300],
        stop=stop,
        optimizer=lambda model, config: kept.append(adam(model)) or kept[-1],
    )
    progress = {"step": step, "tokens": step * 48, "seconds": 1.0, "asked": asked(folder)}
    save_sharded(folder, net, kept[-1], progress, SINGLE_PROCESS)
    (folder / "checkpoint.safetensors").unlink()
    return net, kept[-1], run


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.02)


def asked(folder):
    return json.loads((folder / "run.json").read_text())["asked"]


def go_on(folder, **options):
    return train(
        build("titans", 9),
        STREAM,
        CONFIG,
        folder=folder,
        progress=False,
        held_out=STREAM[:300],
        resume=True,
        optimizer=lambda model, config: adam(model),
        **options,
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    sharded_run(folder)
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_model_and_optimizer_come_back_bit_for_bit_and_the_run_goes_on(tmp_path):
    net, optimizer, _ = sharded_run(tmp_path)
    other = build("titans", 9)
    fresh = adam(other)
    assert load_sharded(tmp_path, other, fresh, lambda progress: None, SINGLE_PROCESS)["step"] == 4
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    for number, kept in optimizer.state_dict()["state"].items():
        assert all(torch.equal(fresh.state_dict()["state"][number][name], kept[name]) for name in kept)
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    unbroken = train(
        build("titans"),
        STREAM,
        CONFIG,
        held_out=STREAM[:300],
        progress=False,
        optimizer=lambda model, config: adam(model),
    )
    assert curve(go_on(tmp_path)) == curve(unbroken)
    assert (tmp_path / "checkpoint.safetensors").exists() and not list(tmp_path.glob("sharded*"))


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(run, **options) -> str:
    """What is said, in one line; no file is changed."""
    before = snapshot(run)
    with pytest.raises(CourseError) as refused:
        go_on(run, **options)
    assert snapshot(run) == before and "\n" not in str(refused.value)
    return str(refused.value)


def test_a_flipped_bit_in_a_shard_is_named(run):
    (path,) = run.glob("sharded-*/*")
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    assert "the shard" in refusal(run) and "checksum of" in refusal(run) and path.name in refusal(run)
    assert "learning rate" not in refusal(run)


def test_a_shard_that_is_missing_cut_short_or_from_another_step_is_named(run, tmp_path):
    (path,) = run.glob("sharded-*/*")
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    assert "shard-00000.safetensors is damaged or incomplete" in refusal(run)
    sharded_run(tmp_path / "other", step=3)
    shutil.copy(next((tmp_path / "other").glob("sharded-*/*")), path)
    assert "not the shard that was written with this checkpoint" in refusal(run)
    save_file(load_file(path), path)
    assert "is not a shard of the course" in refusal(run)
    path.unlink()
    assert "there is no shard at" in refusal(run)
    path.parent.rmdir()
    assert "is missing or incomplete" in refusal(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "not json", "damaged"),
        (lambda text: "[" * 100_000, "nested more than 100 levels deep"),
        (lambda text: "3", "it is not a JSON object"),
        (lambda text: text.replace('"step": 4', '"step": 5'), "its checksum does not match"),
        (lambda text: text.replace("0.02", "0.03"), "its checksum does not match"),
        (lambda text: '{"folder": "sharded-00000004"}', "it does not say of which step it is"),
        (lambda text: '{"folder": "../../elsewhere", "progress": {"step": 4}}', "'folder' cannot be"),
        (lambda text: '{"folder": "sharded-00000009", "progress": {"step": 4}}', "missing or incomplete"),
        (lambda text: '{"folder": "sharded-00000004", "format": 1, "kind": "training"}', "cannot be None"),
        (lambda text: '{"folder": "sharded-00000004", "format": 7, "kind": "training"}', "it has format 7"),
        (lambda text: '{"folder": ["sharded-00000004"]}', "'folder' cannot be"),
    ],
)
def test_a_damaged_pointer_is_named(run, change, words):
    path = run / "sharded.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(CourseError, match=words) as refused:
        read_pointer(run)
    assert "\n" not in str(refused.value) and str(run) in str(refused.value)
    assert words.replace("\\", "") in refusal(run)


def test_only_folders_and_files_that_a_run_wrote_are_removed(tmp_path):
    run = tmp_path / "run"
    for name in ("sharded-00000002", "sharded_results", "sharded-mine"):
        (run / name).mkdir(parents=True)
        (run / name / "x").write_text("mine")
        shards(run / name, "w", [(0, torch.ones(2))], (2,))
    (tmp_path / "elsewhere").mkdir()
    shards(tmp_path / "elsewhere", "w", [(0, torch.ones(2))], (2,))
    (run / "sharded-00000002" / shard_name(1)).write_text("named like a shard")
    (run / "sharded-00000003").symlink_to(tmp_path / "elsewhere")
    remove_sharded(run)
    assert sorted(path.name for path in (run / "sharded-00000002").iterdir()) == [shard_name(1), "x"]
    assert (run / "sharded_results" / shard_name(0)).exists() and (tmp_path / "elsewhere" / shard_name(0)).exists()


# -- pickles -----------------------------------------------------------------------------------------------------
class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def hostile(tmp_path):
    """A run of an earlier version whose table, and one of whose items, run code."""
    run = Path(shutil.copytree(OLD, tmp_path / "hostile"))
    for path in (run / "sharded-00000004").iterdir():
        path.write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    (run / "sharded-00000004" / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    return run


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_strangers_pickles_are_never_read(hostile, tmp_path, resume, beside):
    asked = json.loads((hostile / "sharded.json").read_text())["progress"]["asked"]
    if beside:
        plain = tmp_path / "plain"
        train(build("titans"), STREAM, CONFIG, folder=plain, progress=False, stop=lambda line: line["step"] == 2)
        shutil.copy(plain / "checkpoint.safetensors", hostile)
    before = snapshot(hostile)
    config = TrainingConfig.from_dict({name: asked[name] for name in asked if name != "text_hash"})
    with pytest.raises(CourseError, match=r"kept pickles.*--trust \(trust=True in Python\)") as refused:
        train(build("titans"), STREAM, config, folder=hostile, resume=resume, progress=False)
    assert ("remove" in str(refused.value)) == beside and "\n" not in str(refused.value)
    assert not (tmp_path / "executed").exists() and snapshot(hostile) == before


@pytest.mark.filterwarnings("ignore:.*kept no text_hash.*")
def test_neither_the_command_line_nor_the_training_board_reads_them(hostile, tmp_path, capsys):
    def asked_for(**settings):
        pointer["progress"]["asked"] = settings
        (hostile / "sharded.json").write_text(json.dumps(pointer))
        (hostile / "run.json").write_text(json.dumps(about_run | {"asked": settings}))

    about_run = json.loads((hostile / "run.json").read_text())
    pointer = json.loads((hostile / "sharded.json").read_text())
    plan = Plan("titans", steps=6)
    pointer["progress"]["tokens"] = 4 * plan.batch_size * plan.length
    asked_for(**plan.about(), **plan.training.to_dict())
    runner = Runner(plan, hostile)
    assert runner.step() == "failed" and "kept pickles" in runner.error
    about = {"preset": "micro", "memory": None, "text": "prose", "data": None, "column": None, "tokenizer": None}
    asked_for(**about, tokenizer_hash="bytes", **plan.training.to_dict())
    assert main(["train", "--resume", "--out", str(hostile), "--device", "cpu", "--quiet"]) == 2
    assert "kept pickles" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_trust_reads_them_and_no_pickle_is_left(tmp_path):
    """That the run goes on as it would have is looked at in tests/test_before_renames.py."""
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    asked = json.loads((run / "run.json").read_text())
    settings = {name: value for name, value in asked["asked"].items() if name != "text_hash"}
    net = LanguageModel(ModelConfig.from_dict(asked["model"]["config"]))
    result = train(net, STREAM, TrainingConfig.from_dict(settings), folder=run, resume=True, trust=True, progress=False)
    assert result.step == 6 and (run / "checkpoint.safetensors").exists() and not list(run.glob("sharded*"))
