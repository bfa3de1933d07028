"""Runs side by side: what the folders say is what the table says, also of runs that broke off or are damaged."""

import json
import shutil
from math import log

import pytest
import torch

from nl_course.app.cli import main
from nl_course.errors import FOUND, CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.documents import Document
from nl_course.tasks.packed import PackedStream, is_held_out
from nl_course.tasks.tokenizer import BYTES
from nl_course.training import TrainingConfig, train
from nl_course.training.run_table import HEADINGS, find_runs, measured, read_run, summary
from nl_course.training.runner import Plan, Runner
from tests.tasks.test_packed import needs_data

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
    assert head.split()[:4] == ["run", "memory", "data", "tokenizer"] and len(rows) == 2
    whole, broken = sorted(rows, key=lambda row: row.startswith("broken"))
    assert whole.split()[:4] == ["whole", "attention", "noise", "bytes"] and "3 of 4" in broken
    assert len({len(row) for row in rows}) == 1


def test_a_folder_that_is_a_run_and_one_that_holds_none(folder, tmp_path, capsys):
    assert [run.name for run in find_runs(folder / "whole")] == ["whole"]
    assert str(find_runs(tmp_path)) == "no run here"
    with pytest.raises(CourseError, match="there is no folder"):
        find_runs(tmp_path / "none")


# -- losses of different tokens ---------------------------------------------------------------------------------
def cells(runs, run):
    """The row of a run in the table, by heading."""
    head, *rows = str(runs).splitlines()
    row = rows[[other.name for other in runs].index(run)]
    starts = [head.index(heading) for heading in HEADINGS]
    ends = [start + len(heading) for start, heading in zip(starts, HEADINGS)]
    # Words start where their heading starts, numbers end where it ends.
    return {
        "tokenizer": row[starts[3] : starts[4]].split("  ")[0],
        "bits/byte": row[: ends[6]].split("  ")[-1].strip(),
        "held out": row[: ends[7]].split("  ")[-1].strip(),
    }


def copied(folder, tmp_path, change):
    """A copy of a run whose run.json `change` has changed."""
    shutil.copytree(folder / "whole", tmp_path / "whole")
    path = tmp_path / "whole" / "run.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    return find_runs(tmp_path)


def test_a_loss_is_shown_in_bits_per_byte(folder, tmp_path):
    run = read_run(folder / "whole")
    assert (run.tokenizer, run.bytes_per_token) == ("bytes", 1.0)
    assert run.bits_per_byte(run.loss) == pytest.approx(run.loss / log(2))
    assert cells(find_runs(folder), "whole")["bits/byte"] == f"{run.loss / log(2):.3f}"

    def subwords(about):
        about["data"] = {"tokenizer": "300 subwords, abc", "bytes_per_token": 2.5}

    shown = cells(copied(folder, tmp_path, subwords), "whole")
    assert shown["bits/byte"] == f"{run.loss / log(2) / 2.5:.3f}" and shown["tokenizer"] == "300 subwords, abc"
    assert shown["held out"] == f"{run.held_out / log(2) / 2.5:.3f}"


EARLIER = {
    # What runs of earlier versions wrote down -> tokenizer, bytes per token, the data's name.
    "a text": ({"preset": "micro", "text": "prose"}, "bytes", 1.0, "prose"),
    "bytes of data": ({"text": None, "data": "a.jsonl", "tokenizer_hash": "bytes"}, "bytes", 1.0, "a.jsonl"),
    "subwords": ({"text": None, "data": "a", "tokenizer_hash": "f00"}, "256 subwords, f00", None, "a"),
    "a plan's text": ({"kind": "delta", "task": "text"}, "bytes", 1.0, "text"),
    "needles": ({"kind": "delta", "task": "needle"}, "bytes", 1.0, "needle"),
    "recall": ({"kind": "delta", "task": "recall"}, "symbols", None, "recall"),
    "from Python": ({}, "?", None, ""),
}


@pytest.mark.parametrize("kind", EARLIER)
def test_a_run_of_an_earlier_version_is_in_bits_per_byte_where_its_tokens_are_known(folder, tmp_path, kind):
    asked, tokenizer, bytes_per_token, data = EARLIER[kind]

    def earlier(about):
        del about["data"]
        about["asked"] = asked

    runs = copied(folder, tmp_path, earlier)
    (run,) = runs
    assert (run.tokenizer, run.bytes_per_token, run.task) == (tokenizer, bytes_per_token, data)
    nats = f"{run.loss:.3f} nats/token"
    bits = f"{run.loss / log(2):.3f}"
    expected = bits if bytes_per_token else nats if tokenizer == "symbols" else f"? ({nats})"
    assert expected in str(runs)


