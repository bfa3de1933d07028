"""The recipe of the mechanisms: arms equal in size that differ in one thing, differences by seed, a quick run."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.record import RECIPES, parts, record
from nl_course.record import mechanisms as recipe
from nl_course.record.sizes import settings


@pytest.mark.slow
def test_a_quick_run_has_every_case_and_goes_on_from_its_parts(tmp_path, monkeypatch):
    (file,) = record("mechanisms", tmp_path, quick=True)
    found, config = json.loads(file.read_text()), settings("mechanisms", quick=True)
    assert "mechanisms" in RECIPES and file == tmp_path / "runs" / "mechanisms.json"
    assert list(found["cases"]) == list(recipe.CASES) and found["seeds"] == config["seeds"]
    for name, case in found["cases"].items():
        first, *others = case["arms"]
        for arm in case["arms"].values():
            assert [run["seed"] for run in arm["runs"]] == config["seeds"]
            if "search" in arm:
                wanted = config["cases"][name].get("rates", config["search"]["rates"])
                assert [one["rate"] for one in arm["search"]["tried"]] == wanted
        for question, row in zip(config["cases"][name]["asked"], case["asked"], strict=True):
            assert row["question"] == question and set(row["less"]) == set(others)
            for other in others:
                pairs = zip(row["score"][first]["values"], row["score"][other]["values"], strict=True)
                assert row["less"][other]["values"] == pytest.approx([a - b for a, b in pairs], abs=1e-4)
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert json.loads(record("mechanisms", tmp_path, quick=True)[0].read_text())["cases"] == found["cases"]


@pytest.mark.parametrize("quick", [False, True])
def test_the_arms_of_a_case_are_equal_in_size(quick):
    made = recipe.Mechanisms(config=settings("mechanisms", quick=quick))
    assert list(made.config["cases"]) == list(recipe.CASES)
    for case, about in made.config["cases"].items():
        for arm in about["arms"]:
            count = parts.build(made.trial(1e-2, 0, case, arm).shape).parameter_count()
            assert abs(count / about["shared"]["parameters"] - 1) < parts.TOLERANCE


@pytest.mark.parametrize("mechanism", ["momentum", "retention"])
def test_the_arms_differ_in_the_mechanism_alone(mechanism):
    arms = settings("mechanisms")["cases"][mechanism]["arms"]
    on, off = arms["on"]["spec"], arms["off"]["spec"]
    assert off == {**on, "options": {**on["options"], mechanism: False}} and mechanism not in on["options"]


def test_self_modification_off_is_the_plain_rung_of_the_same_memory():
    arms = settings("mechanisms")["cases"]["self-modification"]["arms"]
    on, off = arms["on"]["spec"], arms["off"]["spec"]
    keys_move = {**off["options"], "adaptive": ["key", "memory"]}
    del keys_move["variant"]
    assert off["options"]["variant"] == "plain" and on == {**off, "options": keys_move}


def test_signs_are_told_by_arms_that_differ_in_their_targets_or_their_steps_alone():
    arms = {name: arm["spec"]["options"] for name, arm in settings("mechanisms")["cases"]["signs"]["arms"].items()}
    assert arms["off"] == {**arms["on"], "variant": "plain"} and arms["on"]["max_step"] == 1.0
    assert arms["steps-to-2"] == {**arms["off"], "max_step": 2.0}


def test_signs_are_scored_by_place():
    question = settings("mechanisms")["cases"]["signs"]["asked"][0]

    class Untrained(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(7))

        def forward(self, tokens):
            return self.weight.expand(*tokens.shape, 7), None  # always the first class

    answer = recipe.ask_signs(Untrained(), question, "cpu")
    assert answer["questions"] == 128 * 16 and 0.1 < answer["score"] < 0.25  # one order of six


def test_levels_off_is_the_same_model_with_one_clock():
    arms = settings("mechanisms")["cases"]["levels"]["arms"]
    on, off = arms["on"]["spec"], arms["off"]["spec"]
    assert on["levels"] == [8, 64] and off == {**on, "levels": [8, 8]}
    assert arms["one-level"]["spec"] == {**on, "levels": [8]}


def test_the_slow_level_writes_when_the_old_task_ends_and_not_again_before_the_row_does():
    """Else the case would not show what its text says."""
    case = settings("mechanisms")["cases"]["levels"]
    _, slow = case["arms"]["on"]["spec"]["levels"]
    taught = case["taught"]
    assert slow == taught["quiet"] + 2 * taught["keys"] * taught["old"]
    tokens, _ = recipe.excursion(1, **taught)
    assert slow < tokens.shape[1] <= 2 * slow
    asked, asked_targets = recipe.excursion(1, **{k: v for k, v in case["asked"][0].items() if k != "rows"})
    assert asked.shape == tokens.shape and (asked_targets != recipe.IGNORED).sum() == taught["asked_old"]


def test_depth_is_told_from_bytes():
    """`same-bytes` has one layer as `off`, and as many bytes as `on`, whose state is far larger than that of `off`."""
    made = recipe.Mechanisms(config=settings("mechanisms"))
    arms = made.about("depth")["arms"]
    assert {arms[arm]["spec"]["memory"] for arm in ("off", "same-bytes")} == {"ttt-linear"}
    models = {arm: parts.build(made.trial(1e-2, 0, "depth", arm).shape) for arm in arms}
    state = {arm: parts.state_after(model, made.config["state_tokens"])["bytes"] for arm, model in models.items()}
    assert abs(state["same-bytes"] / state["on"] - 1) < 0.05
    assert state["on"] > 5 * state["off"]


def test_a_score_is_the_share_of_right_answers():
    case = recipe.CASES["momentum"]

    def knows_all(tokens):  # the right answers, and those of the first row's first key left out
        _, targets = recipe.aftermath(3, pairs=2, names=4, seed=recipe.ASKED_SEED)
        logits = parts.torch.nn.functional.one_hot(targets.clamp_min(0), 11).float()
        logits[0] = 0
        return logits, None

    assert case.ask(knows_all, {"rows": 3, "pairs": 2, "names": 4}, "cpu") == {"score": 0.6667, "questions": 6}


def test_surprise_is_scored_against_what_is_known():
    new, known = parts.torch.tensor([3.0, 5.0]), parts.torch.tensor([1.0, 3.0, 4.0, 6.0])
    assert recipe.above(new, known) == 0.5625  # 3 is above one and equal to one, 5 above three: 4.5 of 8 pairs
    question = {"rows": 3, "told": 12, "keys": 3, "changes": 0.4, "names": 4}
    _, _, kind = recipe.retold(3, told=12, keys=3, changes=0.4, names=4, seed=recipe.ASKED_SEED)

    def told_apart(given, state, trace):  # surprised at what changed alone; its loss is high at what is known
        surprise = (kind == recipe.CHANGED).float()[..., None].expand(-1, -1, 2)
        trace.scope("layers.0").add("surprise", surprise)
        sure = parts.torch.nn.functional.one_hot(given.roll(-1, dims=1), 11).float()
        known_next = (kind.roll(-1, dims=1) == recipe.KNOWN)[..., None]
        return sure.masked_fill(known_next, 0.0), state

    found = recipe.CASES["surprise"].ask(told_apart, question, "cpu")
    assert found["score"] == 1.0 and found["loss"] == 0.0 and found["first"] == 0.5
    assert found["surprise"] == {"changed": 1.4142, "known": 0.0, "first": 0.0}
    assert found["questions"] == int((kind == recipe.CHANGED).sum()) > 0


def test_an_arm_without_training_is_the_other_one_as_it_begins(tmp_path, monkeypatch):
    made = recipe.Mechanisms(config=settings("mechanisms", quick=True), folder=tmp_path)
    assert made.searched_at("surprise", "untrained") == ("surprise", "trained")
    monkeypatch.setattr(made, "rate", lambda *_: 1e-2)
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained"))
    part = made.part("surprise", "untrained", 0)
    assert part["seed"] == 0 and "curve" not in part and 0 <= part["asked"][0]["score"] <= 1


def test_a_difference_is_taken_seed_by_seed():
    def seeds(*scores):
        return [{"asked": [{"score": score}]} for score in scores]

    (row,) = recipe.compared([{"rows": 1}], {"on": seeds(0.9, 0.8), "off": seeds(0.5, 0.6), "other": seeds(0.9, 0.8)})
    assert row["score"]["on"]["mean"] == 0.85 and row["less"]["off"]["values"] == [0.4, 0.2]
    assert row["less"]["other"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "values": [0.0, 0.0]}


def test_a_case_or_an_arm_that_there_is_not():
    made = recipe.Mechanisms(config=settings("mechanisms"))
    with pytest.raises(CourseError, match="momentm"):
        made.trial(1e-2, 0, "momentm", "on")
    with pytest.raises(CourseError, match="'of'"):
        made.trial(1e-2, 0, "momentum", "of")
