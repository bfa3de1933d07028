"""The recipe of the frontier: equal models, parts that are kept, bytes by two ways, intervals by hand."""

import json

import pytest

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES
from nl_course.record import RECIPES, parts, record
from nl_course.record import frontier as recipe
from nl_course.record.sizes import settings
from nl_course.tasks.needle_scores import wilson


@pytest.mark.slow
def test_a_quick_run_has_every_point_and_a_second_one_goes_on_from_its_parts(tmp_path, monkeypatch):
    (run,) = record("frontier", tmp_path, quick=True)
    found, config = json.loads(run.read_text()), settings("frontier", quick=True)
    assert "frontier" in RECIPES and run == tmp_path / "runs" / "frontier.json"
    grid = recipe.grid(config)
    assert [(p["memory"], p["size"], p["seeds"]) for p in found["points"]] == grid and len(grid) == 17
    for point in found["points"]:
        assert abs(point["parameters"] / config["sizes"][point["size"]]["parameters"] - 1) < parts.TOLERANCE
        assert len(point["asked"]) == len(config["asked"]) and len(point["runs"]) == len(point["seeds"])
        for row, asked in zip(point["asked"], config["asked"], strict=True):
            assert row["questions"] == asked["pairs"] * asked["rows"] and row["length"] == asked["length"]
            assert row["low"] <= row["mean"] <= row["high"] and len(row["by_seed"]) == len(point["seeds"])
            assert row["bytes"] == row["formula"] > 0
            assert row.get("filler") == asked.get("filler")
        short, long, published = (row["bytes"] for row in point["asked"])
        assert published == short
        assert short < long if point["memory"] == "attention" else short <= long
        assert [row["rate"] for row in point["search"]["tried"]] == config["search"]["rates"]
        assert point["rate"] == min(point["search"]["tried"], key=lambda row: row["loss"])["rate"]
        assert point["path"] in ("auto", "auto, reference")
        assert all(run["curve"][-1]["step"] == 2 and run["settled"]["loss"] > 0 for run in point["runs"])
    by_size = {p["size"]: p["search"] for p in found["points"] if p["memory"] == "attention"}
    assert by_size["small"] == by_size["middle"]  # one search for all sizes
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert json.loads(record("frontier", tmp_path, quick=True)[0].read_text())["points"] == found["points"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_models_of_a_size_are_equal_and_seven_have_every_size(device):
    config = settings("frontier", device)
    counts = {size: [] for size in config["sizes"]}
    for name, size, _ in recipe.grid(config):
        counts[size].append(parts.build(recipe.shape_of(config, name, size)).parameter_count())
    for found in counts.values():
        assert max(found) / min(found) < 1 + 2 * parts.TOLERANCE
    for name in ("attention", "window", "linear", "gated-delta", "kda", "ttt-linear", "titans"):
        model = config["models"][name]
        assert model["sizes"] == list(config["sizes"]) and len(model["seeds"]) >= 3
    steps = {recipe.training_of(config, size, 0.01, 0).steps for size in config["sizes"]}
    assert steps == {config["training"]["steps"]}  # equal tokens


def test_every_memory_of_the_course_that_notebook_09_compares_is_there():
    config = settings("frontier")
    shapes = {name: recipe.shape_of(config, name, "middle") for name in config["models"]}
    assert set(MEMORIES) - {shape.memory for shape in shapes.values()} == {"latent-attention", "retnet", "cached"}
    chunks = {name: [level.chunk for level in s.levels[-1]] for name, s in shapes.items() if hasattr(s, "levels")}
    assert chunks == {"ttt-e2e": [8, 0], "hope": [8], "hope-at-rest": [0]}


def test_the_window_goes_with_the_size():
    config = settings("frontier")
    windows = [recipe.shape_of(config, "window", size).options["window"] for size in config["sizes"]]
    assert windows == [8, 16, 32]
    with pytest.raises(CourseError, match="size 'huge'"):
        recipe.shape_of(config, "window", "huge")
    with pytest.raises(CourseError, match="windows"):
        recipe.shape_of(config, "windows", "small")


def row(right: int, questions: int = 100) -> dict:
    return {
        "pairs": 4, "length": 64, "power": 1.0, "questions": questions, "right": right, "bytes": 8, "formula": 8
    }  # fmt: skip


def test_intervals_by_hand():
    found = recipe.pooled((row(50), row(60), row(70)))  # standard deviation 0.1, three seeds: 4.303 0.1 / sqrt(3)
    assert found["mean"] == 0.6 and found["by_seed"] == [0.5, 0.6, 0.7] and found["interval"] == "seeds"
    assert (found["low"], found["high"]) == (pytest.approx(0.6 - 0.2484, abs=1e-4), pytest.approx(0.8484, abs=1e-4))
    assert recipe.pooled((row(99), row(1)))["low"] == 0 and recipe.pooled((row(99), row(1)))["high"] == 1
    alone = recipe.pooled((row(30),))
    assert (alone["low"], alone["high"]) == tuple(round(x, 4) for x in wilson(30, 100))
    assert alone["interval"] == "questions"