DOCUMENTS = [Document(f"d/{i}", (f"document {i} says é and " + "more " * i).encode()) for i in range(60)]


class Halves:
    """Two bytes per token, rounded up."""

    vocab, separator, hash, name = 256, 0, "halves", "halves of words"

    def encode(self, text):
        return torch.ones((len(text) + 1) // 2, dtype=torch.int64)


@pytest.mark.parametrize("documents", [DOCUMENTS, [d for d in DOCUMENTS if not is_held_out(d)]])
def test_bytes_per_token_are_counted_when_a_run_starts(tmp_path, documents):
    stream = PackedStream(lambda first: iter(documents[first:]), Halves(), batch_size=2, length=8)
    held = [document for document in documents if is_held_out(document)]
    counted = held or documents[:1]  # of a sample: the first documents with enough tokens
    while not held and sum((len(d.text) + 1) // 2 + 1 for d in counted) < 64 * 9:
        counted = documents[: len(counted) + 1]
    size = sum(len(document.text) + 1 for document in counted)
    tokens = sum((len(document.text) + 1) // 2 + 1 for document in counted)
    assert stream.token_unit() == {"tokenizer": "halves of words", "bytes_per_token": size / tokens}
    model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16))
    train(model, stream, TrainingConfig(**CONFIG), folder=tmp_path / "run", progress=False)
    run = read_run(tmp_path / "run")
    assert (run.tokenizer, run.bytes_per_token) == ("halves of words", size / tokens)


def test_a_stream_of_bytes_needs_no_counting():
    stream = PackedStream(lambda first: iter(DOCUMENTS[first:]), BYTES, batch_size=2, length=8)
    assert stream.token_unit() == {"tokenizer": "bytes", "bytes_per_token": 1.0}


@pytest.mark.parametrize(("task", "tokenizer"), [("needle", "bytes"), ("recall", "symbols")])
def test_a_plan_says_what_its_tokens_are(tmp_path, task, tokenizer):
    Runner(Plan("linear", size="micro", task=task, steps=1, batch_size=1, length=64), tmp_path).step()
    assert read_run(tmp_path).tokenizer == tokenizer


@needs_data
def test_runs_that_wrote_nothing_down_are_measured_with_the_tokenizer_and_data_that_one_names(folder, tmp_path, capsys):
    from nl_course.tasks.tokenizer import train_tokenizer

    texts = [document.text.decode() for document in DOCUMENTS]
    (tmp_path / "shelf.jsonl").write_text("\n".join(json.dumps({"words": text}) for text in texts))
    tokenizer = train_tokenizer(texts, 300)
    tokenizer.save(tmp_path / "t.json")

    def earlier(about):
        del about["data"]
        about["asked"] |= {"text": None, "data": "shelf.jsonl", "tokenizer_hash": tokenizer.hash}

    (run,) = copied(folder, tmp_path, earlier)
    assert run.bytes_per_token is None
    known = measured(str(tmp_path / "shelf.jsonl"), tmp_path / "t.json", "words")
    assert 1 < known[tokenizer.hash] < 10
    options = ["--tokenizer", str(tmp_path / "t.json"), "--data", str(tmp_path / "shelf.jsonl"), "--column", "words"]
    assert main(["runs", str(tmp_path), *options]) == 0
    assert f"{run.loss / log(2) / known[tokenizer.hash]:.3f}" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), *options[:2]]) == 2


# -- damage ------------------------------------------------------------------------------------------------------
def changed(path, *keys, to):
    """A damage: the value under these keys of run.json is another, or gone."""

    def damage(folder):
        about = json.loads((folder / "run.json").read_text())
        inside = about
        for key in keys[:-1]:
            inside = inside[key]
        if to is None:
            del inside[keys[-1]]
        else:
            inside[keys[-1]] = to
        (folder / "run.json").write_text(json.dumps(about))

    return damage


def written(name, content):
    def damage(folder):
        (folder / name).unlink()
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)

    return damage


