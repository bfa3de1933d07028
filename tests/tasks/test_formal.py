"""Formal languages against all strings there are, groups against moving things about by hand."""

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from nl_course.errors import CourseError
from nl_course.model import LanguageModel, ModelConfig
from nl_course.tasks import formal
from nl_course.tasks.formal import GROUPS, LANGUAGES, FormalTask, classes, encode, formal_accuracy, group, products
from nl_course.training import TrainingConfig, train


def balanced(word, opening, closing):
    """Deletes pairs until nothing changes."""
    word = "".join(c for c in word if c in opening + closing)
    while opening + closing in word:
        word = word.replace(opening + closing, "")
    return not word


# Membership, each said in another way than the module says it; the empty word is asked for by nobody.
MEMBER = {
    "parity": lambda w: w.count("1") % 2 == 0,
    "aa": lambda w: re.fullmatch("(aa)*", w) is not None,
    "abab": lambda w: re.fullmatch("(abab)*", w) is not None,
    "anbn": lambda w: re.fullmatch("a+b+", w) is not None and w.count("a") == w.count("b"),
    "anbncn": lambda w: re.fullmatch("a+b+c+", w) is not None and w.count("a") == w.count("b") == w.count("c"),
    "shuffle2": lambda w: balanced(w, "(", ")") and balanced(w, "[", "]"),
}
# The longest prefix that is looked at, and the longest word that it may need to go on by one symbol.
REACH = {"parity": (6, 8), "aa": (8, 12), "abab": (8, 12), "anbn": (5, 12), "anbncn": (3, 12), "shuffle2": (3, 8)}


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_next_symbols_are_those_of_all_words(name):
    symbols, (longest, most) = LANGUAGES[name].symbols, REACH[name]
    words = {"".join(w) for n in range(1, most + 1) for w in product(symbols, repeat=n) if MEMBER[name]("".join(w))}
    prefixes = {word[:i] for word in words for i in range(1, longest + 1)}
    begun = {word[:i] for word in words for i in range(1, len(word) + 1)}
    seen = 0
    for prefix in prefixes:
        expected = {s for s in symbols if prefix + s in begun} | ({"$"} if prefix in words else set())
        assert set(LANGUAGES[name].allowed(prefix)[-1]) == expected, prefix
        assert bool(classes(name, prefix)[-1] & 1) == MEMBER[name](prefix)
        seen += 1
    assert seen >= longest


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(LANGUAGES)), seed=st.integers(0, 999), most=st.integers(6, 80))
def test_what_is_drawn_is_a_word_and_ends_as_one(name, seed, most):
    task = FormalTask(name, (3, most), rows=4, seed=seed)
    batch = task.batch(seed)
    symbols = LANGUAGES[name].symbols
    for tokens, targets, mask in zip(batch.tokens, batch.targets, batch.mask, strict=True):
        length = int(mask.sum())
        assert 3 <= length <= most and mask[:length].all() and not mask[length:].any()
        assert (tokens[length:] == 0).all()
        word = "".join(symbols[t - 1] for t in tokens[:length].tolist())
        assert name == "parity" or MEMBER[name](word)
        for i in (length // 2, length):
            assert bool(int(targets[i - 1]) & 1) == MEMBER[name](word[:i])
        assert targets.max() < task.vocab and tokens.max() < task.vocab


def test_a_class_is_its_set():
    assert encode("shuffle2", "([)]") == [1, 3, 2, 4]
    assert classes("aa", "aaa") == [2, 3, 2]  # a; a or the end; a
    assert classes("anbncn", "aabbcc") == [6, 6, 4, 8, 8, 1]
    assert classes("parity", "101") == [6, 6, 7]
    assert classes("shuffle2", "([)]") == [2 + 8 + 4, 2 + 8 + 4 + 16, 2 + 8 + 16, 2 + 8 + 1]


def test_every_balanced_word_is_as_likely():
    import random

    rng = random.Random(0)
    counts = Counter("".join(formal._balanced(rng, 3, "()")) for _ in range(5000))
    assert len(counts) == 5  # Catalan's number
    assert all(abs(count - 1000) < 150 for count in counts.values())
    assert all(balanced(word, "(", ")") for word in counts)
    assert {formal.LANGUAGES["shuffle2"].draw(rng, 2) for _ in range(50)} == {"()", "[]"}


# -- groups ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "order"), [("z2", 2), ("z3", 3), ("z5", 5), ("s3", 6), ("a5", 60), ("s5", 120)])
def test_a_group_is_one(name, order):
    elements, table = group(name).elements, torch.tensor(group(name).table)
    assert len(set(elements)) == len(elements) == order
    assert elements[0] == tuple(range(len(elements[0])))
    everyone = torch.arange(order)
    assert torch.equal(table[0], everyone) and torch.equal(table[:, 0], everyone)  # the identity
    assert torch.equal(table.sort(0).values, everyone[:, None].expand(order, order))  # a Latin square: inverses
    assert torch.equal(table.sort(1).values, everyone.expand(order, order))
    if order <= 60:
        left, right = table[table], table[:, table]  # (ij)k and i(jk)
        assert torch.equal(left, right)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(name=st.sampled_from(GROUPS), data=st.data())
def test_products_are_what_moving_things_gives(name, data):
    elements = group(name).elements
    word = data.draw(st.lists(st.integers(0, len(elements) - 1), min_size=1, max_size=12))
    things, found = list("abcde"[: len(elements[0])]), products(name, word)
    where = dict(zip(things, range(len(things)), strict=True))
    for letter, state in zip(word, found, strict=True):
        where = {thing: elements[letter][place] for thing, place in where.items()}  # each goes where it is sent
        assert tuple(where[thing] for thing in things) == elements[state]
    if name[0] == "z":
        turns = int(name[1:])
        assert found == [sum(word[: i + 1]) % turns for i in range(len(word))]


def test_a5_is_the_even_permutations_and_not_abelian():
    def parity_by_cycles(p):
        seen, even = set(), True
        for start in range(len(p)):
            length, at = 0, start
            while at not in seen:
                seen.add(at)
                at, length = p[at], length + 1
            even ^= length % 2 == 0 and length > 0
        return even

    assert set(group("a5").elements) == {p for p in permutations(range(5)) if parity_by_cycles(p)}
    for name, abelian in (("z5", True), ("s3", False), ("a5", False), ("s5", False)):
        table = torch.tensor(group(name).table)
        assert torch.equal(table, table.T) == abelian


def test_letters_make_a_smaller_alphabet():
    swap, turn = (group("s5").elements.index(p) for p in ((1, 0, 2, 3, 4), (1, 2, 3, 4, 0)))  # they generate it
    task = FormalTask("s5", (10, 10), letters=(swap, turn), rows=50)
    batch = task.batch(0)
    assert set(batch.tokens.flatten().tolist()) == {swap + 1, turn + 1}
    assert len(set(batch.targets.flatten().tolist())) > 30 and task.vocab == 121


# -- the task ----------------------------------------------------------------------------------------------------------
def test_strings_depend_on_seed_and_step_alone_in_every_process():
    line = (
        "from nl_course.tasks.formal import *; import hashlib;"
        "print(hashlib.sha256(b''.join(FormalTask(n, (8, 20)).batch(3).tokens.numpy().tobytes()"
        " for n in TASKS)).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", line], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop().strip()) == 64
    first = FormalTask("parity").batch(0).tokens
    assert not torch.equal(first, FormalTask("parity").batch(1).tokens)
    assert not torch.equal(first, FormalTask("parity", seed=1).batch(0).tokens)


