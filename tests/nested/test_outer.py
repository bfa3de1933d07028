"""The warm-up of the inner rate and recomputation, as an outer loop switches them on for a step."""

from dataclasses import replace

import pytest
import torch

import nl_course.training as training
from nl_course.app.cli import main
from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import NestedLanguageModel, e2e_config, without_inner_loop
from nl_course.nested.outer import inner_rate_scale, outer_step
from nl_course.training import TrainingConfig, train
from nl_course.training.run_folder import read_metrics
from tests.nested.suite import build, text

SMALL = e2e_config(vocab=32, width=8, layers=3, heads=2, hidden=6, window=6, chunk=4, suffix=2, clip=0.5)
STREAM = (torch.arange(3000) * 7 % 11 + torch.arange(3000) // 500).to(torch.uint8)
CONFIG = TrainingConfig(
    steps=8, batch_size=4, length=18, warmup=2, save_every=3, evaluate_every=4, inner_warmup=0.5, learning_rate=0.02
)


def net() -> NestedLanguageModel:
    torch.manual_seed(0)
    return NestedLanguageModel(SMALL)


def losses(run) -> list[float]:
    return [line["loss"] for line in run.metrics]


def test_the_share_grows_in_a_straight_line_from_a_tenth():
    shares = [inner_rate_scale(step, 20, 0.5) for step in range(20)]
    assert shares[0] == 0.1 and shares[5] == pytest.approx(0.55) and shares[10:] == [1.0] * 10
    assert [inner_rate_scale(step, 5, 0.0) for step in range(5)] == [1.0] * 5
    assert inner_rate_scale(0, 1, 1.0) == 0.1
    for wrong in (-0.1, 1.5, "half"):
        with pytest.raises(CourseError, match="inner_warmup"):
            inner_rate_scale(0, 10, wrong)


@pytest.mark.parametrize("case", ["ttt-e2e", "one"])
def test_within_a_step_levels_move_by_a_share_of_their_rate(case):
    config = (
        replace(SMALL, vocab=11) if case == "ttt-e2e" else replace(SMALL, vocab=11, levels=(_learned(0.3),), clip=None)
    )
    model, tokens = build(config), text()
    quarter = _scaled(config, 0.25)
    with torch.no_grad():
        for level in (level for _, level, _ in quarter.clocked):
            if level.log_rate is not None:
                level.log_rate.sub_(torch.log(torch.tensor(4.0, dtype=torch.float64)))
        whole = model(tokens)[0]
        with outer_step(model, 0.25):
            paced = model(tokens)[0]
        torch.testing.assert_close(paced, quarter(tokens)[0], rtol=1e-10, atol=1e-10)
        assert torch.equal(model(tokens)[0], whole) and (paced - whole).abs().max() > 1e-4


def _learned(rate: float):
    return replace(SMALL.levels[-1][0], rate=rate, learn_rate=True)


def _scaled(config, share: float) -> NestedLanguageModel:
    """The same weights in a model whose fixed rates are that share."""
    blocks = []
    for block in config.levels:
        blocks.append(tuple(x if x.learn_rate else replace(x, rate=x.rate * share) for x in block))
    return build(replace(config, levels=tuple(blocks)))


def test_all_is_as_it_was_also_after_an_error():
    model = net()
    try:
        with outer_step(model, 0.3, recompute=True):
            assert model.recompute and {level.rate_scale for _, level, _ in model.clocked} == {0.3}
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert not model.recompute and {level.rate_scale for _, level, _ in model.clocked} == {1.0}


def test_a_run_warms_up_and_one_that_was_broken_off_is_the_unbroken_run(tmp_path):
    seen = []

    def look(model) -> dict[str, float]:
        seen.append(model.clocked[0].level.rate_scale)
        return {"held_out_loss": 0.0}

    whole, model = train(start := net(), STREAM, CONFIG, held_out=look, progress=False), start
    assert seen == [1.0, 1.0] and all(level.rate_scale == 1 for _, level, _ in model.clocked)
    cold = train(net(), STREAM, replace(CONFIG, inner_warmup=0.0), progress=False)
    assert losses(whole)[0] != losses(cold)[0]  # the first step's losses are paid at a tenth of the rate
    folder = tmp_path / "r"
    train(net(), STREAM, CONFIG, folder=folder, stop=lambda m: m["step"] == 2, progress=False)
    resumed = train(net(), STREAM, CONFIG, folder=folder, resume=True, progress=False)
    assert losses(resumed) == losses(whole)


def test_recomputing_changes_no_number_and_is_used(monkeypatch):
    calls, real = [], NestedLanguageModel._parameters_above
    monkeypatch.setattr(NestedLanguageModel, "_parameters_above", lambda self: calls.append(1) or real(self))
    plain = train(net(), STREAM, CONFIG, progress=False)
    assert not calls
    forgetful = train(net(), STREAM, replace(CONFIG, recompute=True), progress=False)
    assert calls and losses(forgetful) == pytest.approx(losses(plain), abs=1e-5)


@pytest.mark.parametrize("option", [{"inner_warmup": 0.1}, {"recompute": True}], ids=str)
def test_models_without_moving_levels_have_no_use_for_either(option):
    for model in (
        LanguageModel(ModelConfig(32, 8, 1, 2, 8)),
        NestedLanguageModel(without_inner_loop(SMALL)),
    ):
        with pytest.raises(CourseError, match=next(iter(option))):
            train(model, STREAM, replace(CONFIG, **{"inner_warmup": 0.0} | option), progress=False)


def test_the_tiny_preset_is_trained_broken_off_and_resumed_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    command = "train --preset ttt-e2e-tiny --steps 3 --batch-size 2 --length 80 --inner-warmup 0.6 --recompute --quiet"
    command = [*command.split(), "--device", "cpu", "--text", "own.txt", "--out"]
    assert main([*command, "whole"]) == 0
    real = training.train
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", lambda *a, **k: real(*a, stop=lambda m: m["step"] == 1, **k))
        assert main([*command, "cut"]) == 0
    again = ["train", "--resume", "--out", "cut", "--text", "own.txt", "--quiet", "--device", "cpu"]
    assert main(again) == 0
    whole, resumed = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "cut")
    assert [line["loss"] for line in whole] == [line["loss"] for line in resumed] and len(whole) == 3
