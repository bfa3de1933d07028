"""What a run will take: counted against direct counts and closed forms, and what may be asked."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from nl_course.benches.measure import peak_bytes
from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import LevelConfig, NestedConfig, NestedLanguageModel, e2e_config
from nl_course.optimizers import OPTIMIZERS, build_optimizer
from nl_course.presets import PRESETS, preset
from nl_course.training import TrainingConfig
from nl_course.training.estimate import OPTIMIZER_NUMBERS, Estimate, _count, count_row, estimate, parameter_count, probe

SMALL = ModelConfig(vocab=32, width=16, layers=3, heads=2, hidden=24)
RUN = TrainingConfig(steps=10, batch_size=8, length=64, precision="fp32")
STREAM = (torch.arange(4000) * 7 % 11).to(torch.uint8)


def test_operations_of_a_plain_transformer_are_the_closed_form():
    """6 N D over all matrices, and 12 T d a layer and token for the full square of pairs (forward 4 T d, twice that
    backward); the embedding is a matrix as the output, and a look-up as the input."""
    length = 2000
    matrices = 32 * 16 + 3 * (4 * 16 * 16 + 3 * 16 * 24)
    expected = 6 * matrices * length + 3 * 12 * 16 * length**2
    assert count_row(SMALL, length)[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "length", "within"),
    [
        (SMALL, 2600, 0.01),
        (replace(SMALL, memory="ttt-linear"), 256, 0.01),
        (replace(SMALL, memory="titans"), 96, 0.01),
        (replace(SMALL, memory="gated-delta", conv=4), 384, 0.01),
        (e2e_config(vocab=32, width=16, layers=3, heads=2, hidden=24, window=64, chunk=8), 56, 0.06),
        (NestedConfig(32, 16, 3, 2, (LevelConfig(24, 8), LevelConfig(24))), 56, 0.06),
    ],
    ids=lambda v: getattr(v, "memory", ""),
)
def test_few_blocks_and_few_chunks_extended_are_the_direct_count(config, length, within):
    flops, linear, square = count_row(config, length)
    direct, held = _count(config, length, False)
    assert flops == pytest.approx(direct, rel=within)
    assert linear + square == pytest.approx(held, rel=within + 0.05)
    assert square >= 0


@pytest.mark.slow
def test_recomputing_costs_operations_and_saves_memory():
    config = e2e_config(vocab=32, width=16, layers=2, heads=2, hidden=24, window=16, chunk=8)
    plain, again = count_row(config, 48), count_row(config, 48, recompute=True)
    assert again[0] > plain[0] and sum(again[1:]) < 0.8 * sum(plain[1:])


REAL = """
import torch
from nl_course.model import LanguageModel
from nl_course.presets import preset
from nl_course.training import TrainingConfig, train
def run(rows, length):
    stream = (torch.arange(100000) * 7 % 251).to(torch.uint8)
    config = TrainingConfig(steps=2, batch_size=rows, length=length, precision="fp32", save_every=0, evaluate_every=0)
    train(LanguageModel(preset("NAME")), stream, config, progress=False)
run(1, 16)  # what is loaded once is not counted
def main():
    run(16, 256)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "ttt-linear-micro"])
def test_the_most_memory_is_what_a_real_run_needs(name):
    config = TrainingConfig(steps=2, batch_size=16, length=256, precision="fp32")
    measured = peak_bytes(REAL.replace("NAME", name))
    assert 0.8 * measured < estimate(preset(name), config).memory[1] < 1.5 * measured


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_keeps_of_a_matrix(name):
    net = nn.Linear(24, 24, bias=False)
    rate = {"lr": 0.01}
    optimizer = build_optimizer(name, net, **rate)
    net(torch.ones(2, 24)).sum().backward()
    optimizer.step()
    numbers = sum(v.numel() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
    assert round(numbers / net.weight.numel()) == OPTIMIZER_NUMBERS[name]


def test_the_arithmetic_of_time_memory_and_money():
    result = estimate(SMALL, RUN, tokens_per_second=100.0, price_per_hour=3.6)
    assert isinstance(result, Estimate)
    assert result.parameters == LanguageModel(SMALL).parameter_count() == parameter_count(SMALL)
    assert result.tokens == 10 * 8 * 64 and result.flops_rule == 6 * result.parameters * result.tokens
    assert result.seconds == pytest.approx((0.9 * 51.2, 1.3 * 51.2))
    assert result.cost == pytest.approx(tuple(s * 1e-3 for s in result.seconds))
    assert result.weights == result.gradients == 4 * result.parameters and result.optimizer == 2 * result.weights
    assert result.memory[1] == pytest.approx(4 * result.weights + result.activations[1])
    split = estimate(SMALL, replace(RUN, accumulate=4))
    assert split.activations[1] == pytest.approx(result.activations[1] / 4) and split.seconds is split.cost is None
    for line in (
        "parameters   7,152",
        "of the rule 6 N D",
        "46.1 seconds to 66.6 seconds",
        "cost         0.05 to 0.07",
    ):
        assert line in str(result)


def test_processes_share_rows_under_ddp_and_weights_too_under_fsdp():
    alone = estimate(SMALL, RUN)
    ddp = estimate(SMALL, RUN, processes=2, parallel="ddp")
    fsdp = estimate(SMALL, RUN, processes=2, parallel="fsdp")
    assert ddp.weights == alone.weights == 2 * fsdp.weights and fsdp.optimizer == alone.optimizer / 2
    assert ddp.activations == fsdp.activations == pytest.approx(tuple(a / 2 for a in alone.activations))
    assert ddp.flops == alone.flops


def test_an_accelerator_gives_a_range_whether_it_fits_and_its_use():
    large = preset("125m")
    run = TrainingConfig(steps=100, batch_size=8, length=1024)
    bound = estimate(large, run, accelerator="h100", price_per_hour=2)
    assert bound.fits is True and "assuming 20% to 50%" in bound.basis
    assert bound.seconds[0] == pytest.approx(bound.flops / 989e12 / 0.5)
    assert estimate(preset("1.3b"), replace(run, batch_size=64), accelerator="h100").fits is False
    known = estimate(large, run, accelerator="h100", tokens_per_second=400_000)
    assert known.utilization == pytest.approx(bound.flops / run.steps / 8192 * 400_000 / 989e12)
    assert estimate(large, run, accelerator="h100", processes=2, parallel="ddp").seconds[0] < bound.seconds[0]


def test_a_probe_measures_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    net = LanguageModel(SMALL)
    before, draw = [p.clone() for p in net.parameters()], torch.random.get_rng_state()
    assert probe(net, STREAM, RUN, steps=2) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.grad is None for p in net.parameters()) and torch.equal(draw, torch.random.get_rng_state())
    clocked = NestedLanguageModel(NestedConfig(32, 16, 1, 2, (LevelConfig(24, 8),)))
    assert probe(clocked, STREAM, replace(RUN, batch_size=2, length=16), steps=1) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tokens_per_second=0), "tokens_per_second must be more than 0"),
        (dict(accelerator="h10"), "Did you mean"),
        (dict(price_per_hour=-1), "price_per_hour"),
        (dict(processes=2), '2 processes need parallel "ddp" or "fsdp"'),
        (dict(processes=0, parallel="ddp"), "processes"),
        (dict(processes=2, parallel="dpp"), "Did you mean 'ddp'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(CourseError, match=message):
        estimate(SMALL, RUN, **options)


def test_every_preset_can_be_counted_without_memory():
    for name in ("tiny", "ttt-linear-125m", "1.3b"):
        assert parameter_count(preset(name)) == PRESETS[name].parameters
