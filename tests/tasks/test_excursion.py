import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.excursion import BLANK, MARKS, NEW, OLD, excursion, vocabulary
from nl_course.tasks.targets import IGNORED

LAYOUT = dict(keys=5, values=7, quiet=6, old=2, tasks=3, new=1, asked_new=2, asked_old=8)


def test_answers_follow_from_the_text():
    """Read as a person would: O asks for what a key was first told, N for what it was told last."""
    tokens, targets = excursion(64, **LAYOUT, seed=1)
    assert tokens.shape == (64, 6 + 2 * 5 * 2 + 3 * (2 * 5 * 1 + 2 * 2) + 2 * 8)
    for row, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert row[:6] == [BLANK] * 6 and answers[:6] == [IGNORED] * 6
        first, last = {}, {}
        for i in range(6, len(row), 2):
            mark, token = row[i : i + 2]
            assert answers[i] == IGNORED
            if mark == OLD:
                assert answers[i + 1] == first[token]
            elif mark == NEW:
                assert answers[i + 1] == last[token]
            else:
                first.setdefault(mark, token)
                last[mark] = token
                assert answers[i + 1] == IGNORED
        assert len(first) == 5


def test_the_old_task_says_the_same_each_time_and_new_ones_something_else():
    tokens, _ = excursion(128, **LAYOUT, seed=2)
    pairs = tokens[:, 6:].unflatten(1, (-1, 2))
    old, new = pairs[:, :10], pairs[:, 10:15]
    by_key = [group.gather(1, group[..., :1].argsort(dim=1, stable=True).expand_as(group)) for group in (old, new)]
    again = by_key[0].unflatten(1, (5, 2))
    assert torch.equal(again[:, :, 0], again[:, :, 1])
    # Values are drawn with repeats: one key in seven keeps its own by chance.
    kept = (again[:, :, 0, 1] == by_key[1][..., 1]).double().mean()
    assert 0.05 < kept < 0.25


@pytest.mark.parametrize(("scored", "mark"), [("old", OLD), ("new", NEW)])
def test_only_what_is_wanted_is_scored(scored, mark):
    tokens, both = excursion(8, **LAYOUT, seed=3)
    same, targets = excursion(8, **LAYOUT, scored=scored, seed=3)
    assert torch.equal(tokens, same)
    marked = torch.zeros_like(tokens, dtype=torch.bool)
    marked[:, 1:] = tokens[:, :-1] == mark
    assert torch.equal(targets, both.masked_fill(~marked, IGNORED))
    assert (targets != IGNORED).any()


def test_every_token_is_in_the_vocabulary():
    tokens, targets = excursion(64, **LAYOUT, seed=4)
    assert max(int(tokens.max()), int(targets.max())) == vocabulary(5, 7) - 1
    assert int(targets[targets != IGNORED].min()) >= MARKS + 5


def test_questions_may_be_left_out():
    tokens, targets = excursion(2, keys=3, asked_new=0, asked_old=2, seed=5)
    assert not (tokens == NEW).any() and int((targets != IGNORED).sum()) == 4


def test_bad_counts_are_refused():
    with pytest.raises(CourseError, match="tasks"):
        excursion(2, tasks=0)
    with pytest.raises(CourseError, match="scored"):
        excursion(2, scored="all")
