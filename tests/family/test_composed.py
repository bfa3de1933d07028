"""The composed memory: through the shared suite, and equal to the memories of the course where it is one of them."""

import pytest
import torch

from nl_course.errors import CourseError
from nl_course.family import Composed, ComposedConfig, composed
from nl_course.memories import Trace, build_memory
from nl_course.memories.common.weights import Weights
from nl_course.newton_schulz import newton_schulz
from nl_course.suite import PROPERTIES, Case
from nl_course.suite.case import WIDTH, build, inputs


def case(name: str, **choices) -> Case:
    # Steps so small that weights moved far from their start do not blow up in a long text.
    return Case(name, lambda: Composed(ComposedConfig(WIDTH, 2, expansion=2, **choices)), compiles=False)


# Together they have every choice of every kind.
CASES = [
    case("omega", loss="huber", retention="channel", window=3, forget="first", threshold=0.5),
    case("moneta", memory="mlp", loss="l3", retention="to-start", optimizer="momentum", max_step=0.2),
    case("atlas", memory="mlp", retention="scalar", optimizer="muon", window=2, max_step=0.1),
    case("hebb", loss="inner-product"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda p: p.name.replace(" ", "-"))
def test_the_composed_memory_keeps_what_every_memory_keeps(case, prop):
    prop.holds(case)


# -- the memories of the course ----------------------------------------------------------------------------------------
def lone(config: ComposedConfig, start: Weights, rows: dict) -> torch.Tensor:
    """What the composed memory reads from a start: rows hold q, k, v (b, h, t, f) and the gates."""
    S = start.map(torch.zeros_like)
    y, *_ = composed(config, start, S, start, (), **rows)
    return y


def matrix_rows(memory, x: torch.Tensor) -> dict:
    """q, k, v and the gates of a layer with one matrix per head, as `composed` takes them."""
    q, k, v, _ = memory.project(x, memory.init_state(len(x)))
    step, log_a = memory.gates(x)
    if step is None:
        step = torch.ones_like(k[..., 0])
    keep = None
    if log_a is not None:
        keep = log_a.exp() if log_a.dim() == 4 else log_a.exp()[..., None]
    return dict(q=q, k=k, v=v, step=step, keep=keep)


MATRICES = [
    ("linear", dict(loss="inner-product")),
    ("retnet", dict(loss="inner-product", retention="scalar")),
    ("delta", dict()),
    ("gated-delta", dict(retention="scalar", forget="first")),
    ("kda", dict(retention="channel", forget="first")),
]


@pytest.mark.parametrize(("name", "choices"), MATRICES, ids=[name for name, _ in MATRICES])
def test_a_matrix_of_the_course_is_one_of_the_compositions(name, choices):
    memory = build(Case(name, lambda: build_memory(name, WIDTH, 2)))
    x, trace = inputs(), Trace()
    memory(x, None, trace)
    start = Weights({"W1": memory.init_state(len(x)).matrix})
    read = lone(ComposedConfig(WIDTH, 2, **choices), start, matrix_rows(memory, x))
    torch.testing.assert_close(read.transpose(1, 2), trace["read"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 2])
def test_titans_memory_is_one_of_the_compositions(layers):
    options = dict(layers=layers, chunk=1, conv=0, persistent=0, expansion=2, max_step=0.3)
    layer = build(Case("titans", lambda: build_memory("titans", WIDTH, 2, **options)))
    x, trace = inputs(), Trace(only=["read"])
    layer(x, None, trace)
    q, k, v, gates, _ = layer.neural.write_inputs(x, ())
    alpha, eta, theta = gates.plain()
    memory = "matrix" if layers == 1 else "mlp"
    config = ComposedConfig(WIDTH, 2, memory=memory, retention="scalar", optimizer="momentum", expansion=2)
    rows = dict(q=q, k=k, v=v, step=theta, momentum=eta, keep=(1 - alpha)[..., None])
    # Titans' momentum takes the step along, S = eta S - theta u, and so does ours: each pair brings its own.
    read = lone(config, Weights(layer.neural.init_state(len(x)).memory), rows)
    torch.testing.assert_close(read.transpose(1, 2), trace["read"], rtol=1e-10, atol=1e-10)


# -- each choice by hand -----------------------------------------------------------------------------------------------
def rows_by_hand(tokens: int = 5, f: int = 4) -> dict:
    generator = torch.Generator().manual_seed(5)
    q, k, v = torch.randn(3, 1, 1, tokens, f, generator=generator, dtype=torch.float64)
    step = torch.rand(1, 1, tokens, generator=generator, dtype=torch.float64)
    return dict(q=q, k=k, v=v, step=step)


def test_the_omega_rule_descends_the_sum_of_the_last_pairs():
    rows, c = rows_by_hand(), 3
    config = ComposedConfig(4, 1, window=c)
    zero = torch.zeros(1, 1, c - 1, 4, dtype=torch.float64)
    start = Weights({"W1": torch.zeros(1, 1, 4, 4, dtype=torch.float64)})
    y, *_ = composed(config, start, Weights(), start, (zero, zero, zero[..., 0]), **rows)
    q, k, v, step = (rows[name][0, 0] for name in ("q", "k", "v", "step"))
    M = torch.zeros(4, 4, dtype=torch.float64)
    for t in range(len(k)):
        errors = [step[i] * torch.outer(k[i], k[i] @ M - v[i]) for i in range(max(0, t - c + 1), t + 1)]
        M = M - sum(errors)
        torch.testing.assert_close(y[0, 0, t], q[t] @ M)


def test_hubers_loss_writes_no_error_longer_than_its_threshold():
    rows = rows_by_hand(tokens=1)
    start = Weights({"W1": torch.zeros(1, 1, 4, 4, dtype=torch.float64)})
    length = rows["v"].norm()
    _, square, *_ = composed(ComposedConfig(4, 1), start, Weights(), start, (), **rows)
    _, capped, *_ = composed(
        ComposedConfig(4, 1, loss="huber", threshold=length.item() / 4), start, Weights(), start, (), **rows
    )
    torch.testing.assert_close(capped["W1"], square["W1"] / 4)
    wide = ComposedConfig(4, 1, loss="huber", threshold=length.item() * 2)
    _, uncapped, *_ = composed(wide, start, Weights(), start, (), **rows)
    torch.testing.assert_close(uncapped["W1"], square["W1"])


def test_monetas_loss_writes_the_square_of_each_error():
    rows = rows_by_hand(tokens=1)
    start = Weights({"W1": torch.zeros(1, 1, 4, 4, dtype=torch.float64)})
    _, M, *_ = composed(ComposedConfig(4, 1, loss="l3"), start, Weights(), start, (), **rows)
    k, v, step = (rows[name][0, 0, 0] for name in ("k", "v", "step"))
    torch.testing.assert_close(M["W1"][0, 0], step * torch.outer(k, v.abs() * v))


def test_muon_writes_the_orthogonal_momentum_at_the_tokens_step():
    rows = rows_by_hand(tokens=2)
    rows["momentum"] = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
    start = Weights({"W1": torch.zeros(1, 1, 4, 4, dtype=torch.float64)})
    _, M, S, _ = composed(ComposedConfig(4, 1, optimizer="muon"), start, start, start, (), **rows)
    k, v, step = (rows[name][0, 0] for name in ("k", "v", "step"))
    W, past = torch.zeros(2, 4, 4, dtype=torch.float64)
    for t in range(2):
        past = 0.5 * past - step[t] * torch.outer(k[t], k[t] @ W - v[t])
        W = W + step[t] * newton_schulz(past)
    torch.testing.assert_close(M["W1"][0, 0], W)
    torch.testing.assert_close(S["W1"][0, 0], past)


def test_what_is_kept_channel_by_channel_and_what_goes_back_to_the_start():
    generator = torch.Generator().manual_seed(6)
    start = Weights({name: torch.randn(1, 1, *s, generator=generator) for name, s in (("W1", (2, 6)), ("W2", (6, 2)))})
    moved = start.map(lambda w: w + 1)
    one = torch.ones(1, 1, 1, 2)
    still = dict(q=one, k=one, v=one, step=torch.zeros(1, 1, 1))
    sizes = dict(width=2, heads=1, memory="mlp", expansion=3)
    keep = torch.tensor([0.5, 0.25])
    _, M, *_ = composed(
        ComposedConfig(**sizes, retention="channel"), moved, Weights(), start, (), **still, keep=keep[None, None, None]
    )
    torch.testing.assert_close(M["W1"], moved["W1"] * keep[:, None])
    torch.testing.assert_close(M["W2"], moved["W2"] * keep)
    half = torch.full((1, 1, 1, 1), 0.5)
    _, M, *_ = composed(ComposedConfig(**sizes, retention="to-start"), moved, Weights(), start, (), **still, keep=half)
    torch.testing.assert_close(M["W1"], start["W1"] + 0.5)


def test_a_choice_that_there_is_not_is_named():
    with pytest.raises(CourseError, match=r"loss 'hubers' is not known.*Did you mean 'huber'"):
        ComposedConfig(8, 2, loss="hubers")
    with pytest.raises(CourseError, match="threshold must be above 0"):
        ComposedConfig(8, 2, threshold=0)
    with pytest.raises(CourseError, match="width 9 is not a multiple of heads 2"):
        ComposedConfig(9, 2)
