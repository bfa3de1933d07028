"""The recipes of the comparison: quick runs are whole, models are equal in size at every size, sums are right."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.record import corpora, long_text, optimizers, parts, record, state_tracking
from nl_course.record.sizes import changed, settings
from nl_course.tasks.formal import group, products
from nl_course.training import Diverged


def found(recording: str, folder) -> dict:
    (file,) = record(recording, folder, quick=True)
    whole = json.loads(file.read_text())
    assert file.name == f"{recording}.json" and whole["about"]["command"] == f"nl-course record {recording}"
    return whole


# -- sizes -------------------------------------------------------------------------------------------------------------
def test_settings_change_what_a_size_names_and_nothing_else():
    before = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2]}
    assert changed(before, {"b": {"c": 5}, "e": [9]}) == {"a": 1, "b": {"c": 5, "d": 3}, "e": [9]}
    assert before["b"]["c"] == 2
    for name in ("long-text", "state-tracking"):
        cpu, gpu, quick = settings(name), settings(name, "cuda:0"), settings(name, quick=True)
        assert cpu["parameters"] < gpu["parameters"] and quick["training"]["steps"] < cpu["training"]["steps"]
        assert not {"gpu", "quick"} & set(cpu) and list(cpu["models"]) == list(gpu["models"]) == list(quick["models"])
        assert set(quick["search"]["rates"]) <= set(cpu["search"]["rates"])
    with pytest.raises(CourseError, match="long-txt"):
        settings("long-txt")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_models_have_as_many_parameters(device):
    text, track = settings("long-text", device), settings("state-tracking", device)
    with torch.device("meta"):  # sized refuses what differs by more than its tolerance
        for name, spec in text["models"].items():
            assert parts.sized(text, name, spec).layers == text["layers"]
        for task in track["tasks"]:
            for name in track["models"]:
                assert state_tracking.shape_of(track, task, name).width == track["width"]


# -- the loss by position ----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_long_text_is_whole_and_goes_on_from_its_parts(tmp_path, monkeypatch):
    first, config = found("long-text", tmp_path), settings("long-text", quick=True)
    assert list(first["models"]) == list(config["models"])
    for name, model in first["models"].items():
        assert [(row["from"], row["to"]) for row in model["loss"]] == [(0, 16), (16, 80)]
        assert all(row["low"] <= row["mean"] <= row["high"] for row in model["loss"])
        means = [sum(column) / 2 for column in zip(*(seed["loss"] for seed in model["seeds"]), strict=True)]
        assert means == pytest.approx([row["mean"] for row in model["loss"]], abs=1e-4)
        states = [row["bytes"] for row in model["state"]]
        assert states[0] < states[1] if name == "attention" else model["state"]
    assert all(row["mean"] == row["low"] == row["high"] == 0 for row in first["models"]["attention"]["less_attention"])
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert found("long-text", tmp_path)["models"] == first["models"]


def test_stretches_resample_windows_and_not_places():
    rows = torch.tensor([[[1.0, 5.0], [3.0, 5.0]]])  # one seed, two windows, two bins
    first, second = long_text.stretches(rows, {"resamples": 200, "bins": [0, 4, 8]})
    assert (first["mean"], first["low"], first["high"]) == (2, 1, 3)
    assert (second["from"], second["to"], second["low"], second["high"]) == (4, 8, 5, 5)


def test_stretches_of_several_seeds_have_students_interval():
    rows = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[2.0, 5.0], [4.0, 5.0]]])  # two seeds, whose means are 2 and 3
    first, second = long_text.stretches(rows, {"bins": [0, 4, 8]})
    half = 12.7062 / 2  # t of one degree of freedom, times the standard error 1/2
    assert (first["mean"], first["low"], first["high"]) == pytest.approx((2.5, 2.5 - half, 2.5 + half), abs=1e-3)
    assert second["low"] == second["high"] == 5


def test_losses_by_window_are_means_of_the_places(monkeypatch):
    config = {"corpus": "prose", "bins": [0, 8, 32], "windows": 3, "batch": 2}
    monkeypatch.setattr(long_text, "token_losses", lambda _, x, y: torch.arange(32.0).expand(len(x), 32))
    assert long_text.losses_by_window(None, config) == [[3.5, 19.5]] * 3


# -- state tracking ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_state_tracking_is_whole_and_goes_on_from_its_parts(tmp_path, monkeypatch):
    first, config = found("state-tracking", tmp_path), settings("state-tracking", quick=True)
    assert list(first["tasks"]) == list(config["tasks"])
    for task in first["tasks"].values():
        assert list(task["models"]) == list(config["models"])
        for model in task["models"].values():
            assert [(row["low"], row["high"]) for row in model["asked"]] == [(2, 6), (8, 8)]
            for row in model["asked"]:
                assert row["by_place"] == pytest.approx(sum(row["by_place_seeds"]) / 2, abs=1e-4)
                assert len(row["whole_seeds"]) == len(model["seeds"]) == 2
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert found("state-tracking", tmp_path)["tasks"] == first["tasks"]


def test_the_tasks_are_what_they_are_called():
    config = settings("state-tracking")
    for about in config["tasks"].values():
        elements, letters = group(about["group"]).elements, about["letters"]
        reached = {products(about["group"], [a, b, c])[-1] for a in letters for b in letters for c in letters}
        reached |= {products(about["group"], [a, b])[-1] for a in letters for b in letters}
        assert reached == set(range(len(elements)))  # the letters make the whole group
    swaps = [group("s3").elements[letter] for letter in config["tasks"]["swaps"]["letters"]]
    assert all(sum(place != element for place, element in enumerate(swap)) == 2 for swap in swaps)
    with pytest.raises(CourseError, match="swap"):
        state_tracking.task_of(config, "swap", 4)


# -- optimisers --------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_optimizers_is_whole_and_goes_on_from_its_parts(tmp_path, monkeypatch):
    first, config = found("optimizers", tmp_path), settings("optimizers", quick=True)
    assert list(first["arms"]) == list(config["arms"])
    for name, arm in first["arms"].items():
        rates = config["arms"][name]["rates"]
        assert [row["rate"] for row in arm["search"]] == (rates if len(rates) > 1 else [])
        best = min(arm["search"], key=lambda row: row["loss"])["rate"] if arm["search"] else rates[0]
        assert arm["rate"] == best and arm["low"] <= arm["loss"] <= arm["high"]
        assert arm["loss"] == pytest.approx(sum(one["loss"] for one in arm["seeds"]) / 2, abs=1e-4)
        assert [row["step"] for row in arm["seeds"][0]["held_out"]] == [2, 4]
    states = {name: arm["state_bytes"] for name, arm in first["arms"].items()}
    assert states["sgd"] == states["dgd"] == 0 < states["momentum"] < states["adamw"] < states["m3"]
    assert first["arms"]["adamw"]["times_adamw"] == 1
    for module in (optimizers, parts):
        monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
    again = found("optimizers", tmp_path)["arms"]
    assert {name: arm["seeds"] for name, arm in again.items()} == {n: a["seeds"] for n, a in first["arms"].items()}


def test_a_run_that_stops_being_numbers_is_kept_as_one(tmp_path, monkeypatch):
    def diverges(*_, **__):
        raise Diverged("no numbers", 0)

    monkeypatch.setattr(optimizers, "train", diverges)
    kept = optimizers.Optimizers(quick=True, assets=tmp_path).part("dgd", 0)
    assert kept["loss"] is kept["settled"] is None and kept["rate"] == 0.3


def test_every_arm_has_rates_of_its_own():
    assert all(arm["rates"] == sorted(arm["rates"]) for arm in settings("optimizers")["arms"].values())
    training = optimizers.training_of(settings("optimizers"), "m3", 0.5, 7)
    assert (training.optimizer, training.learning_rate, training.seed, training.weight_decay) == ("m3", 0.5, 7, 0)


# -- corpora -----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_corpora_is_whole(tmp_path):
    first, config = found("corpora", tmp_path), settings("corpora", quick=True)
    assert len(first["runs"]) == sum(len(arm["rates"]) for arm in config["arms"].values())
    for row in first["runs"]:
        losses = torch.tensor(row["losses"])
        assert losses.shape == (1, 4, 3) and losses.isfinite().all()
        assert row["learnt"] == pytest.approx(
            (losses[0, :3].diagonal() - losses[0, 1:].diagonal()).mean().item(), abs=2e-4
        )


def test_measures_of_losses_have_the_right_signs():
    losses = torch.tensor([[3.0, 3.0, 3.0], [2.0, 2.5, 3.0], [2.2, 2.0, 2.8], [2.4, 2.1, 2.0]])
    found = corpora.measures(losses)
    assert found["learnt"] == pytest.approx((1.0 + 0.5 + 0.8) / 3)
    assert found["forgetting"] == pytest.approx((0.4 + 0.1) / 2) and found["backward"] == pytest.approx(-0.25)
    assert found["forward"] == pytest.approx((0.5 + 0.2) / 2) and found["average"] == pytest.approx(6.5 / 3)
    spread = corpora.summary([losses[None], losses[None] + 1])
    assert spread["average"] == pytest.approx(6.5 / 3 + 0.5, abs=1e-4) and spread["learnt_spread"] == 0


def test_every_reader_reads_each_corpus_once():
    config = settings("corpora", quick=True)
    tokens = corpora.streams(config, 1)
    assert tokens.shape == (2, 3 * 128 + 1) and not torch.equal(tokens[0], tokens[1])
    for place, name in enumerate(config["corpora"]):
        text = bytes(corpora.domain_of(config, name).train.tolist())
        assert bytes(tokens[0, place * 128 : (place + 1) * 128].tolist()) in text