def as_folder(folder):
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()


def as_link(folder):
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to("nowhere")


LINE = b'{"step": 1, "loss": 5.0, "tokens": 32, "seconds": 1.0, "tokens_per_second": 30.0, "memory_bytes": 9}\n'
DAMAGED = {
    "run.json is gone": (written("run.json", None), "there is no run's description"),
    "run.json is empty": (written("run.json", b""), "is damaged"),
    "run.json is cut off": (written("run.json", b'{"asked": {'), "is damaged"),
    "run.json is no text": (written("run.json", b"\xff\xfe\0"), "is damaged"),
    "run.json is a list": (written("run.json", b"[]"), "is damaged"),
    "run.json is a number": (written("run.json", b"5"), "is damaged"),
    "run.json is nested deep": (written("run.json", b"[" * 100_000), "nested"),
    "run.json has another key twice as deep": (written("run.json", b'{"a":' * 100_000), "nested|damaged"),
    "no model": (changed("run.json", "model", to=None), "it lacks 'model'"),
    "no config": (changed("run.json", "model", "config", to=None), "it lacks 'config'"),
    "a config of another kind": (changed("run.json", "model", "config", to=[1]), "is damaged"),
    "no parameters": (changed("run.json", "model", "parameters", to=None), "it lacks 'parameters'"),
    "parameters in words": (changed("run.json", "model", "parameters", to="many"), "parameters is 'many'"),
    "no settings": (changed("run.json", "asked", to=None), "it lacks 'asked'"),
    "settings of another kind": (changed("run.json", "asked", to="none"), "is damaged"),
    "steps in words": (changed("run.json", "asked", "steps", to="ten"), "steps is 'ten'"),
    "a token of no bytes": (changed("run.json", "data", "bytes_per_token", to=0), "cannot have 0 bytes"),
    "bytes in words": (changed("run.json", "data", "bytes_per_token", to="two"), "bytes_per_token is 'two'"),
    "a loss in words": (written("metrics.jsonl", LINE.replace(b"5.0", b'"low"')), "loss is 'low', and no number"),
    "no loss": (written("metrics.jsonl", LINE.replace(b'"loss"', b'"lost"')), "it lacks 'loss'"),
    "a speed in words": (written("metrics.jsonl", LINE.replace(b"30.0", b"null")), "tokens_per_second is None"),
    "memory in words": (written("metrics.jsonl", LINE.replace(b"9}", b"[9]}")), r"memory_bytes is \[9\]"),
    "metrics.jsonl is a folder": (as_folder, "it has no metrics.jsonl"),
    "metrics.jsonl is a link that leads nowhere": (as_link, "it has no metrics.jsonl"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_run_has_a_line_of_its_own_and_hides_no_other(folder, tmp_path, capsys, what):
    damage, why = DAMAGED[what]
    for name in ("whole", "bad"):
        shutil.copytree(folder / "whole", tmp_path / name)
    damage(tmp_path / "bad")
    with pytest.raises(CourseError, match=why):
        read_run(tmp_path / "bad")
    assert main(["runs", str(tmp_path)]) == FOUND
    out, error = capsys.readouterr()
    _, whole, bad = out.splitlines()
    assert whole.startswith("whole") and bad.startswith("bad: cannot be read: ") and error == ""


CUT_OFF = {
    "no step yet": (b"", 0),
    "a line cut off": (LINE + LINE[:20], 1),
    "a line of another kind": (LINE + b"5\n", 1),
    "a line nested deep": (LINE + b"[" * 100_000 + b"\n", 1),
    "a line that is no text": (LINE + b"\xff\xfe\n", 1),
}


@pytest.mark.parametrize("what", CUT_OFF)
def test_of_metrics_that_end_in_damage_the_whole_lines_count(folder, tmp_path, what):
    content, steps = CUT_OFF[what]
    shutil.copytree(folder / "whole", tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(content)
    (run,) = find_runs(tmp_path)
    assert run.steps == steps and (run.loss is None) == (steps == 0)


def test_a_recorded_run_is_summed_up_like_one_in_a_folder():
    about = {"asked": {"kind": "delta", "task": "text"}, "model": {"parameters": 7, "config": {}}}
    run = summary("recorded", about, [json.loads(LINE)], True)
    assert (run.memory, run.tokenizer, run.loss) == ("delta", "bytes", 5.0)
