import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.nn.functional import one_hot

from nl_course.errors import CourseError
from nl_course.tasks.recall import FILLERS, accuracy, answers, mqar, recall_loss


def oracle(task, window=None):
    """A model that looks the answer up in the text, or forgets what is old."""

    def model(tokens):
        found = torch.zeros_like(tokens)
        for row, text in enumerate(tokens.tolist()):
            table = {}
            for t, token in enumerate(text):
                if token in table and (window is None or t - table[token][1] <= window):
                    found[row, t] = table[token][0]
                # A question followed by filler looks like a write; these tasks ask each key only once.
                write = 0 < token < task.vocab // 2 <= text[min(t + 1, len(text) - 1)]
                if write:
                    table[token] = (text[t + 1], t + 1)
        return one_hot(found, task.vocab).float(), None

    return model


SETS = st.fixed_dictionaries({"rows": st.integers(1, 4), "pairs": st.integers(1, 9), "seed": st.integers(0, 999)})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(sizes=SETS, spare=st.integers(0, 10), filler=st.sampled_from(FILLERS), power=st.sampled_from([0.01, 0.5, 1.0]))
def test_mqar_asks_every_key_once_for_the_value_it_came_with(sizes, spare, filler, power):
    pairs = sizes["pairs"]
    task = mqar(length=4 * pairs + 2 * spare, vocab=40, filler=filler, power=power, **sizes)
    assert task.tokens.shape == task.targets.shape == task.mask.shape == (sizes["rows"], 4 * pairs + 2 * spare)
    for row in range(sizes["rows"]):
        text = task.tokens[row].tolist()
        keys, values = text[: 2 * pairs : 2], text[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < 20 for key in keys)
        assert all(20 <= value < 40 for value in values)
        asked = task.mask[row].nonzero()[:, 0].tolist()
        assert min(asked) >= 2 * pairs
        assert all(t % 2 == 0 for t in asked)
        assert sorted(text[t] for t in asked) == sorted(keys)
        for t in asked:
            place = keys.index(text[t])
            assert task.targets[row, t] == values[place]
            assert task.age[row, t] == t - (2 * place + 1)
        rest = [t for t in range(2 * pairs, len(text)) if t not in asked]
        low, high = {"values": (20, 39), "any": (0, 39), "blank": (0, 0)}[filler]
        assert all(low <= text[t] <= high for t in rest)
    assert task.targets[~task.mask].abs().sum() == 0


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    assert torch.equal(mqar(3, seed=4).tokens, mqar(3, seed=4).tokens)
    assert not torch.equal(mqar(3, seed=4).tokens, mqar(3, seed=5).tokens)


def test_a_small_power_asks_soon_and_power_1_asks_evenly():
    def mean_place(power):
        task = mqar(400, length=128, pairs=4, power=power)
        return task.mask.nonzero()[:, 1].float().mean().item()

    even = 8 + 59  # queries stand at 8, 10, ..., 126
    assert mean_place(1.0) == pytest.approx(even, abs=2)
    assert mean_place(0.01) < even - 20


# What follows was compared with the rows of HazyResearch/zoology, zoology/data/multiquery_ar.py (commit d88d6f5), side
# by side: the halves of the vocabulary, where questions stand, the law of the gaps, and what stands elsewhere.
def test_the_published_filler_is_any_token_of_the_vocabulary_with_the_same_chance():
    task = mqar(4000, length=32, pairs=4, vocab=40, filler="any", seed=1)
    filler = task.tokens[:, 8:][~task.mask[:, 8:]]
    assert chisquare(filler.bincount(minlength=40)).pvalue > 0.01
    looks_like_a_question = (filler >= 1) & (filler < 20)
    assert looks_like_a_question.float().mean().item() == pytest.approx(19 / 40, abs=0.01)
    keys = task.tokens[:, None, 0:8:2]  # (rows, 1, pairs)
    is_a_key_of_its_row = (task.tokens[:, 8:, None] == keys).any(-1)[~task.mask[:, 8:]]
    assert is_a_key_of_its_row.float().mean().item() == pytest.approx(4 / 40, abs=0.01)


