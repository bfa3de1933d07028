"""A memory with copies of what it was: equal to the plain one where it has none, and to its two equations by hand."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.memories import Cached, CachedConfig, LinearAttention, build_memory
from nl_course.seeding import seeded

CLOSE = dict(rtol=1e-12, atol=1e-12)


def cached(**options) -> Cached:
    sizes = dict(width=8, heads=2, memory="linear", segment=3, states=2)
    with seeded(0):
        return Cached(CachedConfig(**sizes | options)).double()


def text(tokens: int = 10) -> torch.Tensor:
    return torch.randn(2, tokens, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("memory", ["delta", "kda", "ttt-linear", "titans"])
@pytest.mark.parametrize("options", [dict(states=0), dict(segment=50)])
def test_without_an_old_state_it_is_the_inner_memory_to_the_digit(memory, options):
    ours, x = cached(memory=memory, **options), text()
    plain, _ = ours.memory(x[:, :1])
    y, state = ours(x)
    alone, last = [], None
    for t in range(10):  # a token at a time, since chunks add up in another order
        y_t, last = ours.memory(x[:, t : t + 1], last)
        alone.append(y_t)
    assert torch.equal(y, torch.cat(alone, dim=1))
    assert torch.equal(y[:, :1], plain)
    assert state.keys.shape[1] == 0


@torch.no_grad()
@pytest.mark.parametrize("restart", [False, True])
def test_both_equations_by_hand(restart):
    """Linear attention: S grows by k^T v; each kept S answers with the token's own write in it; softmax over means."""
    ours, x = cached(restart=restart), text(8)
    with torch.no_grad():
        ours.connect.weight.mul_(20)  # so that the shares differ
    y, _ = ours(x)
    inner, expected = ours.memory, torch.zeros_like(y)
    for row in range(2):
        S, kept, means, segment = torch.zeros(2, 4, 4, dtype=torch.float64), [], [], []
        for t in range(8):
            x_t = x[row, t]
            q, k, v = (part(x_t).view(2, 1, 4) for part in (inner.query, inner.key, inner.value))  # (h, 1, f)
            write = k.mT @ v
            S = S + write
            segment.append(x_t)
            read = [q @ (old + write) for old in kept] + [q @ S]  # (h, 1, f) each
            answers = torch.stack([inner.output(inner.norm(o).reshape(8)) for o in read])  # (n + 1, d)
            keys = torch.stack([*means, torch.stack(segment).mean(0)])  # (n + 1, d)
            gamma = (keys @ ours.connect(x_t) / 8**0.5).softmax(0)  # (n + 1,)
            expected[row, t] = gamma @ answers
            if len(segment) == 3:
                kept, means = [*kept, S][-2:], [*means, torch.stack(segment).mean(0)][-2:]
                S, segment = (torch.zeros_like(S) if restart else S), []
    torch.testing.assert_close(y, expected, **CLOSE)


@torch.no_grad()
def test_only_the_last_states_are_kept():
    ours, x = cached(), text(12)
    _, early = ours(x[:, :6])
    _, late = ours(x)
    _, third = ours.memory(x[:, :9])
    assert early.keys.shape[1] == late.keys.shape[1] == 2
    torch.testing.assert_close(late.old["matrix"][:, 0], third.matrix, **CLOSE)
    torch.testing.assert_close(late.keys[:, 1], x[:, 9:].mean(1), **CLOSE)


@torch.no_grad()
def test_a_kept_titans_network_is_read_and_stays_as_it_was():
    ours, x = cached(memory="titans", gate="mean", segment=4, options=dict(chunk=4)), text(7)
    _, state = ours(x[:, :4])
    _, inner = ours.memory(x[:, :4])
    for name, weights in inner.neural.memory.items():
        torch.testing.assert_close(state.old[name][:, 0], weights, **CLOSE)
    _, later = ours(x[:, 4:], state)
    assert torch.equal(later.old["W1"], state.old["W1"])
    assert not torch.equal(later.online.neural.memory["W1"], state.online.neural.memory["W1"])


@torch.no_grad()
@pytest.mark.parametrize("gate", ["learned", "similarity", "mean"])
def test_shares_are_traced_and_add_up_to_one(gate):
    from nl_course.memories import Trace

    trace = Trace()
    cached(gate=gate)(text(), trace=trace)
    shares = trace["gate"]  # (b, t, states + 1)
    assert shares.shape == (2, 10, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 10, dtype=torch.float64))
    assert (shares[:, :3, :2] == 0).all()  # before the first segment ends there is nothing old
    if gate == "mean":
        torch.testing.assert_close(shares[:, -1], torch.full((2, 3), 1 / 3, dtype=torch.float64))


def test_what_it_refuses():
    with pytest.raises(CourseError, match="memory"):
        cached(memory="attention")
    with pytest.raises(CourseError, match="segment"):
        cached(segment=0)
    with pytest.raises(CourseError, match="cached memory 'linear'"):
        cached(options=dict(window=3))
    with pytest.raises(CourseError, match="options"):
        cached(options=[1])


def test_it_is_found_by_its_name():
    memory = build_memory("cached", 8, 2, memory="linear")
    assert isinstance(memory.memory, LinearAttention)
