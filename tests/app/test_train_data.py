"""`nl-course train` on what is no plain text: token ids in columns and packed files; one's own held-out set, memory."""

import importlib.util
import json
import math
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nl_course.app.cli import main
from nl_course.memories import MEMORIES
from nl_course.suite import copy_template, load_memory, registered
from nl_course.training.checkpoint import load_model
from nl_course.training.run_folder import read_metrics
from nl_course.training.run_table import find_runs

SMALL = ["train", "--preset", "micro", "--steps", "4", "--batch-size", "2", "--length", "16", "--device", "cpu"]
SMALL.append("--quiet")
ROWS = [[(7 * i + j) % 50 for j in range(20 + i % 9)] for i in range(60)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps({"ids": row}) for row in ROWS))
    return tmp_path


def train(*options):
    return main([*SMALL, *options])


def test_a_column_of_ids_is_read_as_ids_and_their_number_is_the_models_vocabulary(here, capsys):
    ids = ["--data", "ids.jsonl", "--column", "ids", "--vocab", "50"]
    assert train(*ids, "--out", "r") == 0
    assert "It reads ids.jsonl as 50 token ids" in capsys.readouterr().out
    assert load_file("r/model.safetensors")["model.embedding.weight"].shape[0] == 50
    (run,) = find_runs("r")
    assert run.bytes_per_token is None and run.tokenizer == "50 token ids"
    assert train(*ids, "--separator", "49", "--out", "s") == 0
    assert read_metrics("r") != read_metrics("s")
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "r", "--data", "ids.jsonl", "--vocab", "51", "--quiet"]) == 2
    assert "was started with vocab = 50, not 51" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), r"ids.jsonl/\d+ holds token ids; say how many there are with --vocab N"),
        (
            ("--vocab", "49"),
            r"row ids.jsonl/\d+ has the token id 49 at position .*; the vocabulary has the ids 0 to 48",
        ),
    ],
)
def test_ids_without_a_vocabulary_or_beyond_it_are_refused_by_name(here, capsys, options, says):
    assert train("--data", "ids.jsonl", "--column", "ids", *options) == 2
    error = capsys.readouterr().err
    assert re.search(says, error) and error.count("\n") == 1


def test_packed_ids_are_trained_on_and_a_changed_file_is_not_gone_on_with(here, capsys):
    ids = np.arange(3000) * 7 % 50
    ids.astype("uint16").tofile("train.bin")
    assert train("--data", "train.bin", "--out", "r") == 2
    assert "train.bin holds token ids; say how many there are with --vocab N" in capsys.readouterr().err
    assert train("--data", "train.bin", "--vocab", "40", "--out", "r") == 2
    assert "the file train.bin has the token id 42 at position 6" in capsys.readouterr().err
    assert train("--data", "train.bin", "--vocab", "50", "--out", "r") == 0
    assert "held_out_loss" in read_metrics("r")[-1]
    assert train("--data", "ids.jsonl", "--column", "ids", "--vocab", "50", "--width", "uint16", "--out", "s") == 2
    assert "--width is about packed token ids" in capsys.readouterr().err
    ids[7] = 3
    ids.astype("uint16").tofile("train.bin")
    assert main(["train", "--resume", "--out", "r", "--data", "train.bin", "--quiet"]) == 2
    assert "the data of the run in r has changed" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "data", "packed"])
def test_a_held_out_set_of_ones_own_is_evaluated_on_and_then_nothing_else_is_kept_back(here, capsys, kind):
    for name, text in (("own", "the quick brown fox\n"), ("other", "jumps over the lazy dog\n")):
        (here / f"{name}.txt").write_text(text * 60)
        (here / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": f"{text} {i}"}) for i in range(60)))
        np.frombuffer((text * 60).encode(), np.uint8).astype("uint16").tofile(here / f"{name}.bin")
    source = {"text": ["--text", "own.txt"], "data": ["--data", "own.jsonl"]}
    source = source.get(kind, ["--data", "own.bin", "--vocab", "256"])
    held_out = source[1].replace("own", "other")
    assert train(*source, "--held-out", held_out, "--out", "r") == 0
    assert train(*source, "--held-out", source[1], "--out", "same") == 0
    assert train(*source, "--out", "without") == 0
    losses = [read_metrics(name)[-1]["held_out_loss"] for name in ("r", "same", "without")]
    assert len(set(losses)) == 3
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "r", "--quiet", *source[:2]]) == 2
    assert f"reads --held-out {held_out}; a checkpoint may come from anyone" in capsys.readouterr().err
    (here / held_out).write_bytes((here / held_out).read_bytes().replace(b"l", b"m"))
    assert main(["train", "--resume", "--out", "r", "--quiet", *source[:2], "--held-out", held_out]) == 2
    assert "the held-out text of the run in r has changed" in capsys.readouterr().err


def test_a_memory_of_ones_own_is_trained_and_never_run_because_a_checkpoint_says_so(here, capsys):
    copy_template("mine.py")
    text = ["--text", "ids.jsonl"]
    assert train(*text, "--memory", "mine.py", "--out", "r") == 0
    assert "micro with mine, " in capsys.readouterr().out and "mine" not in MEMORIES
    with registered(load_memory("mine.py")):
        model = load_model("r/model.safetensors")
    assert type(model.layers[0].memory).__name__ == "MyMemory"
    again = ["train", "--resume", "--out", "r", "--quiet", *text]
    assert main(again) == 2
    assert "reads --memory mine.py; a checkpoint may come from anyone" in capsys.readouterr().err
    (here / "mine.py").write_text((here / "mine.py").read_text() + "# changed\n")
    assert main([*again, "--memory", "mine.py"]) == 2
    assert "the memory of the run in r has changed" in capsys.readouterr().err
    for name, says in (
        ("none.py", "there is no file 'none.py'"),
        ("titans.py", "has a memory called 'titans' already"),
    ):
        if name == "titans.py":
            copy_template(name)
        assert train(*text, "--memory", name, "--out", "s") == 2
        assert says in capsys.readouterr().err