def test_lengths_are_drawn_evenly_from_those_there_are():
    task = FormalTask("abab", (2, 20), rows=500)
    lengths = Counter(task.batch(0).mask.sum(1).tolist())
    assert set(lengths) == {4, 8, 12, 16, 20} and min(lengths.values()) > 60


class Automaton(torch.nn.Module):
    """Answers rightly up to position `until`, as a model that keeps its state only so long would."""

    def __init__(self, name, until=10**9):
        super().__init__()
        self.name, self.until, self.nothing = name, until, torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens):
        symbols, out = LANGUAGES[self.name].symbols, torch.zeros_like(tokens)
        for i, row in enumerate(tokens.tolist()):
            word = "".join(symbols[t - 1] for t in row if t)
            right = classes(self.name, word)[: self.until]
            out[i, : len(right)] = torch.tensor(right)
        return one_hot(out, 64).float(), None


def test_accuracy_counts_strings_without_a_mistake():
    task = FormalTask("anbn", rows=20)
    near, far = formal_accuracy(Automaton("anbn"), task)
    assert near.accuracy == far.accuracy == near.by_place == 1 and (near.strings, far.low, far.high) == (80, 51, 100)
    near, far = formal_accuracy(Automaton("anbn", until=50), task)
    assert near.accuracy == 1 and far.accuracy == 0 and 0.5 < far.by_place < 1
    assert far.right_positions == 50 * far.strings


def test_training_takes_it():
    torch.manual_seed(0)
    task = FormalTask("z2", (2, 8), rows=16)
    model = LanguageModel(ModelConfig(vocab=8, width=16, layers=1, heads=2, hidden=32, memory="gated-delta"))
    config = TrainingConfig(steps=40, warmup=2, learning_rate=1e-2, precision="fp32")
    run = train(model, task, config, progress=False)
    assert run.losses[-1] < 0.75 < 2 < run.losses[0]
    (found,) = formal_accuracy(model, task, [(2, 8)], steps=1)
    assert found.strings == 16 and model.training


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: FormalTask("party"), "Did you mean 'parity'"),
        (lambda: FormalTask("aa", (3, 3)), "no word of 3 to 3"),
        (lambda: FormalTask("aa", (5, 3)), "longest length"),
        (lambda: FormalTask("aa", letters=(0,)), "is a language"),
        (lambda: FormalTask("s3", letters=(6,)), "0 .. 5"),
        (lambda: FormalTask("s3", letters=()), "0 .. 5"),
        (lambda: encode("aa", "aba"), "not 'b'"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(CourseError, match=says):
        call()
