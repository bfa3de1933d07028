"""States of separate prompts as one batch: as each alone, or refused in one line."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import build_memory
from nl_course.memories.joining import join
from nl_course.model import LanguageModel, ModelConfig
from nl_course.seeding import seeded

CLOSE = dict(rtol=1e-10, atol=1e-12)
SIZES = dict(vocab=16, width=8, layers=2, heads=2, hidden=12, conv=3)


def model(memory: str, **options) -> LanguageModel:
    with seeded(0):
        return LanguageModel(ModelConfig(**SIZES, memory=memory, options=options)).double()


def text(rows: int, tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(16, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(
    ("memory", "options", "lengths"),
    [
        ("delta", {}, (3, 10, 7)),
        ("kda", {}, (3, 10, 7)),
        ("retnet", dict(rope_theta=None), (3, 10, 7)),
        ("ttt-linear", dict(mini_batch=4), (3, 11, 7)),
        ("titans", dict(chunk=4, max_step=0.1), (2, 10, 6)),
        ("attention", {}, (5, 5, 5)),
        ("self-modifying", dict(chunk=4), (5, 5, 5)),
    ],
)
def test_each_row_goes_on_as_it_would_alone(memory, options, lengths):
    made, after = model(memory, **options), text(3, 9, seed=2)
    prompts = [text(1, length, seed=length + i) for i, length in enumerate(lengths)]
    states = [made(prompt)[1] for prompt in prompts]
    together, state = made(after, join(made, states))
    for row, alone in enumerate(states):
        expected, end = made(after[row : row + 1], alone)
        torch.testing.assert_close(together[row : row + 1], expected, **CLOSE)
        for name, tensor in end.tensors().items():
            torch.testing.assert_close(state.tensors()[name][row : row + 1], tensor, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(
    ("memory", "options", "lengths", "words"),
    [
        ("retnet", {}, (3, 4), "needs them to be equal"),
        ("ttt-linear", dict(mini_batch=4), (3, 4), "same place in a chunk of 4"),
        ("attention", {}, (3, 4), "grows with the text"),
    ],
)
def test_what_cannot_go_on_together_is_refused(memory, options, lengths, words):
    made = build_memory(memory, 8, 2, **options)
    states = [made(torch.zeros(1, length, 8))[1] for length in lengths]
    with pytest.raises(CourseError, match=words):
        join(made, states)


def test_nothing_and_strangers_are_refused():
    made, other = build_memory("delta", 8, 2), build_memory("delta", 8, 4)
    with pytest.raises(CourseError, match="no states"):
        join(made, [])
    with pytest.raises(CourseError, match="heads"):
        join(made, [made.init_state(1), other.init_state(1)])
