"""Streams of corpora whose switches are where they say, and the measures against sums by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.tasks.continual import DOMAINS, Domain, domain, domain_stream, transfer, visits
from nl_course.tasks.text import batch


def made_up(name, first, size=1000):
    numbers = torch.arange(size, dtype=torch.int64)
    return Domain(name, (first + numbers % 50).to(torch.uint8), torch.full((100,), first + 50, dtype=torch.uint8))


def test_domains_are_books_apart():
    assert len(DOMAINS) == 8
    prose = domain("networkx-prose")
    assert prose.train.numel() > 1_000_000 and prose.held_out.numel() > 50_000
    assert prose is domain("networkx-prose")  # read once
    window = bytes(prose.held_out[5000:5400].tolist())
    assert window not in prose.train.numpy().tobytes()
    assert "1,835,614 bytes" in repr(prose)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(each=st.integers(1, 200), rounds=st.integers(1, 4), seed=st.integers(0, 99), place=st.floats(0, 0.999))
def test_a_stream_says_what_it_is_made_of(each, rounds, seed, place):
    corpora = [made_up("low", 0), made_up("middle", 60), made_up("high", 120)]
    stream = domain_stream(corpora, each, rounds, seed)
    assert stream.tokens.shape == (3 * rounds * each,) and stream.tokens.dtype == torch.int64
    assert stream.names == ("low", "middle", "high") * rounds
    assert stream.switches == tuple(range(0, 3 * rounds * each, each))
    here = int(place * stream.tokens.numel())
    first = {"low": 0, "middle": 60, "high": 120}[stream.at(here)]
    assert first <= stream.tokens[here] < first + 50 and stream.visit(here) == here // each
    for i, corpus in enumerate(corpora):  # a corpus goes on where it was left: its visits together are one passage
        pieces = [stream.tokens[s : s + each] for s in stream.switches[i::3]]
        passage = bytes(torch.cat(pieces).tolist())
        assert passage in corpus.train.numpy().tobytes()


def test_a_stream_of_held_out_text():
    stream = domain_stream([made_up("low", 0), made_up("high", 120)], 50, 2, split="held_out")
    assert set(stream.tokens.tolist()) == {50, 170}


def test_visits_batch_one_corpus_at_a_time():
    corpora = [made_up("low", 0), made_up("high", 120)]
    data = visits(corpora, steps_each=3, batch_size=4, length=20, seed=5)
    for step, corpus in [(0, 0), (2, 0), (3, 1), (5, 1), (6, 0)]:
        inputs, targets = data(step)
        expected = batch(corpora[corpus].train, step, 4, 20, 5)
        assert torch.equal(inputs, expected[0]) and torch.equal(targets, expected[1])


# -- measures ----------------------------------------------------------------------------------------------------------
R = [[0.9, 0.3, 0.2], [0.5, 0.8, 0.4], [0.7, 0.6, 1.0]]


def test_measures_by_hand():
    found = transfer(R, untrained=[0.1, 0.1, 0.1])
    assert found.average == pytest.approx((0.7 + 0.6 + 1.0) / 3)
    assert found.backward == pytest.approx(((0.7 - 0.9) + (0.6 - 0.8)) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.7) + (0.8 - 0.6)) / 2)
    assert found.forward == pytest.approx(((0.3 - 0.1) + (0.4 - 0.1)) / 2)
    assert transfer(R).forward is None
    later_best = transfer([[0.5, 0.0, 0], [0.9, 0.5, 0], [0.6, 0.5, 0.5]])  # the best was not when it was learnt
    assert later_best.forgetting == pytest.approx(0.15) and later_best.backward == pytest.approx(0.05)
    assert transfer([[0.4]], [0.1]) == type(found)(0.4, 0.0, 0.0, 0.0)


def test_losses_are_turned_round():
    losses = (1 - torch.tensor(R, dtype=torch.float64)).tolist()
    up, down = transfer(R, [0.1] * 3), transfer(losses, [0.9] * 3, better="lower")
    assert down.average == pytest.approx(1 - up.average)
    for name in ("forgetting", "backward", "forward"):
        assert getattr(down, name) == pytest.approx(getattr(up, name))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: domain("numpy-verse"), "numpy-prose"),
        (lambda: domain_stream([made_up("low", 0)], 600, 2), "low has 1,000 bytes"),
        (lambda: domain_stream([], 5), "at least one"),
        (lambda: visits([], 5), "at least one"),
        (lambda: domain_stream([made_up("low", 0)], 5).at(5), "not in a stream of 5"),
        (lambda: transfer([[1, 2]]), r"\(tasks, tasks\)"),
        (lambda: transfer([[float("nan")]]), "numbers only"),
        (lambda: transfer(R, [1, 2]), "one score per task"),
        (lambda: transfer(R, better="more"), "higher, lower"),
    ],
)
def test_mistakes_are_named(call, says):
    with pytest.raises(CourseError, match=says):
        call()