def test_the_filler_of_values_holds_no_key():
    task = mqar(400, length=64, pairs=4, vocab=40)
    assert task.tokens[:, 8:][~task.mask[:, 8:]].min() == 20


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_gaps_follow_the_power_law(power):
    rows, slots = 20_000, 12
    task = mqar(rows, length=2 * 2 + 2 * slots, pairs=2, vocab=40, power=power, filler="any", seed=2)
    weights = torch.arange(1, slots + 1, dtype=torch.float64) ** (power - 1)
    weights = weights / weights.sum()
    # The second key takes another slot than the first: by the same weights, among those that are left.
    of_both = torch.outer(weights, weights) / (1 - weights)[:, None]  # (first, second)
    of_both.fill_diagonal_(0)

    position = torch.arange(
        task.tokens.shape[1]
    )  # the values stand at 1 and 3, and a question's age says which it asks
    first_at = (task.mask & (task.age == position - 1)).int().argmax(1)  # (rows,)
    second_at = (task.mask & (task.age == position - 3)).int().argmax(1)
    for asked_at, chance in ((first_at, of_both.sum(1)), (second_at, of_both.sum(0))):
        counts = ((asked_at - 4) // 2).bincount(minlength=slots)
        assert counts.sum() == rows
        assert chisquare(counts, rows * chance).pvalue > 0.01


def test_a_small_row_of_the_published_form_as_it_is_scored():
    """The loss counts the questions, keys in the filler do not, although the same key may stand there."""
    task = mqar(200, length=16, pairs=2, vocab=8, filler="any", seed=0)
    assert task.mask.sum(1).unique().tolist() == [2]
    keys = task.tokens[:, None, 0:4:2]
    key_without_a_question = (task.tokens[:, 4:, None] == keys).any(-1) & ~task.mask[:, 4:]
    assert key_without_a_question.any()
    assert task.targets[~task.mask].abs().sum() == 0


def test_accuracy_by_pairs_and_by_age():
    tasks = [mqar(20, length=64, pairs=n, vocab=64, power=1.0) for n in (2, 4, 8)]
    by_pairs = accuracy(oracle(tasks[0]), tasks, batch=7)
    assert [(s.low, s.high, s.asked) for s in by_pairs] == [(2, 2, 40), (4, 4, 80), (8, 8, 160)]
    assert all(s.accuracy == 1 for s in by_pairs)
    forgetful = accuracy(oracle(tasks[0], window=10), tasks, by="age", edges=[10, 20])
    assert [s.accuracy for s in forgetful] == [1, 0, 0]
    assert forgetful[0].high <= 10 < forgetful[1].low
    by_age = accuracy(oracle(tasks[0]), tasks, by="age")
    assert sum(s.asked for s in by_age) == 280
    assert all(s.low <= s.high < 2 * s.low + 1 for s in by_age)


def test_the_loss_is_taken_at_the_questions_only():
    task = mqar(5, length=16, pairs=3, vocab=32)
    logits = torch.zeros(5, 16, 32)
    assert recall_loss(logits, task).item() == pytest.approx(torch.tensor(32.0).log().item())
    logits[~task.mask] = torch.randn(5 * 16 - 15, 32)
    assert recall_loss(logits, task).item() == pytest.approx(torch.tensor(32.0).log().item())
    assert recall_loss(50.0 * one_hot(task.targets, 32), task) < 1e-6


def test_rows_can_be_picked():
    task = mqar(5, length=16, pairs=3, vocab=32)
    part = task.rows(slice(1, 3))
    assert torch.equal(part.targets, task.targets[1:3])
    assert torch.equal(answers(oracle(task), part)[part.mask], part.targets[part.mask])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mqar(2, length=15, pairs=2), "even"),
        (lambda: mqar(2, length=14, pairs=4), "at least 4 \\* pairs = 16"),
        (lambda: mqar(2, length=64, pairs=16, vocab=32), "15 keys"),
        (lambda: mqar(2, filler="keys"), "filler .keys. is not known; choose one of: values, any, blank"),
        (lambda: accuracy(None, mqar(1), by="color"), "pairs, age"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(CourseError, match=says):
        call()
