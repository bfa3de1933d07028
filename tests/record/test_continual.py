"""The recipe of changing corpora: it runs, its file says what it is, and its arms differ in what they should."""

import json

import pytest
import torch

from nl_course.record import continual
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
    old = continual.domain(config["old"]).train
    text = bytes(old.tolist())
    first, third = (bytes(tokens[0, i * 256 : (i + 1) * 256].tolist()) for i in (0, 2))
    assert first + third in text
