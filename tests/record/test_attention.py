"""The recipe of notebook 01's checkpoint: whole in a few steps, and its batches are what its config says."""

import json

import pytest
import torch

from nl_course.record import record
from nl_course.record.attention import mixture
from nl_course.record.provenance import read_config
from nl_course.training import TrainingConfig
from nl_course.training.checkpoint import load_model


@pytest.mark.slow
def test_a_quick_run_writes_a_model_and_how_it_copies(tmp_path):
    checkpoint, run = record("attention", tmp_path, quick=True)
    recording = json.loads(run.read_text())
    assert load_model(checkpoint).config.width == 96
    wanted = {"letters_first", "letters_again", "passages_first", "passages_again", "held_out_prose"}
    assert wanted <= recording.keys() and all(1 < recording[name] < 8 for name in wanted)


def test_half_of_a_batch_is_text_and_half_repeats():
    config, training = read_config("attention"), TrainingConfig(batch_size=8, length=192)
    streams = [torch.randint(0, 256, (5000,), dtype=torch.uint8) for _ in config["corpora"]]
    inputs, targets = mixture(streams, config["repeats"], training)(3)
    assert inputs.shape == targets.shape == (8, 192) and torch.equal(inputs[:, 1:], targets[:, :-1])
    repeats = [any(torch.equal(row[p:], row[:-p]) for p in range(1, 96)) for row in inputs]
    assert repeats == [False] * 4 + [True] * 4