def test_the_held_out_loss_at_contexts_beyond_training_is_bits_per_byte_over_the_same_text(here, capsys):
    (here / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    options = ["--text", "own.txt", "--held-out", "own.txt", "--out", "r"]
    assert train(*options, "--evaluate-lengths", "64, 8,16") == 0
    table = json.loads((here / "r" / "lengths.json").read_text())
    assert table["unit"] == "bits per byte" and [row["length"] for row in table["rows"]] == [8, 16, 64]
    assert [row["beyond"] is None for row in table["rows"]] == [True, True, False]
    # At most 64 windows of the training's length are read, or 16 of the longest context, where those are more.
    text = torch.tensor(list((here / "own.txt").read_bytes()[: 64 * 17]))
    model = load_model("r/model.safetensors")
    for row in table["rows"]:
        count = len(text) // (row["length"] + 1)
        assert row["tokens"] == count * row["length"]
        starts = [i * (len(text) - row["length"] - 1) // (count - 1) for i in range(count)]
        windows = torch.stack([text[start : start + row["length"] + 1] for start in starts])
        with torch.no_grad():
            logits = model(windows[:, :-1])[0].double().log_softmax(-1)
        bits = -logits.gather(-1, windows[:, 1:, None])[..., 0] / math.log(2)
        assert row["loss"] == pytest.approx(float(bits.mean()), rel=1e-5)
        if row["beyond"] is not None:
            assert row["beyond"] == pytest.approx(float(bits[:, 16:].mean()), rel=1e-5)
    assert "after token 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ("16,x", "takes numbers of tokens, such as 256,1024,4096; 'x' is none"),
        ("16,", "'' is none"),
        ("0", "--evaluate-lengths must be a whole number of at least 1, not 0"),
        ("16,9000", "--evaluate-lengths 9000 needs 9,001 held-out tokens, and there are"),
    ],
)
def test_context_lengths_that_cannot_be_read_are_refused_before_training(here, capsys, lengths, says):
    assert train("--text", "ids.jsonl", "--out", "r", "--evaluate-lengths", lengths) == 2
    assert says in capsys.readouterr().err and not (here / "r").exists()


# -- how it is computed and shown --------------------------------------------------------------------------------------
def test_documents_begin_anew_if_one_says_which_token_ends_them(here, capsys):
    ids = ["--data", "ids.jsonl", "--column", "ids", "--vocab", "50"]
    assert train(*ids, "--reset-documents", "--out", "r") == 2
    assert "--reset-documents needs to know which token id ends a document" in capsys.readouterr().err
    assert train(*ids, "--separator", "49", "--reset-documents", "--out", "r") == 0
    assert train(*ids, "--separator", "49", "--out", "s") == 0
    losses = [[line["loss"] for line in read_metrics(name)] for name in ("r", "s")]
    assert losses[0] != losses[1]
    assert json.loads((here / "r" / "run.json").read_text())["asked"]["reset_at"] == 49
    assert main(["train", "--resume", "--out", "r", "--quiet", *ids[:2]]) == 0


def test_compiled_blocks_give_the_same_run(here, capsys):
    text = ["--text", "ids.jsonl"]
    assert train(*text, "--out", "r") == 0
    assert train(*text, "--compile", "eager", "--out", "compiled") == 0
    losses = [[line["loss"] for line in read_metrics(name)] for name in ("r", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, other = (load_file(f"{name}/model.safetensors") for name in ("r", "compiled"))
    assert one.keys() == other.keys()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--compile", "indutor"), "the backend of --compile 'indutor' is not known"),
        (("--compile", "eager", "--preset", "ttt-e2e-tiny"), "levels that learn as they read, and cannot be compiled"),
        (("--compile", "eager", "--estimate"), "--compile is for a run, and --estimate trains nothing"),
    ],
)
def test_what_cannot_be_compiled_is_said_in_one_line(here, capsys, options, says):
    assert train("--text", "ids.jsonl", "--out", "r", *options) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_machine_that_cannot_compile_says_so(here, capsys, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no working C++ compiler\nand much more")

    monkeypatch.setattr("torch.compiler.list_backends", lambda exclude_tags: ["mine"])
    monkeypatch.setattr("torch._dynamo.backends.registry.lookup_backend", lambda name: backend)
    monkeypatch.setattr("torch._dynamo.eval_frame.lookup_backend", lambda name: backend, raising=False)
    assert train("--text", "ids.jsonl", "--out", "r", "--compile", "mine") == 2
    error = capsys.readouterr().err
    assert "cannot be compiled on this machine: " in error and error.count("\n") == 1


def test_without_tensorboard_the_message_says_how_to_get_it(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train("--text", "ids.jsonl", "--out", "r", "--tensorboard", "board") == 2
    assert re.search(r"run `.*pip install .*tensorboard`", capsys.readouterr().err) and not (here / "board").exists()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra `tensorboard` is not installed")
def test_the_curves_are_read_by_tensorboard_itself(here, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train("--text", "ids.jsonl", "--out", "r", "--tensorboard", "board") == 0
    events = EventAccumulator(str(here / "board" / "r")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    lines = read_metrics("r")
    assert [step for step, _ in shown] == [1, 2, 3, 4]
    assert [value for _, value in shown] == pytest.approx([line["loss"] for line in lines], rel=1e-6)
    assert events.Scalars("held_out_loss")[-1].value == pytest.approx(lines[-1]["held_out_loss"], rel=1e-6)
