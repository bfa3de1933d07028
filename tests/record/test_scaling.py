"""The recipe of notebook 02's law: small, whole, and honest about how it was made."""

import json

import pytest
import torch

from nl_course.model import LanguageModel, ModelConfig
from nl_course.record import RECIPES, record
from nl_course.record.provenance import read_config
from nl_course.record.scaling import start_weights


@pytest.mark.slow
def test_a_quick_run_writes_every_field(tmp_path):
    (path,) = record("scaling", tmp_path, quick=True)
    recording = json.loads(path.read_text())
    assert path == tmp_path / "runs" / "scaling.json" and "scaling" in RECIPES
    assert {"command", "config", "commit", "wall_seconds", "torch", "device", "threads"} <= set(recording["about"])
    config = recording["about"]["config"]
    assert len(recording["runs"]) == len(config["models"]) * len(config["tokens"]) == 2
    for run in recording["runs"]:
        model = LanguageModel(ModelConfig(**{k: run[k] for k in ("width", "layers", "heads", "hidden")}))
        assert run["parameters"] == model.parameter_count()
        assert run["parameters_without_embedding"] == model.parameter_count() - 256 * run["width"]
        assert run["tokens"] == run["steps"] * config["length"] * config["batch_size"]
        assert len(run["loss_by_position"]) == config["length"]
        mean = sum(run["loss_by_position"]) / config["length"]
        assert run["held_out_loss"] == pytest.approx(mean, abs=1e-4) and 2 < run["held_out_loss"] < 6


def test_the_config_asks_for_a_grid_of_sizes_and_texts():
    config = read_config("scaling")
    assert len(config["models"]) * len(config["tokens"]) >= 12
    counts = [LanguageModel(ModelConfig(**shape)).parameter_count() for shape in config["models"]]
    assert counts == sorted(counts) and counts[-1] > 20 * counts[0]


def test_weights_start_at_a_size_that_keeps_signals():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(width=64, layers=2, heads=2, hidden=128))
    start_weights(model)
    mlp = model.layers[0].mlp
    assert mlp.gate.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert mlp.down.weight.std().item() == pytest.approx(128**-0.5 / 2, rel=0.05)
