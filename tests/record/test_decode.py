"""The recipe of decoding: the same states however they are read, a filled cache, ratios within rounds."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.record import RECIPES, parts, record
from nl_course.record import decode as recipe
from nl_course.record.sizes import settings
from nl_course.tasks.text import library


def built(name: str, config: dict) -> torch.nn.Module:
    return parts.build(parts.sized(config, name, config["models"][name])).requires_grad_(False)


@pytest.mark.slow
def test_a_quick_run_measures_every_model_at_every_context(tmp_path):
    (run,) = record("decode", tmp_path, quick=True)
    found, config = json.loads(run.read_text()), settings("decode", quick=True)
    assert "decode" in RECIPES and run == tmp_path / "runs" / "decode.json"
    assert list(found["models"]) == list(config["models"]) and len(found["load"]) == 2
    for name, model in found["models"].items():
        assert abs(model["parameters"] / config["parameters"] - 1) < parts.TOLERANCE
        assert [row["tokens"] for row in model["rows"]] == config["contexts"]
        for row in model["rows"]:
            assert row["bytes"] == row["formula"] <= row["capacity"]
            assert 0 < row["low"] <= row["seconds"] <= row["high"] <= row["peak"] and row["mean"] <= row["peak"]
        assert model["rows"][0]["to_shortest"]["ratio"] == 1
        grows = model["rows"][0]["bytes"] < model["rows"][-1]["bytes"]
        assert grows == (name in ("attention", "window"))  # the quick contexts do not fill the window
    assert all(row["to_attention"]["ratio"] == 1 for row in found["models"]["attention"]["rows"])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_models_are_equal_and_contexts_reach_128k(device):
    config = settings("decode", device)
    for name, spec in config["models"].items():
        shape = parts.sized(config, name, spec)
        with torch.device("meta"):
            count = parts.build(shape).parameter_count()
        assert abs(count / config["parameters"] - 1) < parts.TOLERANCE, name
    assert config["contexts"][0] == 1024 and config["contexts"][-1] == 131072


@pytest.mark.parametrize("name", ["window", "titans", "ttt-e2e"])
def test_states_on_the_way_are_those_of_reading_that_far(name):
    config, stream = settings("decode", quick=True), library("prose").stream("held_out").long()
    model = built(name, config)
    found = recipe.read(model, stream, [40, 96], piece=32)
    for context, state in found.items():
        with torch.no_grad():
            _, alone = model(stream[None, :context])
        assert state.nbytes == alone.nbytes == model.state_bytes(context)
        for key, tensor in alone.tensors().items():
            assert torch.allclose(state.tensors()[key], tensor, atol=1e-4), (context, key)
    with pytest.raises(CourseError, match="fewer than"):
        recipe.read(model, stream[:50], [96], piece=32)


def test_a_filled_cache_is_as_large_as_a_read_one_and_goes_on_from_its_place():
    config, stream = settings("decode", quick=True), library("prose").stream("held_out").long()
    model = built("attention", config)
    state, read = recipe.filled(model, 64), recipe.read(model, stream, [64], 32)[64]
    assert {n: t.shape for n, t in state.tensors().items()} == {n: t.shape for n, t in read.tensors().items()}
    assert state.memory(0).position == read.memory(0).position == 64
    logits, after = model(stream[None, 64:65], state)
    assert after.memory(0).position == 65 and logits.isfinite().all()


def test_spread_by_hand():
    found = recipe.spread(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]))
    assert found == {"seconds": 3.0, "low": 2.0, "high": 4.0, "mean": 4.0, "peak": 10.0}
    assert recipe.spread(torch.tensor([2.0, 4.0]), "ratio") == {"ratio": 3.0, "low": 2.5, "high": 3.5}
