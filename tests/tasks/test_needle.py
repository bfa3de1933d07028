"""Needles: the right bytes in the right place, the same on every machine, nothing held out in what is trained on."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks.documents import Document
from nl_course.tasks.needle import KINDS, NOISE, NeedleTask, hay_bytes, mixed, stages, word_list
from nl_course.tasks.needle_scores import choices, needle_accuracy, wilson
from nl_course.tasks.text import Library, library
from nl_course.training import TrainingConfig, train

TASKS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(KINDS)),
        "style": st.sampled_from(["mark", "sentence"]),
        "hay": st.sampled_from([None, "text", "noise", "bytes"]),
        "split": st.sampled_from(["train", "held_out"]),
        "seed": st.integers(0, 99),
    }
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(asked=TASKS, needles=st.integers(1, 4), spare=st.integers(0, 300), number=st.integers(0, 10**6), data=st.data())
def test_a_text_is_exactly_long_enough_and_says_every_answer_once_before_it_is_asked(
    asked, needles, spare, number, data
):
    needles = 1 if asked["kind"] == "passkey" else needles
    questions = data.draw(st.integers(1, needles))
    smallest = NeedleTask(**asked, length=100_000, needles=needles, questions=questions).bytes_used - 1
    task = NeedleTask(**asked, length=smallest + spare, needles=needles, questions=questions)
    made = task.text(number)
    assert len(made.text) == task.length + 1 and task.spare == spare
    assert len(made.needles) == needles and len(made.asked) == questions
    first_question = made.asked[0].asked
    for needle in made.needles:
        answer, key = needle.answer.encode(), needle.key.encode()
        before = made.text[:first_question]
        assert before.count(answer) == 1  # in the needle, and nowhere else
        assert before.index(answer) > needle.place
        opening = made.text[needle.place : before.index(answer)]
        assert key in opening and made.text[needle.place - 1 : needle.place] == b"\n"
        if needle.asked >= 0:
            assert made.text[needle.asked :].startswith(answer)
            assert made.text[: needle.asked].endswith(b"\n" + opening)  # the question is the needle again
        if key != b"pass key":
            assert before.count(key) == 1 + (needle is made.asked[0])
    assert made.text.endswith(made.asked[-1].answer.encode())
    assert len({n.answer for n in made.needles}) == len({n.key for n in made.needles}) == needles


def test_the_mask_is_on_the_answers_and_the_loss_on_the_mask():
    task = NeedleTask("number", 300, needles=3, questions=2, rows=5)
    batch = task.batch(4)
    assert batch.inputs.shape == batch.targets.shape == (5, 300) and batch.inputs.dtype == torch.int64
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    for row in range(5):
        made = task.text(4 * 5 + row)
        assert bytes(batch.inputs[row].tolist()) == made.text[:-1]
        said = bytes(batch.targets[row][batch.mask[row]].tolist()).decode()
        assert said == "".join(n.answer for n in made.asked)
        assert batch.depth[row].tolist() == pytest.approx([n.depth for n in made.asked])
    inputs, targets = task(4)
    assert torch.equal(inputs, batch.inputs)
    assert torch.equal(targets != -100, batch.mask) and torch.equal(targets[batch.mask], batch.targets[batch.mask])
    assert torch.equal(replace(task, loss="all")(4)[1], batch.targets)


def test_a_depth_puts_the_needle_there():
    for depth in (0.0, 0.25, 1.0):
        task = NeedleTask("number", 1000, depth=depth)
        (needle,) = task.text(1).needles
        assert needle.place == round(depth * task.spare) + 1 and needle.depth == depth
    places = [NeedleTask("number", 1000).text(n).needles[0].depth for n in range(200)]
    assert 0.4 < sum(places) / 200 < 0.6 and min(places) < 0.05 and max(places) > 0.95


def test_hay_is_the_noise_the_books_or_random_bytes():
    def hay(**options):
        made = NeedleTask("number", 400, depth=1.0, **options).text(0)
        return made.text[: made.needles[0].place - 1]

    assert hay(hay="noise") in NOISE * 10
    for split in ("train", "held_out"):
        assert hay(split=split) in hay_bytes(split)
    assert len(set(hay(hay="bytes"))) > 50
    own = Library("own", [Document("a", b"ten words of my own that stand here " * 40)], [])
    task = NeedleTask("number", 400, depth=1.0, key=5, books=own)
    assert sorted(word_list(5, "train", own) + word_list(5, "held_out", own)) == ["stand", "words"]
    with pytest.raises(CourseError, match="too few words of 5 letters"):
        task.text(0)


def test_what_is_held_out_is_in_no_training_text():
    books = library("prose")
    train_hay, held_out_hay = hay_bytes("train"), hay_bytes("held_out")
    assert not {b.name for b in books.train} & {b.name for b in books.held_out}
    for size in (4, 5, 6):
        assert not set(word_list(size, "train")) & set(word_list(size, "held_out"))
        assert len(word_list(size, "held_out")) > 50
    shared = 0
    for number in range(50):  # a long stretch of a held-out text stands in no book that is trained on
        made = NeedleTask("word", 600, split="held_out", depth=1.0).text(number)
        hay = made.text[: made.needles[0].place - 1]
        assert hay in held_out_hay
        shared += hay[:200] in train_hay
    assert shared <= 2  # some docstrings are said twice in a library
    trained = NeedleTask("word", 600)
    for number in range(50):
        made = trained.text(number)
        key, answer = made.needles[0].key, made.needles[0].answer
        assert key in word_list(5, "train") and answer.lower() in word_list(5, "train")
        assert answer.isupper() and key != answer.lower()


def test_a_text_depends_on_its_seed_and_number_alone_in_every_process():
    line = (
        "from nl_course.tasks.needle import NeedleTask; import hashlib;"
        "print(hashlib.sha256(b''.join(NeedleTask(k, 500, needles=n, seed=3).text(7).text"
        " for k, n in (('passkey', 1), ('number', 2), ('word', 3), ('uuid', 2)))).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", line], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop().strip()) == 64
    task = NeedleTask("number", 200)
    for other in (replace(task, seed=1), replace(task, split="held_out"), replace(task, kind="word")):
        assert other.text(0).text != task.text(0).text
    assert task.text(1).text != task.text(0).text


def test_tasks_mix_and_follow_each_other():
    a, b = NeedleTask("number", 200, rows=2), NeedleTask("word", 200, rows=3)
    inputs, targets = mixed(a, b)(5)
    assert torch.equal(inputs, torch.cat([a(5)[0], b(5)[0]])) and targets.shape == (5, 200)
    after = stages((3, a), (4, b))
    assert torch.equal(after(2)[0], a(2)[0])
    assert torch.equal(after(3)[0], b(0)[0]) and torch.equal(after(9)[0], b(6)[0])


# -- scores ------------------------------------------------------------------------------------------------------------
class Finder(torch.nn.Module):
    """Looks the line up that is being written and copies what stood there, as far back as `window` bytes."""

    def __init__(self, window=10**9):
        super().__init__()
        self.window, self.pieces, self.nothing = window, [], torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens, state=None):
        self.pieces.append(tokens.shape[1])
        texts = [(state[i] if state else b"") for i in range(len(tokens))]
        out = torch.zeros_like(tokens)
        for i, row in enumerate(tokens.tolist()):
            for t, byte in enumerate(row):
                texts[i] += bytes([byte])
                recent = texts[i][-self.window :]
                line = recent[recent.rfind(b"\n") :]
                at = recent.find(line)
                out[i, t] = recent[at + len(line)] if at + len(line) < len(recent) else 0
        return one_hot(out, 256).float(), texts


def test_accuracy_counts_exact_answers_by_depth():
    task = NeedleTask("number", 400)
    whole = needle_accuracy(Finder(), task, [200, 400], rows=20, batch=8, piece=64)
    assert [(f.length, f.asked, f.right, f.right_bytes, f.bytes) for f in whole] == [
        (200, 20, 20, 100, 100),
        (400, 20, 20, 100, 100),
    ]
    near, far = Finder(window=100), needle_accuracy(Finder(window=200), task, rows=20, depths=4)
    assert [f.asked for f in far] == [5, 5, 5, 5]
    assert [f.right for f in far[:2]] == [0, 0] and far[3].right == 5  # 370 bytes of hay: a window of 200 sees half
    assert needle_accuracy(near, replace(task, depth=1.0), rows=6)[0].accuracy == 1
    assert needle_accuracy(near, replace(task, depth=0.0), rows=6)[0].accuracy == 0
    wrong = needle_accuracy(Finder(), replace(task, style="sentence"), rows=4, split="train")
    assert wrong[0].accuracy == 1


def test_reading_in_pieces_says_what_reading_at_once_says():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16, memory="gated-delta"))
    inputs = NeedleTask("number", 100, rows=3).batch(0).inputs
    assert torch.equal(choices(model, inputs, 7), model(inputs)[0].argmax(-1))
    finder = Finder()
    choices(finder, inputs, 64)
    assert finder.pieces == [64, 36]


def test_wilson_against_its_definition():
    for right, asked in ((0, 10), (3, 10), (10, 10), (57, 200)):
        low, high = wilson(right, asked)
        assert 0 <= low <= right / asked <= high + 1e-12 and high <= 1
        for end in (low, high):  # the ends solve |p - share| = z sqrt(p (1 - p) / n)
            if 1e-9 < end < 1 - 1e-9:
                assert abs(end - right / asked) == pytest.approx(1.959964 * (end * (1 - end) / asked) ** 0.5, rel=1e-6)
    with pytest.raises(CourseError, match="at most asked"):
        wilson(3, 2)


def test_training_takes_it():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(width=16, layers=1, heads=2, hidden=16, memory="gated-delta"))
    data = mixed(NeedleTask("passkey", 64, rows=2), NeedleTask("number", 64, rows=2))
    run = train(model, data, TrainingConfig(steps=30, warmup=2, learning_rate=1e-2, precision="fp32"), progress=False)
    assert run.losses[-1] < 3 < 5 < run.losses[0]  # at least which bytes are digits
    found = needle_accuracy(model, NeedleTask("number", 64), rows=4)
    assert found[0].asked == 4 and model.training is not False


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: NeedleTask("numbr"), "Did you mean 'number'"),
        (lambda: NeedleTask("number", 20), "too short"),
        (lambda: NeedleTask("number", questions=2), "at most needles"),
        (lambda: NeedleTask("passkey", needles=2), "needles must be 1"),
        (lambda: NeedleTask("number", depth=1.5), "between 0 and 1"),
        (lambda: NeedleTask("number", hay="straw"), "choose one of: text"),
        (lambda: NeedleTask("number", answer=1, length=5000).text(0), "too short to be told"),
        (lambda: NeedleTask("number", 10**7).text(0), "are needed"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(CourseError, match=says):
        call()
