"""TTT-E2E's presets and its config's options; and a training that shows what its inner loop is worth."""

from dataclasses import replace

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.nested import (
    E2E_PRESETS,
    NestedConfig,
    NestedLanguageModel,
    e2e_config,
    preset,
    reconfigured,
    with_inner_loop,
    without_inner_loop,
)


def parameters(config: NestedConfig) -> int:
    with torch.device("meta"):
        return NestedLanguageModel(config).parameter_count()


@pytest.mark.parametrize("name", E2E_PRESETS)
def test_a_preset_has_the_parameters_it_says_about_as_many_as_the_plain_transformer(name):
    size = E2E_PRESETS[name]
    assert preset(name) == size.config
    assert parameters(size.config) == size.parameters
    assert parameters(size.plain) == size.plain_parameters
    assert abs(size.parameters / size.plain_parameters - 1) < 0.02
    assert not any(level.chunk for block in size.plain.levels for level in block)
    assert NestedConfig.from_dict(size.config.to_dict()) == size.config


def test_the_papers_numbers():
    """Parameters with the authors' vocabulary, the weights that move in 3b, and which blocks they are in."""
    assert round(parameters(replace(preset("ttt-e2e-125m"), vocab=128_256)) / 1e6) == 184
    for size, suffix in (("125m", 3), ("350m", 6), ("3b", 8)):
        assert sum(len(block) == 2 for block in preset(f"ttt-e2e-{size}").levels) == suffix
    large = preset("ttt-e2e-3b")
    moving = [level for block in large.levels for level in block if level.chunk]
    assert sum(level.elements(large.width) for level in moving) == 3 * 2560 * 5632 * 8  # 346 M
    assert all(block[0].chunk == 1024 and block[1].chunk == 0 for block in large.levels[-8:])


def test_options_are_named_and_mistakes_too():
    sizes = dict(width=8, layers=6, heads=2, hidden=7, window=6, chunk=4)
    config = e2e_config(**sizes, truncate=2, first_order=True, tied=False)
    assert (config.truncate, config.first_order, config.tied) == (2, True, False)
    assert [len(block) for block in config.levels] == [1, 1, 1, 1, 2, 2]
    assert [len(block) for block in e2e_config(**sizes | {"layers": 1}).levels] == [2]
    still = without_inner_loop(config)
    assert NestedLanguageModel(still).clocked == []
    for wrong, message in (
        (dict(suffix=7), "suffix is 7 blocks, and the model has 6"),
        (dict(depth=2), "unexpected keyword argument 'depth'"),
        (dict(window=0), "window"),
        (dict(clip=0), "clip"),
    ):
        with pytest.raises(CourseError, match=message):
            e2e_config(**sizes | wrong)


def test_an_inner_loop_is_switched_on_off_and_to_another_pace_on_the_same_weights():
    config = e2e_config(width=8, layers=3, heads=2, hidden=7, window=6, chunk=4, suffix=2)
    assert with_inner_loop(without_inner_loop(config), 4) == config
    faster = with_inner_loop(config, 8, 2.0, None)
    for block, first in zip(faster.levels, ((0, 0.01), (8, 2.0), (8, 2.0)), strict=True):
        assert (block[0].chunk, block[0].rate) == first
        assert all((level.chunk, level.rate) == (0, 0.01) for level in block[1:])
    model, tokens = NestedLanguageModel(config), torch.randint(256, (2, 18))
    still = reconfigured(model, without_inner_loop(config))
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(model.parameters(), still.parameters()))
    with torch.no_grad():
        assert torch.equal(reconfigured(still, config).token_losses(tokens), model.token_losses(tokens))
    with pytest.raises(CourseError, match="weights do not fit"):
        reconfigured(model, replace(config, width=12))
    with pytest.raises(CourseError, match="no block of this model has a fast MLP"):
        with_inner_loop(replace(config, levels=tuple(block[-1:] for block in config.levels)), 4)


# -- what the inner loop is worth --------------------------------------------------------------------------------------
ONCE, WINDOW = 12, 6


def repeated(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Texts that say 12 different symbols in an order of their own, twice, and the first once more: (rows, 25)."""
    once = torch.stack([torch.randperm(ONCE, generator=generator) for _ in range(rows)])
    return torch.cat([once, once, once[:, :1]], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_text_that_repeats_itself_beyond_the_window_is_cheaper_the_second_time(seed):
    torch.manual_seed(seed)
    config = e2e_config(
        vocab=ONCE, width=24, layers=2, heads=2, hidden=24, fast_hidden=48, window=WINDOW, chunk=6, suffix=1
    )
    model, generator = NestedLanguageModel(config), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(120):
        optimizer.zero_grad()
        model.token_losses(repeated(8, generator)).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    still = NestedLanguageModel(without_inner_loop(config))
    still.load_state_dict(model.state_dict())
    held_out = repeated(128, torch.Generator().manual_seed(100 + seed))
    with torch.no_grad():
        learning, fixed = (m.token_losses(held_out)[:, ONCE:].mean().item() for m in (model, still))
    assert learning < fixed - 0.1
