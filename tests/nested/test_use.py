"""What a user does with a model with clocks: sizes by name, mistakes in words, training as ever."""

from dataclasses import replace

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import MEMORIES
from nl_course.model import LanguageModel, ModelConfig
from nl_course.nested import (
    E2E_PRESETS,
    PRESETS,
    LevelConfig,
    NestedConfig,
    NestedLanguageModel,
    from_pretrained_blocks,
    preset,
)
from nl_course.nested.clocks import reset_period, segment_end, segment_start, updates_after
from nl_course.presets import PRESETS as TRANSFORMERS
from nl_course.training import TrainingConfig, evaluate, train
from nl_course.training.checkpoint import load_model
from tests.nested.suite import CASES, build, levels, text


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in E2E_PRESETS])
def test_presets_have_the_parameters_they_say(name):
    with torch.device("meta"):
        model = NestedLanguageModel(preset(name))
    assert model.parameter_count() == PRESETS[name].parameters
    like = TRANSFORMERS[name.rsplit("-", 1)[1].replace("340m", "350m")]
    if "attention" in name:  # its levels weigh what the transformer's MLPs do; norms and rates come on top
        assert 0 <= model.parameter_count() - like.parameters < 0.002 * like.parameters
    assert NestedConfig.from_dict(preset(name).to_dict()) == preset(name)


def test_hope_has_its_presets_as_soon_as_it_has_its_memory():
    assert ("hope-micro" in PRESETS) == ("self-modifying" in MEMORIES)
    assert {f"hope-attention-{size}" for size in ("micro", "tiny", "125m", "340m", "760m", "1.3b")} <= set(PRESETS)


def test_state_bytes_of_a_level_by_hand():
    """Width 8, hidden 5 (period 2), 6 (period 6), 7 (never), two blocks, float64; after 13 tokens one is pending in the
    open segment. Weights of both moving levels, an accumulator for the slower, the pending input, no target yet; in the
    first block 13 keys and values, in the second 12 and 1."""
    model = build("sequential-attention-mixed")
    _, state = model(text(rows=3))
    weights, accumulators = 2 * (2 * 8 * 5 + 2 * 8 * 6), 2 * (2 * 8 * 6)
    assert state.nbytes == model.state_bytes(13, 3) == 3 * 8 * (weights + accumulators + 8 + 2 * (2 * 8 * 13))


def test_state_bytes_of_a_memory_of_fixed_size_do_not_grow():
    model = build("sequential-delta-mixed")
    assert model.state_bytes(13) == model.state_bytes(1_000_003)  # the same place in a segment


def test_clocks_by_hand():
    assert [updates_after(t, 4) for t in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 1, 1, 2]
    assert updates_after(100, 0) == 0
    assert [segment_start(t, (3, 5)) for t in range(8)] == [0, 0, 0, 0, 3, 3, 5, 6]
    assert [segment_end(start, (3, 5)) for start in (0, 3, 5, 6, 9)] == [3, 5, 6, 9, 10]
    assert (reset_period(2, (2, 6)), reset_period(4, (4, 6)), reset_period(6, (2, 6))) == (6, 8, None)


def test_it_trains_like_any_model_and_its_rates_move(tmp_path):
    torch.manual_seed(0)
    config = NestedConfig(vocab=11, width=16, layers=2, heads=2, levels=levels(8, 16), memory="delta")
    model, stream = NestedLanguageModel(config), torch.arange(400).remainder(7)
    before = [float(level.rate) for _, level, _ in model.clocked]
    settings = TrainingConfig(steps=12, batch_size=4, length=20, warmup=2, learning_rate=1e-2, accumulate=2)
    run = train(model, stream, settings, held_out=stream, folder=tmp_path, progress=False)
    assert run.losses[-1] < 0.8 * run.losses[0]
    assert all(float(level.rate) != rate for (_, level, _), rate in zip(model.clocked, before, strict=True))
    loaded = load_model(tmp_path / "model.safetensors")
    assert isinstance(loaded, NestedLanguageModel) and loaded.config == config
    assert abs(evaluate(loaded, stream, 20).loss - run.held_out[-1][1]) < 0.05  # saved in bf16


