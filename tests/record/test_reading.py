"""The recipe of TTT-E2E on real text: equal networks, the second reading, the clip, intervals, a quick run."""

import json
from dataclasses import replace

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.nested import NestedLanguageModel, with_inner_loop, without_inner_loop
from nl_course.record import RECIPES, parts, record
from nl_course.record import reading as recipe
from nl_course.record import reading_measures as measures
from nl_course.training.checkpoint import load_model

ABOUT = recipe.Reading.settings(quick=True)


def net(name: str = "meta") -> NestedLanguageModel:
    torch.manual_seed(0)
    model = NestedLanguageModel(recipe.shapes(ABOUT)[name])
    parts.begin(model)
    return model.eval()


STREAM = torch.randint(97, 123, (900,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.slow
def test_a_quick_run_writes_all_and_a_second_one_goes_on_from_its_parts(tmp_path, monkeypatch):
    *checkpoints, path = record("reading", tmp_path, quick=True)
    assert "reading" in RECIPES and [c.stem for c in checkpoints] == list(recipe.MODELS.values())
    found = json.loads(path.read_text())
    assert load_model(checkpoints[0]).clocked and not load_model(checkpoints[1]).clocked
    for rows in found["models"].values():
        assert [row["seed"] for row in rows] == ABOUT["seeds"]
        assert all(row["steps"][1]["loss"] == row["clips"][1]["loss"] for row in rows)
    assert all(row["rate"] == ABOUT["shape"]["rate"] for row in found["models"]["meta"])
    for row in found["models"]["plain"]:
        assert row["tried"][str(row["rate"])] == min(row["tried"].values())
    place = found["by_position"]["meta on - meta off"][0]
    first = [row["by_position"] for row in found["models"]["meta"]]
    assert place["values"] == pytest.approx([row["on"][0] - row["off"][0] for row in first], abs=1e-4)
    assert found["state"][0]["bytes"] >= found["state"][0]["fast"] + found["state"][0]["window"]
    monkeypatch.setattr(parts, "train", lambda *_, **__: pytest.fail("trained again"))
    assert json.loads(record("reading", tmp_path, quick=True)[-1].read_text())["models"] == found["models"]


def test_both_networks_have_the_same_weights_to_learn_and_fit_a_checkpoint():
    shapes = recipe.shapes(recipe.Reading.settings())
    models = [NestedLanguageModel(shape) for shape in shapes.values()]
    assert models[0].clocked and not models[1].clocked
    assert [(n, p.shape) for n, p in models[0].named_parameters()] == [
        (n, p.shape) for n, p in models[1].named_parameters()
    ]
    assert 2 * models[0].parameter_count() < 2**20  # bytes in bf16


def test_on_and_off_are_the_same_weights_under_another_config():
    tokens, shape = measures.windows(STREAM, 100, 2), ABOUT["shape"]
    meta, plain = net(), net("plain")
    plain.load_state_dict(meta.state_dict())
    on = measures.losses(meta, tokens)
    assert torch.equal(measures.losses(measures.at_pace(plain, ABOUT, shape["rate"], shape["clip"]), tokens), on)
    off = measures.losses(measures.at_pace(meta, ABOUT, None, None), tokens)
    assert torch.equal(off, measures.losses(plain, tokens)) and not torch.allclose(on, off)
    half = measures.at_pace(meta, ABOUT, 0.5, None)
    assert half.config.clip is None and half.clocked[0].level.config.rate == 0.5
    assert half.clocked[0].level.first.data_ptr() == meta.clocked[0].level.first.data_ptr()
    with pytest.raises(CourseError, match="no block of this model"):
        with_inner_loop(replace(meta.config, levels=tuple(b[-1:] for b in meta.config.levels)), 4)
    assert with_inner_loop(without_inner_loop(meta.config), shape["chunk"]) == meta.config


def test_the_second_reading_from_kept_states_is_the_whole_text_read_at_once():
    model, length = net(), ABOUT["passage"]
    found = measures.second_reading(model, ABOUT, STREAM)
    rows = measures.windows(STREAM, 2 * length + max(ABOUT["distances"]), ABOUT["passages"])
    passage, other = rows[:, :length], rows[:, length : 2 * length].roll(1, 0)
    for i, distance in enumerate(ABOUT["distances"]):
        filler = rows[:, 2 * length : 2 * length + distance].roll(2, 0)
        for name, before in (("second", passage), ("fresh", other)):
            whole = measures.losses(model, torch.cat([before, filler, passage], dim=1))
            assert found[name][i] == pytest.approx(whole[:, length + distance :].mean().item(), abs=2e-4)
    assert found["first"] == pytest.approx(measures.losses(model, passage).mean().item(), abs=2e-4)
    with pytest.raises(CourseError, match="must grow"):
        measures.second_reading(model, {**ABOUT, "distances": [32, 0]}, STREAM)


def test_the_share_of_clipped_steps_counts_gradients_longer_than_the_clip():
    model, chunk = net(), ABOUT["shape"]["chunk"]
    tokens = measures.windows(STREAM, 2 * chunk + 1, 2)
    level = model.clocked[0].level
    norms = []
    for row in tokens:
        loss = measures.at_pace(model, ABOUT, None, None).requires_grad_(True)
        still = loss.layers[-1].levels[0]
        gradient = torch.autograd.grad(loss.token_losses(row[None, : chunk + 1]).mean(), (still.first, still.last))
        norms.append(float(sum(g.square().sum() for g in gradient).sqrt()))
    assert level.config.chunk == chunk and norms[0] != norms[1]
    between = sum(norms) / 2
    pieces = tokens[:, : chunk + 2]
    assert measures.share_clipped(measures.at_pace(model, ABOUT, 1.0, between), pieces) == 0.5
    assert measures.share_clipped(measures.at_pace(model, ABOUT, 1.0, None), pieces) == 0.0
    assert measures.share_clipped(measures.at_pace(model, ABOUT, 1.0, 1e-9), tokens) == 1.0


def test_two_are_compared_seed_by_seed():
    less = measures.compared([[1.0, 5.0], [2.0, 5.0]], [[0.5, 1.0], [0.5, 1.0]])
    assert [x["values"] for x in less] == [[0.5, 1.5], [4.0, 4.0]]


def test_is_about_distances_beyond_the_window_and_every_seed():
    about = {"distances": [0, 64, 128], "shape": {"window": 64}}

    def seed(on: float) -> dict:
        return {"second_reading": {"on": {"second": [9.0, 9.0, on]}, "off": {"second": [1.0, 1.0, 1.0]}}}

    found = recipe.check_10(about, {"meta": [seed(0.5), seed(0.9)]})
    assert found["distances"] == [128] and found["holds"] and found["on - off"][0]["values"] == [-0.5, -0.1]
    assert not recipe.check_10(about, {"meta": [seed(0.5), seed(1.1)]})["holds"]
