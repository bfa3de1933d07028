"""The recipe of notebook 04's comparison: whole in a few steps, fair in its data, right in its bins."""

import json

import pytest
import torch

from nl_course.record import record
from nl_course.record.inner_loop import by_bin, halves
from nl_course.tasks.text import batch
from nl_course.training import TrainingConfig
from nl_course.training.checkpoint import load_model


@pytest.mark.slow
def test_a_quick_run_writes_both_models_and_their_measurements(tmp_path):
    *checkpoints, run = record("inner-loop", tmp_path, quick=True)
    models = json.loads(run.read_text())["models"]
    assert [load_model(c).config.memory for c in checkpoints] == ["attention", "ttt-linear"]
    sizes = [m["parameters"] for m in models.values()]
    assert max(sizes) / min(sizes) < 1.01
    kept = {name: [row["bytes"] for row in m["state"]] for name, m in models.items()}
    assert kept["attention"][1] == 2 * kept["attention"][0] and kept["ttt-linear"][1] == kept["ttt-linear"][0]
    assert all(row["seconds"] > 0 for m in models.values() for row in m["decode"])


def test_a_step_has_equal_shares_of_each_text_and_everybody_gets_the_same():
    streams = [torch.randint(0, 128, (5000,), dtype=torch.uint8), torch.randint(128, 256, (5000,), dtype=torch.uint8)]
    training = TrainingConfig(batch_size=8, length=32)
    inputs, targets = halves(streams, training)(5)
    assert (inputs[:4] < 128).all() and (inputs[4:] >= 128).all() and inputs.shape == (8, 32)
    assert torch.equal(inputs[:4], batch(streams[0], 5, 4, 32, 0)[0])
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, halves(streams, training)(5)[0])


def test_a_bin_is_the_mean_of_its_positions_and_lies_in_its_interval():
    losses = torch.randn(2, 5, 12).double()
    bins = by_bin(losses, [0, 4, 12], resamples=200)
    assert [(b["from"], b["to"]) for b in bins] == [(0, 4), (4, 12)]
    assert bins[1]["mean"] == pytest.approx(losses[..., 4:].mean().item(), abs=1e-4)
    assert all(b["low"] < b["mean"] < b["high"] for b in bins)
