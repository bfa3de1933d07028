"""The recipe of chunks: models that differ in their chunk and in what writes it, asked with every size of chunk."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel
from nl_course.record import RECIPES, parts, record
from nl_course.record import chunks as recipe
from nl_course.record.sizes import settings
from nl_course.seeding import seeded


@pytest.mark.slow
def test_a_quick_run_is_whole_and_goes_on_from_its_parts(tmp_path, monkeypatch):
    (file,) = record("chunks", tmp_path, quick=True)
    found, config = json.loads(file.read_text()), settings("chunks", quick=True)
    assert "chunks" in RECIPES and file == tmp_path / "runs" / "chunks.json"
    models = {(model["inner"], model["chunk"]): model for model in found["models"]}
    assert list(models) == [(inner, chunk) for inner in ("sgd", "muon") for chunk in config["chunks"]]
    for model in models.values():
        assert [run["seed"] for run in model["runs"]] == config["seeds"] == found["seeds"]
        assert [one["rate"] for one in model["search"]["tried"]] == config["search"]["rates"]
        assert [[row["read_with"] for row in asked["by_chunk"]] for asked in model["recall"]] == [config["read_with"]]
    for row in found["less"]:
        read = config["read_with"].index(row["chunk"])
        muon, sgd = (models[inner, row["chunk"]]["recall"][0]["by_chunk"][read]["values"] for inner in ("muon", "sgd"))
        assert row["gains"][0]["values"] == pytest.approx([a - b for a, b in zip(muon, sgd, strict=True)], abs=1e-4)
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert json.loads(record("chunks", tmp_path, quick=True)[0].read_text())["models"] == found["models"]


def fresh(inner: str, chunk: int) -> tuple[recipe.Trial, LanguageModel]:
    trial = recipe.Chunks(config=settings("chunks", quick=True)).trial(1e-2, 0, inner, chunk)
    with seeded(0):
        model = parts.build(trial.shape)
        parts.begin(model)
    trial.prepare(model)
    return trial, model


def test_models_begin_with_the_same_weights_and_differ_in_the_write_alone():
    (one, sgd), (other, muon) = fresh("sgd", 8), fresh("muon", 8)
    assert one.taught != other.taught and one.training == other.training and one.shape == other.shape
    for a, b in zip(sgd.parameters(), muon.parameters(), strict=True):
        assert torch.equal(a, b)
    tokens = torch.arange(12)[None]
    assert not torch.allclose(sgd(tokens)[0], muon(tokens)[0])


def test_written_by_sgd_a_model_is_the_same_model_with_titans():
    trial, model = fresh("sgd", 4)
    with seeded(0):
        titans = parts.build(trial.shape)
    titans.load_state_dict(model.state_dict())
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(model(tokens)[0], titans(tokens)[0], rtol=1e-5, atol=1e-5)


def test_read_with_another_chunk_the_largest_step_stays():
    _, model = fresh("sgd", 8)
    tokens = torch.arange(12)[None]
    before = model(tokens)[0]
    with recipe.reading_with(model, 2):
        config = model.layers[0].memory.neural.config
        assert config.chunk == 2 and config.largest_step == 2 / 8
        assert not torch.allclose(model(tokens)[0], before)
    assert torch.equal(model(tokens)[0], before)
    with recipe.reading_with(model, 8):
        assert torch.equal(model(tokens)[0], before)


def test_an_inner_optimizer_that_there_is_not():
    with pytest.raises(CourseError, match="adam"):
        recipe.Chunks(config=settings("chunks")).trial(1e-2, 0, "adam", 4)
