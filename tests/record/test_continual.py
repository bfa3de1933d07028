"""The recipe of changing corpora: it runs, its file says what it is, and its arms differ in what they should."""

import json

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.record import continual
from nl_course.record.equal_gain import at_equal_gain, forgetting_at, line_of
from nl_course.record.provenance import read_config


@pytest.fixture(scope="module")
def config():
    config = read_config("continual")
    smaller = config.pop("quick")
    return {**config, **smaller, "training": {**config["training"], **smaller["training"]}}


@pytest.mark.slow
def test_a_quick_recording_is_whole(tmp_path, config):
    (file,) = continual.run(tmp_path, quick=True)
    found = json.loads(file.read_text())
    assert found["about"]["command"] == "nl-course record continual"
    places = 3 * config["bytes_each"] // config["every"] + 1
    assert len(found["places"]) == places and found["switches"] == [0, 256, 512]
    assert len(found["runs"]) == sum(len(arm["rates"]) for arm in config["arms"].values())
    for row in found["runs"]:
        old = torch.tensor(row["old"])
        assert old.shape == (1, config["readers"], places) and old.isfinite().all()
        assert torch.tensor(row["read"]).shape == (1, config["readers"], places - 1)
    assert all(row["arm"] in config["arms"] for row in found["at_equal_gain"])


def test_arms_have_equal_parameters_and_the_same_start_where_they_say_so(config):
    full = read_config("continual")
    models = {
        name: continual.clocked(
            continual.NestedLanguageModel(continual.sizes(full, arm["clocks"], [0] * len(arm["clocks"]))),
            full,
            arm,
            0.01,
        )
        for name, arm in full["arms"].items()
    }
    counts = {name: model.parameter_count() for name, model in models.items()}
    assert max(counts.values()) / min(counts.values()) < 1.01
    rates = [level.rate for level in models["cms"].layers[0].levels]
    assert rates == pytest.approx([0.01, 0.04, 0.16])
    assert [level.rate for level in models["cms, equal steps"].layers[0].levels] == [0.01] * 3


def test_streams_change_the_corpus_and_go_on_where_they_stopped(config):
    tokens = continual.streams(config, 0)
    assert tokens.shape == (config["readers"], 3 * 256 + 1) and not torch.equal(tokens[0], tokens[1])
    old = continual.domain_of(config, config["old"]).train
    text = bytes(old.tolist())
    first, third = (bytes(tokens[0, i * 256 : (i + 1) * 256].tolist()) for i in (0, 2))
    assert first + third in text


# -- at equal learning -------------------------------------------------------------------------------------------------
def test_a_line_ends_where_a_larger_rate_gains_less():
    points = [(0.1, 0.2), (0.3, 0.3), (0.2, 0.9)]
    assert line_of(points) == [(0, 0), (0.1, 0.2), (0.3, 0.3)] and line_of([(-0.1, 0.5), (0.2, 0.1)]) == [(0, 0)]
    assert forgetting_at(0.05, points) == pytest.approx(0.1)
    assert forgetting_at(0.2, points) == pytest.approx(0.25)
    assert forgetting_at(0.3, points) == pytest.approx(0.3)
    with pytest.raises(CourseError, match="the most is"):
        forgetting_at(0.31, points)


def test_arms_are_compared_at_the_gain_that_all_reach_seed_by_seed():
    arms = {
        "plain": [[(0.2, 0.2), (0.4, 0.6)], [(0.4, 0.4)]],
        "cms": [[(0.4, 0.2)], [(0.2, 0.1)]],
    }
    rows = at_equal_gain(arms, "plain")
    assert [(row["arm"], row["share"]) for row in rows] == [("plain", 0.5), ("cms", 0.5), ("plain", 1), ("cms", 1)]
    half, whole = rows[1], rows[3]  # gains 0.2 and 0.1; 0.4 and 0.2
    assert half["gain"] == pytest.approx(0.15) and half["forgetting"]["values"] == pytest.approx([0.1, 0.05])
    assert half["less_plain"]["values"] == pytest.approx([-0.1, -0.05])
    assert whole["less_plain"]["values"] == pytest.approx([-0.4, -0.1]) and "less_plain" not in rows[2]
    assert at_equal_gain({**arms, "still": [[(0.0, 0.0)], [(0.1, 0.0)]]}, "plain") == []
    with pytest.raises(CourseError, match="no arm is called 'mlp'"):
        at_equal_gain(arms, "mlp")
    with pytest.raises(CourseError, match="'cms' has 1 seeds"):
        at_equal_gain({**arms, "cms": arms["cms"][:1]}, "plain")


def test_gain_and_forgetting_are_those_of_the_visit_to_the_new_corpus():
    losses = {"old": [[[3.0, 2.0, 2.5, 2.0], [3.0, 2.0, 2.7, 2.0]]], "new": [[[3.0, 3.0, 2.0, 2.5]] * 2]}
    runs = [{"arm": "plain", "rate": rate, **losses} for rate in (0.1, 0.01)]
    found = continual.gains_of(runs, {"bytes_each": 8, "every": 8})
    assert found == {"plain": [[pytest.approx((1.0, 0.6))] * 2]}
