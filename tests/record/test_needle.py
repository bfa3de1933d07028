"""The recipe of the needles: equal models, parts that are kept, the same shares however they are made."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel
from nl_course.record import needle as recipe
from nl_course.record import parts, record
from nl_course.tasks.text import decode
from nl_course.training import Diverged
from nl_course.training.checkpoint import load_model, read_info


@pytest.mark.slow
def test_a_quick_run_writes_all_and_a_second_one_goes_on_from_its_parts(tmp_path, monkeypatch):
    *checkpoints, run = record("needle", tmp_path, quick=True)
    found, config = json.loads(run.read_text()), recipe.Needle.settings(quick=True)
    assert list(found["models"]) == list(config["models"]) == ["attention", "gated-delta"]
    for checkpoint, (name, model) in zip(checkpoints, found["models"].items(), strict=True):
        loaded = load_model(checkpoint)
        assert checkpoint.name == model["checkpoint"] and checkpoint.stat().st_size < 1_000_000
        assert loaded.config.memory == model["memory"] and loaded.parameter_count() == model["parameters"]
        assert read_info(checkpoint)["info"]["trained_as"] == name
        assert abs(model["parameters"] / config["parameters"] - 1) < parts.TOLERANCE
        assert list(model["recall"]) == ["passkey", "number", "word"] and len(model["seeds"]) == 2
        for rows in model["recall"].values():
            assert [r["length"] for r in rows] == [64, 128] and [r["asked"] for r in rows] == [16, 8]
            assert all(r["low"] <= r["accuracy"] <= r["high"] and len(r["by_seed"]) == 2 for r in rows)
            assert all(sum(d["asked"] for d in r["by_depth"]) == r["asked"] for r in rows)
    kept = {name: [s["bytes"] for s in m["state"]] for name, m in found["models"].items()}
    assert kept["gated-delta"][0] == kept["gated-delta"][1]
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    again = json.loads(record("needle", tmp_path, quick=True)[-1].read_text())
    assert again["models"] == found["models"]


def test_a_run_that_diverges_is_reported_and_the_others_stand_for_the_model(tmp_path, monkeypatch):
    trained = recipe.Needle.trained

    def fails(self, folder, name, seed):
        if (name, seed) == ("gated-delta", 0):
            raise Diverged("the loss stopped being a number", 2)
        return trained(self, folder, name, seed)

    monkeypatch.setattr(recipe.Needle, "trained", fails)
    *checkpoints, run = record("needle", tmp_path, quick=True)
    model = json.loads(run.read_text())["models"]["gated-delta"]
    assert [(failed["seed"], failed["diverged"]) for failed in model["diverged"]] == [(0, 2)]
    assert [seed["seed"] for seed in model["seeds"]] == [1] and read_info(checkpoints[1])["info"]["seed"] == 1
    assert all(row["asked"] == 8 and len(row["by_seed"]) == 1 for row in model["recall"]["number"][:1])
    monkeypatch.setattr(recipe.Needle, "trained", lambda *_: fails(None, None, "gated-delta", 0))
    with pytest.raises(CourseError, match="diverges from every seed: 0, 1"):
        record("needle", tmp_path / "again", quick=True)


def test_every_model_has_as_many_parameters(tmp_path):
    config = recipe.Needle.settings()
    shapes = [parts.sized(config, name, spec) for name, spec in config["models"].items()]
    counts = [LanguageModel(shape).parameter_count() for shape in shapes]
    assert max(counts) / min(counts) < 1 + parts.TOLERANCE and max(counts) < 480_000  # under a megabyte in bf16
    with pytest.raises(CourseError, match="more than the 20,000 asked for"):
        parts.sized({**config, "parameters": 20_000}, "ttt-linear", config["models"]["ttt-linear"])
    with pytest.raises(CourseError, match="ttt-linear"):
        recipe.Needle(folder=tmp_path).part("ttt_linear", 0)


def test_the_curriculum_follows_its_stages():
    config = recipe.Needle.settings()
    training, data = recipe.curriculum(config, 0.01, seed=5)
    assert training.steps == sum(s["steps"] for s in config["stages"]) and training.seed == 5
    assert training.learning_rate == 0.01 and config["stages"][-1]["steps"] > 0.2 * training.steps
    step = 0
    for stage in config["stages"]:
        for at in (step, step + stage["steps"] - 1):
            inputs, targets = data(at)
            published = sum(stage.get("ruler", {}).values())
            assert inputs.shape == targets.shape == (sum(stage["rows"].values()) + published, stage["length"])
            answers = stage["rows"]["passkey"] + stage["needles"] * (stage["rows"]["number"] + stage["rows"]["word"])
            assert int((targets != -100).sum()) == 5 * answers + 7 * published  # RULER's numbers have seven digits
        step += stage["steps"]
    assert not torch.equal(data(0)[0], recipe.curriculum(config, 0.01, seed=6)[1](0)[0])


def test_a_long_stage_may_have_rulers_forms_and_models_may_be_asked_for_them():
    config = recipe.Needle.settings()
    forms = {"S-NIAH-1": 1, "S-NIAH-2": 2}
    *short, last = config["stages"]
    config = {**config, "ruler": list(forms), "stages": [*short, {**last, "rows": {"number": 2}, "ruler": forms}]}
    training, data = recipe.curriculum(config, 0.01, seed=0)
    inputs, targets = data(training.steps - 1)
    texts = [decode(row) for row in inputs.tolist()]
    assert training.batch_size == 5
    assert ["special magic number for" in text for text in texts] == [False, False, True, True, True]
    assert int((targets[2:] != -100).sum()) == 3 * 7  # one number of seven digits each
    assert recipe.kinds_asked(config) == ["passkey", "number", "word", "S-NIAH-1", "S-NIAH-2"]
    asked = recipe.task_asked(config, "S-NIAH-2")
    assert (asked.style, asked.kind, asked.answer, asked.hay) == ("ruler", "number", 7, "text")
    assert recipe.task_asked(config, "number").style == "mark"


def test_seeds_are_pooled_and_shown():
    def part(right):
        depth = [{"low": 0.0, "high": 1.0, "asked": 10, "right": right}]
        return [
            {"length": 64, "asked": 10, "right": right, "accuracy": right / 10, "right_bytes": 0.5, "by_depth": depth}
        ]

    (row,) = recipe.pooled([part(10), part(5)])
    assert (row["asked"], row["right"], row["accuracy"], row["by_seed"]) == (20, 15, 0.75, [1.0, 0.5])
    assert (row["low"], row["high"]) == (0.5313, 0.8881)  # Wilson, by an independent table
    assert row["by_depth"] == [{"low": 0.0, "high": 1.0, "asked": 20, "right": 15}]
