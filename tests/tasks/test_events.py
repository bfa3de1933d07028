"""Events of several tokens: what counts and what holds, read off the rows by the rules of the text."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.tasks.events import (
    BLANK,
    CHANGED,
    COUNTS,
    FIRST,
    KNOWN,
    MARKS,
    NEW,
    NO_VALUE,
    PASSES,
    UNKNOWN,
    aftermath,
    new_day,
    retold,
    vocabulary,
)
from nl_course.training import IGNORED


@pytest.mark.parametrize("behind", [1, 3])
def test_what_counts_is_said_behind_it(behind):
    pairs, names = 4, 8
    tokens, targets = aftermath(20, pairs, behind, names, seed=3)
    size = 2 + behind
    assert tokens.shape == targets.shape == (20, pairs * (2 * size + 2)) and tokens.max() < vocabulary(names)
    for row, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        held, in_vain = {}, {}
        for start in range(0, 2 * pairs * size, size):
            key, value, *after = row[start : start + size]
            assert MARKS <= key < MARKS + names <= value and after in (behind * [COUNTS], behind * [PASSES])
            (held if after[0] == COUNTS else in_vain)[key] = value
        assert len(held) == pairs and held.keys() == in_vain.keys()
        # The same values count and do not: no value tells which event it stood in.
        assert set(held.values()) == set(in_vain.values()) and all(held[key] != in_vain[key] for key in held)
        asked = row[2 * pairs * size :]
        assert asked[::2] == pairs * [BLANK] and sorted(asked[1::2]) == sorted(held)
        assert answers[2 * pairs * size + 1 :: 2] == [held[key] for key in asked[1::2]]
        assert answers[: 2 * pairs * size] == 2 * pairs * size * [IGNORED]
    firsts = (tokens[:, 2 : 2 * pairs * size : size] == COUNTS).float().mean(0)
    assert (firsts > 0).all() and (firsts < 1).all()  # the order of events is drawn


def test_a_new_day_ends_what_was_said():
    days, most, questions, names = 3, 2, 6, 5
    tokens, targets = new_day(40, days, most, questions, names, seed=1)
    text = days * (1 + 2 * most)
    assert tokens.shape == targets.shape == (40, text + 2 * questions) and tokens.max() < vocabulary(names)
    counts = set()
    for row, answers in zip(tokens.tolist(), targets.tolist(), strict=True):
        told, today = set(), {}
        for start in range(0, text, 1 + 2 * most):
            assert row[start] == NEW
            today = {}
            for key, value in zip(row[start + 1 : start + 1 + 2 * most : 2], row[start + 2 :: 2], strict=False):
                assert (key == BLANK) == (value == BLANK)
                if key != BLANK:
                    assert MARKS <= key < MARKS + names <= value and key not in today
                    today[key] = value
            told |= today.keys()
            counts.add(len(today))
        asked = row[text + 1 :: 2]
        assert row[text::2] == questions * [BLANK]
        assert answers[text + 1 :: 2] == [today.get(key, UNKNOWN) for key in asked]
        gone = [key for key in asked if key not in today]
        assert len(gone) == questions // 2
        if told - today.keys():
            assert set(gone) <= told
        assert answers[:text] == text * [IGNORED]
    assert counts == {1, 2}


def test_what_is_told_again_is_known_or_changed():
    tokens, targets, kind = retold(40, told=20, keys=3, changes=0.3, names=5, seed=2)
    assert tokens.shape == targets.shape == kind.shape == (40, 40) and tokens.max() < vocabulary(5)
    assert (kind[:, ::2] == NO_VALUE).all() and (targets[:, 1::2] == IGNORED).all()
    assert torch.equal(targets[:, ::2], tokens[:, 1::2])
    for row, kinds in zip(tokens.tolist(), kind.tolist(), strict=True):
        held = {}
        for key, value, what in zip(row[::2], row[1::2], kinds[1::2], strict=True):
            assert MARKS <= key < MARKS + 5 <= value
            if key in held:
                assert what == (KNOWN if held[key] == value else CHANGED)
            else:
                assert what == FIRST
            held[key] = value
        assert len(held) <= 3
    again = kind[(kind == KNOWN) | (kind == CHANGED)]
    assert (again == CHANGED).float().mean() == pytest.approx(0.3, abs=0.06)
    assert not (retold(20, changes=0.0)[2] == CHANGED).any() and not (retold(20, changes=1.0)[2] == KNOWN).any()


def test_rows_are_of_the_seed():
    for rows in (aftermath, new_day, retold):
        first, again, other = rows(4, seed=5), rows(4, seed=5), rows(4, seed=6)
        assert all(map(torch.equal, first, again)) and not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        (aftermath, {"pairs": 1}, "pairs"),
        (aftermath, {"behind": 0}, "behind"),
        (aftermath, {"pairs": 9, "names": 8}, "9 pairs need 9 names"),
        (retold, {"keys": 5, "names": 4}, "5 keys need 5 names"),
        (retold, {"changes": 1.5}, "from 0 to 1, not 1.5"),
        (new_day, {"days": 1}, "days"),
        (new_day, {"questions": 3}, "even"),
        (new_day, {"most": 4, "names": 4}, "more than 4 names"),
    ],
)
def test_rows_that_cannot_be_made(rows, settings, said):
    with pytest.raises(CourseError, match=said):
        rows(2, **settings)
