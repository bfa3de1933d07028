import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.aliases import aliases, vocabulary
from nl_course.tasks.targets import IGNORED

NAMES, VALUES = 4, 6


def test_answers_follow_from_the_text():
    """Read as a person would: each question's key was given a name, and that name a value."""
    tokens, targets = aliases(64, NAMES, VALUES, seed=1)
    for row, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        said, stored, asked = row[:NAMES], row[NAMES : 2 * NAMES], row[2 * NAMES :]
        name_of = {(token - 1) % NAMES: (token - 1) // NAMES for token in said}
        facts = [token - 1 - NAMES * NAMES for token in stored]
        value_of = {fact // VALUES: fact % VALUES for fact in facts}
        first_question = 1 + NAMES * NAMES + NAMES * VALUES
        keys = [token - first_question for token in asked]
        right = [first_question + NAMES + value_of[name_of[key]] for key in keys]
        assert sorted(keys) == list(range(NAMES)) and len(set(value_of.values())) == NAMES
        assert answers == [IGNORED] * (2 * NAMES) + right


def test_every_token_is_in_the_vocabulary():
    tokens, targets = aliases(256, NAMES, VALUES, seed=2)
    assert tokens.min() == 1
    assert targets.max() == vocabulary(NAMES, VALUES) - 1
    assert tokens.max() < targets[targets != IGNORED].min()


def test_the_key_of_a_name_differs_from_row_to_row():
    """Otherwise projections could know it without reading."""
    tokens, _ = aliases(256, NAMES, VALUES, seed=3)
    assert set(tokens[:, :NAMES].flatten().tolist()) == set(range(1, NAMES * NAMES + 1))


def test_the_seed_decides():
    assert torch.equal(aliases(4, seed=5)[0], aliases(4, seed=5)[0])
    assert not torch.equal(aliases(4, seed=5)[0], aliases(4, seed=6)[0])


def test_too_few_values_are_refused():
    with pytest.raises(CourseError, match="4 names need 4 values at least, not 3"):
        aliases(2, 4, 3)
