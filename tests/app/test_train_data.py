"""`nl-course train` on what is no plain text: token ids in columns, refused by row and position where they do not fit."""

import json
import re

import pytest
from safetensors.torch import load_file

from nl_course.app.cli import main
from nl_course.training.run_folder import read_metrics
from nl_course.training.run_table import find_runs

SMALL = "train --preset micro --steps 4 --batch-size 2 --length 16 --device cpu --quiet".split()
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
        (("--vocab", "49"), r"row ids.jsonl/\d+ has the token id 49 at position .*; the vocabulary has the ids 0 to 48"),
    ],
)
def test_ids_without_a_vocabulary_or_beyond_it_are_refused_by_name(here, capsys, options, says):
    assert train("--data", "ids.jsonl", "--column", "ids", *options) == 2
    error = capsys.readouterr().err
    assert re.search(says, error) and error.count("\n") == 1
