"""The recipe of the wirings: one thing changed in each layer, and what reaches the memory on the way."""

import json

import pytest
import torch

from nl_course.memories import build_memory
from nl_course.model import LanguageModel, ModelConfig
from nl_course.record import parts, record
from nl_course.record import wirings as recipe
from nl_course.record.sizes import settings
from nl_course.tasks.recall import mqar


@pytest.mark.slow
def test_a_quick_run_has_every_wiring_and_its_signals(tmp_path):
    (file,) = record("wirings", tmp_path, quick=True)
    found, config = json.loads(file.read_text()), settings("wirings", quick=True)
    assert [point["memory"] for point in found["points"]] == list(config["models"])
    for point in found["points"]:
        has_signals = point["model"]["memory"] in ("mac", "mag")
        (run,) = point["runs"]
        assert [signal["step"] for signal in run["signals"]] == (config["looked_at"] if has_signals else [])
        for signal in run["signals"]:
            assert -1 <= signal["other"] <= 1 and -1 <= signal["own"] <= 1 and min(signal["gradient"].values()) >= 0


def test_each_wiring_differs_from_its_layer_in_what_its_name_says():
    config = settings("wirings")
    named = {
        "convolution in front": {"conv"},
        "no residual path": {"attention_residual"},
        "gate of vectors": {"gate"},
        "attention drawn": set(),
        "as before": {"conv", "attention_residual", "gate"},
    }
    for name in config["models"]:
        layer, _, change = name.partition(", ")
        one, other = (recipe.Wirings(config=config, folder=None).trial(0.005, 0, n, "middle") for n in (layer, name))
        usual, changed = one.shape.to_dict(), other.shape.to_dict()
        differing = {key for key in ("conv",) if usual[key] != changed[key]}
        differing |= {key for key, value in changed["options"].items() if usual["options"][key] != value}
        wanted = named.get(change, set())
        assert differing == (wanted - {"gate"} if layer == "mal" else wanted), name
        assert ("attention_drawn" in other.taught) == (other.prepare is not None) == (change == "attention drawn")


def test_a_drawn_attention_is_not_zero_and_the_usual_one_is():
    config = ModelConfig(vocab=64, width=8, layers=1, heads=2, hidden=8, memory="mac", options={"segment": 4})
    model = LanguageModel(config)
    task = mqar(2, 16, 2, 64)
    assert recipe.signals(model, task)["attention"] == 0
    recipe.draw_attention(model, 3)
    assert recipe.signals(model, task)["attention"] > 0.01


def test_likeness_by_hand():
    """Queries equal to the key of their own pair, and at right angles to the others."""
    task = mqar(3, 16, 3, 64, seed=1)
    k = torch.zeros(3, 16, 1, 4)
    q = torch.zeros(3, 16, 1, 4)
    for pair in range(3):
        k[:, 2 * pair + 1, 0, pair] = 1
    rows, asked_at = task.mask.nonzero(as_tuple=True)
    pair = (asked_at - task.age[rows, asked_at] - 1) // 2
    q[rows, asked_at, 0, pair] = 1
    assert recipe.likeness(q, k, task) == (1.0, 0.0)


def test_gradients_are_of_the_groups_of_the_layer():
    layer = build_memory("mag", 8, 2, expansion=2, window=3)
    y, _ = layer(torch.randn(1, 5, 8))
    found = recipe.gradients(layer, y.square().mean())
    assert set(found) == set(recipe.GROUPS) and min(found.values()) > 0
    weights = [p for n, p in layer.named_parameters() if n.startswith("merge.")]
    y, _ = layer(torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)))
    loss = y.square().mean()
    by_hand = torch.autograd.grad(loss, weights, retain_graph=True)
    expected = sum(float(g.pow(2).sum()) for g in by_hand) ** 0.5
    assert recipe.gradients(layer, loss)["merging"] == pytest.approx(expected, rel=1e-3)


def test_watching_changes_no_row():
    seen = []
    rows = parts.watched("model", lambda step: step * 10, lambda model, step: seen.append((model, step)))
    assert rows(3) == 30 and seen == [("model", 3)]
