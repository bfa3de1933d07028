"""Planted facts: where they stand, that nothing else tells them, and that asking a state changes nothing."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.planted import LEAST, Fact, PlantedBooks, recalled
from nl_course.tasks.text import library


def test_facts_stand_in_the_first_book_and_nowhere_else():
    books = PlantedBooks(length=20_000, rows=8)
    text = books.text(3)
    assert len(text.text) == 20_000 and len(text.facts) == text.first == 4
    for fact in text.facts:
        assert text.text[fact.place : fact.end] == fact.mark and fact.end <= books.within
        assert text.text.count(fact.key.encode()) == text.text.count(fact.answer.encode()) == 1
    held = {
        book.name: book.text
        for split in ("train", "held_out")
        for book in library("prose", books.packages).documents(split)
    }
    without = text.text
    for fact in text.facts:
        without = without.replace(fact.mark, b"")
    assert held[text.book].decode("ascii", "ignore").encode().startswith(without[: LEAST - 100])


def test_with_every_there_is_one_in_each_stretch():
    books = PlantedBooks(length=8192, every=1024, rows=8)
    text = books.text(0)
    later = text.facts[4:]
    assert [(fact.place - 512) // 1024 for fact in later] == [(fact.end - 513) // 1024 for fact in later] == [*range(7)]
    assert all(text.text[fact.place : fact.end] == fact.mark for fact in later)
    assert len(text.read_by(512)) == 4 and len(text.read_by(1536)) == 5
    assert text.facts[0].age(1000) == 1000 - text.facts[0].end


def test_rows_differ_and_are_the_same_again():
    books = PlantedBooks(length=1024, rows=4)
    texts = [books.text(i) for i in range(4)]
    assert len({t.text for t in texts}) == 4 and books.text(2) == texts[2]
    assert PlantedBooks(length=1024, rows=4, seed=1).text(2).facts != texts[2].facts


def test_recall_of_a_state_is_what_the_model_says_next():
    """A model that says the state's last answer whatever is asked: right for one fact, wrong for the others."""

    class Says(torch.nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer, self.unused = answer, torch.nn.Parameter(torch.zeros(1))

        def forward(self, tokens, state):
            assert tokens.shape[0] == len(state.seen)
            logits = torch.zeros(*tokens.shape, 256)
            for i, digit in enumerate(self.answer.encode()):
                logits[:, -5 + i, digit] = 1
            return logits, state

    class Rows:
        def __init__(self, seen):
            self.seen = seen

        def rows(self, index):
            return Rows([self.seen[i] for i in index])

    facts = [  # rows may have more or fewer of them
        [Fact("plumb", "48213", 0), Fact("grape", "00017", 20)],
        [Fact("river", "55555", 0), Fact("stone", "48213", 9), Fact("grape", "48213", 30)],
    ]
    assert recalled(Says("48213"), Rows([0, 1]), facts, batch=3) == [[True, False], [False, True, True]]


def test_asking_leaves_the_state_as_it_was():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16, memory="delta"))
    text = PlantedBooks(length=1024, rows=4).text(0)
    with torch.no_grad():
        _, state = model(torch.tensor([list(text.text)]))
    before = {name: t.clone() for name, t in state.tensors().items()}
    recalled(model, state, [text.facts])
    assert all(torch.equal(t, before[name]) for name, t in state.tensors().items())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"within": 20}, "within"), ({"every": 10}, "every"), ({"length": 100}, "within"), ({"facts": 0}, "facts")],
)
def test_bad_input_is_named(wrong, said):
    with pytest.raises(CourseError, match=said):
        PlantedBooks(**wrong)
    with pytest.raises(CourseError, match="below rows"):
        PlantedBooks(rows=2).text(2)
