"""What overflows at one token must not be seen by the tokens before it, in any memory and on any path."""

import math

import pytest
import torch

from nl_course.memories import Trace, build_memory
from nl_course.memories.ablations.switches import ablated
from nl_course.suite.case import TOKENS, assert_same_state, build, inputs
from tests.memory_suite import CASES

SIGNS = torch.tensor([1.0, -1.0] * 4)
LARGEST = 3.4e38 * SIGNS
POISONS = {"huge": 1e20 * SIGNS, "largest": LARGEST}


def text(rows: int = 1) -> torch.Tensor:
    return inputs(rows=rows, dtype=torch.float32).clone()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tokens_before_an_overflow_are_read_as_without_it(case):
    memory = build(case, torch.float32, scale=1.0)
    clean, _ = memory(text())
    for at in (1, 6):
        for name, poison in POISONS.items():
            x = text()
            x[0, at] = poison
            y, _ = memory(x)
            torch.testing.assert_close(y[:, :at], clean[:, :at], rtol=1e-4, atol=1e-5, msg=f"{name}, token {at}")


@torch.no_grad()
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["attention", "latent-attention", "linear", "delta", "ttt-linear", "titans", "mal"])
def test_what_breaks_inside_stays_where_it_broke(name, wrong):
    memory = build_memory(name, 8, 2)
    clean, _ = memory(text())
    spoiled = text()[0, 5]

    def spoil(layer, given, output):
        return output.masked_fill((given[0] == spoiled).all(dim=-1, keepdim=True), wrong)

    values = {"latent-attention": "down", "titans": "neural.value", "mal": "neural.value"}.get(name, "value")
    memory.get_submodule(values).register_forward_hook(spoil)
    y, _ = memory(text())
    torch.testing.assert_close(y[:, :5], clean[:, :5])
    assert not y[:, 5].isfinite().all()


@pytest.mark.parametrize("name", ["attention", "gated-delta", "ttt-mlp", "titans", "mal", "self-modifying"])
def test_rows_break_by_themselves_and_the_state_is_that_of_single_tokens(name):
    torch.manual_seed(0)
    memory = build_memory(name, 8, 2)
    x = text(rows=3)
    x[0, 7], x[1, 2] = LARGEST, LARGEST
    y, state = memory(x)
    alone, after = [], None
    for token in x.split(1, dim=1):
        y_t, after = memory(token, after)
        alone.append(y_t)
    alone = torch.cat(alone, dim=1)
    for row, before in ((0, 7), (1, 2), (2, TOKENS)):
        torch.testing.assert_close(y[row, :before], alone[row, :before], rtol=1e-4, atol=1e-5)
    assert_same_state(state.rows([2]), after.rows([2]), 1e-4)


def test_an_overflow_costs_a_few_readings_more_and_a_healthy_text_none():
    memory = build_memory("linear", 8, 2)
    sizes, advance = [], memory.advance

    def counted(x, state, trace):
        sizes.append(x.shape[1])
        return advance(x, state, trace)

    memory.advance = counted
    x = torch.randn(1, 1024, 8)
    memory(x)
    assert sizes == [1024]
    sizes.clear()
    x[0, 700] = LARGEST
    memory(x)
    assert sum(sizes) <= 4 * 1024 and len(sizes) <= 21
    # A state that is broken already has nothing to protect.
    _, state = memory(x)
    sizes.clear()
    memory(x, state)
    assert sizes == [1024]


@torch.no_grad()
def test_a_text_that_an_ablation_takes_whole_is_read_whole():
    memory = build_memory("titans", 8, 2, persistent=0)
    x = text()
    x[0, 6] = LARGEST
    with ablated(memory, inner_steps=2):
        y, _ = memory(x)
    assert y.shape == x.shape and not y.isfinite().all()


@torch.no_grad()
def test_a_trace_has_each_token_once():
    memory, trace = build_memory("mal", 8, 2), Trace()
    x = text()
    x[0, 6] = LARGEST
    memory(x, None, trace)
    assert {trace[name].shape[1] for name in trace.names()} == {TOKENS}
