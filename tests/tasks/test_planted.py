"""Planted facts: where they stand, that nothing else tells them, and that asking a state changes nothing."""

from dataclasses import dataclass, replace

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import State
from nl_course.memories.owner import StateOwner
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.planted import LEAST, Fact, PlantedBooks, recalled, recalled_by_all
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


@dataclass(frozen=True)
class Knows(State):
    """What a row will say, (b, 5), how surely, (b,), and how much of it it has said, (b,)."""

    answer: torch.Tensor
    sure: torch.Tensor
    place: torch.Tensor

    @classmethod
    def of(cls, *rows: tuple[str, float]) -> "Knows":
        answers = torch.tensor([list(answer.encode()) for answer, _ in rows])
        return cls(answers, torch.tensor([sure for _, sure in rows]), torch.zeros(len(rows), dtype=torch.long))


class Recites(StateOwner):
    """A model that says what its state has in store, whatever it is asked."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, tokens, state):
        due = state.answer.gather(1, state.place[:, None])  # (b, 1)
        logits = torch.zeros(len(tokens), tokens.shape[1], 256)
        logits[:, -1] = logits[:, -1].scatter(1, due, state.sure[:, None])
        return logits, replace(state, place=state.place + 1)


def test_of_several_states_the_surest_answers_or_their_mean():
    """Row 0: one state is sure of the right answer, two mildly agree on another. Row 1: the sure one is wrong."""
    facts = [[Fact("plumb", "48213", 0), Fact("grape", "11111", 20)], [Fact("river", "55555", 0)]]
    right = Knows.of(("48213", 9.0), ("99999", 9.0))
    others = [Knows.of(("11111", 8.0), ("55555", 8.9)), Knows.of(("11111", 8.0), ("55555", 8.9))]
    assert recalled_by_all(Recites(), [right, *others], facts) == [[True, False], [False]]
    assert recalled_by_all(Recites(), [right, *others], facts, "mean") == [[False, True], [True]]
    assert recalled_by_all(Recites(), others, facts) == [[False, True], [True]]
    assert recalled_by_all(Recites(), [right], [[], []]) == [[], []]
    with pytest.raises(CourseError, match="choose"):
        recalled_by_all(Recites(), [right], facts, "best")


def test_asked_of_one_state_alone_it_is_plain_recall():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16, memory="delta"))
    text = PlantedBooks(length=512, rows=4).text(0)
    with torch.no_grad():
        model.embedding.weight.mul_(30)
        _, state = model(torch.tensor([list(text.text)]))
    # The facts of a model that knows nothing: those that it would say.
    said = []
    for fact in text.facts:
        prompt = torch.tensor([list(f"\n<{fact.key}:".encode())])
        answer = [token.item() for token in model.generate(prompt, 5, temperature=0, state=state)]
        said.append(Fact(fact.key, bytes(answer).decode("latin-1"), 0))
    said = [fact for fact in said if fact.answer.isascii()] or text.facts
    assert recalled_by_all(model, [state], [said]) == recalled(model, state, [said])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"within": 20}, "within"), ({"every": 10}, "every"), ({"length": 100}, "within"), ({"facts": 0}, "facts")],
)
def test_bad_input_is_named(wrong, said):
    with pytest.raises(CourseError, match=said):
        PlantedBooks(**wrong)
    with pytest.raises(CourseError, match="below rows"):
        PlantedBooks(rows=2).text(2)