def test_stacked_levels_learn_with_the_options_given():
    torch.manual_seed(0)
    donor = LanguageModel(ModelConfig(vocab=11, width=8, layers=3, heads=2, hidden=7)).eval()
    model = from_pretrained_blocks(donor, [0, 4, 8], [0.1, 0.2, 0.3], learn_rate=False, reduction="mean", clip=1.0)
    assert [level.name for level in model.clocked] == ["layers.1.levels.0", "layers.2.levels.0"]
    assert [level.level.rate for level in model.clocked] == [0.2, 0.3]
    assert (model.lowest, model.config.clip, model.training) == (1, 1.0, False)
    with torch.no_grad():
        model.embedding.weight.add_(1.0)
    assert not torch.equal(model.embedding.weight, donor.embedding.weight)  # a copy


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NestedConfig(levels=()), "at least one LevelConfig"),
        (lambda: NestedConfig(levels=((LevelConfig(4),),) * 3), "3 blocks, and there are 4 layers"),
        (lambda: NestedConfig(variant="sequental"), "Did you mean 'sequential'"),
        (lambda: NestedConfig(reduction="max"), "reduction 'max'"),
        (lambda: NestedConfig(clip=0), "clip must be larger than 0"),
        (lambda: NestedConfig(truncate=-1), "truncate must be a whole number"),
        (lambda: LevelConfig(4, chunk=-2), "chunk must be a whole number"),
        (lambda: LevelConfig(4, rate=float("inf")), "rate must be a finite number"),
        (lambda: LevelConfig(4, activation="tanh"), "activation 'tanh'"),
        (lambda: NestedConfig.from_dict({"level": 1}), "Did you mean 'levels'"),
        (lambda: preset("hope-attention-micr"), "Did you mean 'hope-attention-micro'"),
        (lambda: from_pretrained_blocks(build("one-layer"), 4), "not a NestedLanguageModel"),
        (lambda: NestedLanguageModel(CASES["window"], path="sdpa"), "differentiated once only"),
    ],
)
def test_mistakes_are_named(make, says):
    with pytest.raises(CourseError, match=says.replace("(", r"\(")):
        make()


def test_stacking_refuses_lists_of_another_length():
    donor = LanguageModel(ModelConfig(vocab=11, width=8, layers=3, heads=2, hidden=7))
    with pytest.raises(CourseError, match="chunks has 2 entries"):
        from_pretrained_blocks(donor, [4, 4])
    with pytest.raises(CourseError, match="unexpected keyword"):
        from_pretrained_blocks(donor, 4, chunk=4)


def test_a_state_of_another_batch_is_refused():
    model = build("sequential-attention-mixed")
    _, state = model(text(rows=3))
    with pytest.raises(CourseError, match="rows"):
        model(text(rows=2), state)


def test_no_tokens_change_nothing():
    model = build("sequential-attention-mixed")
    _, state = model(text())
    logits, after = model(text()[:, :0], state)
    assert logits.shape == (2, 0, 11) and after.position == state.position


def test_a_state_in_another_dtype_keeps_its_whole_numbers():
    """bf16 has no 257: a token that was moved to it would come back as another."""
    _, state = build("sequential-attention-mixed")(text(tokens=12))
    low = state.to(torch.bfloat16)
    assert torch.equal(low.targets, state.targets) and low.targets.dtype == torch.int64 and low.targets.numel()
    assert all(w.dtype == torch.bfloat16 for pair in low.fast.values() for w in pair)


def test_bf16_weights_learn_too():
    model = NestedLanguageModel(replace(CASES["sequential-delta-mixed"], levels=levels(2, 6))).bfloat16()
    losses = model.token_losses(text())
    losses.mean().backward()
    assert losses.isfinite().all() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_under_autocast_the_weights_keep_their_digits():
    torch.manual_seed(0)
    model = NestedLanguageModel(CASES["sequential-attention-mixed"])
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(text())
        logits.float().square().mean().backward()
    assert all(w.dtype == torch.float32 for pair in (*state.fast.values(), *state.grad_accum.values()) for w in pair)
    assert all(parameter.grad is not None for parameter in model.parameters())
