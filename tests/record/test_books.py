"""The recipe of the first book's facts: what is asked, how shares are told, and that parts are kept."""

import json

import pytest
import torch

from nl_course.record import RECIPES, parts, record
from nl_course.record import books as recipe
from nl_course.tasks.planted import PlantedBooks, recalled
from nl_course.training.checkpoint import load_model


@pytest.mark.slow
def test_a_quick_run_writes_all_and_a_second_one_keeps_its_parts(tmp_path, monkeypatch):
    checkpoint, run = record("books", tmp_path, quick=True)
    found, config = json.loads(run.read_text()), recipe.settings(quick=True)
    assert "books" in RECIPES and list(found["models"]) == list(config["models"])
    assert load_model(checkpoint).config.memory == "attention"
    for model in found["models"].values():
        assert [row["bytes"] for row in model["first"]] == [512, 1024]
        for row in model["first"]:
            assert (
                row["asked"] == 2
                and row["right"] == sum(row["right_by_row"])
                and row["low"] <= row["accuracy"] <= row["high"]
            )
        assert [(row["facts"], row["asked"]) for row in model["load"]] == [(1, 2), (2, 4), (4, 8), (8, 16)]
        assert [(row["bytes"], row["asked"]) for row in model["fresh"]] == [(0, 2), (1024, 2)]
        late = model["everywhere"][-1]["by_age"]
        assert sum(row["asked"] for row in late) == 2 * (1 + 2)  # a further fact in each 256 of the last 512 bytes
    whole, fixed = ([row["state_bytes"] for row in m["first"]] for m in found["models"].values())
    assert whole[1] > 1.9 * whole[0] and fixed[0] == fixed[1]
    assert all(row["accuracy"] == 1 for row in found["index"]["first"])
    monkeypatch.setattr(recipe, "read_and_ask", lambda *_, **__: pytest.fail("read again"))
    monkeypatch.setattr(parts, "trained", lambda *_, **__: pytest.fail("trained again"))
    assert json.loads(record("books", tmp_path, quick=True)[-1].read_text())["models"] == found["models"]


def test_reading_in_stops_asks_what_reading_at_once_would():
    model = load_model(recipe.asset("checkpoints/needle-ttt-linear.safetensors")).eval()
    texts = [PlantedBooks(length=1024, rows=2).text(i) for i in range(2)]
    config, found = {"piece": 300, "ask": 3}, {}
    recipe.read_and_ask(model, texts, [512, 1024], config, "cpu", found)
    assert list(found) == [512, 1024] and found[512]["state_bytes"] == found[1024]["state_bytes"]
    with torch.no_grad():
        _, state = model(torch.tensor([list(text.text) for text in texts]))
    right = recalled(model, state, [text.first_facts for text in texts])
    assert [hits for _, hits in found[1024]["rows"]] == right


def test_an_interval_is_wide_where_the_facts_of_a_text_fall_together():
    alike = recipe.shares([(4, 4), (0, 4)] * 8)
    apart = recipe.shares([(2, 4)] * 16)
    assert alike["accuracy"] == apart["accuracy"] == 0.5
    assert alike["high"] - alike["low"] > 1.5 * (apart["high"] - apart["low"])
    none = recipe.shares([(0, 4)] * 16)
    assert none["low"] == 0 and 0.03 < none["high"] < 0.08


def test_ages_are_sorted_into_their_classes():
    text = PlantedBooks(length=4096, every=512, rows=2).text(0)
    facts = text.read_by(4096)
    found = recipe.by_age(4096, {"rows": [(facts, [True] * len(facts))]})
    assert sum(row["asked"] for row in found) == len(facts)
    assert found[-1]["from"] <= facts[0].age(4096) < found[-1]["to"]
    assert all(row["accuracy"] == 1 for row in found)
