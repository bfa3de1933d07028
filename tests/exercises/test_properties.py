"""The properties that exercises are built from: each lets a right answer pass and names what a wrong one does."""

import pytest
import torch

from nl_course.exercises.framework.answer import Answer, Failed, Miss, describe, short
from nl_course.exercises.framework.properties import (
    Rng,
    any_size,
    causal,
    compare,
    equals,
    holds,
    pure,
    right_shape,
    same_gradients,
)


def draw(rng):
    return (rng.normal(rng.whole(2, 5), 3),)


def sums(x):
    return x.cumsum(0)


def fails(prop, answer):
    with pytest.raises(Failed) as miss:
        prop.test(Answer(answer, ["x"]))
    return miss.value


def passes(prop, answer):
    prop.test(Answer(answer, ["x"]))


def test_dice_repeat_themselves():
    one, two = Rng(3), Rng(3)
    for rng in (one, two):
        rng.seen = (
            rng.whole(1, 9),
            rng.pick("abc"),
            rng.number(0, 1),
            rng.normal(2).tolist(),
            rng.tokens(9, 4).tolist(),
        )
    assert one.seen == two.seen
    assert one.normal(1).dtype == torch.float64
    assert {Rng(s).whole(1, 2) for s in range(20)} == {1, 2}


def test_equals():
    prop = equals("sums", draw, sums, hint=2)
    assert (prop.name, prop.hint) == ("sums", 2)
    passes(prop, lambda x: torch.stack([x[: t + 1].sum(0) for t in range(len(x))]))
    assert fails(prop, lambda x: x).expected.startswith("entry [1, 0] = ")
    assert "torch.float32" in fails(prop, lambda x: sums(x).float()).got
    assert "shape" in fails(prop, lambda x: sums(x)[:1]).got


def test_equals_hands_over_inputs_that_the_reference_has_not_touched():
    passes(equals("sums", draw, lambda x: x.cumsum_(0)), sums)


def test_same_gradients():
    prop = same_gradients("gradients", draw, lambda x: x**2)
    passes(prop, lambda x: x * x)
    assert fails(prop, lambda x: x.detach() ** 2).got == "a result cut off from its inputs"
    assert fails(prop, lambda x: x * x.detach()).got.startswith("gradient of argument 1: entry [0, 0]")


def test_right_shape():
    prop = right_shape("a number a row", draw, lambda x: (len(x),))
    passes(prop, lambda x: x.sum(1))
    assert fails(prop, lambda x: x.sum(0)).got == "shape (3,)"
    assert fails(prop, lambda x: x.sum(1).tolist()).got == "a value of type list"


def test_causal():
    prop = causal("no look ahead", draw)
    passes(prop, sums)
    assert fails(prop, lambda x: x.flip(0).cumsum(0).flip(0)).got.startswith("moved by ")
    passes(causal("along axis 1", lambda rng: (rng.normal(2, 5),), axis=1), lambda x: x.cumsum(1))


def test_pure():
    prop = pure("inputs stay", draw)
    passes(prop, sums)
    assert fails(prop, lambda x: x.mul_(2)).expected == "the inputs left as they were"
    calls = []
    assert fails(prop, lambda x: calls.append(1) or x * len(calls)).expected.startswith("second call")


def test_any_size():
    prop = any_size("even one row", (1, 4), lambda rng, size: (rng.normal(size, 2),), sums)
    passes(prop, sums)
    fails(prop, lambda x: sums(x) if len(x) > 1 else x * 0)


def test_holds_tries_several_dice():
    seen = []
    prop = holds("anything", hint=3, trials=5)(lambda answer, rng: seen.append(rng.whole(0, 10**9)))
    passes(prop, sums)
    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (2, 2),
        (2, 2.0),
        (2.0, 2),
        (0.5, torch.tensor(0.5)),
        ((1, torch.ones(2)), [1, torch.ones(2)]),
        (torch.tensor([1]), torch.tensor([1])),
        ("left", "left"),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
    ],
)
def test_compare_accepts(expected, got):
    compare(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (2, 3),
        (2.0, 2.1),
        (2.0, float("nan")),
        (2, "2"),
        (2.0, None),
        ((1, 2), (1,)),
        ((1, 2), 1),
        (torch.ones(2), torch.tensor([1.0, float("nan")])),
        (torch.ones(2), torch.ones(2).double()),
        (torch.ones(2), [1.0, 1.0]),
        (torch.ones(2), torch.ones(1, 2)),
        ("left", "right"),
    ],
)
def test_compare_rejects(expected, got):
    with pytest.raises(Miss):
        compare(expected, got)


def test_values_that_look_alike_are_told_with_more_digits():
    with pytest.raises(Miss) as miss:
        compare(122528.25, 122528.5)
    assert (miss.value.expected, miss.value.got) == ("122528.25", "122528.5")
    with pytest.raises(Miss) as miss:
        compare(torch.tensor([1.0], dtype=torch.float64), torch.tensor([1.0 + 1e-6], dtype=torch.float64))
    assert (miss.value.expected, miss.value.got) == ("entry [0] = 1", "entry [0] = 1.000001")


def test_values_and_sizes_are_told_shortly():
    assert short(torch.tensor([1.0, 0.123456])) == "[1, 0.1235]"
    assert short(torch.zeros(3, 4)) == "a tensor of shape (3, 4)"
    assert short(float("nan")) == "nan" and short(10000.0) == "10000" and short(-0.0) == "0"
    assert short((1, 2.5)) == "(1, 2.5)" and len(short(list(range(999)))) <= 60
    assert short(122528.3) == "122528" and short(0.00001234) == "1.234e-05"
    assert describe((torch.zeros(2, 3), None)) == "[(2, 3), = None]"
    assert describe([(1, None, 2), (3, 4, 5)]) == "= [(1, None, 2), (3, 4, 5)]"
    assert describe(torch.tensor(2)) == "= 2" and describe(len) == "(a function)"
