"""RULER's needles, letter for letter: the sentences that NVIDIA/RULER's niah.py (commit c3f5e3b) writes for S-NIAH-1,
S-NIAH-2, S-NIAH-3 and MK-NIAH-1. Texts of that program, 40 of each, were also rebuilt from ruler.py, byte by byte."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.nn.functional import one_hot

from nl_course.errors import CourseError
from nl_course.tasks import ruler
from nl_course.tasks.needle import NeedleTask, hay_bytes, ruler_task, word_list
from nl_course.tasks.needle_scores import continuation, needle_accuracy

LINE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NUMBER = r"One of the special magic numbers for ([a-z]+-[a-z]+) is: ([1-9][0-9]{6})\."
UUID = r"One of the special magic uuids for ([a-z]+-[a-z]+) is: ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\."


def asked_as_published(key, what):
    return (
        f"\nWhat is the special magic {what} for {key} mentioned in the provided text? "
        f"The special magic {what} for {key} mentioned in the provided text is"
    )


def test_a_text_of_noise_is_the_published_one():
    task = ruler_task("S-NIAH-1", 700)
    made = task.text(3, depth=0.5)
    (needle,) = made.needles
    before = (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards.\n"
    )
    lines = made.text.decode().removeprefix(before).split("\n")
    assert made.text.decode().startswith(before)
    assert lines[:-1] == [
        lines[0],  # the first is cut, so that the text has its length
        LINE,
        f"One of the special magic numbers for {needle.key} is: {needle.answer}.",
        LINE,
        LINE,
    ]
    assert LINE.endswith(lines[0])
    asked = asked_as_published(needle.key, "number")
    assert made.text.decode().endswith(f"{LINE}{asked} {needle.answer}")
    assert len(made.text) == 701


def test_prose_with_needles_is_the_published_text():
    hay = b"One ends. Two ends! Three ends? Four"
    needles = [b"One of the special magic uuids for a-b is: x.", b"One of the special magic uuids for c-d is: y."]
    text, begins = ruler.with_needles(hay, needles, [0.74, 0.26], b" ")
    assert text == b"One ends. " + needles[1] + b" Two ends! " + needles[0] + b" Three ends? Four"
    assert [text[at:].startswith(needle) for at, needle in zip(begins, needles, strict=True)] == [True, True]
    assert ruler.with_needles(hay, needles[:1], [1.0], b" ")[0] == hay + b" " + needles[0]
    assert ruler.with_needles(hay, needles[:1], [0.0], b" ")[0] == needles[0] + b" " + hay
    assert ruler.prose(b" two\n\n  lines\tof text ") == b"two lines of text"


@pytest.mark.parametrize(
    ("name", "needle", "needles", "what"),
    [
        ("S-NIAH-1", NUMBER, 1, "number"),
        ("S-NIAH-2", NUMBER, 1, "number"),
        ("S-NIAH-3", UUID, 1, "uuid"),
        ("MK-NIAH-1", NUMBER, 4, "number"),
    ],
)
def test_a_published_form_has_its_needles_its_hay_and_one_question(name, needle, needles, what):
    made = ruler_task(name, 1500, split="held_out").text(1)
    text = made.text.decode()
    found = re.findall(needle, text)
    assert sorted(found) == sorted((n.key, n.answer) for n in made.needles)
    assert len(found) == needles and len(made.asked) == 1
    (asked,) = made.asked
    assert text.endswith(f"{asked_as_published(asked.key, what)} {asked.answer}")
    before = f"A special magic {what} is hidden within the following text. Make sure to memorize it. "
    before += f"I will quiz you about the {what} afterwards.\n"
    assert text.startswith(before)
    rest = re.sub(f"[ \n]{needle}|{needle}[ \n]", "", text[len(before) : text.index("\nWhat is")])
    hay = LINE * 20 if name == "S-NIAH-1" else hay_bytes("held_out", one_line=True).decode()
    assert rest.replace("\n", "") in hay


RULER_TASKS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["passkey", "number", "word", "uuid"]),
        "hay": st.sampled_from([None, "text", "noise"]),
        "split": st.sampled_from(["train", "held_out"]),
        "seed": st.integers(0, 99),
    }
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(asked=RULER_TASKS, needles=st.integers(1, 4), spare=st.integers(0, 700), number=st.integers(0, 999))
def test_a_text_is_exactly_long_enough_and_says_every_answer_once_before_it_is_asked(asked, needles, spare, number):
    smallest = NeedleTask(**asked, style="ruler", length=9000, needles=needles, questions=needles).bytes_used - 1
    task = NeedleTask(**asked, style="ruler", length=smallest + spare, needles=needles, questions=needles)
    made = task.text(number)
    assert len(made.text) == task.length + 1 and task.spare == spare
    context = made.text[: made.text.index(b"\nWhat is")]
    for needle in made.needles:
        key, answer = needle.key.encode(), needle.answer.encode()
        assert context.count(key) == context.count(answer) == 1
        assert len(answer) == task.answer
        assert made.text[needle.place :].startswith(b"One of the special magic ")
        assert needle.place < context.index(key) < context.index(answer) < needle.place + 120
        assert made.text[needle.asked :].startswith(answer)
        assert made.text[: needle.asked].endswith(key + b" mentioned in the provided text is ")
        assert set(needle.key.split("-")) <= set(word_list(5, asked["split"]))
    batch = task.rows_at([number])
    assert bytes(batch.targets[0][batch.mask[0]].tolist()) == b"".join(n.answer.encode() for n in made.asked)


def test_answers_are_drawn_as_published():
    rng = random.Random(7)
    assert [ruler.number(rng) for _ in range(3)] == ["6433012", "3530829", "7624039"]  # random.seed(7) in niah.py
    assert ruler.random_uuid(rng) == "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"
    first_digits = [int(ruler.number(rng)[0]) for _ in range(2000)]
    assert set(first_digits) == set(range(1, 10))


def test_depths_are_the_published_ones():
    assert list(ruler.DEPTHS) == [d / 100 for d in np.round(np.linspace(0, 100, 40)).astype(int)]
    in_prose, in_noise = ruler_task("S-NIAH-2", 600), ruler_task("S-NIAH-1", 1200)
    assert {in_prose.text(i).needles[0].depth for i in range(300)} == set(ruler.DEPTHS)
    lines = in_noise.text(0).text.count(b"\n") - 2  # lines of hay: without the needle's and the two around the hay
    before = [in_noise.text(i).text.split(b"One of")[0].count(b"\n") - 1 for i in range(600)]
    assert chisquare(np.bincount(before, minlength=lines)).pvalue > 0.01  # never after the last line
    assert ruler_task("S-NIAH-1", 1200, depth=1.0).text(0).text.split(b"\n")[-2].startswith(b"One of")


class Writer(torch.nn.Module):
    """Writes `says` after the question, whatever it read."""

    def __init__(self, says):
        super().__init__()
        self.says, self.nothing = says, torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens, state=None):
        read, following = state or b"", []
        for byte in tokens[0].tolist():
            read += bytes([byte])
            _, end, written = read.rpartition(b"provided text is ")
            following.append((self.says + b" " * 200)[len(written) if end else 0])
        return one_hot(torch.tensor([following]), 256).float(), read


def test_the_published_score_looks_for_the_answer_anywhere_in_what_is_written():
    task = ruler_task("S-NIAH-3", 600)
    answer = task.text(0, depth=0.5).asked[0].answer
    score = dict(rows=1, batch=1, split="train", piece=100)
    for says, exact, contains in [
        (answer, 1, 1),
        (f"it is {answer.upper()}.", 0, 1),
        (" " * 92 + answer, 0, 1),
        (" " * 93 + answer, 0, 0),  # 128 bytes are written
        (answer[:-1], 0, 0),
    ]:
        writer = Writer(says.encode())
        assert needle_accuracy(writer, task, **score)[0].right == exact
        found = needle_accuracy(writer, task, **score, scoring="contains")[0]
        assert (found.asked, found.right, found.right_bytes, found.bytes) == (1, contains, 36 * contains, 36)
    prompt = task.rows_at([0]).inputs[:, : 601 - 36]
    assert bytes(continuation(Writer(b"abc"), prompt, 3, piece=7)[0].tolist()) == b"abc"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ruler_task("S-NIAH-4", 900), "Did you mean"),
        (lambda: ruler_task("S-NIAH-2", 300), "too short"),
        (lambda: ruler_task("S-NIAH-2", 900, hay="bytes"), "between sentences"),
        (lambda: ruler_task("S-NIAH-3", 900, answer=8), "36 bytes"),
        (lambda: ruler_task("S-NIAH-2", 900, key=2), "key must be"),
        (
            lambda: needle_accuracy(Writer(b""), ruler_task("MK-NIAH-1", 1500, questions=2), scoring="contains"),
            "one question per text, not 2",
        ),
        (lambda: needle_accuracy(Writer(b""), ruler_task("S-NIAH-1", 900), scoring="close"), "exact, contains"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(CourseError, match=says):
        call()


def test_other_styles_keep_their_lengths():
    assert (NeedleTask("uuid").key, NeedleTask("uuid").answer) == (5, 8)
    assert (NeedleTask("uuid", 600, style="ruler").key, NeedleTask("uuid", 600, style="ruler").answer) == (11, 36)
    assert replace(NeedleTask("number"), style="sentence").answer == 5
