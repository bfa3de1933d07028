"""Classes that come in groups: labels that are right, examples that are held out, a matrix that says who forgot."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import one_hot

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.incremental import LETTERS, PARTS, ClassTask, class_accuracy, part_text, text_accuracy
from nl_course.training.loop import TrainingConfig, train


def origin(scrap):
    """The parts and splits whose text holds a scrap."""
    return {(part, split) for part in PARTS for split in ("train", "held_out") if scrap in part_text(part, split)}


def test_every_part_has_text_to_learn_and_to_hold_out():
    assert len(set(PARTS)) == len(PARTS) == 24
    for part in PARTS:
        train_size, held_out_size = len(part_text(part)), len(part_text(part, "held_out"))
        assert train_size > 35_000 and 0.15 < held_out_size / (train_size + held_out_size) < 0.25
        assert "\n" not in part_text(part)
    sizes = [len(part_text(part)) for part in PARTS[:8]]
    assert sizes[0] > sizes[-1]


def test_an_example_is_a_scrap_of_its_class_and_its_label():
    task = ClassTask(classes=6, increments=3, rows=40)
    assert len(task.order) == len(set(task.order)) == 6 and ClassTask(seed=1).order != ClassTask(seed=2).order
    assert [list(task.group(i)) for i in range(3)] == [[0, 1], [2, 3], [4, 5]]
    for split in ("train", "held_out"):
        inputs, targets = task.examples(1, step=0, split=split)
        assert inputs.shape == targets.shape == (40, task.length)
        assert (targets[:, :-1] == -100).all()
        seen = set()
        for row, label in zip(inputs[:10], targets[:10, -1], strict=True):
            text, number = bytes(row.tolist()).decode(), LETTERS.index(chr(label))
            assert number in task.group(1) and text.endswith("\n=")
            assert (task.order[number], split) in origin(text[:48])
            seen.add(number)
        assert seen == {2, 3}
    lesson = task.lessons(1)
    assert torch.equal(lesson(0)[0], task.examples(1, 0, "train")[0])
    assert not torch.equal(lesson(0)[0], lesson(1)[0]) and not torch.equal(lesson(0)[0], task.lessons(0)(0)[0])


def test_held_out_scraps_are_in_no_text_to_learn_from():
    inputs, _ = ClassTask(rows=60).examples(0, 0, "held_out")
    found = [origin(bytes(row.tolist()).decode()[:48]) for row in inputs]
    leaked = sum(any(split == "train" for _, split in where) for where in found)
    assert leaked <= 6  # phrases that a library says in many places


@pytest.mark.parametrize("labels", ["fixed", "drawn"])
def test_a_text_shows_every_increment_and_asks_all_so_far(labels):
    task = ClassTask(classes=6, increments=3, shots=2, asked=2, labels=labels)
    made = task.text(5, "held_out")
    lines = bytes(made.tokens.tolist()).decode().split("\n")[:-1]
    examples = list(zip(lines[::2], lines[1::2], strict=True))
    assert len(examples) == 3 * 4 + 2 * (2 + 4 + 6) and all(len(scrap) == 48 for scrap, _ in examples)
    assert made.learnt.tolist() == [0] * 4 + [1] * 8 + [2] * 12
    text, place, meaning, asked = "", 0, {}, 0
    for scrap, label in examples:
        text += scrap + "\n=" + label[1:] + "\n"
        place = len(text) - 2
        if place in made.places.tolist():
            assert label[1:] == chr(made.labels[asked]) and meaning[label[1:]] // 2 == made.increments[asked]
            parts = {part for part, split in origin(scrap) if split == "held_out"}
            assert task.order[meaning[label[1:]]] in parts
            asked += 1
        else:
            parts = {part for part, split in origin(scrap) if split == "train"}
            numbers = [task.order.index(part) for part in parts if part in task.order]
            if len(numbers) == 1:  # a phrase may stand in two parts
                assert meaning.setdefault(label[1:], numbers[0]) == numbers[0]
    assert asked == 24 and sorted(meaning.values()) == list(range(6))
    assert (labels == "fixed") == (meaning == {LETTERS[c]: c for c in range(6)})


def test_a_step_is_whole_texts_asked_at_their_labels():
    task = ClassTask(classes=4, increments=2, shots=1, rows=3, labels="drawn")
    inputs, targets = task(2)
    for row in range(3):
        text = task.text(6 + row)
        assert torch.equal(inputs[row], text.tokens[:-1])
        assert torch.equal((targets[row] != -100).nonzero()[:, 0], text.places - 1)
        assert torch.equal(targets[row][text.places - 1], text.labels)


def test_texts_are_the_same_in_every_process():
    line = (
        "from nl_course.tasks.incremental import ClassTask; import hashlib;"
        "print(hashlib.sha256(ClassTask().text(3).tokens.numpy().tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", line], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop().strip()) == 64


class Librarian(torch.nn.Module):
    """Knows the first `known` classes by heart and says the first letter otherwise; the state is the open line."""

    def __init__(self, task, known):
        super().__init__()
        self.task, self.known, self.nothing = task, known, torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens, state=None):
        texts, out = list(state or [b""] * len(tokens)), torch.full_like(tokens, ord("A"))
        for i, row in enumerate(tokens.tolist()):
            for t, byte in enumerate(row):
                texts[i] += bytes([byte])
                if byte == ord("="):
                    scrap = texts[i][:-2].decode()[-self.task.scrap :]
                    for number, part in enumerate(self.task.order[: self.known]):
                        if scrap in part_text(part, "held_out") or scrap in part_text(part):
                            out[i, t] = ord(LETTERS[number])
        return one_hot(out, 256).float(), texts


def test_accuracy_of_one_who_knows_some():
    task = ClassTask(classes=4, increments=2, shots=1, asked=2)
    assert class_accuracy(Librarian(task, 4), task, 1) > 0.9
    assert class_accuracy(Librarian(task, 2), task, 0) > 0.9
    assert class_accuracy(Librarian(task, 2), task, 1) < 0.1
    matrix = text_accuracy(Librarian(task, 2), task, texts=4, piece=100)
    assert matrix.isnan().tolist() == [[False, True], [False, False]]
    assert matrix[0, 0] > 0.8 and matrix[1, 0] > 0.8 and matrix[1, 1] < 0.2


def test_training_takes_it():
    torch.manual_seed(0)
    task = ClassTask(classes=4, increments=2, scrap=16, rows=8)
    model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16, memory="gated-delta"))
    config = TrainingConfig(steps=40, warmup=2, learning_rate=1e-2, precision="fp32")
    run = train(model, task.lessons(1), config, progress=False)
    assert run.losses[-1] < 1.5 < 5 < run.losses[0]
    assert class_accuracy(model, task, 0, steps=2) == 0  # it has learnt that only C and D are ever said
    assert class_accuracy(model, task, 1, steps=2) > 0.2 and model.training


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ClassTask(classes=25, increments=5), "at most 24"),
        (lambda: ClassTask(classes=8, increments=3), "equal increments"),
        (lambda: ClassTask(labels="random"), "fixed, drawn"),
        (lambda: ClassTask().lessons(4), "between 0 and 3"),
        (lambda: ClassTask(labels="drawn").examples(0, 0), "within a text"),
        (lambda: part_text("sympy.poly"), "Did you mean 'sympy.polys'"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(CourseError, match=says):
        call()
